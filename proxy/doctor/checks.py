"""The capabilities that are tried: a Responses request each, and what its answer says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from proxy.translate.dialects import Dialect

OK, NO, IGNORED = "ok", "no", "ignored"
TOKENS = 1024
"""Most tokens of an answer, thoughts included."""

Verdict = tuple[str, str]
"""ok, no or ignored; and why, in a few words."""


@dataclass
class Answer:
    """How a request was answered. ``deltas``: how many events carried text; ``usage``: whether any came."""

    response: dict[str, Any]
    deltas: int
    usage: bool
    dialect: Dialect

    def items(self, type_: str) -> list[dict[str, Any]]:
        """The output items of a type."""
        return [item for item in self.response["output"] if item["type"] == type_]

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The parts of all messages."""
        return [part for item in self.items("message") for part in item["content"]]

    @property
    def text(self) -> str:
        """All that was said."""
        return "".join(part.get("text") or "" for part in self.parts)

    @property
    def called(self) -> list[str]:
        """The names of the functions that were called."""
        return [call["name"] for call in self.items("function_call")]


@dataclass(frozen=True)
class Check:
    """A capability. ``request``: what is asked beside the model. ``core``: statecar is of no use without it.

    ``changes``: to the dialect, so that the request is sent as it stands; a remedy for it is a "no".
    """

    name: str
    request: dict[str, Any]
    judge: Callable[[Answer], Verdict]
    core: bool = False
    changes: dict[str, Any] = field(default_factory=dict)


def short(text: str) -> str:
    """A text on one line, its end cut off."""
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:99]}…"


def printable(text: str) -> str:
    """A text that is safe to print: what a terminal would obey, or hide, is escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _quoted(answer: Answer) -> str:
    return f'"{short(answer.text)}"'


def _text(answer: Answer) -> Verdict:
    if answer.text.strip():
        return OK, _quoted(answer)
    return NO, f"thoughts only, within {TOKENS} tokens" if answer.items("reasoning") else "the answer is empty"


def _stream(answer: Answer) -> Verdict:
    if not answer.text.strip():
        return _text(answer)
    return (OK, f"{answer.deltas} pieces") if answer.deltas > 1 else (IGNORED, "the text came in one piece")


def _usage(answer: Answer) -> Verdict:
    usage = answer.response["usage"]
    return (OK, f"{usage['input_tokens']} in, {usage['output_tokens']} out") if answer.usage else (NO, "none came")


def _calls(fits: Callable[[list[str]], bool]) -> Callable[[Answer], Verdict]:
    """``fits``: whether the functions called are those that had to be."""

    def judge(answer: Answer) -> Verdict:
        called = answer.called
        why = f"called {', '.join(called)}" if called else f"called nothing, said {_quoted(answer)}"
        return (OK if fits(called) else IGNORED), why

    return judge


def _json(*keys: str) -> Callable[[Answer], Verdict]:
    """``keys``: what the object must have, all of it; any object will do where none is given."""

    def judge(answer: Answer) -> Verdict:
        try:
            value = json.loads(answer.text)
        except ValueError:
            return IGNORED, f"no JSON: {_quoted(answer)}"
        fits = isinstance(value, dict) and (not keys or set(value) == set(keys))
        return (OK if fits else IGNORED), short(answer.text)

    return judge


def _thoughts(answer: Answer) -> Verdict:
    return (OK, "thoughts came") if answer.items("reasoning") else (IGNORED, "no thoughts came")


def _logprobs(answer: Answer) -> Verdict:
    return (OK, "they came") if any(part.get("logprobs") for part in answer.parts) else (IGNORED, "none came")


def _limit(answer: Answer) -> Verdict:
    cut = answer.response["status"] == "incomplete"
    return (OK if cut else IGNORED), f"as {answer.dialect.max_tokens_field}"


def _taken(answer: Answer) -> Verdict:
    return OK, "the request was taken"


def _tool(name: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    return {"type": "function", "name": name, "description": name.replace("_", " "), "parameters": schema}


def _user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


_DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
    "rkJggg=="
)
_HELLO = {"input": "Say hello."}
_STREAMED = {"stream": True}
_TOOLS = [_tool("get_weather"), _tool("get_time")]
_PARIS = {"input": "What is the weather in Paris?", "tools": _TOOLS}
_BOTH = {"input": "What is the weather in Paris, and what is the time in Rome?", "tools": _TOOLS}
_FRANCE = {"input": "Name the capital of France, as JSON with the key city."}
_CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
_BY_SCHEMA = {"text": {"format": {"type": "json_schema", "name": "place", "schema": _CITY}}}
_IMAGE = _user({"type": "input_text", "text": "Which colour?"}, {"type": "input_image", "image_url": _DOT})
_LATER = [
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": "Hi."},
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who are you?"},
]
_DEVELOPER = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Who are you?"}]
_WEATHER = _calls(lambda called: called == ["get_weather"])

CHECKS = (
    Check("text", _HELLO, _text, core=True),
    Check("stream", {"input": "Count to 10."} | _STREAMED, _stream, core=True),
    Check("usage", _HELLO, _usage, core=True),
    Check("usage in streams", _HELLO | _STREAMED, _usage, core=True),
    Check("max tokens", {"input": "Count to 200.", "max_output_tokens": 16}, _limit),
    Check("tools", _PARIS, _WEATHER),
    Check("tools in streams", _PARIS | _STREAMED, _WEATHER),
    Check(
        "a named tool",
        _PARIS | {"tool_choice": {"type": "function", "name": "get_time"}},
        _calls(lambda called: called == ["get_time"]),
    ),
    Check("a required tool", _HELLO | {"tools": _TOOLS, "tool_choice": "required"}, _calls(bool)),
    Check("parallel calls", _BOTH, _calls(lambda called: len(called) > 1)),
    Check("one call at a time", _BOTH | {"parallel_tool_calls": False}, _calls(lambda called: len(called) == 1)),
    Check("JSON by a schema", _FRANCE | _BY_SCHEMA, _json("city")),
    Check("JSON", _FRANCE | {"text": {"format": {"type": "json_object"}}}, _json()),
    Check("reasoning", {"input": "What is 17 times 23?", "reasoning": {"effort": "low"}}, _thoughts),
    Check("logprobs", _HELLO | {"include": ["message.output_text.logprobs"]}, _logprobs),
    Check("images", {"input": [_IMAGE]}, _taken),
    Check("a later system message", {"input": _LATER}, _taken, changes={"system_messages": "keep"}),
    Check("the developer role", {"input": _DEVELOPER}, _taken, changes={"developer_role": True}),
)
