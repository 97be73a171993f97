"""Chunks in, events out: how replies map (wire §8), the order of events (§9), several rounds in one response."""

import copy

import pytest

from proxy.errors import StatecarError, UpstreamError, UpstreamTimeout
from proxy.translate.response import usage
from proxy.translate.tools import ToolPlan
from tests.translate import rules
from tests.translate.replies import (
    NOW,
    USAGE,
    Told,
    brief,
    called,
    calls,
    chunk,
    entry,
    events_of,
    open_stream,
    output_of,
    plain,
    read,
    refused,
    said,
    texts,
    thought,
    thoughts,
    whole,
)

STOP, CALLED, CUT = chunk(finish="stop"), chunk(finish="tool_calls"), chunk(finish="length")
PARIS, ROME = '{"city":"Paris"}', '{"city":"Rome"}'
A, B = entry(0, "call_a", "w", PARIS), entry(1, "call_b", "w", ROME)
CALL_A, CALL_B = called("w", PARIS), called("w", ROME, id="call_b")


# -- §8: replies to items, streamed or not


@pytest.mark.parametrize(
    ("message", "story"),
    [
        pytest.param({"content": "Hi"}, [said("Hi")], id="8.1 text"),
        pytest.param(
            {"content": "Hi", "reasoning_content": "Hm", "tool_calls": [A, B]},
            [thought("Hm"), said("Hi"), CALL_A, CALL_B],
            id="8.1 thought, text, calls",
        ),
        pytest.param({"content": ""}, [said()], id="8.1 nothing"),
        pytest.param({"content": None}, [said()], id="8.1 null"),
        pytest.param({"content": "", "reasoning": "Hm"}, [thought("Hm")], id="8.1 a thought alone"),
        pytest.param({"content": None, "tool_calls": [A]}, [CALL_A], id="8.1 a call alone"),
        pytest.param(
            {"content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}, [said("Hi")], id="8.2"
        ),
        pytest.param(
            {"content": [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "Hi"}]},
            [thought("Hm"), said("Hi")],
            id="8.2 thinking",
        ),
        pytest.param(
            {"tool_calls": [entry(0, "call_a", "w", {"a": [1]})]}, [called("w", '{"a":[1]}')], id="8.3 object"
        ),
        pytest.param({"tool_calls": [entry(0, "call_a", "w", "")]}, [called("w", "{}")], id="8.3 no arguments"),
        pytest.param(
            {"function_call": {"name": "w", "arguments": PARIS}},
            [called("w", PARIS, id="call_minted1")],
            id="8.3 legacy",
        ),
        pytest.param(
            {"tool_calls": [entry(None, "", "w", PARIS), entry(None, None, "w", ROME)]},
            [called("w", PARIS, id="call_minted1"), called("w", ROME, id="call_minted2")],
            id="8.3 no ids",
        ),
        pytest.param(
            {"tool_calls": [entry(0, "x" * 80, "w", PARIS)]}, [called("w", PARIS, id="x" * 80)], id="8.3 a long id"
        ),
        pytest.param({"reasoning_content": "", "reasoning": "Hm"}, [thought("Hm")], id="8.4 the first not empty"),
        pytest.param({"thinking": "Hm"}, [thought("Hm")], id="8.4 thinking"),
        pytest.param(
            {"reasoning": "Hm", "content": [{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "Hi"}]},
            [thought("Hm"), said("Hi")],
            id="8.4 one of two",
        ),
        pytest.param(
            {"reasoning_details": [{"text": ""}, {"index": 1}], "content": "Hi"}, [said("Hi")], id="8.4 empty"
        ),
        pytest.param(
            {"reasoning_details": [{"type": "reasoning.summary", "summary": "Hm"}, {"type": "reasoning.encrypted"}]},
            [thought("Hm")],
            id="8.4 details",
        ),
        pytest.param({"content": "<think>Hm</think>Hi"}, [said("<think>Hm</think>Hi")], id="8.4 tags are text"),
        pytest.param({"refusal": "No."}, [refused("No.")], id="8.6"),
        pytest.param({"content": None, "audio": {"data": "AA", "transcript": "Hi"}}, [said("Hi")], id="8.7"),
    ],
)
def test_a_reply_becomes_items_whether_streamed_or_not(message, story):
    whole_reply = read([plain(message)])
    assert whole_reply.brief == events_of(story)
    assert output_of(whole_reply.response) == whole(story)
    streamed = read([chunk(message), STOP])
    assert streamed.events == whole_reply.events


