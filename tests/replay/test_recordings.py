"""Every recorded answer of a real server through the whole proxy, streamed and plain: what a client must see.

What is expected comes from the recording itself, read as plainly as possible (``heard``), and the rules of wire §8.
"""

import dataclasses
import json

import pytest

from tests.callers import error_of, frames, unframed
from tests.replay import valid
from tests.replay.asking import asked
from tests.replay.recordings import Heard, chats, heard, load

ANSWERS = [one.name for one in chats() if one.status == 200 and not heard(one).error]
ERRORS = [one.name for one in chats() if one.status == 200 and heard(one).error]
REFUSALS = [one.name for one in chats() if one.status != 200]

MESSAGES = {
    "vllm/error_bad_schema_stream": (400, "Grammar error: Invalid type: nonsense"),
    "vllm-plain/error_bad_schema_stream": (
        400,
        'Failed to transform json schema into a grammar: [10:06:43] <path>:4944: Unsupported type "nonsense"',
    ),
    "llamacpp/tool_unknown_name_stream": (
        500,
        "The model produced output that does not match the expected peg-native format",
    ),
    "transformers/tool_broken_json_stream": (502, '{"error": "json parser could not parse region as JSON.'),
}
"""Errors in the place of a chunk: the status where it can still be told, and the message (wire §2.5, §9.8)."""

BEGUN = {"llamacpp/tool_unknown_name_stream", "transformers/tool_broken_json_stream"}
"""Those that break after the stream has begun."""

UNTRIMMED = "transformers serve trims text and thoughts of a plain answer, not of a stream"
BLANKED = "transformers serve streams a blank line before the text where thinking is off"
PARSED = "vLLM's tool parser takes back what is no call only in a plain answer"

DIFFERENT = {
    **{
        f"transformers/{scenario}": UNTRIMMED
        for scenario in (
            "reasoning",
            "reasoning_cut_by_length",
            "reasoning_logprobs",
            "reasoning_then_empty",
            "text_default_thinking",
            "tool_after_reasoning",
            "tool_after_reasoning_and_text",
        )
    },
    **{
        f"transformers/{scenario}": BLANKED
        for scenario in (
            "code_block",
            "endless",
            "error_bad_schema",
            "history",
            "json_object",
            "json_schema",
            "json_schema_fits_model",
            "length",
            "logprobs",
            "n2",
            "stop_string",
            "text",
            "tool_after_text",
            "tool_result_turn",
            "unicode",
        )
    },
    "vllm/tool_broken_json": PARSED,
    "vllm/tool_cut_by_length": PARSED,
    "vllm/tool_named_against_model": "vLLM's plain answer loses the end of forced arguments",
}
"""Scenarios whose plain and streamed recordings say different things, and why."""

LOGGED = [name for name in ANSWERS if "logprobs" in name and not name.startswith("transformers")]  # it sends none

TWICE = [name for name in ANSWERS if f"{name}_stream" in ANSWERS]


async def both(home, recording):
    """The streamed response of the recorded bytes, checked in every way, and the plain answer of the same bytes."""
    home.backend.default = recording.steps()
    answer = await home.caller.http.post("/responses", json=asked(recording) | {"stream": True})
    assert answer.status_code == 200, answer.text
    streamed = valid.stream(unframed(answer.content))
    plain = await home.caller.http.post("/responses", json=asked(recording))
    return streamed, plain


async def stored(home, response):
    return await home.caller.get(f"/responses/{response['id']}")


@pytest.mark.parametrize("name", ANSWERS)
async def test_a_real_answer_becomes_the_right_response(name, house):
    recording = load(name)
    home = await house() if recording.is_stream else await house("--upstream-stream=never")
    streamed, plain = await both(home, recording)
    assert plain.status_code == 200, plain.text
    assert told(streamed) == told(valid.response(plain.json())) == expected(heard(recording))
    if streamed["store"]:
        assert await stored(home, streamed) == streamed
        assert await stored(home, plain.json()) == plain.json()


