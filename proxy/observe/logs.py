"""The form of log lines: one a record, on stderr. Ids and counts, never prompts, outputs or keys.

Modules log through the standard library; structlog makes the line, with the id of the request at work.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from structlog.dev import Column, ConsoleRenderer, plain_traceback
from structlog.processors import EventRenamer, ExceptionRenderer, JSONRenderer, TimeStamper
from structlog.stdlib import ProcessorFormatter, add_log_level, add_logger_name
from structlog.typing import EventDict, ExcInfo, Processor

from proxy import codec

_PLAIN = re.compile(r"[!#-<>-~]+\Z")  # printable ASCII without space, quote or equals sign
_NUMBERS = (int, float)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_UNTOLD = re.compile(r"[^\n(]*")  # of asyncio's message, before it shows a task, its exception or its arguments

_at_work: ContextVar[dict[str, str]] = ContextVar("at work", default={})  # noqa: B039 (never changed)
"""The ids that stand in all lines of a task, and of those it starts."""


def configure_logging(form: str, level: str) -> None:
    """Log lines to stderr: ours from ``level`` on, other packages' from warning on. ``form``: json or text."""
    _fill_standard_streams()
    sys.stderr = sys.stderr or open(os.devnull, "w")
    handler = _Lines(sys.stderr)
    handler.addFilter(_worth_telling)
    handler.setFormatter(line_format(form, colours=sys.stderr.isatty() and not os.environ.get("NO_COLOR")))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
    for name in ("statecar", "proxy"):
        logging.getLogger(name).setLevel(level.upper())
    logging.getLogger("uvicorn.error").setLevel(logging.INFO)


def _fill_standard_streams() -> None:
    """Opens those that were closed: the next file or socket would be taken for one, here or by a child."""
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(spare, True)
    os.close(spare)


def at_work_on(request_id: str) -> None:
    """The id for all lines of this task from now on, and of the tasks it starts."""
    _at_work.set({"request_id": request_id})


def at_work_on_run(response: str, request_id: str) -> None:
    """The ids for all lines of a task that makes a response. ``request_id``: "" where there was none."""
    _at_work.set({"response": response, **({"request_id": request_id} if request_id else _at_work.get())})


def at_work_in(trace_id: str) -> None:
    """The trace for all lines of this task from now on, beside the ids."""
    _at_work.set({**_at_work.get(), "trace_id": trace_id})


def line_format(form: str, *, colours: bool) -> logging.Formatter:
    """A record as text or JSON. ``extra={"fields": {...}}`` adds fields to it."""
    as_json = form == "json"
    chain: list[Processor] = [TimeStamper("iso", key="time"), add_log_level, *([add_logger_name] if as_json else [])]
    chain += [EventRenamer("message"), _fields, ExceptionRenderer(_trace)]
    renderer = JSONRenderer(_json) if as_json else _console(colours=colours)
    short = None if colours else _short_json if as_json else _short_text
    return _Form(short, foreign_pre_chain=chain, processors=[ProcessorFormatter.remove_processors_meta, renderer])


class _Form(ProcessorFormatter):
    """structlog's chain of processors; ``short`` makes the same of a line that is nothing but fields, or None.

    Such are those of the access log, one a request: 31 us became 17 (a test compares both).
    """

    def __init__(self, short: Callable[[logging.LogRecord], str | None] | None, **rest: Any) -> None:
        super().__init__(**rest)
        self._short = short

    def format(self, record: logging.LogRecord) -> str:
        if self._short and record.levelno == logging.INFO and not (record.args or record.exc_info or record.stack_info):
            if (fields := getattr(record, "fields", None)) and _UNUSUAL.isdisjoint(fields):
                if (line := self._short(record)) is not None:
                    return line
        return super().format(record)


_UNUSUAL = frozenset({"time", "level", "logger", "message", "stack", "exception", "exc_info"})
"""Fields that mean something to structlog."""


def _short_json(record: logging.LogRecord) -> str | None:
    line = {"time": _now(), "level": "info", "logger": record.name, "message": record.getMessage(), **_at_work.get()}
    try:
        text = codec.dumps(line | record.fields)  # type: ignore[attr-defined]  # looked for before
    except TypeError:
        return None
    return text.decode() if text.isascii() else None


