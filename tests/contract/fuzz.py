"""Tries every operation of the document with requests of all kinds, half of them on what exists.

    python -m tests.contract.fuzz [CASES [SEED]]        # make fuzz CASES=20000 SEED=1

Half of the requests are made from the document by schemathesis, half by the strategies of ``bodies.py``. Every answer
must be one the document promises, never a 500, and come in time; a stream must be whole and in order; and an id of
another caller must be answered as one that never was.
"""

from __future__ import annotations

import json
import secrets
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from schemathesis.core import NOT_SET

from tests import mcp_servers
from tests.contract import bodies
from tests.contract.document import DOCUMENT, Operation, conforms, operations
from tests.contract.pool import PLACE, Others, Pool
from tests.live.conftest import Process

PATIENCE = 20.0
"""Seconds after which an answer counts as hanging."""
SERVER = (
    "--upstream=demo",
    "--store=memory://",
    "--no-access-log",
    "--tenant=header:X-Tenant",
    "--principal=header:X-User",
    "--sse-keepalive-seconds=0",  # else a stream that hangs would not be silent
    "--seal-key=sixteen letters or more",
    "--count-by-generation",
    "--web-search=searxng+http://127.0.0.1:9",  # where nobody answers
)
"""Its options, but for its connector, which is called ``notes``."""
BATCH = 200
"""Cases that share a pool: what they add to it must not make the later ones slow."""
_KINDS = {"response_id": "resp", "conversation_id": "conv", "item_id": "item"}
_WEIGHTS = {"createResponse": 6}
_EXISTING = ("mine", "fresh")


@dataclass(frozen=True)
class Case:
    """One request; ids in ``target`` and ``body`` are places of a pool."""

    method: str
    target: str
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def owners(self) -> set[str]:
        """Whose ids it names."""
        found = PLACE.findall(self.target) + PLACE.findall((self.body or b"").decode("latin-1"))
        return {owner for _, owner, _ in found}


# -- cases


_MANGLED = st.one_of(
    st.text(min_size=1, max_size=140).filter(lambda text: not set(text) & set("/\\.;?#%\x00") and text.strip() == text),
    st.sampled_from(["resp_1", "conv_x", "msg_", "a" * 129, "resp_" + "0" * 48, "resp_" + "g" * 48, "null", "%C3%28"]),
)


@st.composite
def _path(draw: st.DrawFn, operation: Operation) -> str:
    """The path with ids, more than half of which exist; what is to be deleted or cancelled is just made."""
    path, number = operation.path, draw(st.integers(0, 3))
    *_, last = operation.names("path") or [""]
    for name in operation.names("path"):
        kind = _KINDS[name]
        ends = operation.method == "DELETE" or operation.name == "cancelResponse"
        owner = "fresh" if ends and name == last else "mine"
        given = f"@{kind}.{owner}.{number}"  # so that an item is one of its conversation
        if draw(st.integers(0, 9)) > 6:
            given = draw(st.one_of(bodies.place(kind, "foreign"), bodies.place(kind, "foreign", "unknown"), _MANGLED))
        path = path.replace(f"{{{name}}}", given if PLACE.fullmatch(given) else quote(given, safe=""))
    return path


_QUERIES: dict[str, st.SearchStrategy[str]] = {
    "limit": st.one_of(st.integers(-1, 101).map(str), st.sampled_from(["", "x", "1.5", "9" * 200, "٣"])),
    "order": st.sampled_from(["asc", "desc", "", "ASC", "x"]),
    "after": st.one_of(bodies.place("item", *bodies.OWNERS), bodies.place("resp", "mine"), st.text(max_size=9)),
    "before": st.one_of(bodies.place("item", "mine"), bodies.place("resp", "mine", "foreign")),
    "include[]": st.sampled_from(["message.output_text.logprobs", "x", ""]),
    "model": st.sampled_from(["demo", "x", ""]),
    "stream": st.sampled_from(["true", "false", "1", "0", "x"]),
    "starting_after": st.sampled_from(["0", "3", "999", "-1", "x"]),
    "beta": st.just("true"),
    "upstream": st.sampled_from(["true", "false", "", "x"]),
}


