"""What backends do that breaks naive proxies: a script each, its row of wire §12.1 and where it was seen in its id.

Rows that are not about chunks are proven elsewhere: 27, 30 and 32–34 in tests/test_sse.py; 28, 29, 39 and 41, refusals,
also in tests/test_errors.py; 37, 38, 42 and 48 in test_input.py; 43 and 44 in tests/golden; 45 in test_stream.py and
test_text.py; 47 in test_dialects.py.
"""

import pytest

from tests.translate.replies import (
    USAGE,
    calls,
    chunk,
    entry,
    events_of,
    output_of,
    plain,
    read,
    said,
    texts,
    thought,
    thoughts,
    whole,
)
from tests.translate.replies import called as call

STOP, CALLED = chunk(finish="stop"), chunk(finish="tool_calls")
PARIS, ROME = '{"city":"Paris"}', '{"city":"Rome"}'
HI = said("Hi")
NULLS = {"role": None, "content": None, "reasoning_content": None, "tool_calls": None, "refusal": None}


def script(row, source, chunks, story):
    return pytest.param(chunks, story, id=f"{row}, {source}")


SCRIPTS = [
    script(1, "DeepSeek, SGLang, llama.cpp", [*thoughts("Hm", "m"), *texts("Hi"), STOP], [thought("Hm", "m"), HI]),
    script(2, "vLLM, Ollama, OpenRouter", [*thoughts("Hm", key="reasoning"), *texts("Hi"), STOP], [thought("Hm"), HI]),
    script(
        3,
        "OpenRouter: the same thought twice",
        [
            chunk({"reasoning": "Hm", "reasoning_details": [{"type": "reasoning.text", "text": "Hm", "index": 0}]}),
            *texts("Hi"),
            STOP,
        ],
        [thought("Hm"), HI],
    ),
    script(
        3,
        "both spellings of one thought",
        [chunk({"reasoning_content": "Hm", "reasoning": "Hm"}), *texts("Hi"), STOP],
        [thought("Hm"), HI],
    ),
    script(
        4,
        "Mistral Magistral",
        [
            chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]}),
            chunk({"content": [{"type": "thinking", "thinking": "m"}]}),
            chunk({"content": [{"type": "reference", "reference_ids": [1]}, {"type": "text", "text": "Hi"}]}),
            STOP,
        ],
        [thought("Hm", "m"), HI],
    ),
    script(5, "SGLang: nulls", [chunk(NULLS), chunk({**NULLS, "content": "Hi"}), chunk(NULLS, "stop")], [HI]),
    script(
        6,
        "Ollama",
        [chunk({"role": "assistant", "content": ""}), chunk({"role": "assistant", "content": "Hi"})]
        + [chunk({"role": "assistant", "content": ""}, "stop")],
        [HI],
    ),
    script(
        7,
        "lmdeploy#3412: one index for all",
        [calls(entry(0, "call_a", "w", PARIS)), calls(entry(0, "call_b", "w", ROME)), CALLED],
        [call("w", PARIS), call("w", ROME, id="call_b")],
    ),
    script(
        8,
        "dyedd/lens#49: the second without id",
        [calls(entry(0, "call_a", "w", PARIS)), calls(entry(0, None, "g", "{}")), CALLED],
        [call("w", PARIS), call("g", "{}", id="call_minted1")],
    ),
    script(
        9,
        "Gemini: no index",
        [calls(entry(None, "call_a", "w", PARIS), entry(None, "call_b", "w", ROME)), CALLED],
        [call("w", PARIS), call("w", ROME, id="call_b")],
    ),
    script(
        10,
        "vllm#18412: no id",
        [calls(entry(0, "", "w")), calls(entry(0, "", None, PARIS)), CALLED],
        [call("w", PARIS, id="call_minted1")],
    ),
    script(
        10,
        "vLLM PR 23522: a new id in every chunk",
        [calls(entry(0, "call_a", "w", "")), calls(entry(0, "x", None, PARIS[:5])), calls(entry(0, "y", "", PARIS[5:]))]
        + [CALLED],
        [call("w", PARIS[:5], PARIS[5:])],
    ),
    script(
        11,
        "sglang#4700: empty names",
        [calls(entry(0, "call_a", "w", "")), calls(entry(0, "call_a", "", PARIS)), CALLED],
        [call("w", PARIS)],
    ),
    script(12, "ollama#11633: a whole call", [calls(entry(0, "call_a", "w", PARIS)), CALLED], [call("w", PARIS)]),
    script(13, "an object", [calls(entry(0, "call_a", "w", {"city": "Paris"})), CALLED], [call("w", PARIS)]),
    script(
        13,
        "null",
        [calls({"index": 0, "id": "call_a", "function": {"name": "w", "arguments": None}}), CALLED],
        [call("w", "{}")],
    ),
    script(14, "vercel/ai#20203", [chunk({"content": "Hi", "tool_calls": []}), STOP], [HI]),
    script(15, "Ollama PR 7963", [calls(entry(0, "call_a", "w", PARIS)), STOP], [call("w", PARIS)]),
    script(16, "sglang PR 8417", [*texts("Hi"), STOP, chunk(finish="length")], [HI]),
    script(17, "vLLM PR 36944", [chunk({"content": "Hi"}, "stop")], [HI]),
    script(
        22, "Azure: filter results first", [chunk(choices=[], prompt_filter_results=[{}]), *texts("Hi"), STOP], [HI]
    ),
    script(
        23,
        "Azure: a choice without delta",
        [*texts("Hi"), STOP, chunk(choices=[{"index": 0, "finish_reason": None, "content_filter_results": {}}])],
        [HI],
    ),
    script(
        35,
        "vmlx#219: empty deltas",
        [chunk(tool_call_generating=True), calls(entry(0, "call_a", "w", PARIS)), CALLED],
        [call("w", PARIS)],
    ),
    script(
        36,
        "SGLang, llama.cpp: extras",
        [*texts("Hi"), chunk(finish="stop", timings={"prompt_n": 1}, system_fingerprint="b1", prompt_progress={})],
        [HI],
    ),
    script(46, "TGI: eos", [*texts("Hi"), chunk(finish="eos_token")], [HI]),
    script(46, 'an empty finish reason in every chunk: ""', [chunk({"content": "Hi"}, ""), chunk({}, "")], [HI]),
]