def test_equal_ids_of_one_reply_become_different_ones():
    """As far as they can be told apart as two calls."""
    twice = [entry(0, "call_a", "w", PARIS), entry(1, "call_a", "w", ROME)]
    ids = [told.id for told in output_of(read([plain({"tool_calls": twice})]).response)]
    assert ids == ["call_a", "call_minted1"]


def test_an_id_that_stands_in_the_context_is_not_used_again():
    result = read([calls(A), CALLED], call_ids=["call_a"])
    assert output_of(result.response) == [called("w", PARIS, id="call_minted1")]


FINISHES = [
    *[(reason, "completed", None) for reason in ("stop", "tool_calls", "function_call", "eos", "end_turn", "odd")],
    *[(reason, "incomplete", "max_output_tokens") for reason in ("length", "max_tokens", "model_length")],
    *[(reason, "incomplete", "content_filter") for reason in ("content_filter", "safety", "recitation")],
    *[(reason, "failed", None) for reason in ("error", "abort", "insufficient_system_resource")],
]


@pytest.mark.parametrize(("finish", "status", "reason"), FINISHES)
def test_the_finish_reason_gives_the_status(finish, status, reason):
    """Wire §8.5."""
    result = read([*texts("Hi"), chunk(finish=finish)])
    response = result.response
    assert response["status"] == status
    assert response["incomplete_details"] == ({"reason": reason} if reason else None)
    assert response["completed_at"] == (NOW + 2 if status == "completed" else None)
    assert output_of(response) == [said("Hi") if status == "completed" else said("Hi").incomplete]
    if status != "failed":
        assert result.brief == events_of([said("Hi")], end=status)
    else:
        assert response["error"] == {
            "code": "server_error",
            "message": f"The upstream ended with finish reason '{finish}'.",
        }


@pytest.mark.parametrize(
    ("chunks", "story"),
    [
        ([*thoughts("Hm"), CUT], [thought("Hm").incomplete]),
        ([*thoughts("Hm"), *texts("H"), CUT], [thought("Hm"), said("H").incomplete]),
        ([*texts("Hi"), calls(entry(0, "call_a", "w", '{"ci')), CUT], [said("Hi"), called("w", '{"ci').incomplete]),
        ([calls(entry(0, "call_a", "w")), CUT], [called("w", "").incomplete]),
        ([calls(A, entry(1, "call_b", "w", '{"ci')), CUT], [CALL_A, called("w", '{"ci', id="call_b").incomplete]),
        ([CUT], [said("").incomplete]),
    ],
)
def test_only_the_last_item_of_a_cut_reply_is_incomplete(chunks, story):
    assert output_of(read(chunks).response) == whole(story)


@pytest.mark.parametrize("end", [CUT, chunk(finish="content_filter")])
def test_every_call_that_a_cut_reply_left_broken_is_incomplete(end):
    """Wire §8.5: a client that looks at the call alone would run it."""
    broken = [calls(entry(0, "call_a", "w", '{"ci')), calls(entry(1, "call_b", "w", '{"a"'))]
    story = [called("w", '{"ci').incomplete, called("w", '{"a"', id="call_b").incomplete]
    assert output_of(read([*broken, end]).response) == story
    assert output_of(read([calls(entry(0, "call_a", "w")), broken[1], end]).response) == [
        called("w", "").incomplete,
        story[1],
    ]
    whole_one = calls(entry(2, "call_c", "w", PARIS))
    last = called("w", PARIS, id="call_c").incomplete
    assert output_of(read([*broken, whole_one, end]).response) == [*story, last]
    assert output_of(read([broken[0], *texts("Hi"), end]).response) == [story[0], said("Hi").incomplete]


def test_a_broken_call_of_a_reply_that_ended_by_itself_is_completed():
    """The model said that; nothing was cut off."""
    assert output_of(read([calls(entry(0, "call_a", "w", '{"ci')), STOP]).response) == [called("w", '{"ci')]


def test_a_cut_call_keeps_its_fragment_and_gets_no_braces():
    result = read([calls(entry(0, "call_a", "w")), CUT])
    assert result.brief[2:-1] == [
        "0 output_item.added function_call",
        "0 function_call_arguments.done ",
        "0 output_item.done function_call",
    ]