@st.composite
def own(draw: st.DrawFn, operation: Operation) -> Case:
    """A request of the operation, from the strategies of our own."""
    path = draw(_path(operation))
    names = [*(operation.names("query") or ["beta"]), "starting_after"]
    query = [(name, draw(_QUERIES[name])) for name in draw(st.lists(st.sampled_from(names), max_size=3))]
    if query:
        path += "?" + urlencode(query, safe="@", errors="surrogatepass")
    if operation.method != "POST":
        return Case(operation.method, path)
    kind = draw(
        st.sampled_from(["application/json", "application/json", "text/plain", "application/x-www-form-urlencoded"])
    )
    return Case("POST", path, draw(bodies.bodies(operation.name)), (("content-type", kind),))


def described(operation: Operation) -> st.SearchStrategy[Case]:
    """A request of the operation as schemathesis makes it from the document, valid or not, with ids that may exist."""
    made = SCHEMA[operation.path][operation.method]
    modes = [schemathesis.GenerationMode.POSITIVE]
    if operation.parameters or "requestBody" in operation.text:
        modes.append(schemathesis.GenerationMode.NEGATIVE)
    fixed: dict[str, Any] = dict.fromkeys(operation.names("path"), "x")
    given = st.one_of(*(made.as_strategy(generation_mode=mode, path_parameters=fixed or None) for mode in modes))
    return st.builds(_translated, st.just(operation.method), _path(operation), given, _anchor)


_anchor = st.one_of(
    st.none(),
    st.just({}),
    st.builds(lambda id_: {"previous_response_id": id_}, bodies.place("resp", "mine", "mine", "foreign")),
    st.builds(lambda id_: {"conversation": id_}, bodies.place("conv", "mine", "mine", "foreign")),
)
"""What a body made from the document stands on, of which only ids are right; None leaves it as it is."""


def _translated(method: str, path: str, case: Any, anchor: dict[str, str] | None) -> Case:
    query = []
    for name, value in (case.query or {}).items():
        values = value if isinstance(value, list) else [value]
        query += [(name, one if isinstance(one, str) else json.dumps(one)) for one in values]
    if query:
        path += "?" + urlencode(query, errors="surrogatepass")
    if case.body is NOT_SET:
        return Case(method, path)
    body = case.body
    if isinstance(body, dict) and "model" in body and anchor is not None:
        body = {k: v for k, v in body.items() if k not in ("previous_response_id", "conversation")} | anchor
    return Case(method, path, body if isinstance(body, bytes) else bodies.encoded(body))


SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)


# -- verdicts


@dataclass
class Report:
    """What was tried. ``existing``: cases on ids that exist, of those that name any."""

    cases: Counter[str] = field(default_factory=Counter)
    named: Counter[str] = field(default_factory=Counter)
    existing: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    streams: int = 0
    foreign: int = 0
    slowest: float = 0.0
    faults: dict[str, str] = field(default_factory=dict)

    def of(self, name: str) -> str:
        """One operation's line."""
        codes = {key.split()[1]: n for key, n in sorted(self.statuses.items()) if key.split()[0] == name}
        tried = f"{name:24}{self.cases[name]:6} cases, {self.existing[name]:5} of {self.named[name]:5} on what exists"
        return f"{tried}, {codes}"

    def __str__(self) -> str:
        return (
            f"{self.cases.total()} cases; of {self.named.total()} with ids {self.existing.total()} on what exists;"
            f" {self.streams} streams, {self.foreign} foreign ids; slowest {self.slowest:.2f} s;"
            f" {len(self.faults)} faults"
        )


