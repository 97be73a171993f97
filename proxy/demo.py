"""A chat-completions backend without a model: rules instead of weights, so that everything can be tried at once.

``app`` is plain ASGI and serves ``POST /v1/chat/completions``, streamed and plain, and ``GET /v1/models``. It knows the
messages of the request and nothing else, as a real backend does: what it recalls, someone sent it again. The model
``demo-slow`` writes 20 tokens a second; any other name is served as ``demo``. A token is a word.
"""

import asyncio
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

INTRODUCTION = "This is statecar's demo model. "
SLOW = "demo-slow"

_WORDS = r"([\w'-]+(?: [\w'-]+){0,3}?)"
_END = r"(?=[,;]|\s+and\s+(?:I|my|the|where|how|wh\w+)\b|[.!?]*$)"
_STATED = {
    "home": rf"\bI live in (.+?){_END}",
    "age": r"\bI(?:'m| am) (\d+) years old",
    "note": r"\bremember(?: that|:)? (.+?)[.!]?$",
}
_ASKED = {"home": r"\bwhere (?:do )?I live", "age": r"\bhow old (?:am I|I am)", "note": r"\bwh(?:at|ich)\b.*\bremember"}
_TOLD = {"home": "you live in {}", "age": "you are {} years old", "note": "you asked me to remember that {}"}
_STATED_BY_NAME = rf"\b(my|the) {_WORDS} (?:is|are) (.+?){_END}"
_ASKED_BY_NAME = rf"\bwh(?:at|o|ere|en)(?:'s| is| are| was)? (my|the) {_WORDS}(?: is| are)?{_END}"
_SAID = r"\b(?:repeat|what did|tell me)\b.*\b(I|you)\b(?: just| last)? (?:said|say|wrote)\b"
_WHOLE_TEXT = ("query", "queries", "q", "question", "text", "message", "input", "prompt")
_FOUND = re.compile(r"^\[(\d+)\] (.+)\n(?:https?://\S+(?:\n|$))?(.*)", re.MULTILINE)
_COMMON = {"get", "set", "the", "for", "and", "tool", "function", "current", "list", "find", "run", "new"}


class Refused(ValueError):
    """A request that a real backend would refuse too: answered 400 with this message and param."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass
class Reply:
    """What the model says: reasoning, then text, then calls as (name, arguments)."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, Json]] = field(default_factory=list)
    finish: str = "stop"


class Talk:
    """The messages of one request as the rules see them: who said what, the facts in it, the tools on offer."""

    def __init__(self, body: Json) -> None:
        self.body = body
        self.spoken = [(message["role"], _text(message)) for message in _checked(body.get("messages"))]
        users = [text for role, text in self.spoken if role == "user"]
        self.asked = users[-1] if users else ""
        self.before = {"i": users[-2:-1], "you": [text for role, text in self.spoken if role == "assistant"][-1:]}
        self.facts = dict(fact for text in users for fact in _facts(text))
        self.tools = {t["function"]["name"]: t["function"] for t in body.get("tools") or () if t["type"] == "function"}

    def says(self, pattern: str) -> re.Match[str] | None:
        return re.search(pattern, self.asked, re.IGNORECASE | re.DOTALL)


def _checked(messages: Any) -> list[Json]:
    if not isinstance(messages, list) or not messages:
        raise Refused("'messages' must be a list of at least one message.", "messages")
    unanswered: set[str] = set()
    for i, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("system", "developer", "user", "assistant", "tool"):
            raise Refused("A message must be an object with a known role.", f"messages[{i}].role")
        if role == "tool" and message.get("tool_call_id") not in unanswered:
            raise Refused("A message of role 'tool' must answer a preceding tool call.", f"messages[{i}].tool_call_id")
        if role != "tool" and unanswered:
            raise Refused(f"Tool calls were not answered: {', '.join(sorted(unanswered))}.", f"messages[{i}].role")
        unanswered -= {message.get("tool_call_id")}
        unanswered |= {call["id"] for call in message.get("tool_calls") or ()}
    return messages


