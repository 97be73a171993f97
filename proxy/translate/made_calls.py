"""Calls as the items they become: of a class of their own for each type, under ids that are not in use."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from proxy.translate.calls import Call
from proxy.translate.hosted_calls import MCP_CALLS, HostedCall
from proxy.translate.round import Round
from proxy.translate.tool_calls import TOOL_CALLS, ToolCall
from proxy.translate.tools import ToolPlan
from proxy.translate.typed_calls import TYPED_CALLS

_HOSTED: dict[str, type[HostedCall]] = {**MCP_CALLS, **TYPED_CALLS}
_CLASSES: dict[str, type[ToolCall]] = {**TOOL_CALLS, **_HOSTED}


class MadeCalls:
    """Makes the items of a response's calls."""

    def __init__(
        self,
        new_item_id: Callable[[str], str],
        new_call_id: Callable[[], str],
        call_ids: Iterable[str],
        include: Iterable[str],
    ) -> None:
        """As ``ResponseStream`` is given them."""
        self._new_item_id, self._new_call_id = new_item_id, new_call_id
        self._call_ids, self._include = set(call_ids), frozenset(include)

    def may_pass(self, call: Call, tools: ToolPlan, of: Round, *, left: int | None) -> bool:
        """Whether a call that has a name becomes an item: not one outside the allowed set, nor a hosted one when none
        is ``left``. The round knows of what may not.
        """
        if left == 0 and tools.origin(call.name, custom=call.custom).item in _HOSTED:
            of.ignored += 1
        elif tools.allowed is None or call.name in tools.allowed:
            return True
        of.calls[call] = None
        return False

    def make(self, call: Call, tools: ToolPlan, index: int, *, beside: bool) -> ToolCall:
        """The item of a call that has a name. ``beside``: it is not the first of its reply."""
        if not call.id or call.id in self._call_ids:
            call.id = self._new_call_id()
        self._call_ids.add(call.id)
        origin = tools.origin(call.name, custom=call.custom)
        item = _CLASSES[origin.item](index, self._new_item_id(origin.item), call, origin)
        if isinstance(item, HostedCall):
            item.include, item.beside = self._include, beside
        return item
