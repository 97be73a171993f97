"""Tool calls as output items being written: one class per item type (wire §6.2, §9.3, §9.5, §9.6)."""

from __future__ import annotations

import copy
from collections.abc import Iterator

from proxy.translate.calls import Call
from proxy.translate.client_tools import APPLY_PATCH, LOCAL_SHELL, SHELL, ClientTool
from proxy.translate.items import Event, Item, OutputItem
from proxy.translate.text import Halves, InputString
from proxy.translate.tool_names import Origin


class ToolCall(OutputItem):
    """A call that the client answers. ``delta`` takes what the upstream adds to its arguments."""

    def __init__(self, index: int, id_: str, call: Call, origin: Origin, **fields: object) -> None:
        shell = {"id": id_, "type": origin.item, "status": "in_progress", "call_id": call.id, **fields}
        if origin.namespace is not None:
            shell["namespace"] = origin.namespace
        super().__init__(index, shell)
        self.call = call
        self._pieces: list[str] = []
        self._halves = Halves()

    @property
    def broken(self) -> bool:
        """Whether the arguments are no whole JSON object; those of a native custom call need not be."""
        return not (self.call.custom or self.call.ended)

    def delta(self, arguments: str) -> Iterator[Event]:
        raise NotImplementedError

    def stored(self) -> Item:
        """With the extras some upstreams must get back (Gemini's ``thought_signature``, wire §11.6)."""
        return {**self.item, "x_upstream": self.call.extras} if self.call.extras else self.item


class FunctionCall(ToolCall):
    """A call of one of the client's functions."""

    def __init__(self, index: int, id_: str, call: Call, origin: Origin) -> None:
        super().__init__(index, id_, call, origin, name=origin.name, arguments="")

    def delta(self, arguments: str) -> Iterator[Event]:
        if arguments := self._halves.feed(arguments):
            self._pieces.append(arguments)
            yield self.at("response.function_call_arguments.delta", delta=arguments)

    def close(self, status: str) -> Iterator[Event]:
        rest = self._halves.flush()
        if not self._pieces and not rest and status == "completed":
            rest = "{}"  # clients read arguments as JSON; a cut-off call keeps what it has
        if rest:
            self._pieces.append(rest)
            yield self.at("response.function_call_arguments.delta", delta=rest)
        self.item["arguments"] = "".join(self._pieces)
        yield self.at(
            "response.function_call_arguments.done",
            arguments=self.item["arguments"],
            name=self.item["name"],
        )
        yield from super().close(status)

    def cut(self) -> None:
        self.item["arguments"] = "".join([*self._pieces, self._halves.flush()])
        super().cut()


class CustomToolCall(ToolCall):
    """A call of a custom tool: made as such upstream, or read out of the function that stands for it (wire §7.7)."""

    def __init__(self, index: int, id_: str, call: Call, origin: Origin) -> None:
        super().__init__(index, id_, call, origin, name=origin.name, input="")
        self._reader = None if call.custom else InputString()

    def delta(self, arguments: str) -> Iterator[Event]:
        text = self._reader.feed(arguments) if self._reader else arguments
        if text := self._halves.feed(text):
            self._pieces.append(text)
            yield self.at("response.custom_tool_call_input.delta", delta=text)

    def close(self, status: str) -> Iterator[Event]:
        if rest := self._rest():
            self._pieces.append(rest)
            yield self.at("response.custom_tool_call_input.delta", delta=rest)
        self.item["input"] = "".join(self._pieces)
        yield self.at("response.custom_tool_call_input.done", input=self.item["input"])
        yield from super().close(status)

    def cut(self) -> None:
        self.item["input"] = "".join([*self._pieces, self._rest()])
        super().cut()

    def _rest(self) -> str:
        return (self._reader.flush() if self._reader else "") + self._halves.flush()


class _Buffered(ToolCall):
    """A call of a tool that clients run as it stands: told in one piece, and only when its arguments are a valid call.

    Until then, and for good when they are none, the item holds the tool's empty form.
    """

    tool: ClientTool

    def __init__(self, index: int, id_: str, call: Call, origin: Origin, **fields: object) -> None:
        super().__init__(index, id_, call, origin, **{self.tool.key: copy.deepcopy(self.tool.empty)}, **fields)

    def delta(self, arguments: str) -> Iterator[Event]:
        self._pieces.append(self._halves.feed(arguments))
        yield from ()

    def close(self, status: str) -> Iterator[Event]:
        arguments = "".join([*self._pieces, self._halves.flush()])
        self.item[self.tool.key] = copy.deepcopy(self.tool.read(arguments))
        yield from super().close(status)


class LocalShellCall(_Buffered):
    tool = LOCAL_SHELL


class ShellCall(_Buffered):
    tool = SHELL

    def __init__(self, index: int, id_: str, call: Call, origin: Origin) -> None:
        super().__init__(index, id_, call, origin, environment={"type": "local"})


class ApplyPatchCall(_Buffered):
    """Its status knows no ``incomplete``: a call that was cut off stays in progress."""

    tool = APPLY_PATCH

    def close(self, status: str) -> Iterator[Event]:
        yield from super().close("in_progress" if status == "incomplete" else status)

    def cut(self) -> None:
        super().cut()
        self.item["status"] = "in_progress"


TOOL_CALLS: dict[str, type[ToolCall]] = {
    "function_call": FunctionCall,
    "custom_tool_call": CustomToolCall,
    "local_shell_call": LocalShellCall,
    "shell_call": ShellCall,
    "apply_patch_call": ApplyPatchCall,
}
"""By the type of the item that a call becomes."""
