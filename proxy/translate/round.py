"""What is known of one upstream call while its reply is read, and whether that was a whole reply (wire §11.5–11.7)."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.errors import UpstreamError
from proxy.translate.calls import Assembler, Call
from proxy.translate.items import Item, OutputItem, Reasoning, ReasoningSummary
from proxy.translate.tool_calls import ToolCall


@dataclass
class Round:
    """``start``: the index of its first item. ``calls``: those that have a name, None for one that may not pass;
    ``ignored``: how many hosted calls of them came when none was left.

    ``blank`` and ``blank_thought``: text without a visible character, held until it is known what it belongs to;
    ``annotations``: citations that came before their text. ``fed``: there was a choice. ``over``: an earlier call has
    ended well, and of this one nothing has come.
    """

    start: int
    over: bool = False
    fed: bool = False
    blank_finish: bool = False
    ignored: int = 0
    assembler: Assembler = field(default_factory=Assembler)
    calls: dict[Call, ToolCall | None] = field(default_factory=dict)
    blank: list[tuple[str, list[Item]]] = field(default_factory=list)
    blank_thought: str = ""
    annotations: list[Item] = field(default_factory=list)

    def take_held(self) -> tuple[str, list[Item], list[Item]]:
        """(the blank text that was held, its log probabilities, the citations), to be told now."""
        text = "".join(piece for piece, _ in self.blank)
        told = text, [entry for _, entries in self.blank for entry in entries], self.annotations
        self.blank, self.annotations = [], []
        return told

    def check_whole(self, items: list[OutputItem], finish_reason: str | None, *, done: bool) -> None:
        """Raises UpstreamError when the reply is none: cut off, without choices, without a permitted call.

        ``items``: all of the response. ``done``: the upstream said that it was finished.
        """
        items = items[self.start :]
        if finish_reason is None and not self.blank_finish:
            if not done:
                raise UpstreamError("The upstream closed the stream before it finished.")
            if not self.fed:
                raise UpstreamError("The upstream returned no choices.")
            if not items and not self.blank and not self.ignored:
                raise UpstreamError("The upstream ended its answer without any output.")
        if all(isinstance(item, Reasoning | ReasoningSummary) for item in items) and not self.blank:
            if None in self.calls.values() and not self.ignored:
                raise UpstreamError("The model called only tools that 'tool_choice' does not allow.")
            if any(not call.name for call in self.assembler.calls):
                raise UpstreamError("The upstream sent tool calls without names.")
