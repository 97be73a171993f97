"""Calls as the items they become: of a class of their own for each type, under ids that are not in use."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from proxy.translate.calls import Call
from proxy.translate.hosted_calls import MCP_CALLS, HostedCall
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

    def is_hosted(self, call: Call, tools: ToolPlan) -> bool:
        """Whether a call that has a name is one of a tool that runs here."""
        return tools.origin(call.name, custom=call.custom).item in _HOSTED

    def make(self, call: Call, tools: ToolPlan, index: int) -> ToolCall:
        """The item of a call that has a name."""
        if not call.id or call.id in self._call_ids:
            call.id = self._new_call_id()
        self._call_ids.add(call.id)
        origin = tools.origin(call.name, custom=call.custom)
        item = _CLASSES[origin.item](index, self._new_item_id(origin.item), call, origin)
        if isinstance(item, HostedCall):
            item.include = self._include
        return item
