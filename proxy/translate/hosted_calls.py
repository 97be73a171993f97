"""Calls of tools that run here, as output items being written (wire §6.2, §9.3, §9.5).

A call has two ends: when the model has written it out, and when it has its outcome. What comes between is the turn's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Any

from proxy.translate.calls import Call
from proxy.translate.citations import Sources
from proxy.translate.hosting import Outcome
from proxy.translate.items import Event, Item, OutputItem
from proxy.translate.tool_calls import ToolCall
from proxy.translate.tool_names import Origin


class HostedCall(ToolCall):
    """A call that is answered here. ``written``: the model has written it out; ``answered``: it has its outcome.

    ``held``: nothing is told of it before it is written out; ``runs``: it is no mere question whether it may.
    ``include``: the extra fields that the client asked for. ``beside``: the model made another call with it.
    """

    held, runs = False, True
    name = ""
    """Of its events: ``response.<name>.in_progress``."""

    def __init__(self, index: int, id_: str, call: Call, origin: Origin, **fields: object) -> None:
        super().__init__(index, id_, call, origin, **fields)
        self.item = {"id": id_, "type": origin.item, "status": "in_progress", **fields}
        self.origin = origin
        self.include: frozenset[str] = frozenset()
        self.written = self.answered = self.beside = False

    @property
    def arguments(self) -> str:
        """All that the model has given as its arguments, a JSON object unless the call is ``broken``."""
        return self.call.text or "{}"

    @property
    def broken(self) -> bool:
        """Whether the arguments are no JSON object; none at all are an empty one."""
        return bool(self.call.text) and super().broken

    @property
    def waits(self) -> bool:
        """Whether it is written out and has no outcome."""
        return self.written and not self.answered and not self.closed

    def close(self, status: str) -> Iterator[Event]:
        """Writes the call out; with the status incomplete also ends it, as a call of a reply that was cut off."""
        if not self.written:
            self.written = True
            yield from self.write()
        if status == "incomplete":
            yield from super().close(status)

    def write(self) -> Iterator[Event]:
        """The events that end what the model has to say of it."""
        yield from ()

    def begin(self) -> Iterator[Event]:
        """The events of a call that begins to run."""
        yield from ()

    def answer(self, outcome: Outcome, sources: Sources) -> Iterator[Event]:
        """The call's outcome; ``end`` follows. ``sources``: takes what was found."""
        self.answered = True
        failed = outcome.error is not None
        self.item["status"] = "failed" if failed else "completed"
        self.fill(outcome)
        yield from self.told_end(failed=failed)

    def told_end(self, *, failed: bool) -> Iterator[Event]:
        """The event that says how it went, where its type has one."""
        if not failed:
            yield self.at(f"response.{self.name}.completed")

    def fill(self, outcome: Outcome) -> None:
        """Puts into the item what the client is to see of the outcome."""

    def stored(self) -> Item:
        kept = self.kept()
        return {**self.item, "x_upstream": kept} if kept else self.item

    def kept(self) -> dict[str, Any]:
        """What nobody sees of it and a history is written with (wire §11.6)."""
        kept = {"extras": self.call.extras, "beside": self.beside}
        return {key: value for key, value in kept.items() if value}

    def end(self) -> Iterator[Event]:
        """The last event of a call that is answered."""
        self.closed = True
        yield self._whole("response.output_item.done")