def _text(message: Json) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _facts(text: str) -> Iterator[tuple[str, str]]:
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", text.strip()):
        if not sentence.endswith("?"):
            for key, pattern in _STATED.items():
                yield from ((key, value) for value in re.findall(pattern, sentence, re.IGNORECASE))
            for whose, what, value in re.findall(_STATED_BY_NAME, sentence, re.IGNORECASE):
                yield _name(whose, what), value


def _name(whose: str, what: str) -> str:
    return f"{'your' if whose.lower() == 'my' else 'the'} {what.lower().replace('favourite', 'favorite')}"


def _told(facts: Iterable[tuple[str, str]]) -> str:
    told = ", and ".join(_TOLD.get(key, f"{key} is {{}}").replace("{}", value) for key, value in facts)
    return told[:1].upper() + told[1:] + "."


def _tool_result(talk: Talk) -> str | None:
    results: list[str] = []
    while len(results) < len(talk.spoken) and talk.spoken[-1 - len(results)][0] == "tool":
        results.append(talk.spoken[-1 - len(results)][1])
    if found := [hit for result in reversed(results) for hit in _FOUND.findall(result)[:2]]:
        return " ".join(f"{text or title} [{number}]" for number, title, text in found)
    return f"The tool answered: {'; '.join(reversed(results))}" if results else None


def _count(talk: Talk) -> str | None:
    match = talk.says(r"\bcount (?:up )?to (\d{1,6})\b")
    return " ".join(str(n + 1) for n in range(int(match[1]))) if match else None


def _said_before(talk: Talk) -> str | None:
    match = talk.says(_SAID)
    return (talk.before[match[1].lower()] or ["Nothing was said before."])[0] if match else None


def _recall(talk: Talk) -> str | None:
    asked = [_name(*found) for found in re.findall(_ASKED_BY_NAME, talk.asked, re.IGNORECASE | re.MULTILINE)]
    asked += [key for key, pattern in _ASKED.items() if talk.says(pattern)]
    if known := [(key, talk.facts[key]) for key in asked if key in talk.facts]:
        return _told(known)
    return "You have not told me." if any(not key.startswith("the ") for key in asked) else None


def _echo(talk: Talk) -> str | None:
    match = talk.says(r"^(?:say|repeat|reply with)[: ]\s*(.+)")
    return match[1] if match else None


def _note(talk: Talk) -> str | None:
    facts = list(_facts(talk.asked))
    return f"Noted. {_told(facts)}" if facts else None


def _otherwise(talk: Talk) -> str:
    return f"You said: {talk.asked}"


RULES: tuple[Callable[[Talk], str | None], ...] = (
    _tool_result, _count, _said_before, _recall, _echo, _note, _otherwise
)  # fmt: skip
"""Each gives a text, or None when it has nothing to say; the first that speaks wins."""


def answer(body: Json) -> Reply:
    """The reply to a chat-completions request. Raises Refused for one that no backend would take."""
    talk = Talk(body)
    reasoning = f"The user said {talk.asked!r}; the rules decide." if talk.says(r"\bthink") else ""
    if talk.spoken[-1][0] != "tool" and (calls := _calls(talk)):
        return Reply(reasoning=reasoning, calls=calls, finish="tool_calls")
    text = next(text for rule in RULES if (text := rule(talk)) is not None)
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        schema = wanted["json_schema"].get("schema") or {}
        text = json.dumps(_Filler(talk, schema).value(schema, "answer"), ensure_ascii=False)
    elif wanted.get("type") == "json_object":
        text = json.dumps({"answer": text}, ensure_ascii=False)
    elif "assistant" not in dict(talk.spoken):
        text = INTRODUCTION + text
    return _cut(Reply(text, reasoning), body)


def _cut(reply: Reply, body: Json) -> Reply:
    stops = body.get("stop") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        reply.text = reply.text.split(stop, 1)[0]
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    thought, told = _tokens(reply.reasoning), _tokens(reply.text)
    if limit and len(thought) + len(told) > limit:
        reply.reasoning, reply.text = "".join(thought[:limit]), "".join(told[: max(0, limit - len(thought))])
        reply.finish = "length"
    return reply