@pytest.mark.parametrize(("chunks", "story"), SCRIPTS)
def test_a_quirk_does_not_show(chunks, story):
    result = read(chunks, done=False)
    assert output_of(result.response) == whole(story)
    assert result.brief == events_of(story)


@pytest.mark.parametrize(
    ("chunks", "figures"),
    [
        pytest.param([chunk({"content": "Hi"}, "stop", usage=USAGE)], (9, 3), id="18, DeepSeek: with the last text"),
        pytest.param(
            [
                chunk({"content": "H"}, usage={"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}),
                chunk({"content": "i"}, "stop", usage={"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}),
                chunk(choices=[], usage=USAGE),
            ],
            (9, 3),
            id="19, vLLM continuous_usage_stats: cumulative",
        ),
        pytest.param([*texts("Hi"), STOP, chunk(choices=[], usage=USAGE)], (9, 3), id="20, OpenAI: a chunk of its own"),
        pytest.param([*texts("Hi"), STOP, chunk(choices=None, usage=USAGE)], (9, 3), id="20, choices null"),
        pytest.param(
            [chunk({"content": "Hi"}, "stop", usage=USAGE), chunk(choices=[], usage=None)], (9, 3), id="20, then null"
        ),
        pytest.param([*texts("Hi"), STOP], (0, 0), id="21, vllm-swift#19: never"),
    ],
)
def test_usage_is_read_wherever_it_comes(chunks, figures):
    result = read(chunks)
    usage = result.response["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == figures
    assert usage["total_tokens"] == sum(figures)
    assert usage["input_tokens_details"] == {"cached_tokens": 0, "cache_write_tokens": 0}  # row 40: Ollama sends none
    assert usage["output_tokens_details"] == {"reasoning_tokens": 0}
    assert result.stream.usage_missing == (figures == (0, 0))


@pytest.mark.parametrize(
    ("chunks", "status", "message"),
    [
        pytest.param(
            [*texts("Hi"), {"error": {"message": "Engine died", "type": "EngineDeadError", "code": 500}}],
            500,
            "Engine died",
            id="24, vLLM: an error in the stream",
        ),
        pytest.param([], 502, "The upstream returned no choices.", id="25, vLLM PR 40986: only [DONE]"),
        pytest.param(
            [
                *texts("Hi"),
                chunk(
                    error={"code": 502, "message": "Provider disconnected"},
                    choices=[{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],
                ),
            ],
            502,
            "Provider disconnected",
            id="26, OpenRouter",
        ),
        pytest.param(
            [
                chunk(
                    choices=[{"delta": {}, "finish_reason": "error", "error": {"code": 429, "message": "Slow down"}}]
                ),
            ],
            429,
            "Slow down",
            id="26, the error within the choice",
        ),
        pytest.param([{"error": "failed to decode"}], 502, "failed to decode", id="27, llama.cpp: an error: field"),
        pytest.param(
            [{"error": {"code": 400, "message": "the request exceeds the context size"}}],
            400,
            "the request exceeds the context size",
            id="28, llama.cpp#14566: a 200 with an error body",
        ),
        pytest.param(
            [{"object": "error", "message": "Not found", "type": "NotFoundError", "param": None, "code": 404}],
            404,
            "Not found",
            id="29, ogx#4534: old vLLM",
        ),
    ],
)
def test_an_error_in_the_place_of_a_chunk_fails_the_response(chunks, status, message):
    result = read(chunks)
    assert result.response["status"] == "failed"
    assert result.response["error"]["message"] == message
    if chunks:
        assert result.stream.failure.status == status


def test_a_finish_reason_without_done_is_an_end():
    """Row 31: llama-box#2 and some gateways never send [DONE]."""
    assert read([*texts("Hi"), STOP], done=False).response["status"] == "completed"


def test_the_whole_message_in_the_last_chunk_is_read_only_if_nothing_came_before():
    """Some gateways close with a ``message``; it is the same text again."""
    last = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    assert output_of(read([*texts("Hi"), chunk(choices=[last])]).response) == [said("Hi")]
    assert output_of(read([chunk(choices=[last])]).response) == [said("Hi")]


def test_other_choices_than_the_first_are_not_read():
    other = {"index": 1, "delta": {"content": "No"}, "finish_reason": "stop"}
    first = {"index": 0, "delta": {"content": "Yes"}, "finish_reason": "stop"}
    assert output_of(read([chunk(choices=[other]), chunk(choices=[other, first])]).response) == [said("Yes")]


def test_a_thought_of_nothing_but_blanks_opens_no_item():
    """transformers serve streams a blank line of reasoning in front of every answer of a model that does not think."""
    blank = thoughts("\n", "\n")
    assert read([*blank, *texts("Hi"), STOP]).brief == events_of([said("Hi")])
    assert read([*blank, calls(entry(0, "call_a", "w", PARIS)), STOP]).brief == events_of([call("w", PARIS)])
    assert output_of(read([*blank, STOP]).response) == [said("")]
    assert read([*blank, *thoughts("So", "."), *texts("Hi"), STOP]).brief == events_of([thought("\n\nSo", "."), HI])


def test_blank_text_between_a_thought_and_a_call_is_dropped():
    """vLLM with a reasoning parser streams what lies between the two."""
    chunks = [*thoughts("Hm"), *texts("\n\n"), calls(entry(0, "call_a", "w", PARIS)), CALLED]
    assert read(chunks).brief == events_of([thought("Hm"), call("w", PARIS)])


def test_blank_text_in_front_of_text_belongs_to_it():
    assert read([*thoughts("Hm"), *texts("\n", "\n", "Hi"), STOP]).brief == events_of(
        [thought("Hm"), said("\n\n", "Hi")]
    )


def test_blank_text_is_an_answer_if_nothing_else_is():
    assert read([*texts("\n", "\n"), STOP]).brief == events_of([said("\n\n")])
    assert read([*thoughts("Hm"), *texts("\n"), STOP]).brief == events_of([thought("Hm")])


@pytest.mark.parametrize("finish", ["stop", None])
def test_an_error_body_beside_a_finish_reason_wins(finish):
    choice = {"index": 0, "message": {"content": "x"}, "finish_reason": finish}
    reply = plain({}, choices=[choice], error={"message": "no", "code": 503})
    assert read([reply]).response["error"] == {"code": "server_error", "message": "no"}