# -- §9.5: orders


def test_calls_one_after_the_other_are_told_one_after_the_other():
    chunks = [calls(entry(0, "call_a", "w", "")), calls(entry(0, arguments=PARIS)), calls(B), CALLED]
    assert read(chunks).brief == events_of([CALL_A, CALL_B])


def test_calls_whose_deltas_alternate_stay_open_and_end_in_order():
    chunks = [
        calls(entry(0, "call_a", "w", PARIS[:8]), entry(1, "call_b", "w", ROME[:8])),
        calls(entry(1, arguments=ROME[8:])),
        calls(entry(0, arguments=PARIS[8:])),
        CALLED,
    ]
    assert read(chunks).brief == [
        "created",
        "in_progress",
        "0 output_item.added function_call",
        f"0 function_call_arguments.delta {PARIS[:8]}",
        "1 output_item.added function_call",
        f"1 function_call_arguments.delta {ROME[:8]}",
        f"1 function_call_arguments.delta {ROME[8:]}",
        f"0 function_call_arguments.delta {PARIS[8:]}",
        f"0 function_call_arguments.done {PARIS}",
        "0 output_item.done function_call",
        f"1 function_call_arguments.done {ROME}",
        "1 output_item.done function_call",
        "completed",
    ]


def test_text_after_calls_is_a_message_of_its_own():
    assert read([calls(A), *texts("Hi"), STOP]).brief == events_of([CALL_A, said("Hi")])


def test_text_ends_a_call_that_never_got_arguments():
    chunks = [calls(entry(0, "call_a", "w")), *texts("Hi"), STOP]
    assert read(chunks).brief == events_of([called("w", "{}"), said("Hi")])


def test_text_within_a_call_does_not_cut_its_arguments():
    chunks = [calls(entry(0, "call_a", "w", PARIS[:8])), *texts("Hi"), calls(entry(0, arguments=PARIS[8:])), STOP]
    assert output_of(read(chunks).response) == [CALL_A, said("Hi")]


def test_a_thought_after_text_is_an_item_of_its_own():
    chunks = [*thoughts("Hm"), *texts("Hi"), *thoughts("So"), *texts("Bye"), STOP]
    assert read(chunks).brief == events_of([thought("Hm"), said("Hi"), thought("So"), said("Bye")])


def test_a_refusal_after_text_is_a_second_part_of_the_message():
    result = read([*texts("I"), chunk({"refusal": "No"}), chunk({"refusal": "."}), STOP])
    assert result.brief[2:-1] == [
        "0 output_item.added message",
        "0 content_part.added",
        "0 output_text.delta I",
        "0 output_text.done I",
        "0 content_part.done",
        "0 content_part.added",
        "0 refusal.delta No",
        "0 refusal.delta .",
        "0 refusal.done No.",
        "0 content_part.done",
        "0 output_item.done message",
    ]
    assert [event["content_index"] for event in result.events if "content_index" in event] == [0] * 4 + [1] * 5


def test_citations_join_the_text_flattened():
    """Wire §6.4: with or after the text, always before its end."""
    cited = {"url": "https://a.example", "title": "A", "start_index": 0, "end_index": 2}
    other = {"url": "https://b.example"}
    annotations = [{"type": "url_citation", "url_citation": cited}, {"type": "other"}]
    late = [{"type": "url_citation", "url_citation": other}]
    result = read([chunk({"content": "Hi", "annotations": annotations}), chunk({"annotations": late}), STOP])
    added = [event for event in result.events if event["type"] == "response.output_text.annotation.added"]
    expected = [{"type": "url_citation", **cited}]
    expected += [{"type": "url_citation", **other, "title": "", "start_index": 0, "end_index": 0}]
    assert [event["annotation"] for event in added] == expected
    assert [event["annotation_index"] for event in added] == [0, 1]
    assert result.response["output"][0]["content"][0]["annotations"] == expected


