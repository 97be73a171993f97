"""A recorded stream that ends at any byte, in any way, becomes one valid terminal event, or was refused in time."""

import functools
import os
import re

import httpx
import openai
import pytest

from proxy import sse
from proxy.errors import UpstreamError
from tests.backend import CLOSE, DONE, RESET, STREAM_END, STREAM_HEAD, chunk, chunked, reply
from tests.backend import sse as framing
from tests.callers import error_of, unframed
from tests.live import strict
from tests.replay.asking import asked
from tests.replay.cuts import SHAPES, Cut, cuts, framed_once
from tests.replay.recordings import load, streams

EVERY = [one.name for one in streams()] if os.environ.get("STATECAR_TEST_EVERY_BYTE") else SHAPES
"""The streams whose every byte is tried: those of every shape, or all of them when the environment says so."""

RANK = {"refused": 0, "failed": 1, "incomplete": 2, "completed": 2}


def judged(cut):
    """What a client is told of a stream, everything about it checked: the status, and the texts."""
    events = cut.answer()
    if isinstance(events, UpstreamError):
        assert 400 <= events.status <= 599
        assert events.message
        assert events.body()["error"].keys() == {"message", "type", "param", "code"}
        return "refused", []
    last = strict.grammar(events)
    strict.event(events[-1])
    assert sse.encode(events[-1]).decode()
    if last["status"] == "failed":
        assert last["error"]["message"]
        assert all(item["status"] == "completed" for item in last["output"][:-1] if item["type"] != "function_call")
    return last["status"], [text_of(item) for item in last["output"]]


def text_of(item):
    return item["arguments"] if item["type"] == "function_call" else "".join(part["text"] for part in item["content"])


@pytest.mark.parametrize("name", EVERY)
def test_a_stream_cut_at_any_byte_ends_in_one_valid_event(name):
    found, places = cuts(name)
    verdict = functools.cache(lambda place: judged(found[place]))
    told = {how: list(map(verdict, at)) for how, at in places.items()}
    for verdicts in told.values():
        ranks = [RANK[status] for status, _ in verdicts]
        assert ranks == sorted(ranks), "more bytes never make less of an answer"
        assert ranks[0] == 0
        texts = [text for status, text in verdicts if status != "refused"]
        for less, more in zip(texts, texts[1:], strict=False):
            assert len(less) <= len(more) and all(map(str.startswith, more, less))
    for frame in re.finditer(b"\n\n", load(name).body):
        assert told["ended"][frame.start()] == told["ended"][frame.end()], "a last frame needs no blank line"
    assert told["ended"][-1] == told["broken off"][-1] == judged(Cut(load(name).chunks))


@pytest.mark.parametrize("name", [one.name for one in streams()])
def test_any_split_of_a_stream_gives_the_same_events(name):
    body = load(name).body
    whole = Cut((body,)).answer()
    for size in (1, 7, 61):
        pieces = Cut(tuple(body[at : at + size] for at in range(0, len(body), size))).answer()
        assert shape(pieces) == shape(whole)


def shape(answer):
    return answer if isinstance(answer, list) else (answer.status, answer.message)


@pytest.mark.parametrize("name", SHAPES)
def test_the_official_client_reads_every_outcome_of_a_cut(name):
    bodies = framed_once(name)
    with openai.OpenAI(api_key="none", base_url="http://cut", max_retries=0, http_client=replaying(bodies)) as client:
        for _ in bodies:
            with client.responses.stream(model="m", input="Hi") as events:
                *before, last = events
            opened = [event.item.id for event in before if event.type == "response.output_item.added"]
            assert [item.id for item in last.response.output] == opened
            assert last.type == f"response.{last.response.status}"
            assert last.type in ("response.completed", "response.incomplete", "response.failed")


def replaying(bodies):
    """An HTTP client that gets these bodies, one after the other."""
    left, headers = iter(bodies), {"content-type": "text/event-stream"}
    return httpx.Client(
        transport=httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, content=next(left)))
    )


# -- the same over real sockets

WIRE = (
    "vllm/tool_after_reasoning_and_text_stream",
    "llamacpp/tool_auto_two_calls_stream",
    "transformers/length_stream",
)


@pytest.mark.parametrize("end", [CLOSE, RESET], ids=["closed", "reset"])
@pytest.mark.parametrize("name", WIRE)
async def test_a_connection_that_ends_between_or_within_chunks_ends_the_answer(name, end, house):
    home, recording = await house(), load(name)
    outcomes = set()
    for whole in range(len(recording.chunks) + 1):
        rest = b"".join(map(chunked, recording.chunks[whole : whole + 1]))
        for size in {0, len(rest) // 3, max(len(rest) - 2, 0)}:
            home.backend.default = (STREAM_HEAD, *map(chunked, recording.chunks[:whole]), rest[:size], end)
            outcomes.add(await outcome(home, recording, stored=size == 0))
    assert outcomes >= {"refused", "failed"} and len(outcomes) == 3


async def outcome(home, recording, *, stored):
    answer = await home.caller.http.post("/responses", json=asked(recording) | {"stream": True, "store": stored})
    if answer.status_code != 200:
        assert error_of(answer)["type"] == "server_error"
        return "refused"
    last = strict.grammar(unframed(answer.content))
    if stored:
        assert await home.caller.get(f"/responses/{last['id']}") == last
    return last["status"]


async def test_a_body_without_a_length_that_just_ends_is_read_like_any_other(house):
    home, recording = await house(), load("transformers/length_stream")
    home.backend.default = (reply(recording.body, headers=recording.headers, length=False), CLOSE)
    assert await outcome(home, recording, stored=True) == "incomplete"
    cut = recording.body[: recording.body.index(b"finish_reason")]
    home.backend.default = (reply(cut, headers=recording.headers, length=False), CLOSE)
    assert await outcome(home, recording, stored=True) == "failed"


LATE = [chunk({"content": "Hi"}), chunk({}, "stop"), {"error": {"message": "too late", "code": 500}}, DONE]


@pytest.mark.parametrize(
    "pieces",
    [
        [framing(*LATE[:2]), framing(*LATE[2:])],
        [framing(*LATE)],
    ],
    ids=["in a read of its own", "in the same read"],
)
async def test_an_error_after_the_finish_reason_takes_nothing_back(pieces, house):
    home = await house()
    home.backend.default = (STREAM_HEAD, *map(chunked, pieces), STREAM_END)
    assert (await home.caller.events())[-1]["response"]["status"] == "completed"
