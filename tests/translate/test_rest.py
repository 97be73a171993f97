"""Whether a model may write on what another call of it began, how it is asked, and what that has cost (wire §10.5)."""

from dataclasses import replace

import pytest

from proxy import wire
from proxy.settings import Settings
from proxy.translate.dialects import for_kind
from proxy.translate.request import to_chat
from proxy.translate.response import usage
from proxy.translate.rest import rest_of
from proxy.translate.told import Telling, Tokens
from proxy.translate.tools import plan
from tests.translate.replies import NOW, chunk, texts, thoughts
from tests.translate.test_told import begun, copied, resumed

VLLM, LLAMACPP = (for_kind(kind, Settings(upstream="http://h/v1")) for kind in ("vllm", "llamacpp"))
TOOL = {"type": "function", "name": "f"}
SCHEMA = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}
TEXT = texts("\n\n", "One", " two\n")
USER = {"role": "user", "content": "Hi"}


def asked(chunks, dialect=VLLM, tokens=0, /, **fields):
    """The body that asks for the rest of what these chunks began."""
    request = wire.create_response({"model": "m", "input": "Hi", **fields})
    tools = plan(request, request["input"], dialect)
    chat = to_chat(request, request["input"], tools, dialect, stream=True)
    return rest_of(chat, [item.item for item in Telling(copied(begun(chunks))).items], dialect, tokens)


@pytest.mark.parametrize("dialect", [VLLM, LLAMACPP])
def test_the_text_so_far_goes_up_as_it_was_and_nothing_may_be_thought_before_its_rest(dialect):
    kwargs = {"enable_thinking": True, "x": 1}
    body = asked(TEXT, dialect, 30, max_output_tokens=100, chat_template_kwargs=kwargs, tools=[TOOL], temperature=0)
    assert body["messages"] == [USER, {"role": "assistant", "content": "\n\nOne two\n"}]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert body["chat_template_kwargs"] == {"enable_thinking": False, "x": 1}
    assert (body["max_tokens"], body["temperature"], len(body["tools"])) == (70, 0, 1)
    assert kwargs["enable_thinking"]


@pytest.mark.parametrize(
    ("dialect", "names"), [(VLLM, ("reasoning_content", "reasoning")), (LLAMACPP, ("reasoning_content",))]
)
def test_a_thought_goes_up_with_its_text_without_the_lines_between_them(dialect, names):
    body = asked([*thoughts("\nHm", "\n.\n"), *TEXT], replace(dialect, reasoning_replay="never"))
    said = {"role": "assistant", "content": "One two\n", **dict.fromkeys(names, "Hm\n.")}
    assert body["messages"] == [USER, said]
    assert "chat_template_kwargs" not in body


@pytest.mark.parametrize(
    "fields",
    [
        {"text": SCHEMA},
        {"text": {"format": {"type": "json_object"}}},
        {"include": ["message.output_text.logprobs"]},
        {"top_logprobs": 2},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "f"}},
        {"stop": ["x"]},
        {"guided_regex": "x"},
    ],
)
def test_what_is_more_than_text_has_no_rest(fields):
    assert asked(TEXT, **fields) is None
    assert asked(TEXT, tools=[TOOL], tool_choice="auto", seed=1, text={"format": {"type": "text"}})


@pytest.mark.parametrize(
    ("chunks", "dialect"),
    [
        (TEXT, for_kind("generic", Settings(upstream="http://h/v1"))),
        (TEXT, for_kind("sglang", Settings(upstream="http://h/v1"))),
        ([*thoughts("Hm"), *TEXT], replace(VLLM, reasoning_fields=())),
        ([*TEXT, *thoughts("Hm"), *TEXT], VLLM),
    ],
)
def test_where_its_beginning_cannot_be_said_there_is_no_rest(chunks, dialect):
    assert asked(chunks, dialect) is None


def test_what_was_told_before_is_output_and_no_input():
    events = begun([*thoughts("Hm", "."), *texts("One", " two")])
    assert Telling(copied(events)).deltas == (2, 4)
    stream = resumed(events, go_on=True)
    stream.told = Tokens(2, 6)
    details = {"prompt_tokens_details": {"cached_tokens": 16}, "completion_tokens_details": {"reasoning_tokens": 3}}
    figures = {"prompt_tokens": 16, "completion_tokens": 3, "total_tokens": 19, **details}
    stream.feed(chunk({"content": "!"}, "stop", usage=figures))
    stream.finish(NOW, done=True)
    whole = {"prompt_tokens": 10, "completion_tokens": 9}
    whole |= {"prompt_tokens_details": {"cached_tokens": 10}, "completion_tokens_details": {"reasoning_tokens": 2}}
    assert stream.response["usage"] == usage(whole)


def test_a_rest_that_comes_as_a_thought_is_a_failure_whether_it_ends_with_it_or_not():
    for finish in (None, "stop"):
        stream = resumed(begun(texts("One")), go_on=True)
        assert stream.feed(chunk({"reasoning_content": " two"}, finish)) == []
        assert stream.failure and stream.finish_reason is None


def test_a_tag_in_the_rest_is_text():
    events = begun(texts("<think>Hm</think>One"), think_tags=True)
    stream = resumed(events, go_on=True, think_tags=True)
    assert [event["delta"] for event in stream.feed(chunk({"content": "<think>"}))] == ["<think>"]


def test_a_rest_of_one_piece_is_an_answer_though_nothing_says_that_it_is_finished():
    stream = resumed(begun(texts("One")), go_on=True)
    stream.feed({"choices": [{"delta": {"content": " two"}}]})
    stream.finish(NOW, done=True)
    assert stream.response["output"][0]["content"][0]["text"] == "One two"