def _tokens(text: str) -> list[str]:
    return re.findall(r"\S+\s*|^\s+", text)


def _calls(talk: Talk) -> list[tuple[str, Json]]:
    choice: Any = talk.body.get("tool_choice") or "auto"
    if choice == "none" or not talk.tools:
        return []
    wanted = [name for name in talk.tools if _mentioned(name, talk.asked)]
    if choice == "required":
        wanted = wanted or list(talk.tools)[:1]
    elif choice != "auto":
        wanted = [choice["function"]["name"]]
        if wanted[0] not in talk.tools:
            raise Refused(f"The tool {wanted[0]!r} is not among 'tools'.", "tool_choice")
    calls: list[tuple[str, Json]] = []
    for name in wanted:
        schema = talk.tools[name].get("parameters") or {}
        filler = _Filler(talk, schema)
        calls.append((name, filler.value(schema, name)))
        while filler.names and filler.took_a_name:  # two cities, two calls
            calls.append((name, filler.value(schema, name)))
    return calls[:1] if talk.body.get("parallel_tool_calls") is False else calls


def _mentioned(name: str, text: str) -> bool:
    own = name.rpartition("__")[2]  # what stands before it is whose tool it is
    words = {w.lower() for w in re.findall(r"[A-Z]?[a-z]{2,}", own)} - _COMMON
    return name.lower() in text.lower() or not words.isdisjoint(re.findall(r"\w+", text.lower()))


class _Filler:
    """Values for a JSON schema out of what was said: facts, numbers and capitalised words, each used once."""

    def __init__(self, talk: Talk, root: Json) -> None:
        self.talk, self.root, self.took_a_name = talk, root, False
        self.numbers = re.findall(r"-?\d+(?:\.\d+)?", talk.asked)
        names = re.findall(r"\b[A-Z]\w+(?: [A-Z]\w+)*", talk.asked)
        # A sentence's first word is capitalised whatever it is: it counts only where there is nothing else.
        self.names = [n for n in names if not talk.asked.startswith(n) and n != talk.facts.get("your name")] or names[
            :1
        ]

    def value(self, schema: Json, name: str) -> Any:
        while "$ref" in schema:
            schema = (self.root.get("$defs") or self.root["definitions"])[schema["$ref"].split("/")[-1]]
        if options := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
            return self.value(next((o for o in options if o.get("type") != "null"), options[0]), name)
        if "const" in schema or "enum" in schema:
            choices = schema.get("enum") or [schema.get("const")]
            return next((c for c in choices if str(c).lower() in self.talk.asked.lower()), choices[0])
        types = schema.get("type") or ("object" if "properties" in schema else "string")
        match types if isinstance(types, str) else next((t for t in types if t != "null"), "null"):
            case "object":
                fields = schema.get("properties") or {}
                return {key: self.value(fields.get(key) or {}, key) for key in schema.get("required") or fields}
            case "array":
                return [self.value(schema.get("items") or {}, name) for _ in range(schema.get("minItems") or 1)]
            case "integer" | "number" as kind:
                return self.number(schema, name, int if kind == "integer" else float)
            case "string":
                return self.text(name)[: schema.get("maxLength")]
            case kind:
                return True if kind == "boolean" else None

    def number(self, schema: Json, name: str, kind: type[int] | type[float]) -> float:
        known = self.talk.facts.get("age") if name == "age" else None
        number = kind(float(known or (self.numbers.pop(0) if self.numbers else 1)))
        number = max(number, schema.get("minimum", number))
        return kind(min(number, schema.get("maximum", number)))

    def text(self, name: str) -> str:
        spoken = name.lower().replace("_", " ")
        if known := self.talk.facts.get(f"your {spoken}"):
            return known
        if quoted := self.talk.says(r"[\"“](.+?)[\"”]"):
            return quoted[1]
        if self.names and spoken not in _WHOLE_TEXT:
            self.took_a_name = True
            return str(self.names.pop(0))
        return self.talk.asked


