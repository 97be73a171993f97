"""Hypothesis strategies for request bodies: close to what is valid, all types mixed, then broken in a place or two.

Ids are written as places to be filled in when a case is sent: ``@resp.mine.0`` is a response of the caller's,
``@conv.foreign.1`` another caller's conversation, ``@item.unknown.2`` an item that never was (``pool.py``).
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

Strategy = st.SearchStrategy[Any]

OWNERS = ("mine", "foreign", "unknown")


def place(kind: str, *owners: str) -> Strategy:
    """The place of an id; ``kind``: resp, conv or item."""
    return st.builds("@{}.{}.{}".format, st.just(kind), st.sampled_from(owners), st.integers(0, 3))


text = st.one_of(
    st.sampled_from(
        ["Say: hello there", "Count to 5", "Think: why?", "What is my name?", "My name is Ada.", "weather in Oslo"]
        + ["search the notes for an oven", "add a note", "search the web"]
    ),
    st.text(max_size=20),
    st.sampled_from(
        ["", "\x00", "\ud83d", "\udc00x", "\u2028\r\n\n", "data: [DONE]\n\n", "<think>a</think>b", "é" * 300]
    ),
)
name = st.sampled_from(["get_weather", "f", "run_it", "a-b", "lookup"])
call_id = st.sampled_from(["call_1", "call_2", "call_3"])
given_id = st.one_of(
    st.sampled_from(["msg_1", "rs_1", "fc_1", "x", "msg_" + "0" * 48]), place("item", "mine", "foreign", "unknown")
)
status = st.sampled_from(["completed", "in_progress", "incomplete", None])


def some(required: dict[str, Strategy], **optional: Strategy) -> Strategy:
    """An object with every required key and some of the optional ones."""
    return st.fixed_dictionaries(required, optional=optional)


def typed(type_: str, required: dict[str, Strategy] | None = None, **optional: Strategy) -> Strategy:
    return some({"type": st.just(type_), **(required or {})}, **optional)


image = st.sampled_from(["data:image/png;base64,iVBORw0KGgo=", "https://example.org/a.png"])
pdf = st.just("data:application/pdf;base64,JVBERi0=")
part = st.one_of(
    typed("input_text", {"text": text}, prompt_cache_breakpoint=st.just({"mode": "explicit"})),
    typed("output_text", {"text": text}, annotations=st.just([]), logprobs=st.sampled_from([None, []])),
    typed("text", {"text": text}),
    typed("refusal", {"refusal": text}),
    typed("input_image", {"image_url": image}, detail=st.sampled_from(["auto", "low", "high"])),
    typed("image_url", {"image_url": st.fixed_dictionaries({"url": image})}),
    typed("input_image", {"file_id": st.just("file_1")}),
    typed("input_file", {"file_data": pdf}, filename=st.just("a.pdf")),
    typed("input_file", {"file_url": st.just("https://example.org/a.pdf")}),
    typed("file", {"file": st.fixed_dictionaries({"file_data": pdf})}),
    typed("input_audio", {"input_audio": st.just({"data": "AAAA", "format": "wav"})}),
    typed("input_video", {"video_url": st.just("https://example.org/a.mp4")}),
    typed("another_part", x=text),
)
content = st.one_of(text, st.lists(part, max_size=3))
role = st.sampled_from(["user", "user", "assistant", "system", "developer"])
message = st.one_of(
    some({"role": role, "content": content}, id=given_id, status=status),
    typed("message", {"role": role, "content": content}, id=given_id, status=status, phase=st.just("commentary")),
)
arguments = st.sampled_from(["{}", '{"city":"Oslo"}', "", "{", "[1]", '"x"', '{"a":"\\ud83d"}'])
tool_output = st.one_of(text, st.lists(part, max_size=2))
thought = st.lists(st.fixed_dictionaries({"type": st.just("reasoning_text"), "text": text}), max_size=2)
summary = st.lists(st.fixed_dictionaries({"type": st.just("summary_text"), "text": text}), max_size=2)
shell = {"commands": ["ls"], "timeout_ms": 1, "max_output_length": None}
outcome = {"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}
call = st.one_of(
    typed("function_call", {"call_id": call_id, "name": name, "arguments": arguments}, id=given_id, namespace=name),
    typed("custom_tool_call", {"call_id": call_id, "name": name, "input": text}, id=given_id),
    typed("local_shell_call", {"call_id": call_id, "action": st.just({"type": "exec", "command": ["ls"], "env": {}})}),
    typed("shell_call", {"call_id": call_id, "action": st.just(shell)}, environment=st.just({"type": "local"})),
    typed("apply_patch_call", {"call_id": call_id, "operation": st.just({"type": "delete_file", "path": "a"})}),
    typed("computer_call", {"call_id": call_id, "action": st.just({"type": "screenshot"})}),
    typed("tool_search_call", {"call_id": call_id, "arguments": st.just({}), "execution": st.just("client")}),
)
call_output = st.one_of(
    typed("function_call_output", {"call_id": call_id, "output": tool_output}, id=given_id),
    typed("custom_tool_call_output", {"call_id": call_id, "output": tool_output}),
    typed("local_shell_call_output", {"call_id": call_id, "output": st.just("{}")}, id=given_id),
    typed("shell_call_output", {"call_id": call_id, "output": st.just([outcome])}),
    typed("apply_patch_call_output", {"call_id": call_id, "status": st.just("completed")}, output=text),
    typed("computer_call_output", {"call_id": call_id, "output": st.just({"type": "computer_screenshot"})}),
    typed("tool_search_output", {"call_id": call_id, "tools": st.just([])}),
)
reference = st.one_of(
    st.fixed_dictionaries({"id": place("item", *OWNERS)}),
    typed("item_reference", {"id": place("item", *OWNERS)}),
    typed("reasoning", {"id": place("item", *OWNERS)}),
)
label = st.sampled_from(["notes", "s"])
asked = st.sampled_from(["mcpr_1", "mcpr_2"])
called = {"server_label": label, "name": st.sampled_from(["search_notes", "f"]), "arguments": arguments}
mcp_error = st.sampled_from([None, {"type": "http_error", "code": 502, "message": "away"}, "away"])
other = st.one_of(
    typed("reasoning", {"summary": summary}, content=thought, id=given_id, encrypted_content=st.just("gAAAA")),
    typed("compaction", {"encrypted_content": st.sampled_from(["gAAAA", "sc0.e30", "sc1.AAAA"])}),
    typed("web_search_call", {"action": st.just({"type": "search", "query": "x"})}, id=given_id),
    typed("file_search_call", {"queries": st.just(["x"])}, results=st.none()),
    typed("code_interpreter_call", {"code": text, "container_id": st.just("c")}, outputs=st.none()),
    typed("image_generation_call", {"result": st.just("AAAA")}),
    typed("mcp_list_tools", {"server_label": label, "tools": st.just([])}, id=given_id, error=st.none() | text),
    typed("mcp_call", called, id=given_id, output=st.none() | text, error=mcp_error, approval_request_id=asked),
    typed("mcp_approval_request", called, id=asked),
    typed("mcp_approval_response", {"approval_request_id": asked, "approve": st.booleans()}, reason=st.none() | text),
    typed("program", {"code": text}),
    typed("an_item_of_the_future", {"x": text}, id=given_id),
)


@st.composite
def approved(draw: st.DrawFn) -> list[Any]:
    """A request to call a tool of an MCP server, and the user's word on it."""
    request = draw(typed("mcp_approval_request", called, id=st.just("mcpr_1")))
    fields = {"approval_request_id": st.just("mcpr_1"), "approve": st.booleans()}
    return [request, draw(typed("mcp_approval_response", fields, reason=text))]


