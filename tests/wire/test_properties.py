"""What holds for every body: checked input is its own stored form, and only InvalidRequest is ever raised."""

from contextlib import suppress

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from proxy import wire
from proxy.errors import InvalidRequest

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
STRING = st.text(st.characters(), max_size=4)  # lone surrogates too
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | STRING,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRING, inner, max_size=3),
    max_leaves=8,
)
LIST = st.lists(JSON, max_size=2)


def shaped(required, optional):
    """Objects with these keys, and sometimes with values of any kind, nulls or keys of no meaning."""
    whole = st.fixed_dictionaries(required, optional={**optional, "id": STRING | st.none(), "other": JSON})
    return st.one_of(whole, whole, whole, st.tuples(whole, st.dictionaries(st.sampled_from(list(required)), JSON)).map(
        lambda pair: pair[0] | pair[1]
    ))  # fmt: skip


URL = STRING | st.fixed_dictionaries({"url": STRING}, optional={"detail": STRING | st.none()})
FILE = st.fixed_dictionaries({"file_data": STRING}, optional={"filename": STRING, "prompt_cache_breakpoint": JSON})
PART = st.one_of(
    shaped(
        {"type": st.sampled_from(["text", "input_text", "output_text"]), "text": STRING},
        {"annotations": LIST | st.none(), "logprobs": LIST | st.none(), "prompt_cache_breakpoint": JSON},
    ),
    shaped({"type": st.sampled_from(["input_image", "image_url"]), "image_url": URL}, {"detail": STRING | st.none()}),
    shaped({"type": st.sampled_from(["input_file", "file"]), "file": FILE}, {"file_data": STRING}),
    shaped({"type": st.sampled_from(["input_video", "video_url"]), "video_url": URL}, {}),
    shaped({"type": st.just("input_audio"), "input_audio": st.fixed_dictionaries({"data": STRING})}, {}),
    shaped({"type": st.just("refusal"), "refusal": STRING}, {}),
    shaped({"type": STRING}, {}),
)
PARTS = st.lists(PART, max_size=3)
STATUS = {"status": st.sampled_from(["completed", "in_progress", None])}
FUNCTION = shaped({"type": st.just("function"), "name": STRING}, {"description": STRING | st.none(), "strict": JSON})
CHAT_FUNCTION = st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTION})
TOOL = FUNCTION | CHAT_FUNCTION | shaped({"type": STRING, "name": STRING, "tools": st.lists(FUNCTION, max_size=2)}, {})
ITEM = st.one_of(
    shaped(
        {"role": st.sampled_from(["user", "assistant", "system", "developer"]), "content": STRING | PARTS | st.none()},
        {"type": st.just("message"), "phase": STRING | st.none(), **STATUS},
    ),
    shaped(
        {
            "type": st.sampled_from(["function_call", "custom_tool_call"]),
            "call_id": STRING,
            "name": STRING,
            "arguments": STRING | st.dictionaries(STRING, JSON, max_size=2),
            "input": STRING,
        },
        STATUS,
    ),
    shaped(
        {
            "type": st.sampled_from(["function_call_output", "custom_tool_call_output"]),
            "call_id": STRING,
            "output": STRING | PARTS | st.none(),
        },
        STATUS,
    ),
    shaped({"type": st.just("reasoning"), "summary": PARTS | st.none()}, {"content": PARTS | st.none(), **STATUS}),
    shaped({"type": st.just("reasoning")}, {}),
    shaped({"type": st.sampled_from(["item_reference", "compaction", "mcp_call"])}, {"encrypted_content": STRING}),
    shaped({"type": st.just("additional_tools"), "tools": st.lists(TOOL, max_size=3)}, {}),
    shaped({"type": STRING}, {}),
)
BODY = st.fixed_dictionaries(
    {"model": STRING, "input": STRING | st.lists(ITEM, max_size=3)},
    optional={
        "tools": st.lists(TOOL, max_size=3),
        "tool_choice": JSON | CHAT_FUNCTION,
        "text": JSON | st.fixed_dictionaries({"format": st.fixed_dictionaries({"type": st.just("text")}) | st.none()}),
        "conversation": STRING | st.fixed_dictionaries({"id": STRING}),
        "metadata": st.dictionaries(STRING, STRING | st.none(), max_size=3) | st.none(),
        "stream": st.booleans() | st.none(),
        "stream_options": JSON,
        "reasoning": st.dictionaries(st.sampled_from(["effort", "summary"]), STRING | st.none()),
    },
)


KNOWN = ("message", "function_call_output", "custom_tool_call_output", "reasoning")


def nulls_in_parts(item):
    """The keys that are null in an item's parts."""
    lists = [item[key] for key in ("content", "summary", "output") if isinstance(item.get(key), list)]
    return [key for parts in lists for part in parts for key, value in part.items() if value is None]


@settings(PATIENT, max_examples=150)
@given(ITEM)
def test_a_stored_item_comes_out_equal_and_has_a_type_and_no_nulls_in_itself_or_its_parts(item):
    try:
        kept = wire.input_item(item, "input[0]")
    except InvalidRequest:
        assume(False)
    assert wire.input_item(kept, "input[0]") == kept
    assert list(wire.input_item(kept, "input[0]")) == list(kept)
    assert isinstance(kept["type"], str)
    assert None not in kept.values()
    if kept["type"] in KNOWN:
        assert nulls_in_parts(kept) == []


@settings(PATIENT, max_examples=50)
@given(BODY)
def test_a_checked_request_passes_again_unchanged(body):
    try:
        request = wire.create_response(body)
    except InvalidRequest:
        assume(False)
    assert wire.create_response(request) == request


@settings(PATIENT, max_examples=100)
@given(st.sampled_from([wire.create_response, wire.create_conversation, wire.update_conversation, wire.create_items]),
       JSON | BODY | st.fixed_dictionaries({"items": JSON | st.lists(ITEM, max_size=3), "metadata": JSON}))  # fmt: skip
def test_nothing_but_an_invalid_request_is_ever_raised(call, body):
    with suppress(InvalidRequest):
        call(body)


@settings(PATIENT, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["limit", "order", "after", "before", "include[]"]), STRING), max_size=4))
def test_nothing_but_an_invalid_request_is_ever_raised_by_a_query(query):
    with suppress(InvalidRequest):
        wire.page(query)