def test_log_probabilities_go_with_the_text_of_their_chunk():
    """Wire §6.5, §11.8."""
    he = {"token": "He", "logprob": -0.5, "bytes": [72, 101], "top_logprobs": [{"token": "Hé", "logprob": -2.0}]}
    he_told = {**he, "top_logprobs": [{"token": "Hé", "logprob": -2.0, "bytes": [72, 195, 169]}]}
    y = {"token": "y", "logprob": -1, "bytes": None}
    y_told = {"token": "y", "logprob": -1, "bytes": [121], "top_logprobs": []}
    chunks = [chunk({"content": "He"}), chunk({"content": "y"}), chunk({}, "stop")]
    for one, content in zip(chunks, ([he], [y], [{"token": "<end>", "logprob": 0.0}]), strict=True):
        one["choices"][0]["logprobs"] = {"content": content, "refusal": None}
    result = read(chunks, logprobs=True)
    deltas = [event["logprobs"] for event in result.events if event["type"] == "response.output_text.delta"]
    assert deltas == [[he_told], [y_told]]
    assert result.response["output"][0]["content"][0]["logprobs"] == [he_told, y_told]


def test_held_blank_text_keeps_its_log_probabilities():
    first, second = chunk({"content": "\n"}), chunk({"content": "Hi"})
    for one, token in ((first, "\n"), (second, "Hi")):
        one["choices"][0]["logprobs"] = {"content": [{"token": token, "logprob": -1.0}]}
    (item,) = read([first, second, STOP], logprobs=True).response["output"]
    assert [entry["token"] for entry in item["content"][0]["logprobs"]] == ["\n", "Hi"]


def test_log_probabilities_that_nobody_asked_for_are_left_out():
    one = chunk({"content": "Hi"})
    one["choices"][0]["logprobs"] = {"content": [{"token": "Hi", "logprob": -1.0}]}
    result = read([one, STOP])
    assert result.response["output"][0]["content"][0]["logprobs"] == []


# -- reasoning


SUMMARY = {"reasoning": {"summary": "auto"}}


def test_a_thought_is_told_as_a_summary_when_one_was_asked_for():
    result = read([*thoughts("Hm", "m"), *texts("Hi"), STOP], SUMMARY)
    assert result.brief[2:10] == [
        "0 output_item.added reasoning",
        "0 reasoning_summary_part.added",
        "0 reasoning_summary_text.delta Hm",
        "0 reasoning_summary_text.delta m",
        "0 reasoning_summary_text.done Hmm",
        "0 reasoning_summary_part.done",
        "0 output_item.done reasoning",
        "1 output_item.added message",
    ]
    item = result.response["output"][0]
    assert item["summary"] == [{"type": "summary_text", "text": "Hmm"}]
    assert "content" not in item


@pytest.mark.parametrize("request_", [{}, SUMMARY])
def test_every_thought_is_sealed_as_a_whole_when_it_ends(request_):
    chunks = [chunk({"reasoning_details": [detail("One", 0), detail("Two", 1)]}), *texts("Hi"), *thoughts("So")]
    result = read([*chunks, STOP], request_, seal=lambda text: f"<{text}>")
    first, _, second = result.response["output"]
    assert (first["encrypted_content"], second["encrypted_content"]) == ("<OneTwo>", "<So>")
    added, *_, done = [event["item"] for event in result.events if event.get("item", {}).get("id") == first["id"]]
    assert "encrypted_content" not in added
    assert done == first
    assert "encrypted_content" not in str(read([*chunks, STOP], request_).events)


def detail(text, index):
    return {"type": "reasoning.text", "text": text, "index": index}


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([chunk({"reasoning_details": [detail("One", 0), detail("Two", 1)]})], id="in one chunk"),
        pytest.param(
            [chunk({"reasoning_details": [detail(text, n)]}) for text, n in (("O", 0), ("ne", 0), ("Two", 1))],
            id="streamed",
        ),
    ],
)
def test_thoughts_that_the_upstream_counts_are_parts_of_the_summary(chunks):
    (item,) = read([*chunks, STOP], SUMMARY).response["output"]
    assert [part["text"] for part in item["summary"]] == ["One", "Two"]
    (item,) = read([*chunks, STOP]).response["output"]
    assert [part["text"] for part in item["content"]] == ["OneTwo"]


@pytest.mark.parametrize("cut", range(1, 23))
def test_think_tags_are_split_off_wherever_chunks_end(cut):
    text = "<think>Hm</think>\nHi <b>"
    result = read([*texts(text[:cut], text[cut:]), STOP], think_tags=True)
    assert [(told.type, told.text) for told in output_of(result.response)] == [
        ("reasoning", "Hm"),
        ("message", "\nHi <b>"),
    ]