@st.composite
def answered(draw: st.DrawFn) -> list[Any]:
    """A call and its output."""
    made = draw(call)
    type_ = "tool_search_output" if made["type"] == "tool_search_call" else f"{made['type']}_output"
    output = draw(call_output.filter(lambda one: one["type"] == type_))
    return [made, {**output, "call_id": made["call_id"]}]


function = typed(
    "function",
    {"name": name},
    description=text,
    strict=st.booleans(),
    parameters=st.sampled_from(
        [None, {}, {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}]
    ),
)
grammar = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}
custom = typed("custom", {"name": name}, description=text, format=st.sampled_from([{"type": "text"}, grammar]))
names = st.lists(st.sampled_from(["search_notes", "add_note", "f"]), max_size=2)
tool_filter = some({}, tool_names=names, read_only=st.booleans())
approval = st.one_of(st.just("never"), st.none(), some({}, always=tool_filter, never=tool_filter))
mcp = typed(
    "mcp",
    {"server_label": label, "connector_id": st.just("notes"), "require_approval": approval},
    server_description=text,
    authorization=st.sampled_from([None, "t"]),
    allowed_tools=st.one_of(st.none(), names, tool_filter),
)
web_search = st.builds(
    lambda type_, more: {"type": type_} | more,
    st.sampled_from(["web_search", "web_search_preview", "web_search_2025_08_26"]),
    some(
        {},
        filters=st.just({"allowed_domains": ["example.org"]}),
        user_location=st.just({"type": "approximate", "country": "FR"}),
        search_context_size=st.sampled_from(["low", "high"]),
    ),
)
hosted = st.lists(st.one_of(mcp, web_search), min_size=1, max_size=2, unique_by=lambda one: one.get("server_label", 0))
asks = st.sampled_from(["search the notes for an oven", "add a note", "search the web", "search all of it, add a note"])
tool = st.one_of(
    function,
    custom,
    st.fixed_dictionaries({"type": st.just("function"), "function": st.fixed_dictionaries({"name": name})}),
    typed("namespace", {"name": name, "tools": st.lists(st.one_of(function, custom), max_size=2)}, description=text),
    st.sampled_from(
        [
            {"type": "web_search", "external_web_access": False},
            {"type": "image_generation"},
            {"type": "tool_search"},
            {"type": "local_shell"},
            {"type": "shell", "environment": {"type": "local"}},
            {"type": "apply_patch"},
        ]
    ),
)
refused = [
    {"type": "file_search", "vector_store_ids": ["vs_1"]},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "mcp", "server_label": "s", "server_url": "https://example.org"},
    {"type": "mcp", "server_label": "s", "connector_id": "x"},
    {"type": "mcp", "server_label": "notes"},
    {"type": "computer"},
    {"type": "a_tool_of_the_future"},
]
named_tool = st.fixed_dictionaries({"type": st.sampled_from(["function", "custom"]), "name": name})
tool_choice = st.one_of(
    st.sampled_from(["none", "auto", "required"]),
    named_tool,
    typed("allowed_tools", {"mode": st.sampled_from(["auto", "required"]), "tools": st.lists(named_tool, max_size=2)}),
    st.sampled_from([{"type": "mcp", "server_label": "s"}, {"type": "shell"}, {"type": "apply_patch"}]),
    typed("mcp", {"server_label": st.just("notes")}, name=st.sampled_from(["search_notes", "f"])),
    st.sampled_from([{"type": "web_search"}, {"type": "file_search"}]),
    st.fixed_dictionaries({"type": st.just("function"), "function": st.fixed_dictionaries({"name": name})}),
)
trigger = typed("compaction_trigger")
additional_tools = typed("additional_tools", {"role": st.just("developer"), "tools": st.lists(tool, max_size=2)})
known = st.fixed_dictionaries({"type": st.just("item_reference"), "id": place("item", "mine")})
item = st.one_of(message, message, call, call_output, reference, other, trigger, additional_tools)


