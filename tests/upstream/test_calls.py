"""What is told of every chat call and passed-on request when it is over."""

import asyncio

import pytest

from proxy.errors import UpstreamError
from tests.backend import CLOSE, PATIENCE, RESET, STREAM_HEAD, chunked, json_reply, reply, sse, stream, talk
from tests.servers import free_port
from tests.upstream.reading import batches

HALF = STREAM_HEAD + chunked(sse(*talk("Hel")[:2]))
ENDS = {
    "a plain answer": ((json_reply({"choices": []}),), "200", True),
    "a stream": ((stream(*talk("Hi")),), "200", True),
    "a refusal": ((json_reply({"error": "no"}, status=429),), "429", False),
    "a timeout's status": ((json_reply({"error": "no"}, status=504),), "504", False),
    "a redirect": ((reply(b"", status=302, headers=("location: /",)),), "302", False),
    "a stream cut off": ((HALF, RESET), "broken", True),
    "no JSON": ((reply(b"<html>", headers=("content-type: text/html",)),), "broken", True),
    "no HTTP": ((b"nonsense\r\n\r\n",), "broken", False),
    "a stream that falls silent": ((HALF, asyncio.Event()), "timeout", True),
    "no answer in time": ((asyncio.Event(),), "timeout", False),
}


@pytest.mark.parametrize(("script", "status", "begun"), ENDS.values(), ids=ENDS)
async def test_a_chat_call_is_told_once_with_how_it_ended(connect, backend, script, status, begun):
    told = []
    silence = 0.3 if status == "timeout" else PATIENCE
    limits = {"first_byte_timeout": PATIENCE if begun else silence, "idle_timeout": silence}
    asked = connect(backend.url, heard=lambda *call: told.append(call), **limits)
    backend.script(*script)
    try:
        async with asked.open(b"{}", [], stream=True) as answer:
            async for _ in batches(answer):
                pass
    except UpstreamError:
        pass
    ((name, ended, first),) = told
    assert (name, ended, first is not None) == (asked.name, status, begun)


async def test_an_upstream_that_is_not_there_is_told(connect):
    told = []
    asked = connect(f"http://127.0.0.1:{free_port()}/v1", heard=lambda *call: told.append(call))
    with pytest.raises(UpstreamError):
        async with asked.open(b"{}", [], stream=True):
            pass
    assert [call[1:] for call in told] == [("unreachable", None)]


@pytest.mark.parametrize(("script", "status"), [((asyncio.Event(),), "499"), ((HALF, asyncio.Event()), "200")])
async def test_a_call_that_nobody_waits_for_any_more_is_told_as_far_as_it_came(connect, backend, script, status):
    told = []
    asked = connect(backend.url, heard=lambda *call: told.append(call))
    backend.script(*script)
    begun = asyncio.Event()

    async def ask():
        async with asked.open(b"{}", [], stream=True) as answer:
            async for _ in batches(answer):
                begun.set()

    asking = asyncio.create_task(ask())
    await (begun.wait() if status == "200" else backend.received(1))
    asking.cancel()
    await asyncio.wait([asking])
    assert [call[1] for call in told] == [status]


@pytest.mark.parametrize(
    ("script", "status", "begun"),
    [
        ((json_reply({}, status=404),), "404", True),
        ((reply(status=204, length=False),), "204", False),
        ((reply(b"half", headers=("content-length: 9",), length=False), CLOSE), "broken", True),
        ((b"nonsense\r\n\r\n",), "broken", False),
    ],
)
async def test_what_is_passed_on_is_told_too(connect, backend, script, status, begun):
    told = []
    asked = connect(backend.url, heard=lambda *call: told.append(call))
    backend.script(*script)
    try:
        async with asked.forward("GET", b"/v1/x", [], None) as answer:
            try:
                async for _ in answer.chunks():
                    pass
            except UpstreamError:
                pass  # as one does that has begun to pass it on
    except UpstreamError:
        pass
    ((_, ended, first),) = told
    assert (ended, first is not None) == (status, begun)