@pytest.mark.parametrize(
    ("pieces", "story"),
    [
        (["<think>Hm"], [thought("Hm")]),
        (["<think>Hm</thi"], [thought("Hm</thi")]),
        (["<thi"], [said("<thi")]),
        (["Say <think>x</think>"], [said("Say <think>x</think>")]),
        (["<think></think>", "Hi"], [said("Hi")]),
        (["<think>\n\n</think>\n\nHi"], [said("\n\nHi")]),
    ],
)
def test_think_tags_count_only_where_they_open_the_answer(pieces, story):
    assert output_of(read([*texts(*pieces), STOP], think_tags=True).response) == story


def test_what_looked_like_a_tag_comes_out_in_front_of_a_call():
    chunks = [*texts("<think>Hm</thi"), calls(A), CALLED]
    assert output_of(read(chunks, think_tags=True).response) == [thought("Hm</thi"), CALL_A]
    assert output_of(read([*texts("<th"), calls(A), CALLED], think_tags=True).response) == [said("<th"), CALL_A]


# -- §9.1: surrogates


@pytest.mark.parametrize("request_", [{}, SUMMARY])
@pytest.mark.parametrize("key", ["content", "refusal", "reasoning_content"])
def test_a_character_that_is_cut_in_two_comes_out_whole(key, request_):
    result = read([*(chunk({key: piece}) for piece in ("a\ud83d", "\ude00b", "\ud83d", "\ude00")), STOP], request_)
    deltas = [event["delta"] for event in result.events if "delta" in event]
    assert deltas == ["a", "😀b", "😀"]


def test_arguments_that_are_cut_within_a_character_come_out_whole():
    result = read([calls(entry(0, "call_a", "w", '{"a":"\ud83d')), calls(entry(0, arguments='\ude00"}')), CALLED])
    assert output_of(result.response) == [called("w", '{"a":"😀"}')]


@pytest.mark.parametrize("request_", [{}, SUMMARY])
@pytest.mark.parametrize("key", ["content", "refusal", "reasoning_content"])
@pytest.mark.parametrize("end", [STOP, CUT, {"error": "dead"}], ids=["stop", "cut", "failed"])
def test_half_a_character_at_the_end_is_not_lost(key, end, request_):
    (item,) = read([chunk({key: "a\ud83d"}), end], request_).response["output"]
    (part,) = item.get("content") or item["summary"]
    assert part.get("text", part.get("refusal")) == "a\ud83d"


# -- §11.7 and §9.8: ends


@pytest.mark.parametrize(
    ("chunks", "done", "message"),
    [
        ([], True, "The upstream returned no choices."),
        ([chunk(choices=[])], True, "The upstream returned no choices."),
        ([chunk({"role": "assistant"})], True, "The upstream ended its answer without any output."),
        ([], False, "The upstream closed the stream before it finished."),
        (texts("Hi"), False, "The upstream closed the stream before it finished."),
        ([calls({"index": 0, "custom": {"input": "x"}}), STOP], True, "The upstream sent tool calls without names."),
    ],
)
def test_a_reply_that_is_none_fails(chunks, done, message):
    response = read(chunks, done=done).response
    assert (response["status"], response["error"]) == ("failed", {"code": "server_error", "message": message})
    assert response["usage"] is None


def test_output_and_done_without_a_finish_reason_is_an_answer():
    assert read(texts("Hi"), done=True).response["status"] == "completed"


def test_a_failed_stream_keeps_what_was_written_and_tells_nothing_more():
    chunks = [*thoughts("Hm"), chunk({"content": "Half a"}, usage=USAGE), {"error": {"message": "dead"}}]
    result = read(chunks)
    assert result.brief == [
        *events_of([thought("Hm")])[:-1],
        "1 output_item.added message",
        "1 content_part.added",
        "1 output_text.delta Half a",
        "failed",
    ]
    assert output_of(result.response) == [thought("Hm"), said("Half a").incomplete]
    assert result.response["usage"] == usage(USAGE)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UpstreamError("x"), "server_error"),
        (UpstreamTimeout("x"), "server_error"),
        (UpstreamError("x", status=408), "server_error"),
        (UpstreamError("x", status=429), "rate_limit_exceeded"),
        (UpstreamError("x", status=400), "invalid_prompt"),
        (UpstreamError("x", status=404, code="model_not_found"), "invalid_prompt"),
        (UpstreamError("x", status=400, code="context_length_exceeded"), "context_length_exceeded"),
        (UpstreamError("x", status=429, code="insufficient_quota"), "insufficient_quota"),
        (StatecarError("x"), "server_error"),
    ],
)
def test_the_code_of_a_late_error_tells_clients_whether_to_retry(error, code):
    stream = open_stream()
    events = [*stream.start(), *stream.feed(chunk({"content": "Hi"}))]
    stream.fail(error)
    events.append(stream.end())
    rules.check(events)
    assert events[-1]["response"]["error"] == {"code": code, "message": "x"}