def alone(one: Strategy) -> Strategy:
    return one.map(lambda made: [made])


@st.composite
def items(draw: st.DrawFn, most: int = 6) -> list[Any]:
    """A talk of messages and answered calls, with anything in between."""
    rows: list[Any] = []
    for _ in range(draw(st.integers(0, most - 1))):
        rows += draw(st.one_of(alone(message), answered(), approved(), alone(known), alone(other)))
    if not draw(st.integers(0, 5)):
        rows += draw(alone(item))
    return [*rows, draw(message)] if draw(st.integers(0, 9)) else rows


schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
text_format = st.one_of(
    st.sampled_from([{"type": "text"}, {"type": "json_object"}]),
    typed("json_schema", {"name": name, "schema": st.just(schema)}, strict=st.booleans(), description=text),
)
metadata = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3)
number = st.floats(0, 1)
conversation = st.one_of(
    place("conv", "mine", "mine", *OWNERS), st.fixed_dictionaries({"id": place("conv", "mine", *OWNERS)})
)
OPTIONS: dict[str, Strategy] = {
    "instructions": text,
    "store": st.booleans(),
    "background": st.booleans(),
    "generate": st.booleans(),
    "stream_options": st.fixed_dictionaries({"include_obfuscation": st.booleans()}),
    "max_output_tokens": st.sampled_from([1, 3, 16, 1000]),
    "max_tool_calls": st.integers(0, 3),
    "temperature": number,
    "top_p": number,
    "top_logprobs": st.integers(0, 20),
    "presence_penalty": number,
    "frequency_penalty": number,
    "parallel_tool_calls": st.booleans(),
    "tools": st.lists(tool, max_size=3, unique_by=lambda one: str(one.get("name", one["type"]))),
    "text": some({}, format=text_format, verbosity=st.sampled_from(["low", "high"])),
    "reasoning": some(
        {}, effort=st.sampled_from(["none", "low", "max"]), summary=st.sampled_from(["auto", "detailed"]), mode=text
    ),
    "truncation": st.sampled_from(["auto", "disabled"]),
    "include": st.lists(
        st.sampled_from(["reasoning.encrypted_content", "message.output_text.logprobs", "x"]), max_size=2
    ),
    "metadata": metadata,
    "service_tier": st.sampled_from(["auto", "flex", "x"]),
    "user": text,
    "safety_identifier": text,
    "prompt_cache_key": text,
    "prompt_cache_retention": st.just("24h"),
    "prompt_cache_options": st.just({"mode": "implicit", "ttl": "30m"}),
    "context_management": st.just([{"type": "compaction", "compact_threshold": 1000}]),
    "seed": st.integers(),
    "stop": st.sampled_from(["x", ["a", "b"], []]),
    "client_metadata": st.just({"x": 1}),
    "a_key_of_the_future": st.just([1]),
}


