"""Assembly of streamed tool calls: which call a delta belongs to, whatever the upstream leaves out (wire §11.6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from proxy import codec

_OWN = ("index", "id", "type", "function", "custom")


@dataclass(eq=False)
class Call:
    """One tool call being assembled. ``held``: arguments that came before its name.

    ``custom``: the upstream called a tool of type ``custom``, whose arguments are any text.
    """

    ids: set[str] = field(default_factory=set)
    id: str = ""
    name: str = ""
    custom: bool = False
    arguments: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The arguments so far."""
        if len(self.arguments) > 1:
            self.arguments = ["".join(self.arguments)]
        return self.arguments[0] if self.arguments else ""

    @property
    def ended(self) -> bool:
        """Whether nothing more can come: a whole JSON object. Of a custom call that is never known."""
        return not self.custom and is_complete(self.text)

    def may_go_on(self) -> bool:
        """Whether more may come after another call has begun (wire §11.6)."""
        return not self.ended

    def may_go_on_after_text(self) -> bool:
        """Whether more may come after text, which ends a call that has no arguments yet."""
        return bool(self.text) and not self.ended


@dataclass
class Delta:
    """What one entry of ``delta.tool_calls`` adds to ``call``; no arguments when it says again what is known."""

    call: Call
    arguments: str


class Assembler:
    """Feeds on ``delta.tool_calls``; the calls of one upstream reply, in order of appearance."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._by_index: dict[int, Call] = {}

    def feed(self, entry: dict[str, Any]) -> Delta:
        """The call an entry belongs to and the arguments it adds. What is of a wrong type counts as missing."""
        function, custom = entry.get("function"), False
        if not isinstance(function, dict):
            function, custom = (entry["custom"], True) if isinstance(entry.get("custom"), dict) else ({}, False)
        index = entry["index"] if isinstance(entry.get("index"), int) else None
        id_, name = _string(entry.get("id")), _string(function.get("name"))
        arguments = _text(function.get("input" if custom else "arguments"))
        call = self._known(index, id_, name, arguments)
        if call is None:
            call = Call(custom=custom)
            self.calls.append(call)
        if index is not None:
            self._by_index[index] = call
        if id_:
            call.ids.add(id_)
            call.id = call.id or id_
        call.name = call.name or name
        call.extras.update({k: v for k, v in entry.items() if k not in _OWN})
        may_repeat = call.arguments and not call.custom and is_complete(arguments)  # first: text joins all the pieces
        if may_repeat and arguments == call.text:
            return Delta(call, "")
        if arguments:
            call.arguments.append(arguments)
        return Delta(call, arguments)

    def _known(self, index: int | None, id_: str, name: str, arguments: str) -> Call | None:
        """The call this entry goes on with, or None when it begins another."""
        if index is not None:
            call = self._by_index.get(index)
        else:
            last = self.calls[-1] if self.calls else None
            call = next((c for c in self.calls if id_ and id_ in c.ids), last)
        if call is None:
            return None
        if id_ and call.ids and id_ not in call.ids:
            if name and (index is None or not call.arguments or call.ended or name != call.name):
                return None
        elif name and call.name and (not arguments or arguments.lstrip().startswith("{")) and not call.custom:
            if is_complete(call.text) and not (arguments == call.text and name == call.name):
                return None
        return call


def is_complete(arguments: str) -> bool:
    """Whether the text is a whole JSON object. The cheap look at its last character keeps long arguments linear."""
    if not arguments.rstrip().endswith("}"):
        return False
    try:
        return isinstance(codec.loads(arguments), dict)
    except ValueError:
        return False


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _text(arguments: Any) -> str:
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else codec.dumps(arguments).decode()