def test_a_flat_error_event_takes_a_number_like_any_other():
    stream = open_stream()
    events, error = stream.start(), UpstreamError("x", status=429)
    stream.fail(error)
    events += [stream.error_event(error), stream.end()]
    rules.check(events)
    flat = {"type": "error", "sequence_number": 2, "code": "rate_limit_exceeded", "message": "x", "param": None}
    assert events[2] == flat


def test_finish_refuses_without_having_told_anything():
    stream = open_stream()
    before = [*stream.start(), *stream.feed(chunk({"content": "Hi"}))]
    with pytest.raises(UpstreamError):
        stream.finish(NOW, done=False)
    assert stream.response["status"] == "in_progress"
    stream.fail(UpstreamError("x"))
    rules.check([*before, stream.end()])


# -- allowed tools


def test_calls_outside_the_allowed_set_are_dropped():
    result = read([calls(A, entry(1, "call_b", "g", "{}")), CALLED], tools=ToolPlan(allowed=frozenset({"w"})))
    assert result.brief == events_of([CALL_A])


def test_a_reply_of_nothing_but_forbidden_calls_fails():
    response = read([*thoughts("Hm"), calls(A), CALLED], tools=ToolPlan(allowed=frozenset({"g"}))).response
    assert response["error"]["message"] == "The model called only tools that 'tool_choice' does not allow."
    response = read([*texts("Hi"), calls(A), CALLED], tools=ToolPlan(allowed=frozenset({"g"}))).response
    assert output_of(response) == [said("Hi")]


# -- lifecycle


def test_the_terminal_response_tells_the_model_and_tier_of_the_upstream():
    chunks = [chunk({"content": "Hi"}, model="served", service_tier="flex"), chunk(finish="stop", model="")]
    result = read(chunks, {"service_tier": "auto"})
    first, last = result.events[0]["response"], result.response
    assert (first["model"], first["service_tier"]) == ("asked", "auto")
    assert (last["model"], last["service_tier"]) == ("served", "flex")


def test_without_the_upstreams_word_model_and_tier_have_defaults():
    reply = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}
    response = read([reply], {"service_tier": "priority"}).response
    assert (response["model"], response["service_tier"]) == ("asked", "default")


def test_events_own_their_data():
    """A later event never changes one that has left (it may still wait in a queue)."""
    stream = open_stream()
    left, copies = [], []
    chunks = [
        *thoughts("Hm"),
        *texts("Hi"),
        chunk({"annotations": [{"url_citation": {"url": "u"}}]}),
        calls(A),
        calls(entry(1, "call_b", "w", ROME[:5])),
        STOP,
    ]
    for events in (stream.start(), *map(stream.feed, chunks), stream.finish(NOW, done=True), [stream.end()]):
        left += events
        copies += copy.deepcopy(events)
    assert left == copies


def test_silence_before_the_first_item_is_filled_with_in_progress():
    """Wire §9.9: afterwards the node SDK would take its empty output for a new snapshot."""
    stream = open_stream()
    assert stream.keepalive() is None
    events = stream.start()
    events += [stream.keepalive(), stream.keepalive()]
    events += stream.feed(chunk({"content": ""}))
    events.append(stream.keepalive())
    events += stream.feed(chunk({"content": "Hi"}))
    assert stream.keepalive() is None
    events += [*stream.feed(STOP), *stream.finish(NOW, done=True)]
    assert stream.keepalive() is None
    events.append(stream.end())
    assert stream.keepalive() is None
    rules.check(events)
    assert [brief(event) for event in events[:6]] == ["created", *["in_progress"] * 4, "0 output_item.added message"]
    assert all(event["response"] == events[0]["response"] for event in events[:5])


