"""Calls of OpenAI's own hosted tools that are bound here: web and file searches, code (wire §6.2, §9.3, §9.5).

What the model reads of an outcome is not in the item that clients see. It is kept beside it under ``x_upstream``, for
this turn's next upstream call and for later turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy import codec
from proxy.translate.calls import Call
from proxy.translate.citations import Sources
from proxy.translate.hosted_calls import HostedCall
from proxy.translate.hosted_items import error_text
from proxy.translate.hosting import Outcome
from proxy.translate.items import Event, Item
from proxy.translate.text import InputString
from proxy.translate.tool_names import Origin

_SOURCES = "web_search_call.action.sources"
_RESULTS = "file_search_call.results"
_OUTPUTS = "code_interpreter_call.outputs"


class TypedCall(HostedCall):
    """``shown``: what the model reads of the outcome; ``known``: what of it can be cited."""

    def __init__(self, index: int, id_: str, call: Call, origin: Origin, **fields: object) -> None:
        super().__init__(index, id_, call, origin, **fields)
        self.shown: str | None = None
        self.known: list[Item] = []

    def answer(self, outcome: Outcome, sources: Sources) -> Iterator[Event]:
        """The results are numbered on from those of all searches before."""
        shown, self.known = sources.add(outcome.found) if outcome.found else ("", [])
        said = outcome.output or (error_text(outcome.error) if outcome.error else "")
        self.shown = "\n\n".join(filter(None, (shown, said)))
        yield from super().answer(outcome, sources)

    def kept(self) -> dict[str, Any]:
        if self.shown is None:
            return super().kept()
        return {"output": self.shown, **({"found": self.known} if self.known else {}), **super().kept()}

    def asked(self) -> dict[str, Any]:
        """What is to be run: the arguments as the item tells them. Nothing for a broken call."""
        return {} if self.broken else dict(codec.loads(self.arguments))

    def texts(self, *keys: str) -> list[str]:
        """What the arguments hold under the first of these names that has any text: models mix them up."""
        given = TypedCall.asked(self)
        return next((texts for key in keys if (texts := _texts(given.get(key)))), [])


class WebSearchCall(TypedCall):
    """Its query is in its first event, so nothing is told before the model has written it out."""

    held, name = True, "web_search_call"

    def __init__(self, index: int, id_: str, call: Call, origin: Origin) -> None:
        super().__init__(index, id_, call, origin, action={})

    def open(self) -> Iterator[Event]:
        yield from ()

    def delta(self, arguments: str) -> Iterator[Event]:
        yield from ()

    def write(self) -> Iterator[Event]:
        query = self.texts("query", "queries", "q")[:1] or [""]
        self.item["action"] = {"type": "search", "query": query[0], "queries": query}
        yield from super().open()
        yield self.at("response.web_search_call.in_progress")

    def asked(self) -> dict[str, Any]:
        return {"query": self.item["action"]["query"]}

    def begin(self) -> Iterator[Event]:
        yield self.at("response.web_search_call.searching")

    def fill(self, outcome: Outcome) -> None:
        action = dict(outcome.action or self.item["action"])
        if _SOURCES in self.include and action["type"] == "search":
            action["sources"] = [{"type": "url", "url": page["url"]} for page in outcome.found]
        self.item["action"] = action


class FileSearchCall(TypedCall):
    """Its queries are in its first event, so nothing is told before the model has written them out."""

    held, name = True, "file_search_call"

    def __init__(self, index: int, id_: str, call: Call, origin: Origin) -> None:
        super().__init__(index, id_, call, origin, queries=[], results=None)

    def open(self) -> Iterator[Event]:
        yield from ()

    def delta(self, arguments: str) -> Iterator[Event]:
        yield from ()

    def write(self) -> Iterator[Event]:
        self.item["queries"] = self.texts("queries", "query", "q")
        yield from super().open()
        yield self.at("response.file_search_call.in_progress")

    def asked(self) -> dict[str, Any]:
        return {"queries": self.item["queries"]}

    def begin(self) -> Iterator[Event]:
        yield self.at("response.file_search_call.searching")

    def fill(self, outcome: Outcome) -> None:
        if _RESULTS in self.include:
            self.item["results"] = [dict(file) for file in outcome.found]


class CodeInterpreterCall(TypedCall):
    """Its code is told as it comes."""

    name = "code_interpreter_call"

    def __init__(self, index: int, id_: str, call: Call, origin: Origin) -> None:
        container = (origin.tool or {}).get("container")
        named = container if isinstance(container, str) else "auto"
        super().__init__(index, id_, call, origin, code="", container_id=named, outputs=None)
        self._reader = InputString("code")

    def open(self) -> Iterator[Event]:
        yield from super().open()
        yield self.at("response.code_interpreter_call.in_progress")

    def delta(self, arguments: str) -> Iterator[Event]:
        if not self.written and (text := self._halves.feed(self._reader.feed(arguments))):
            self._pieces.append(text)
            yield self.at("response.code_interpreter_call_code.delta", delta=text)

    def write(self) -> Iterator[Event]:
        if rest := self._reader.flush() + self._halves.flush():
            self._pieces.append(rest)
            yield self.at("response.code_interpreter_call_code.delta", delta=rest)
        self.item["code"] = "".join(self._pieces)
        yield self.at("response.code_interpreter_call_code.done", code=self.item["code"])

    def begin(self) -> Iterator[Event]:
        yield self.at("response.code_interpreter_call.interpreting")

    def fill(self, outcome: Outcome) -> None:
        if _OUTPUTS in self.include:
            self.item["outputs"] = [dict(output) for output in outcome.outputs]

    def cut(self) -> None:
        if not self.written:
            self.item["code"] = "".join([*self._pieces, self._reader.flush(), self._halves.flush()])
        super().cut()


def _texts(value: Any) -> list[str]:
    """What of a value is text, where models write one for a list or a list for one."""
    return [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]


TYPED_CALLS: dict[str, type[TypedCall]] = {
    "web_search_call": WebSearchCall,
    "file_search_call": FileSearchCall,
    "code_interpreter_call": CodeInterpreterCall,
}
"""By the type of their items."""
