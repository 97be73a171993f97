"""What a turn works on, and what is told of it when it is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from proxy.state import Past
from proxy.translate.dialects import Dialect
from proxy.translate.stream import ResponseStream
from proxy.turn.context import Context
from proxy.turn.fitting import Fitting
from proxy.turn.hosting import HostedTools
from proxy.turn.rest import Rest

_BEFORE = ("compaction", "mcp_list_tools")
"""Items that stand before an answer; the first is the answer where it was asked for."""


@dataclass
class Work:
    """``dialect``: the one that the tools are planned for, None while they are not; ``done``: the upstream said that
    it was finished.

    ``rest``: the answer was begun by another process, and only this of it is asked for. ``hosted``: the request's tools
    that run here, None for a request without. ``is_cut``: the turn was cancelled while an upstream was being asked.
    """

    context: Context
    stream: ResponseStream
    fitting: Fitting
    dialect: Dialect | None = None
    done: bool = False
    rest: Rest | None = None
    hosted: HostedTools | None = None
    is_cut: bool = False

    @property
    def has_answer(self) -> bool:
        """Whether there is output that the request asked for."""
        before = _BEFORE if self.fitting.compacted else _BEFORE[1:]
        return any(item.item["type"] not in before for item in self.stream.items)

    def grow(self) -> None:
        """The model is to see what has been put out, but for an answer that goes on, and may be offered other tools."""
        self.fitting.grow(self.rest.start if self.rest else None)
        self.dialect = None

    def as_past(self) -> Past:
        """What a turn continues from that goes on with this response, where nothing keeps it."""
        items = [*self.context.past.items, *self.context.given, *self.stream.stored_output()]
        return Past(self.context.past.tag, items, status=self.stream.response["status"])

    def facts(self, *, asked: bool) -> dict[str, Any]:
        """How the response ended, and its token counts. ``asked``: an upstream was."""
        response = self.stream.response
        usage = response["usage"] or {}
        return {
            "response_status": response["status"],
            "input_tokens": usage.get("input_tokens"),
            "cached_tokens": usage.get("input_tokens_details", {}).get("cached_tokens"),
            "output_tokens": usage.get("output_tokens"),
            **(self.hosted.facts() if self.hosted else {}),
            "reasoning_tokens": usage.get("output_tokens_details", {}).get("reasoning_tokens"),
            "usage_missing": asked and not self.stream.figures.usages and response["status"] != "failed",
        }