def _deltas(reply: Reply) -> Iterator[Json]:
    yield {"role": "assistant", "content": ""}
    yield from ({"reasoning_content": token} for token in _tokens(reply.reasoning))
    yield from ({"content": token} for token in _tokens(reply.text))
    for index, call in enumerate(_tool_calls(reply)):
        arguments = call["function"].pop("arguments")
        yield {"tool_calls": [{"index": index, **call, "function": {**call["function"], "arguments": ""}}]}
        for part in re.findall(r".{1,8}", arguments):
            yield {"tool_calls": [{"index": index, "function": {"arguments": part}}]}


def _tool_calls(reply: Reply) -> list[Json]:
    functions = [{"name": name, "arguments": json.dumps(given, ensure_ascii=False)} for name, given in reply.calls]
    return [{"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": f} for f in functions]


def _message(reply: Reply) -> Json:
    message = {"role": "assistant", "content": reply.text or None}
    optional = {"reasoning_content": reply.reasoning, "tool_calls": _tool_calls(reply)}
    return message | {key: value for key, value in optional.items() if value}


def _usage(body: Json, reply: Reply) -> Json:
    asked = sum(len(_tokens(_text(message))) for message in body["messages"])
    thought = len(_tokens(reply.reasoning))
    told = thought + len(_tokens(reply.text)) + sum(len(_tokens(json.dumps(call))) for call in reply.calls)
    counts = {"prompt_tokens": asked, "completion_tokens": told, "total_tokens": asked + told}
    return {**counts, "completion_tokens_details": {"reasoning_tokens": thought}}


async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """The ASGI application."""
    if scope["type"] != "http":
        return
    match scope["method"], scope["path"]:
        case "GET", "/v1/models":
            models = [{"id": id_, "object": "model", "created": 0, "owned_by": "statecar"} for id_ in ("demo", SLOW)]
            await _json(send, 200, {"object": "list", "data": models})
        case "POST", "/v1/chat/completions":
            await _complete(receive, send)
        case method, path:
            await _refuse(send, 404, f"Nothing is served at {method} {path}.")


async def _complete(receive: Receive, send: Send) -> None:
    try:
        body = json.loads(await _read(receive))
        if not isinstance(body, dict) or not isinstance(body.get("model"), str):
            raise Refused("The body must be a JSON object with a 'model'.", "model")
        reply = answer(body)
    except Refused as exc:
        return await _refuse(send, 400, str(exc), exc.param)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        return await _refuse(send, 400, f"The body cannot be read: {type(exc).__name__}: {exc}")
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": body["model"]}
    pause = 0.05 if body["model"] == SLOW else 0
    gone = asyncio.create_task(_gone(receive))
    try:
        if body.get("stream"):
            await _stream(send, gone, _chunks(body, reply, head), pause)
        else:
            await asyncio.wait({gone}, timeout=pause * len(_tokens(reply.reasoning) + _tokens(reply.text)))
            choice = {"index": 0, "message": _message(reply), "finish_reason": reply.finish}
            whole = {"object": "chat.completion", "choices": [choice], "usage": _usage(body, reply)}
            await _json(send, 200, head | whole)
    finally:
        gone.cancel()


def _chunks(body: Json, reply: Reply, head: Json) -> Iterator[Json]:
    head = {"object": "chat.completion.chunk", **head}
    for delta in _deltas(reply):
        yield head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield head | {"choices": [{"index": 0, "delta": {}, "finish_reason": reply.finish}]}
    if (body.get("stream_options") or {}).get("include_usage"):
        yield head | {"choices": [], "usage": _usage(body, reply)}


async def _stream(send: Send, gone: asyncio.Task[None], chunks: Iterator[Json], pause: float) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for chunk in chunks:
        data = f"data: {json.dumps(chunk)}\n\n".encode()
        await send({"type": "http.response.body", "body": data, "more_body": True})
        await asyncio.wait({gone}, timeout=pause)  # with no pause it still lets others run
        if gone.done():
            return
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _refuse(send: Send, status: int, message: str, param: str | None = None) -> None:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    await _json(send, status, {"error": error})


async def _json(send: Send, status: int, value: Json) -> None:
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
