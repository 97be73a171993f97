"""What an operator sees: the access log and the form of log lines. Ids and counts, never prompts, outputs or keys."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

access = logging.getLogger("statecar.access")

_GIVEN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")
_PLAIN = re.compile(r"[!#-<>-~]+\Z")  # printable ASCII without space, quote or equals sign
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
CLIENT_LEFT = 499
"""The status logged for a client that left before its answer."""


class AccessLog:
    """Outermost: gives every request its id, puts it on our own answers, and writes one line when all is done.

    Endpoints add to ``scope["statecar"]``; an answer marked ``passed_on`` there keeps its headers as they came.
    """

    def __init__(self, app: ASGIApp, *, enabled: bool = True) -> None:
        self._app, self._enabled = app, enabled

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        facts: dict[str, Any] = {}
        scope["statecar"] = facts
        began = time.perf_counter()
        first = None
        status = None

        async def watched(message: Message) -> None:
            nonlocal status, first
            if message["type"] == "http.response.start":
                status, first, facts["begun"] = message["status"], time.perf_counter(), True
                if not facts.get("passed_on"):
                    headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                    message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            if self._enabled:
                taken = time.perf_counter()
                self._write(scope, facts, request_id, status, [first and first - began, taken - began])

    @staticmethod
    def _write(
        scope: Scope, facts: dict[str, Any], request_id: str, status: int | None, seconds: list[float | None]
    ) -> None:
        turn, probe, _ = facts.pop("turn", {}), facts.pop("probe", False), facts.pop("begun", False)
        fields = {
            "method": scope["method"],
            "path": scope["path"],
            "status": CLIENT_LEFT if facts.pop("left", False) or status is None else status,
            "request_id": request_id,
            "first_ms": seconds[0] and round(seconds[0] * 1000, 1),
            "ms": seconds[1] and round(seconds[1] * 1000, 1),
            **facts,
            **turn,
        }
        access.log(
            logging.DEBUG if probe and status == 200 else logging.INFO,
            "request",
            extra={"fields": {k: v for k, v in fields.items() if v is not None and v is not False}},
        )


def _request_id(scope: Scope) -> str:
    """The caller's own ``x-request-id`` where it is a sane one, so that a trace goes on; else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _GIVEN_ID.match(text := str(value, "latin-1")):
            return text
    return f"req_{uuid.uuid4().hex}"


class LogFormat(logging.Formatter):
    """One line a record, as text or JSON. ``extra={"fields": {...}}`` adds fields to it."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def format(self, record: logging.LogRecord) -> str:
        when = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"
        fields: dict[str, Any] = getattr(record, "fields", {})
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self.form == "text":
            pairs = "".join(f" {name}={_quoted(value)}" for name, value in fields.items())
            told = _CONTROL.sub(_escaped, record.getMessage().rstrip())
            return f"{when} {record.levelname} {told}{pairs}{trace and chr(10)}{trace}"
        line = {"time": when, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        return json.dumps(line | fields | ({"exception": trace} if trace else {}), default=str)


def configure_logging(form: str, level: str) -> None:
    """Log lines to stderr: ours from ``level`` on, other packages' from warning on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormat(form))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
    for name in ("statecar", "proxy"):
        logging.getLogger(name).setLevel(level.upper())
    logging.getLogger("uvicorn.error").setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").addFilter(_worth_telling)


def _worth_telling(record: logging.LogRecord) -> bool:
    """Of uvicorn's records: a worker's death, and warnings save those about what happens here by design."""
    text = record.getMessage()
    if record.levelno < logging.WARNING:
        return text.startswith("Child process") and text.endswith("died")
    upgrade = text.startswith(("Unsupported upgrade", "No supported WebSocket"))  # the app answers these
    forced = text.rstrip().endswith("CancelledError")  # a second Ctrl-C cuts the app's shutdown short
    return not upgrade and not forced


def _escaped(control: re.Match[str]) -> str:
    """A control character as text, so that no one's words begin a line of their own."""
    return control[0].encode("unicode_escape").decode()


def _quoted(value: Any) -> str:
    """A value that stays one word on its line, whatever a caller put into a path."""
    text = str(value)
    return text if _PLAIN.match(text) else json.dumps(text)
