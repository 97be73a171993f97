"""What holds for the messages of every history, however clients put it together (wire §7.5)."""

from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import wire
from proxy.errors import InvalidRequest
from proxy.translate import input as translated
from proxy.translate.dialects import Dialect
from proxy.translate.input import to_messages

IDS = st.sampled_from("abc")
ITEMS = st.one_of(
    st.just({"role": "user", "content": "u"}),
    st.just({"role": "assistant", "content": "t"}),
    st.just({"role": "developer", "content": "d"}),
    st.just({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "r"}]}),
    *[st.builds(lambda id_: {"type": "function_call", "call_id": id_, "name": "f", "arguments": "{}"}, IDS)] * 3,
    *[st.builds(lambda id_: {"type": "function_call_output", "call_id": id_, "output": "o"}, IDS)] * 3,
    st.just({"type": "mcp_call", "id": "mcp_1", "server_label": "s", "name": "n", "arguments": "{}", "output": "x"}),
    st.just({"type": "web_search_call", "id": "ws_1", "status": "completed"}),
    st.just({"type": "mcp_approval_request", "id": "r", "server_label": "s", "name": "n", "arguments": "{}"}),
    *[st.just({"type": "mcp_approval_response", "approval_request_id": "r", "approve": yes}) for yes in (True, False)],
)
DIALECTS = st.builds(
    Dialect,
    openai_like=st.booleans(),
    system_messages=st.sampled_from(["merge", "keep", "user"]),
    reasoning_replay=st.sampled_from(["always", "tool_turns", "never"]),
    tool_call_ids=st.sampled_from(["any", "mistral9"]),
    repair_tool_history=st.booleans(),
)


def numbered(items):
    """The items as stored, each with a text of its own; outputs that no call came before are left out."""
    own, called = [], set()
    for at, item in enumerate(items):
        if item.get("type") == "function_call":
            called.add(item["call_id"])
        if item.get("type") != "function_call_output" or item["call_id"] in called:
            texts = {key: f"{item[key]}{at}" for key in ("content", "output") if isinstance(item.get(key), str)}
            own.append(item | texts)
    return wire.create_response({"model": "m", "input": own})["input"]


def told(items, role):
    return [item["content"][0]["text"] for item in items if item.get("role") == role]


@settings(max_examples=300, deadline=None)
@given(st.lists(ITEMS, max_size=12).map(numbered), DIALECTS)
def test_every_history_is_refused_or_in_the_order_that_backends_demand(items, dialect):
    try:
        sent = to_messages(None, items, dialect)
    except InvalidRequest as exc:
        assert exc.param == "input"
        return
    waiting = []
    for message in sent:
        if message["role"] == "tool":
            assert message["tool_call_id"] == waiting.pop(0), "tool messages stand in the order of their calls"
            continue
        assert not waiting, "nothing comes between a call and its output"
        waiting = [call["id"] for call in message.get("tool_calls", ())]
    assert not waiting, "every call is answered"
    assert_nothing_is_lost(items, sent, dialect)


def was_refused(items):
    answers = [item["approve"] for item in items if item["type"] == "mcp_approval_response"]
    return answers[-1:] == [False]


def assert_nothing_is_lost(items, sent, dialect):
    said = "\n".join(message["content"] or "" for message in sent if message["role"] == "assistant")
    assert [line for line in said.splitlines() if line] == told(items, "assistant")
    asked = [message["content"] for message in sent if message["role"] == "user"]
    assert [text for text in asked if text.startswith("u")] == told(items, "user")
    calls = [call for message in sent for call in message.get("tool_calls", ())]
    made = ("function_call", "mcp_call", *(["mcp_approval_request"] if was_refused(items) else []))
    assert len(calls) == sum(item["type"] in made for item in items)
    given = {item["output"] for item in items if item["type"] == "function_call_output"}
    outputs = [message["content"] for message in sent if message["role"] == "tool"]
    outputs = [text for text in outputs if text.startswith("o")]
    assert given.issuperset(outputs)
    assert len(outputs) == len(set(outputs))
    if dialect.reasoning_replay == "never":
        assert not any("reasoning_content" in message for message in sent)
    if dialect.system_messages == "merge":
        assert all(message["role"] != "system" for message in sent[1:])


PARTS = st.sampled_from(
    [
        *[{"type": type_, "text": text} for type_ in ("input_text", "output_text") for text in ("", "p")],
        {"type": "refusal", "refusal": "no"},
        {"type": "input_image", "image_url": "http://i"},
        {"type": "input_image", "file_id": "file_1"},
        {"type": "output_text"},
    ]
)
SPOKEN = st.builds(
    lambda role, content: {"type": "message", "role": role, "content": content},
    st.sampled_from(["user", "assistant", "system", "developer"]),
    st.lists(PARTS, max_size=2) | st.text(max_size=1),
)
PLACED = st.tuples(st.integers(0, 12), SPOKEN | st.just({"type": "compaction", "encrypted_content": "not ours"}))


def outcome(instructions, items, dialect):
    """What comes of a history: its messages and the calls repaired, or the words it is refused with."""
    repaired = []
    try:
        return to_messages(instructions, items, dialect, repaired), repaired
    except InvalidRequest as exc:
        return exc.message


@settings(max_examples=200, deadline=None)
@given(st.none() | st.just("i"), st.lists(ITEMS, max_size=10).map(numbered), st.lists(PLACED, max_size=4), DIALECTS)
def test_a_text_that_stands_alone_becomes_what_a_block_of_it_becomes(instructions, items, others, dialect):
    for at, item in others:
        items.insert(at, item)
    short = outcome(instructions, items, dialect)
    with patch.object(translated, "_alone", lambda _: None):
        assert outcome(instructions, items, dialect) == short