def _short_text(record: logging.LogRecord) -> str | None:
    message = record.getMessage()
    if not _PLAIN.match(message):
        return None
    told = _at_work.get() | record.fields  # type: ignore[attr-defined]  # looked for before
    words = [f"{key}={value if type(value) in _NUMBERS else _quoted(value)}" for key, value in told.items()]
    return " ".join([_now(), "INFO", message, *words])


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class _Lines(logging.StreamHandler[Any]):
    """Writes each line in one piece, so that those of several workers do not mix."""

    def handleError(self, record: logging.LogRecord) -> None:
        """A line that cannot be made or written is lost, and nothing else; the library would show its arguments."""


def _fields(_logger: Any, _level: str, line: EventDict) -> EventDict:
    record: logging.LogRecord = line["_record"]
    if record.name == "asyncio" and (shown := _UNTOLD.match(line["message"])):
        line["message"] = shown[0]
    line.update(_at_work.get())
    line.update(getattr(record, "fields", ()))
    return line


def _trace(exc_info: ExcInfo) -> str:
    """Where exceptions were raised, and their kinds; not their words, which may repeat what somebody wrote."""
    return "".join(_traced(exc_info[1], set()))


def _traced(exc: BaseException, told: set[int]) -> Iterator[str]:
    told.add(id(exc))
    before = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    if before is not None and id(before) not in told:
        yield from _traced(before, told)
        yield "\n\nThen:\n\n"
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(exc.__traceback__)
    yield f"{type(exc).__module__}.{type(exc).__qualname__}".removeprefix("builtins.")
    for each in getattr(exc, "exceptions", ()):  # of a group
        yield "\n\nIn it:\n\n"
        yield from _traced(each, told)


def _json(line: EventDict, default: Callable[[Any], Any]) -> str:
    """ASCII, whatever the encoding of stderr: so nothing in a value can end a line, or be read by a terminal."""
    try:
        text = codec.dumps(line).decode()
    except TypeError:
        text = ""
    return text if text and text.isascii() else json.dumps(line, default=default)


def _console(*, colours: bool) -> ConsoleRenderer:
    look = ConsoleRenderer.get_default_column_styles(colours)
    levels = ConsoleRenderer.get_default_level_styles(colours)
    begin, middle, end = look.kv_key, f"{look.reset}={look.kv_value}", look.reset
    columns = [
        Column("time", lambda _, value: f"{look.timestamp}{value}{end}"),
        Column("level", lambda _, value: f"{levels.get(str(value), '')}{str(value).upper()}{end}"),
        Column("message", lambda _, value: f"{look.bright}{_CONTROL.sub(_escaped, str(value).rstrip())}{end}"),
        Column("", lambda key, value: f"{begin}{key}{middle}{_quoted(value)}{end}"),
    ]
    return ConsoleRenderer(columns=columns, sort_keys=False, exception_formatter=plain_traceback)


def _worth_telling(record: logging.LogRecord) -> bool:
    """Of uvicorn's records: a worker's death, and warnings save those about what happens here by design."""
    if record.name != "uvicorn.error":
        return True
    text = record.getMessage()
    if record.levelno < logging.WARNING:
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        return text.startswith("Child process") and text.endswith("died")
    upgrade = text.startswith(("Unsupported upgrade", "No supported WebSocket"))  # the app answers these
    cut = text.startswith("ASGI callable returned without completing")  # what else ends an answer that broke off?
    forced = text.rstrip().endswith("CancelledError")  # a second Ctrl-C cuts the app's shutdown short
    garbled = text.startswith("Invalid UTF-8")  # in a client's frame, whose connection ends for it
    return not (upgrade or cut or forced or garbled)


def _escaped(control: re.Match[str]) -> str:
    """A control character as text, so that no one's words begin a line of their own."""
    return control[0].encode("unicode_escape").decode()


def _quoted(value: object) -> str:
    """A value that stays one word on its line, whatever a caller put into a path."""
    text = str(value)
    return text if _PLAIN.match(text) else json.dumps(text)