# -- rounds


def test_numbers_and_indexes_run_through_all_rounds():
    stream = open_stream(call_ids=["call_old"])
    events = stream.start()
    for one in (*thoughts("Hm"), *texts("Let me see."), calls(A, B), chunk(finish="tool_calls", usage=USAGE)):
        events += stream.feed(one)
    closing, made = stream.end_round(done=True)
    events += closing
    assert [(item.index, item.item["call_id"], item.item["arguments"]) for item in made] == [
        (2, "call_a", PARIS),
        (3, "call_b", ROME),
    ]
    assert all(item.closed for item in stream.items)
    for one in (calls(entry(0, "call_a", "w", ROME)), chunk(finish="tool_calls")):
        events += stream.feed(one)
    closing, made = stream.end_round(done=True)
    events += closing
    assert [item.item["call_id"] for item in made] == ["call_minted1"]
    for one in (*texts("Done", "."), chunk(finish="stop", usage={**USAGE, "total_tokens": None})):
        events += stream.feed(one)
    events += [*stream.finish(NOW, done=True), stream.end()]
    rules.check(events)
    story = [thought("Hm"), said("Let me see."), CALL_A, CALL_B]
    story += [called("w", ROME, id="call_minted1"), said("Done", ".")]
    assert [brief(event) for event in events] == events_of(story)
    assert events[-1]["response"]["usage"] == usage(USAGE, USAGE)


def test_a_round_that_was_cut_off_is_the_last():
    stream = open_stream()
    events = [*stream.start(), *stream.feed(calls(A)), *stream.feed(CUT)]
    assert stream.end_round(done=True) == ([], [])
    events += [*stream.finish(NOW, done=True), stream.end()]
    rules.check(events)
    assert output_of(events[-1]["response"]) == [CALL_A.incomplete]


def test_a_response_may_end_with_a_round_that_is_over():
    stream = open_stream()
    events = [*stream.start(), *stream.feed(calls(A)), *stream.feed(CALLED)]
    events += stream.end_round(done=True)[0]
    events += [*stream.finish(NOW, done=False), stream.end()]
    rules.check(events)
    assert output_of(events[-1]["response"]) == [CALL_A]


def test_a_round_that_ends_within_a_think_tag_loses_nothing():
    stream = open_stream(think_tags=True)
    events = [*stream.start(), *stream.feed(chunk({"content": "<think>Hm</thi"}))]
    events += stream.end_round(done=True)[0]
    events += [*stream.feed(chunk({"content": "<think>So</think>Hi"}, "stop")), *stream.finish(NOW, done=True)]
    events.append(stream.end())
    rules.check(events)
    assert output_of(events[-1]["response"]) == [thought("Hm</thi"), thought("So"), said("Hi")]


def test_a_round_without_any_choice_fails_the_response():
    stream = open_stream()
    events = [*stream.start(), *stream.feed(calls(A)), *stream.feed(CALLED)]
    events += stream.end_round(done=True)[0]
    with pytest.raises(UpstreamError, match="no choices"):
        stream.end_round(done=True)
    stream.fail(UpstreamError("x"))
    events.append(stream.end())
    rules.check(events)
    assert output_of(events[-1]["response"]) == [CALL_A]


def test_the_story_of_a_response_has_every_kind_of_item():
    """Of the expectations themselves: an item is never told as another."""
    result = read([*thoughts("a"), *texts("b"), calls(A), STOP])
    assert [told.type for told in output_of(result.response)] == ["reasoning", "message", "function_call"]
    assert isinstance(output_of(result.response)[0], Told)


# -- odd endings


@pytest.mark.parametrize("begun", [[], [chunk({"role": "assistant", "content": ""})]])
@pytest.mark.parametrize("delta", [{}, {"delta": {}}, {"delta": None}])
def test_a_message_in_the_last_chunk_counts_when_nothing_was_streamed(begun, delta):
    """Wire §11.5, step 5."""
    last = {"choices": [{"index": 0, "message": {"content": "whole"}, "finish_reason": "stop", **delta}]}
    (item,) = read([*begun, last]).response["output"]
    assert item["content"][0]["text"] == "whole"