class Fuzz:
    """Sends cases to a server. ``shrink``: whether faults are made small, which may take minutes."""

    def __init__(self, http: httpx.Client, seed: int, *, shrink: bool = False) -> None:
        self.http, self.seed = http, seed
        self.phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
        self.report = Report()

    @cached_property
    def _others(self) -> Others:
        return Others(self.http)

    def operation(self, operation: Operation, cases: int) -> None:
        """Tries one operation with so many cases; a fault is kept with its example."""
        batch = 0
        while (done := self.report.cases[operation.name]) < cases:
            pool = Pool(self.http, self._others)
            count, strategy = min(BATCH, cases - done), (own, described)[batch % 2](operation)
            try:
                self._batch(strategy, operation, pool, count, self.seed + batch)
            except (AssertionError, httpx.HTTPError, ValueError) as exc:
                text = f"{type(exc).__name__}: {exc}"
                self.report.faults.setdefault(f"{operation.name}: {text[:200]}", "\n".join([text, *exc.__notes__]))
            batch += 1

    def _batch(self, strategy: Any, operation: Operation, pool: Pool, count: int, seed: int) -> None:
        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=count,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=self.phases,
            print_blob=False,
        )
        @hypothesis.given(strategy)
        def one(case: Case) -> None:
            try:
                self.judge(operation, case, pool)
            except (AssertionError, httpx.HTTPError, ValueError) as exc:
                exc.add_note(str(case))
                raise

        one()

    def judge(self, operation: Operation, case: Case, pool: Pool) -> None:
        """Raises AssertionError for an answer that must not be, httpx.TimeoutException for one that does not come."""
        answer, others = self._send(case, pool)
        self._count(operation, case, answer)
        assert answer.status_code != 500, f"a 500: {answer.text}"
        conforms(operation, answer)
        if "foreign" in case.owners:
            self.report.foreign += 1
            missing, never = self._send(case, pool, foreign=False)
            assert missing.status_code == answer.status_code, f"{answer.text}\n{missing.text}"
            if answer.status_code >= 400:
                assert _nameless(answer, others) == _nameless(missing, never)

    def _send(self, case: Case, pool: Pool, *, foreign: bool = True) -> tuple[httpx.Response, list[str]]:
        body = None if case.body is None else case.body.decode("latin-1")
        filled, others = pool.filled(case.target, body or "", foreign=foreign)
        content = None if body is None else filled[1].encode("latin-1")
        request = self.http.build_request(case.method, filled[0], content=content, headers=dict(case.headers))
        began = time.monotonic()
        answer = pool.mine.send(request)
        self.report.slowest = max(self.report.slowest, time.monotonic() - began)
        return answer, others

    def _count(self, operation: Operation, case: Case, answer: httpx.Response) -> None:
        report, name = self.report, operation.name
        report.cases[name] += 1
        report.named[name] += bool(operation.names("path") or case.owners)
        report.existing[name] += bool(case.owners & set(_EXISTING))
        report.statuses[f"{name} {answer.status_code}"] += 1
        report.streams += answer.headers.get("content-type", "").startswith("text/event-stream")


def _nameless(answer: httpx.Response, ids: list[str]) -> bytes:
    """The body of an answer with ids left out, so that two can be compared byte by byte."""
    body = answer.content
    for id_ in ids:
        body = body.replace(id_.encode(), b"?")
    return body


def fuzz(url: str, cases: int, seed: int, *, shrink: bool = False) -> Report:
    """Shares so many cases out among all operations and tries them."""
    shares = sum(_WEIGHTS.get(operation.name, 1) for operation in operations())
    with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as http:
        run = Fuzz(http, seed, shrink=shrink)
        for operation in operations():
            run.operation(operation, -(-cases * _WEIGHTS.get(operation.name, 1) // shares))
            print(run.report.of(operation.name), flush=True)
    return run.report


def main() -> None:
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 24_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else secrets.randbelow(1 << 32)
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, mcp_servers.sample() as notes:
        process = Process(Path(folder), *SERVER, f"--connector=notes={notes}")
        try:
            report = fuzz(process.url(), cases, seed, shrink=True)
        finally:
            process.ask_to_end()
            code = process.ended()
        told = process.stderr
    print(f"{report}\n{time.monotonic() - began:.0f} s, the server ended with {code}")
    print("\n\n".join(report.faults.values()))
    print(told[-4000:] if code != 0 else "")
    sys.exit(bool(report.faults) or code != 0)


if __name__ == "__main__":
    main()
