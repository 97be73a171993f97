"""Real backends with a real statecar in front of each; what they can do is written to ``build/backends.json``.

Nothing here is collected unless ``BACKENDS`` names some, as ``BACKENDS=llamacpp,vllm``: installing them takes minutes.
"""

import json
import os
import secrets
from contextlib import asynccontextmanager

import httpx
import openai
import pytest

from tests.backends.real import KINDS, Real
from tests.live import strict
from tests.live.conftest import Process, whole

NAMES = [name for name in os.environ.get("BACKENDS", "").split(",") if name]
if unknown := set(NAMES) - KINDS.keys():
    raise pytest.UsageError(f"BACKENDS={','.join(NAMES)}: must be some of {', '.join(KINDS)}, not {', '.join(unknown)}")

collect_ignore_glob = [] if NAMES else ["test_*.py"]

FEATURES = (
    *("text", "streaming", "tools", "parallel tools", "named tool", "required", "json_schema", "json_object"),
    *("reasoning", "reasoning replay", "logprobs", "usage", "length", "stop", "errors", "abort"),
    *("previous_response_id", "conversation", "truncation auto", "input_tokens", "custom tool", "namespace tool"),
    *("compact", "continue"),
)
RESULTS = ("yes", "partly", "no", "failed")
"""From best to worst: there, there with a reservation, not there (the backend's lack, told), a test failed."""

_VERDICT = pytest.StashKey[tuple[str, str]]()
_ROWS = pytest.StashKey[dict[tuple[str, str], dict[str, str]]]()


class Front:
    """A statecar in front of a real backend, and the official client of one caller.

    ``think``: whether the model's template lets it think.
    """

    def __init__(self, real, process):
        self.real, self.kind, self.process = real, real.kind, process
        url = process.url()
        self.key = self.kind.key or f"sk-{secrets.token_hex(12)}"
        http = openai.DefaultAsyncHttpxClient(trust_env=False, verify=False)
        self.sdk = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=self.key, max_retries=0, http_client=http)
        headers = {"authorization": f"Bearer {self.key}"}
        self.http = httpx.AsyncClient(base_url=url, headers=headers, timeout=60, trust_env=False, verify=False)

    async def close(self):
        await self.sdk.close()
        await self.http.aclose()

    def fields(self, text, /, *, think=False, extra_body=None, **fields):
        """A request's fields for the official client."""
        switch = {} if think else {"chat_template_kwargs": {"enable_thinking": False}}
        return {"model": "tiny", "input": text, "temperature": 0, "extra_body": switch | (extra_body or {})} | fields

    async def plain(self, text, /, **fields):
        """A response, held against every description of one."""
        return strict.response(whole(await self.sdk.responses.create(**self.fields(text, **fields))))

    async def events(self, text, /, **fields):
        """The events of a streamed response, held against every description of a stream."""
        stream = await self.sdk.responses.create(**self.fields(text, **fields), stream=True)
        events = [whole(event) async for event in stream]
        strict.stream(events)
        return events

    async def streamed(self, text, /, **fields):
        """The response of a stream's last event."""
        return (await self.events(text, **fields))[-1]["response"]

    @property
    def ways(self):
        return self.plain, self.streamed


@pytest.fixture(scope="session")
def reals(tmp_path_factory):
    """Gives a backend by its name; each is started once a run."""
    started = {}

    def real(name):
        if name not in started:
            started[name] = Real(name, tmp_path_factory.mktemp("backend"))
        return started[name]

    yield real
    for one in started.values():
        one.stop()


@pytest.fixture(scope="session")
def fronts(reals, valkey, tmp_path_factory):
    """Gives a statecar in front of a backend, with these options; each is started once a run."""
    started = {}

    def front(name, *options):
        if (name, options) not in started:
            flags = (f"--upstream={reals(name).url}/v1", f"--store={valkey.url}", *options)
            started[name, options] = Process(tmp_path_factory.mktemp("statecar"), *flags)
        return started[name, options]

    yield front
    for process in started.values():
        process.ask_to_end()
    codes = [process.ended() for process in started.values()]
    assert set(codes) <= {0}, [process.stderr for process in started.values()]


@pytest.fixture(params=NAMES)
def name(request):
    """Every wanted backend in turn."""
    return request.param


@pytest.fixture
def fronting(name, reals, fronts):
    """Opens a caller of a statecar with these options in front of the backend."""

    @asynccontextmanager
    async def fronting(*options):
        front = Front(reals(name), fronts(name, *options))
        try:
            yield front
        finally:
            await front.close()

    return fronting


@pytest.fixture
async def front(fronting):
    """A caller of a statecar with default options in front of each wanted backend in turn."""
    async with fronting() as front:
        yield front


@pytest.fixture
def verdict(request):
    """Says that a feature is not wholly there: ``verdict("partly", "the reason")``."""

    def say(result, reason):
        assert result in RESULTS
        request.node.stash[_VERDICT] = (result, reason)

    return say


def pytest_configure(config):
    config.addinivalue_line("markers", "feature(name): proves a feature, which goes into build/backends.json")
    config.addinivalue_line("markers", "row(name): proves a way in which backends differ")
    config.stash[_ROWS] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    feature = item.get_closest_marker("feature")
    if feature is not None and call.when == "call":
        assert feature.args[0] in FEATURES
        told = item.stash.get(_VERDICT, ("yes", ""))
        result, reason = told if report.passed else ("failed", str(call.excinfo.value).partition("\n")[0][:200])
        backend = item.callspec.params["name"]
        version = item.funcargs["reals"](backend).version() if "reals" in item.funcargs else ""
        key = backend, feature.args[0]
        rows = item.config.stash[_ROWS]
        if key not in rows or RESULTS.index(result) > RESULTS.index(rows[key]["result"]):
            rows[key] = dict(backend=backend, version=version, feature=key[1], result=result, reason=reason)
    return report


def pytest_sessionfinish(session):
    """Writes what was found; rows of backends that were not looked at stay."""
    rows = session.config.stash[_ROWS]
    if not rows:
        return
    path = session.config.rootpath / "build" / "backends.json"
    earlier = json.loads(path.read_text("utf-8")) if path.exists() else []
    found = {(row["backend"], row["feature"]): row for row in earlier} | rows
    order = sorted(found.values(), key=lambda row: (list(KINDS).index(row["backend"]), FEATURES.index(row["feature"])))
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(order, indent=1) + "\n", "utf-8")