def test_a_citation_waits_for_its_text_and_makes_no_message_of_its_own():
    """Wire §9.5."""
    cited = {"type": "url_citation", "url_citation": {"url": "u", "title": "t", "start_index": 0, "end_index": 1}}
    chunks = [chunk({"annotations": [cited]}), *thoughts("Hm"), *texts("x"), STOP]
    thought, message = read(chunks).response["output"]
    assert thought["type"] == "reasoning" and message["content"][0]["annotations"][0]["url"] == "u"
    late = [*texts("x"), calls(entry(0, "c", "f", "{}")), chunk({"annotations": [cited]}), chunk({}, "tool_calls")]
    assert [item["type"] for item in read(late).response["output"]] == ["message", "function_call"]


# -- the short way of a chunk that only adds to what is being written


def _with(delta, finish=None, **more):
    """Also a choice's fields, which ``choice`` replaces or adds."""
    choice = more.pop("choice", {})
    given = chunk(delta, finish, **more)
    given["choices"][0] |= choice
    return given


TEXT, THOUGHT = {"content": "b"}, {"reasoning_content": "b"}
SECOND = {"index": 1, "delta": {"content": "second"}, "finish_reason": None}


@pytest.mark.parametrize(
    ("chunks", "options"),
    [
        pytest.param([*texts("a"), _with(TEXT)], {}, id="text"),
        pytest.param(
            [*texts("a"), _with(TEXT | {"role": "assistant", "refusal": None, "tool_calls": None})], {}, id="nulls"
        ),
        pytest.param([*texts("a"), _with(TEXT, "length")], {}, id="a finish reason"),
        pytest.param([*texts("a"), _with(TEXT, usage=USAGE)], {}, id="usage"),
        pytest.param([*texts("a"), _with(TEXT, model="other")], {}, id="a model"),
        pytest.param([*texts("a"), _with(TEXT, service_tier="flex")], {}, id="a tier"),
        pytest.param([*texts("a"), _with(TEXT, error={"message": "dead"})], {}, id="an error"),
        pytest.param([*texts("a"), _with(TEXT, object="error", message="dead")], {}, id="an error object"),
        pytest.param([*texts("a"), _with(TEXT, choice={"index": 1})], {}, id="another choice"),
        pytest.param([*texts("a"), _with(TEXT, choices=[SECOND, _with(TEXT)["choices"][0]])], {}, id="two choices"),
        pytest.param([*texts("a"), _with(TEXT | THOUGHT)], {}, id="a thought beside"),
        pytest.param([*texts("a"), _with(TEXT | {"refusal": "No"})], {}, id="a refusal beside"),
        pytest.param([*texts("a"), _with(THOUGHT)], {}, id="a thought after"),
        pytest.param([*texts("a"), _with({"content": ["b"]}), _with({"content": 1})], {}, id="no string"),
        pytest.param([chunk({"refusal": "No"}), _with(TEXT)], {}, id="after a refusal"),
        pytest.param([chunk({"refusal": "No"}), _with({"content": "<think>b"})], {"think_tags": True}, id="a tag"),
        pytest.param([*thoughts("a"), _with(THOUGHT)], {}, id="thought"),
        pytest.param([*thoughts("a"), _with(THOUGHT | {"reasoning": "c"})], {}, id="a thought spelled twice"),
        pytest.param([*thoughts("a"), _with(TEXT)], {}, id="text after a thought"),
        pytest.param(
            [*texts("\ud83d"), _with({"content": "\ude00 \ud83d"}), _with({"content": "\ude00"})], {}, id="halves"
        ),
    ],
)
def test_a_chunk_is_read_the_same_whichever_way_it_takes(chunks, options):
    """An unknown field in the delta is read past, and leads every chunk the long way."""
    long = copy.deepcopy(chunks)
    for one in long:
        for choice in one["choices"]:
            choice["delta"]["unknown"] = True
    usual, other = open_stream(**options), open_stream(**options)
    events = [
        stream.start() + [event for one in given for event in stream.feed(one)]
        for stream, given in ((usual, chunks), (other, long))
    ]
    assert events[0] == events[1]
    assert (usual.failure and str(usual.failure)) == (other.failure and str(other.failure))
    assert usual.finish_reason == other.finish_reason
    for stream in (usual, other):
        stream.finish(NOW, done=True)
    assert usual.end() == other.end()
