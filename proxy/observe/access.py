"""The access log: one line for each request. Ids and counts, never prompts, outputs or keys."""

from __future__ import annotations

import logging
from typing import Any

from proxy.observe.requests import Finished

access = logging.getLogger("statecar.access")

_NOT_TOLD = ("turn", "probe", "begun", "left", "route")

_SHOWN = 256
"""Characters of a path that are shown; with long ones, lines of several workers could mix in a pipe."""


def log_request(request: Finished) -> None:
    """Writes the line; that of a probe that found nothing wrong only where debugging is wanted."""
    quiet = request.facts.get("probe") and request.status == 200
    if not access.isEnabledFor(level := logging.DEBUG if quiet else logging.INFO):
        return
    fields: dict[str, Any] = {
        "method": request.method,
        "path": request.path if len(request.path) <= _SHOWN else f"{request.path[:_SHOWN]}...",
        "status": request.status,
        "first_ms": None if request.first is None else round(request.first * 1000, 1),
        "ms": round(request.whole * 1000, 1),
        **{name: value for name, value in request.facts.items() if name not in _NOT_TOLD},
        **request.facts.get("turn", {}),
    }
    told = {name: value for name, value in fields.items() if value is not None and value is not False}
    # what ``access.log`` does, but for a look at the frames: which line of ours says it is told nowhere
    access.handle(access.makeRecord(access.name, level, "", 0, "request", (), None, extra={"fields": told}))
