"""Bytes of an answer to decoded chunks."""

import json
import zlib

import httpx
import pytest

from proxy.errors import UpstreamError
from proxy.upstream import reply
from proxy.upstream.failure import Timeouts
from proxy.upstream.reply import Reply
from tests.backend import completion
from tests.upstream.reading import batches

# as vllm 0.32 sends it, with a text of several bytes a letter put in
RECORDED = (
    'data: {"id":"chatcmpl-bf","object":"chat.completion.chunk","created":1795169115,"model":"tiny","choices":'
    '[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null}\n\n'
    'data: {"id":"c","choices":[{"index":0,"delta":{"content":"h\u00e9 \U0001f600"},"finish_reason":null}]}\n\n'
    'data: {"id":"chatcmpl-bf","choices":[{"index":0,"delta":{},"finish_reason":"stop","stop_reason":null}]}\n\n'
    'data: {"id":"chatcmpl-bf","choices":[],"usage":{"prompt_tokens":21,"total_tokens":22,"completion_tokens":1}}\n\n'
    "data: [DONE]\n\n"
).encode()
CHUNKS = [json.loads(line[6:]) for line in RECORDED.decode().split("\n\n")[:-2]]


def answered(*reads, kind="text/event-stream", stream=True, headers=()):
    async def body():
        for read in reads:
            yield read

    response = httpx.Response(200, headers=[("content-type", kind), *headers], content=body())
    return Reply(response, Timeouts(5, 600, 300), stream=stream)


async def chunks_of(reply):
    return [chunk async for batch in batches(reply) for chunk in batch]


async def test_every_split_of_a_stream_gives_the_same_chunks():
    for at in range(1, len(RECORDED)):
        reply = answered(RECORDED[:at], RECORDED[at:])
        assert await chunks_of(reply) == CHUNKS, at
        assert reply.ended


@pytest.mark.parametrize("ending", [b"\r\n", b"\r"])
async def test_other_line_ends_and_single_bytes_give_the_same_chunks(ending):
    text = RECORDED.replace(b"\n", ending)
    reply = answered(*(text[i : i + 1] for i in range(len(text))))
    assert await chunks_of(reply) == CHUNKS
    assert reply.ended


async def test_a_read_is_a_batch_and_reads_without_a_chunk_give_none():
    frames = RECORDED.split(b"\n\n")
    reads = [
        b": comment\n\n",
        b"\n\n".join(frames[:2]) + b"\n\n",
        b"\n\n".join(frames[2:4]) + b"\n\n",
        b"data: [DONE]\n\n",
    ]
    assert [len(batch) async for batch in batches(answered(*reads))] == [2, 2]


async def test_nothing_is_read_after_done():
    reply = answered(b'data: {"a":1}\n\ndata: [DONE]\n\ndata: {"b":1}\n\n', b'data: {"c":1}\n\n')
    assert await chunks_of(reply) == [{"a": 1}]
    assert reply.ended


async def test_a_last_frame_without_its_blank_line_counts():
    reply = answered(b'data: {"a":1}\n\ndata: [DONE]')
    assert await chunks_of(reply) == [{"a": 1}]
    assert reply.ended


async def test_an_end_without_done_is_left_to_the_caller_to_judge():
    reply = answered(b'data: {"a":1}\n\n')
    assert await chunks_of(reply) == [{"a": 1}]
    assert not reply.ended


@pytest.mark.parametrize(
    ("frame", "chunk"),
    [
        (b'data: {"error":{"message":"no","code":400}}\n\n', {"error": {"message": "no", "code": 400}}),
        (b'error: {"code":500,"message":"no"}\n', {"error": {"code": 500, "message": "no"}}),
        (b'event: error\ndata: {"error":{"message":"no"}}\n\n', {"error": {"message": "no"}}),
        (b'event: error\ndata: {"message":"no"}\n\n', {"error": {"message": "no"}}),
        (b"event: error\ndata: out of memory\n\n", {"error": "out of memory"}),
        (b'event: error\ndata: ["no"]\n\n', {"error": ["no"]}),
        (b'data: {"error": {"message": "cut\n\n', {"error": '{"error": {"message": "cut'}),
    ],
)
async def test_an_error_in_the_stream_is_a_chunk_with_an_error(frame, chunk):
    assert await chunks_of(answered(b'data: {"a":1}\n\n' + frame)) == [{"a": 1}, chunk]


async def test_heartbeats_are_skipped():
    assert await chunks_of(answered(b'data: \n\ndata: ping\n\ndata: PING \n\ndata: {"a":1}\n\n')) == [{"a": 1}]


@pytest.mark.parametrize("payload", [b"<html>busy</html>", b"[1]", b"3", b'{"a":'])
async def test_a_chunk_that_makes_no_sense_fails_after_the_chunks_before_it(payload):
    reply = answered(b'data: {"a":1}\n\ndata: ' + payload + b"\n\n")
    seen = []
    with pytest.raises(UpstreamError, match="no JSON object") as caught:
        async for batch in batches(reply):
            seen += batch
    assert seen == [{"a": 1}]
    assert payload.decode() in caught.value.message


async def test_only_the_first_200_characters_of_nonsense_are_shown():
    with pytest.raises(UpstreamError) as caught:
        await chunks_of(answered(b"data: " + "\u00e9".encode() * 5000 + b"\n\n"))
    assert caught.value.message.count("\u00e9") == 200


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
async def test_a_json_body_is_one_chunk_whether_a_stream_was_asked_or_not(kind, stream):
    body = json.dumps(completion("Hi")).encode()
    reply = answered(body[:20], body[20:], kind=kind, stream=stream)
    assert await chunks_of(reply) == [completion("Hi")]
    assert reply.ended


async def test_an_event_stream_is_read_as_one_though_none_was_asked():
    assert await chunks_of(answered(RECORDED, stream=False)) == CHUNKS


async def test_a_stream_without_a_name_is_read_as_one_when_it_was_asked():
    assert await chunks_of(answered(RECORDED, kind="application/octet-stream")) == CHUNKS


@pytest.mark.parametrize("body", [b"", b"[]", b'{"a":', b"<html>"])
async def test_a_whole_body_that_is_no_object_fails(body):
    with pytest.raises(UpstreamError, match="no JSON object"):
        await chunks_of(answered(body, kind="application/json", stream=False))


async def test_a_compressed_stream_is_read_though_none_was_asked():
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(RECORDED) + packer.flush()
    reply = answered(packed[:50], packed[50:], headers=[("content-encoding", "gzip")])
    assert await chunks_of(reply) == CHUNKS


async def test_a_body_that_is_falsely_called_compressed_fails():
    reply = answered(RECORDED, headers=[("content-encoding", "gzip")])
    with pytest.raises(UpstreamError):
        await chunks_of(reply)


async def test_a_whole_body_is_bounded(monkeypatch):
    monkeypatch.setattr(reply, "BODY_LIMIT", 1000)
    with pytest.raises(UpstreamError, match="exceeds 1000 bytes"):
        await chunks_of(answered(*[b" " * 400] * 3, kind="application/json"))
