"""A response that one process began and another one ends: whatever was told stays true."""

import json

import pytest
from hypothesis import given, settings

from proxy.errors import StatecarError
from proxy.translate.told import Telling
from tests.translate import rules
from tests.translate.replies import NOW, chunk, open_stream, read, texts
from tests.translate.test_stream_properties import CHUNKS, OPTIONS, REQUESTS

GONE = StatecarError("gone")


def copied(events):
    return json.loads(json.dumps(events))


def begun(chunks, request=None, **options):
    """The events of a reply that is not over."""
    stream = open_stream(request, **options)
    events = stream.start()
    for one in chunks:
        events += stream.feed(one)
    return events


def resumed(events, request=None, *, go_on=False, **options):
    stream = open_stream(request, **options)
    stream.resume(Telling(copied(events)), go_on=go_on)
    return stream


def one_by_one(events):
    telling = Telling()
    for event in events:
        telling.add([event])
    return telling


def seen(telling):
    """All that a telling tells."""
    items = [(item.index, item.closed, item.item) for item in telling.items]
    return telling.sequence, telling.told, telling.began, telling.deltas, bool(telling.text), items


@settings(max_examples=75, deadline=None)
@given(CHUNKS, OPTIONS, REQUESTS)
def test_whatever_was_told_can_be_ended_by_another(chunks, options, request_):
    """The rules compare the last event's output with all that was told before it."""
    options = {name: value for name, value in options.items() if name != "done"}
    events = begun(chunks, request_, **options)
    assert seen(Telling(copied(events))) == seen(one_by_one(copied(events)))
    for error in (GONE, None):
        stream = resumed(events, request_, **options)
        stream.fail(error)
        rules.check([*events, stream.end()])
        assert stream.response["status"] == ("failed" if error else "cancelled")


@pytest.mark.parametrize("cut", range(6))
def test_a_text_is_written_on(cut):
    pieces = texts("One", " two", " three", " four", " five")
    events = begun(pieces[:cut])
    stream = resumed(events, go_on=True)
    for one in [*pieces[cut:], chunk(finish="stop")]:
        events += stream.feed(one)
    events += stream.finish(NOW, done=True)
    events.append(stream.end())
    rules.check(events)
    whole = read([*pieces, chunk(finish="stop")])
    assert [item["content"] for item in stream.response["output"]] == [
        item["content"] for item in whole.response["output"]
    ]


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [chunk({"reasoning_content": "Hm"})],
        [chunk({"refusal": "No"})],
        [chunk({"content": "a"}), chunk({"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{"}}]})],
        [chunk({"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}), chunk({"content": "a"})],
        [chunk({"content": "a", "annotations": [{"type": "url_citation", "url_citation": {"url": "u"}}]})],
    ],
)
def test_only_plain_text_is_written_on(chunks):
    telling = Telling(copied(begun(chunks)))
    assert telling.text is None
    stream = open_stream()
    stream.resume(telling, go_on=True)
    assert [item.index for item in stream.items] == list(range(len(telling.items)))


def test_text_after_a_closed_thought_is_written_on():
    events = begun([chunk({"reasoning_content": "Hm"}), *texts("So", " be")])
    stream = resumed(events, go_on=True)
    events += [*stream.feed(chunk({"content": " it"}, "stop")), *stream.finish(NOW, done=True), stream.end()]
    rules.check(events)
    assert [item["type"] for item in stream.response["output"]] == ["reasoning", "message"]
    assert stream.response["output"][1]["content"][0]["text"] == "So be it"


def test_a_queued_response_begins_once():
    queued = open_stream({"background": True})
    events = queued.queue()
    assert [event["response"]["status"] for event in events] == ["queued", "queued"]
    again = resumed(events)
    assert not again.started
    events += [*again.start(), *again.feed(chunk({"content": "a"}, "stop")), *again.finish(NOW, done=True), again.end()]
    assert [event["type"] for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_a_response_begun_by_another_is_not_begun_again():
    stream = resumed(begun([]))
    assert stream.started and stream.keepalive()["sequence_number"] == 2