@st.composite
def create(draw: st.DrawFn) -> dict[str, Any]:
    """The body of a create; half of them on what exists."""
    body: dict[str, Any] = {"model": draw(st.sampled_from(["demo", "demo", "m"]))}
    match draw(st.integers(0, 5)):
        case 0 | 1:
            body["previous_response_id"] = draw(place("resp", "mine", "mine", "mine", *OWNERS))
        case 2:
            body["conversation"] = draw(conversation)
        case 3:
            body["input"] = [
                {"type": "item_reference", "id": draw(place("item", "mine", "mine", *OWNERS))},
                *draw(items()),
            ]
    if "input" not in body and draw(st.integers(0, 9)):
        body["input"] = draw(st.one_of(text, items()))
    for key in draw(st.lists(st.sampled_from(list(OPTIONS)), max_size=5, unique=True)):
        body[key] = draw(OPTIONS[key])
    if not draw(st.integers(0, 3)):
        body["tools"] = [one for one in body.get("tools", []) if one["type"] != "web_search"] + draw(hosted)
        body["input"] = draw(
            st.one_of(asks, st.builds(lambda rows, ask: [*rows, {"role": "user", "content": ask}], items(), asks))
        )
    if "tools" in body and draw(st.booleans()):
        body["tool_choice"] = draw(tool_choice)
    if draw(st.booleans()):
        body["stream"] = True
    return body


