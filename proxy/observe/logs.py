"""The form of log lines. Ids and counts, never prompts, outputs or keys."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Any

_PLAIN = re.compile(r"[!#-<>-~]+\Z")  # printable ASCII without space, quote or equals sign
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


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