@pytest.mark.parametrize("name", ERRORS)
async def test_an_error_in_a_real_stream_is_told_as_early_as_it_can_be(name, house):
    home, recording = await house(), load(name)
    status, message = MESSAGES[name]
    if name in BEGUN:
        streamed, plain = await both(home, recording)
        assert streamed["status"] == "failed"
        assert streamed["error"]["message"] == message
        assert await stored(home, streamed) == streamed
    else:
        home.backend.default = recording.steps()
        early = await home.caller.ask(stream=True)
        assert (early.status_code, error_of(early)["message"]) == (status, message)
        plain = await home.caller.ask()
    if plain.status_code == 200:
        assert told(valid.response(plain.json())) == told(streamed)
    else:
        assert (plain.status_code, error_of(plain)["message"]) == (status, message)


MENDED = {"llamacpp/error_image_part": 400}
"""Refusals that came with a status that makes clients ask again for nothing."""


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_real_refusal_becomes_an_error_of_openais_shape(name, house):
    home, recording = await house(), load(name)
    home.backend.default = recording.steps()
    status = MENDED.get(name, recording.status)
    for stream in (True, False):
        answer = await home.caller.ask(stream=stream)
        error = error_of(answer)
        assert answer.status_code == status
        assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
        assert error["code"] == ("context_length_exceeded" if "context_too_long" in name else None)
        assert all(words in error["message"] for words in explained(recording.body.decode()))


@pytest.mark.parametrize("name", TWICE)
def test_a_plain_recording_says_what_the_streamed_one_says_but_for_known_differences(name):
    """The tests above tie each response to its recording; this one tells that both are read alike."""
    plain, streamed = (expected(heard(load(each))) for each in (name, f"{name}_stream"))
    without = [dataclasses.replace(one, usage=None) for one in (plain, streamed)]
    assert (without[0] == without[1]) == (name not in DIFFERENT)


@pytest.mark.parametrize("name", LOGGED)
async def test_log_probabilities_are_those_of_the_text(name, house):
    recording = load(name)
    home = await house() if recording.is_stream else await house("--upstream-stream=never")
    streamed, plain = await both(home, recording)
    for response in (streamed, plain.json()):
        (part,) = response["output"][-1]["content"]
        tokens = b"".join(bytes(entry["bytes"]) for entry in part["logprobs"])
        assert tokens.decode() == part["text"]


async def test_thoughts_of_a_server_without_a_parser_may_be_split_off(house):
    home = await house("--parse-think-tags")
    streamed, plain = await both(home, load("vllm-plain/reasoning_stream"))
    assert told(streamed) == told(plain.json())
    assert told(streamed).items == (("thought", "\nTwo plus two is four.\n"), ("said", "\n\nThe answer is 4."))


async def test_the_end_of_a_real_stream_is_one_done(house):
    home = await house()
    home.backend.default = load("transformers/text_stream").steps()
    answer = await home.caller.ask(stream=True)
    assert frames(answer.content).count("[DONE]") == 1


# -- what is expected


@dataclasses.dataclass(frozen=True)
class Told:
    """A response in short. ``items``: ("said", text), ("thought", text), ("called", name, arguments)."""

    status: str
    items: tuple
    usage: tuple


def told(response):
    usage = response["usage"] or {"input_tokens": 0, "output_tokens": 0}
    items = tuple(map(told_item, response["output"]))
    return Told(response["status"], items, (usage["input_tokens"], usage["output_tokens"]))


def told_item(item):
    if item["type"] == "function_call":
        return "called", item["name"], item["arguments"]
    (part,) = item["content"]
    return {"message": "said", "reasoning": "thought"}[item["type"]], part["text"]


def expected(said: Heard):
    """Wire §8.1, §8.3–8.5 and the switching rules of §11.5."""
    cut = said.finish == "length"
    items = [("thought", said.thought)] if said.thought.strip() else []
    if said.text.strip() or (said.text and not items and not said.calls):
        items.append(("said", said.text))
    items += [("called", name, arguments or ("" if cut else "{}")) for name, arguments in said.calls]
    return Told("incomplete" if cut else "completed", tuple(items or [("said", "")]), said.usage)


def explained(body):
    """What the body of a refusal explains to a reader: each of its messages."""
    try:
        value = json.loads(body)
    except ValueError:
        return [body]
    detail = value.get("detail") or value["error"]
    faults = detail if isinstance(detail, list) else [detail]
    return [fault if isinstance(fault, str) else fault.get("msg") or fault["message"] for fault in faults]