count = st.builds(
    lambda made, personality: {k: v for k, v in made.items() if k != "stream"} | personality,
    create(),
    some({}, personality=text),
)
compact = st.builds(lambda made: {k: v for k, v in made.items() if k not in ("stream", "conversation")}, create())
kept = st.lists(item, max_size=4)
BODIES: dict[str, Strategy] = {
    "createResponse": create(),
    "compactResponse": compact,
    "countInputTokens": count,
    "createConversation": some({}, items=kept, metadata=metadata),
    "updateConversation": some({"metadata": st.dictionaries(st.text(max_size=8), st.text(max_size=8) | st.none())}),
    "createConversationItems": some({"items": st.lists(item, min_size=1, max_size=4)}),
    "cancelResponse": st.just({}),
}

# -- breaking them

JUNK: list[Any] = [
    *refused, {"id": "pmpt_1"}, {"type": "compaction_trigger"}, "required",
    None, True, 0, -1, 10**30, 1.5, 1e308, "", "x", "\ud800", "x" * 600, [], {}, [[]], [None], {"type": None},
    {"type": "message"}, {"role": "user"}, {"id": "@item.foreign.0"}, "@resp.foreign.0", "@conv.mine.1", "@resp.mine.1",
]  # fmt: skip


def _nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


@st.composite
def broken(draw: st.DrawFn, body: Strategy) -> Any:
    """A body with a few of its values replaced, left out, doubled or wrapped."""
    value = draw(body)
    for _ in range(draw(st.integers(1, 3))):
        value = _break(draw, value)
    return value


def _break(draw: st.DrawFn, value: Any) -> Any:
    inner = isinstance(value, dict | list) and value and draw(st.integers(0, 3))
    if not inner:
        junk = st.sampled_from([*JUNK, _nested(40), _nested(300)])
        return draw(junk) if draw(st.booleans()) else [value, value] if draw(st.booleans()) else {"x": value}
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw(st.sampled_from(keys))
    made = value.copy()
    match draw(st.integers(0, 5)):
        case 0:
            del made[key]
        case 1 if isinstance(made, list):
            made.insert(key, made[key])
        case 1:
            made[draw(st.sampled_from(["type", "id", "x", "status", "model"]))] = made[key]
        case _:
            made[key] = _break(draw, made[key])
    return made


def encoded(value: Any) -> bytes:
    """As JSON; lone surrogates escaped, which is legal, and infinities as Python writes them, which is not."""
    return json.dumps(value).encode()


@st.composite
def raw(draw: st.DrawFn, body: Strategy) -> bytes:
    """The bytes of a body, a few of them no JSON at all or strange JSON."""
    data = encoded(draw(body))
    match draw(st.integers(0, 8)):
        case 0:
            return data[: draw(st.integers(0, len(data)))]
        case 1:
            return draw(
                st.sampled_from([b"", b"null", b"[]", b'"x"', b"NaN", b"\xff\xfe", b"\xef\xbb\xbf{}", b"{" * 3000])
            )
        case 2:
            return b'{"model":"demo","input":' + b"[" * 5000 + b"]" * 5000 + b"}"
        case 3:  # a key twice
            return data[:1] + b'"model":"demo","metadata":{"a":"b"},' + data[1:]
    return data


def bodies(operation: str) -> Strategy:
    """The bytes of bodies for an operation: valid ones, broken ones and strange ones."""
    good = BODIES[operation]
    return st.one_of(
        good.map(encoded), good.map(encoded), broken(good).map(encoded), raw(st.one_of(good, broken(good)))
    )
