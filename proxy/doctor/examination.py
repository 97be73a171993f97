"""Trying one backend: every request is written and read as a turn does it, and asked through the same door."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from proxy import ids
from proxy.doctor.checks import CHECKS, NO, OK, TOKENS, Answer, Check, Verdict, printable, short
from proxy.doctor.tools import tried_tools
from proxy.errors import StatecarError, UpstreamError, UpstreamUnreachable
from proxy.settings import Settings
from proxy.translate.dialects import Dialect, for_kind, kind_by_host, lesson_of
from proxy.translate.items import Event
from proxy.translate.request import to_chat, wants_logprobs
from proxy.translate.response import skeleton
from proxy.translate.stream import ResponseStream
from proxy.translate.tools import plan
from proxy.turn.asking import put
from proxy.upstream import Upstream, by_asking
from proxy.wire import create_response

PATIENCE = 60.0
"""Seconds a capability may take."""


@dataclass
class Row:
    """What was found of one capability. ``verdict``: ok, no (refused, or failed), ignored, or not tried."""

    name: str
    core: bool
    verdict: str = "not tried"
    why: str = ""

    def as_text(self) -> str:
        """A line of the table."""
        return f"{self.name:24}{self.verdict:11}{printable(self.why)}".rstrip()


@dataclass
class Report:
    """What was found of one upstream. ``how``: how its kind was told."""

    upstream: str
    kind: str
    how: str
    model: str
    rows: list[Row] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything works that statecar cannot do without."""
        return not self._missing

    @property
    def _missing(self) -> list[str]:
        return [row.name for row in self.rows if row.core and row.verdict != OK]

    def as_json(self) -> str:
        """All of it, for programs."""
        return json.dumps(asdict(self) | {"ok": self.ok}, indent=2, ensure_ascii=False)

    @property
    def head(self) -> str:
        """The text above the table."""
        kind, model = f"{self.kind} ({printable(self.how)})", printable(self.model)
        return f"upstream  {self.upstream}\nkind      {kind}\nmodel     {model}\n"

    @property
    def end(self) -> str:
        """The text below it."""
        missing = ", ".join(self._missing)
        return f"\nstatecar needs what it lacks: {missing}." if missing else "\nstatecar works with it."


async def examine(
    settings: Settings, model: str, *, name: str = "", tell: Callable[[str], None] = lambda text: None
) -> Report:
    """Tries everything once, one after the other. ``model``: "" for the first one of the upstream's list.

    ``name``: of the upstream in the report, its URL if "". ``tell``: gets the report for people as it grows.
    Raises StatecarError when there is no upstream, or no model to ask for.
    """
    upstream = Upstream(
        settings.upstream,
        api_key=settings.upstream_api_key or None,
        connect_timeout=settings.upstream_connect_timeout,
        first_byte_timeout=PATIENCE,
        idle_timeout=PATIENCE,
    )
    try:
        kind, how = await _kind(upstream, settings)
        report = Report(name or settings.upstream, kind, how, model or await _first_model(upstream))
        tell(report.head)
        for check in CHECKS:
            row = Row(check.name, check.core)
            if not report.rows or report.rows[0].verdict == OK:  # without a plain text the rest need not be tried
                row.verdict, row.why = await _tried(check, upstream, for_kind(kind, settings), report.model)
            report.rows.append(row)
            tell(row.as_text())
        async with aclosing(tried_tools(settings)) as found:
            async for what, verdict in found:
                report.rows.append(Row(what, False, *verdict))
                tell(report.rows[-1].as_text())
        tell(report.end)
        return report
    finally:
        await upstream.aclose()


async def _kind(upstream: Upstream, settings: Settings) -> tuple[str, str]:
    if settings.upstream_kind != "auto":
        return settings.upstream_kind, "by the option"
    if kind := kind_by_host(upstream.base_url):
        return kind, "by its host name"
    found = await by_asking(upstream)
    return found.kind or "generic", found.how


async def _first_model(upstream: Upstream) -> str:
    try:
        models = await upstream.ask("GET", "/v1/models")
        return str(models["data"][0]["id"])
    except (TypeError, LookupError):
        raise UpstreamError("The upstream lists no models: name one with --model.") from None
    except UpstreamUnreachable:
        raise
    except UpstreamError as exc:
        right = "Is --upstream-api-key right?" if exc.status in (401, 403) else "Is that the base URL, up to /v1?"
        said = printable(short(exc.message)).rstrip(".")
        raise UpstreamError(f"Its list of models is answered {exc.status}: {said}. {right}") from None


async def _tried(check: Check, upstream: Upstream, dialect: Dialect, model: str) -> Verdict:
    wanted = replace(dialect, **check.changes)
    try:
        async with asyncio.timeout(PATIENCE):
            answer = await _answer(check, upstream, wanted, model)
    except TimeoutError:
        return NO, f"no whole answer within {PATIENCE:g} s"
    except StatecarError as exc:
        return NO, f"{exc.status}: {short(exc.message)}"
    lesson = lesson_of(wanted, answer.dialect)
    if lesson.keys() & check.changes.keys():
        return NO, "refused, but statecar can do without"
    verdict, why = check.judge(answer)
    return verdict, f"{why}; refused at first, then with {json.dumps(lesson)}" if lesson else why


async def _answer(check: Check, upstream: Upstream, dialect: Dialect, model: str) -> Answer:
    """Raises StatecarError when the upstream refuses or breaks off."""
    request = create_response({"model": model, "max_output_tokens": TOKENS, "store": False} | check.request)
    items, minter, streams = request["input"], ids.Minter(), bool(request.get("stream"))

    def written(dialect: Dialect) -> dict[str, Any]:
        stream.tools = plan(request, items, dialect)
        return to_chat(request, items, stream.tools, dialect, stream=streams)

    response = skeleton(request, minter.own("resp"), int(time.time()))
    stream = ResponseStream(
        response, minter.item, ids.new_call_id, think_tags=dialect.think_tags, logprobs=wants_logprobs(request)
    )
    events: list[Event] = []
    async with AsyncExitStack() as stack:
        reply, tries = await put(stack, upstream, dialect, (), written)
        while batch := await reply.read():
            events += stream.feed_all(batch)
            if stream.failure:
                raise stream.failure
        stream.finish(int(time.time()), done=reply.ended)
    deltas = sum(event["type"] == "response.output_text.delta" for event in events)
    return Answer(stream.response, deltas, bool(stream.figures.usages), tries.dialect)
