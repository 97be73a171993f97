"""Answers of real servers through the whole proxy, as they were recorded: bytes in, and what a client must see.

``recorded/<server>/<scenario>.sse`` is the body of a stream, ``.json`` that of the same request without ``stream``,
where the server answers both alike. The servers: vLLM 0.32 with parsers for tools and reasoning, and without any
(``vllm-plain``); llama.cpp's server of November 2026; transformers 5.19. The model is tiny and talks like it.
"""

from pathlib import Path

import pytest

from tests.backend import STREAM_END, STREAM_HEAD, chunked, reply
from tests.callers import error_of

FOLDER = Path(__file__).parent / "recorded"


def call(arguments, name="get_weather"):
    return name, arguments


PARIS, ROME = call('{"city": "Paris"}'), call('{"city": "Rome"}')

ANSWERS = {
    "vllm/reasoning": ("completed", [("thought", "\nTwo plus two is four.\n"), ("said", "\n\nThe answer is 4.")]),
    "vllm/tool_after_reasoning": (
        "completed",
        [("thought", "\nI should look up Oslo.\n"), call('{"city": "Oslo"}')],
    ),
    "vllm/tool_auto_two_calls": ("completed", [PARIS, ROME]),
    "vllm/logprobs": ("incomplete", [("said", "Hello! How")]),
    "vllm/n2": ("incomplete", [("said", "Hello! How can I")]),
    "vllm/length": ("incomplete", [("said", "Ada met Bob in Paris, and they talked")]),
    "vllm/tool_cut_by_length": ("incomplete", [call("")]),
    "vllm/tool_broken_json": ("completed", [call('{"city":')]),
    "vllm/reasoning_then_empty": ("completed", [("thought", "\nEasy.\n")]),
    "vllm-plain/reasoning": (
        "completed",
        [("said", "<think>\nTwo plus two is four.\n</think>\n\nThe answer is 4.")],
    ),
    "llamacpp/reasoning": ("completed", [("thought", "Two plus two is four.\n"), ("said", "The answer is 4.")]),
    "llamacpp/tool_after_reasoning_and_text": (
        "completed",
        [("thought", "I should look up Rome.\n"), ("said", "Let me check.\n"), ROME],
    ),
    "llamacpp/tool_auto_two_calls": ("completed", [PARIS, ROME]),
    "llamacpp/n2": ("incomplete", [("said", "Hello! How can I")]),
    "llamacpp/tool_cut_by_length": ("incomplete", [call("{")]),
    "llamacpp/empty_output": ("completed", [("said", "")]),
    "llamacpp/unicode": ("completed", [("said", "Café, naïve, 東京, 🙂 and 👩\u200d🚀.")]),
    "transformers/reasoning": (
        "completed",
        [("thought", "\nTwo plus two is four.\n"), ("said", "\n\nThe answer is 4.")],
    ),
    "transformers/tool_auto_two_calls": ("completed", [PARIS, ROME]),
    "transformers/empty_output": ("completed", [("said", "")]),
    "transformers/length": ("incomplete", [("said", "\n\nAda met Bob in Paris, and they talked")]),
}
"""What comes of each: the status, and the items."""

BROKEN = {
    "llamacpp/tool_unknown_name": "The model produced output that does not match the expected peg-native format",
    "transformers/tool_broken_json": '{"error": "json parser could not parse region as JSON.',
}
"""Streams that end in an error: how its message begins."""

TWICE = [name for name in ANSWERS if (FOLDER / f"{name}.json").exists()]


def shown(response):
    return [_shown(item) for item in response["output"]]


def _shown(item):
    if item["type"] == "function_call":
        return item["name"], item["arguments"]
    (part,) = item["content"]
    return {"message": "said", "reasoning": "thought"}[item["type"]], part["text"]


def stream_of(name, size):
    body = (FOLDER / f"{name}.sse").read_bytes()
    pieces = [chunked(body[at : at + size]) for at in range(0, len(body), size)]
    return [STREAM_HEAD, *pieces, STREAM_END]


@pytest.mark.parametrize("size", [1000000, 61], ids=["in one read", "in many"])
@pytest.mark.parametrize("name", ANSWERS)
async def test_a_real_stream_becomes_the_right_items(name, size, caller, backend):
    backend.script(*stream_of(name, size))
    last = (await caller.events())[-1]["response"]
    assert (last["status"], shown(last)) == ANSWERS[name]
    assert last["usage"]["output_tokens"] > 0
    assert await caller.get(f"/responses/{last['id']}") == last


@pytest.mark.parametrize("name", TWICE)
async def test_the_plain_answer_of_the_same_server_becomes_the_same_items(name, calling, backend):
    caller = await calling("--upstream-stream=never")
    backend.script(reply((FOLDER / f"{name}.json").read_bytes(), headers=("content-type: application/json",)))
    response = await caller.create()
    assert (response["status"], shown(response)) == ANSWERS[name]


@pytest.mark.parametrize("name", BROKEN)
async def test_a_real_stream_that_breaks_ends_as_failed(name, caller, backend):
    backend.script(*stream_of(name, 61))
    events = await caller.events()
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["message"].startswith(BROKEN[name])


async def test_an_error_in_the_place_of_a_stream_keeps_its_status(caller, backend):
    """vLLM answers 200 and puts the error into the stream."""
    for stream in (True, False):
        backend.script(*stream_of("vllm/error_bad_schema", 1000))
        answer = await caller.ask(stream=stream)
        assert answer.status_code == 400
        assert error_of(answer)["message"] == "Grammar error: Invalid type: nonsense"


async def test_tags_in_the_text_of_a_server_without_a_parser_may_be_split_off(calling, backend):
    caller = await calling("--parse-think-tags")
    backend.script(*stream_of("vllm-plain/reasoning", 61))
    last = (await caller.events())[-1]["response"]
    assert shown(last) == [("thought", "\nTwo plus two is four.\n"), ("said", "\n\nThe answer is 4.")]


async def test_log_probabilities_of_a_real_stream_arrive(caller, backend):
    backend.script(*stream_of("vllm/logprobs", 1000000))
    events = await caller.events(include=["message.output_text.logprobs"])
    (item,) = events[-1]["response"]["output"]
    tokens = [entry["token"] for entry in item["content"][0]["logprobs"]]
    assert "".join(tokens) == item["content"][0]["text"]
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [entry["token"] for event in deltas for entry in event["logprobs"]] == tokens


def test_every_recording_is_looked_at():
    found = {str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.sse")}
    assert found == {*ANSWERS, *BROKEN, "vllm/error_bad_schema"}