class McpCall(HostedCall):
    """A call of a tool of an MCP server. Its arguments are told as they come."""

    name = "mcp_call"

    def __init__(self, index: int, id_: str, call: Call, origin: Origin, approval: str | None = None) -> None:
        fields = {"server_label": origin.namespace, "name": origin.name, "arguments": ""}
        empty = {"approval_request_id": approval, "error": None, "output": None}
        super().__init__(index, id_, call, origin, **fields, **empty)

    @classmethod
    def approved(cls, index: int, id_: str, request: Item) -> McpCall:
        """The call that an ``mcp_approval_request`` asked for."""
        origin = Origin("mcp_call", request["name"], request["server_label"])
        extras = dict((request.get("x_upstream") or {}).get("extras", {}))
        call = Call(id=id_, name=request["name"], arguments=[request["arguments"]], extras=extras)
        made = cls(index, id_, call, origin, request["id"])
        made._pieces = [request["arguments"]] if request["arguments"] else []
        return made

    def open(self) -> Iterator[Event]:
        yield from super().open()
        yield self.at("response.mcp_call.in_progress")
        for piece in self._pieces:
            yield self.at("response.mcp_call_arguments.delta", delta=piece)

    def delta(self, arguments: str) -> Iterator[Event]:
        if not self.written and (arguments := self._halves.feed(arguments)):
            self._pieces.append(arguments)
            yield self.at("response.mcp_call_arguments.delta", delta=arguments)

    def write(self) -> Iterator[Event]:
        rest = self._halves.flush() or ("" if self._pieces else "{}")
        if rest:
            self._pieces.append(rest)
            yield self.at("response.mcp_call_arguments.delta", delta=rest)
        self.item["arguments"] = "".join(self._pieces)
        yield self.at("response.mcp_call_arguments.done", arguments=self.item["arguments"])

    def told_end(self, *, failed: bool) -> Iterator[Event]:
        yield self.at(f"response.mcp_call.{'failed' if failed else 'completed'}")

    def fill(self, outcome: Outcome) -> None:
        self.item["error"] = outcome.error
        self.item["output"] = None if outcome.error else outcome.output

    def cut(self) -> None:
        if not self.written:
            self.item["arguments"] = "".join([*self._pieces, self._halves.flush()])
        super().cut()


class McpApprovalRequest(HostedCall):
    """A call that the client must allow before it is made; told whole, and never run as what it is."""

    held, runs = True, False

    def __init__(self, index: int, id_: str, call: Call, origin: Origin) -> None:
        super().__init__(index, id_, call, origin, server_label=origin.namespace, name=origin.name, arguments="")
        del self.item["status"]

    def open(self) -> Iterator[Event]:
        yield from ()

    def delta(self, arguments: str) -> Iterator[Event]:
        yield from ()

    def close(self, status: str) -> Iterator[Event]:
        self.written = self.closed = True
        self.item["arguments"] = self._halves.feed(self.arguments) + self._halves.flush()
        yield self._whole("response.output_item.added")
        yield self._whole("response.output_item.done")


class McpListTools(OutputItem):
    """The tools of an MCP server, or why they could not be listed. ``source``: what they were listed for, kept with
    them.
    """

    def __init__(
        self, index: int, id_: str, label: str, tools: list[Item], error: str | None = None, source: str = ""
    ) -> None:
        super().__init__(index, {"id": id_, "type": "mcp_list_tools", "server_label": label, "tools": []})
        self._tools, self._error, self._source = tools, error, source

    def stored(self) -> Item:
        return {**self.item, "x_upstream": {"source": self._source}} if self._source else self.item

    def open(self) -> Iterator[Event]:
        yield from super().open()
        yield self.at("response.mcp_list_tools.in_progress")

    def close(self, status: str) -> Iterator[Event]:
        self.closed = True
        if self._error is None:
            self.item["tools"] = self._tools
        else:
            self.item["error"] = self._error
        yield self.at(f"response.mcp_list_tools.{'completed' if self._error is None else 'failed'}")
        yield self._whole("response.output_item.done")


def of_hosted(items: Iterable[OutputItem]) -> Iterator[HostedCall]:
    """The hosted calls among items that have not ended."""
    return (item for item in items if isinstance(item, HostedCall) and not item.closed)


def answered(items: Iterable[OutputItem], call: HostedCall, outcome: Outcome, sources: Sources) -> Iterator[Event]:
    """The events of an outcome. A call of these items is done when those before it are."""
    yield from call.answer(outcome, sources)
    for other in takewhile(lambda other: other.answered, of_hosted(items)):
        yield from other.end()


MCP_CALLS: dict[str, type[HostedCall]] = {
    "mcp_call": McpCall,
    "mcp_approval_request": McpApprovalRequest,
}
"""By the type of the item that a call becomes."""
