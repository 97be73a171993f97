"""The end of a process and of patience: every stream gets its end, nobody holds a conversation for ever."""

import asyncio
import json
import signal

import pytest

from tests.backend import PATIENCE, STREAM_HEAD, chunk, chunked, sse
from tests.callers import error_of

pytestmark = pytest.mark.live

FLOOD = chunked(sse(*[chunk({"content": "x" * 4000})] * 5000))


async def opened(url, path, **body):
    """A request whose answer is read by hand, through buffers that are soon full."""
    reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"), limit=2**14)
    sent = json.dumps(body).encode()
    writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (path, len(sent), sent))
    return reader, writer


async def test_a_turn_told_to_end_while_its_client_reads_slowly_ends_in_a_terminal_event(serve, backend):
    url = await serve("--grace", "0")
    backend.script(STREAM_HEAD + FLOOD, asyncio.Event())
    reader, writer = await opened(url, b"/v1/responses", model="m", input="x", stream=True)
    await reader.readuntil(b"response.output_text.delta")
    await asyncio.sleep(0.2)  # until the edge waits for the client
    signal.raise_signal(signal.SIGTERM)
    parts = [b""]
    async with asyncio.timeout(PATIENCE):
        while b"[DONE]" not in parts[-1]:
            assert (data := await reader.read(2**20)), parts[-1][-300:]
            parts.append(data)
    assert b"".join(parts).count(b"event: response.failed\n") == 1
    writer.close()


async def test_what_passes_through_is_cut_when_the_time_to_end_is_over(serve, backend):
    url = await serve("--grace", "0")
    backend.script(STREAM_HEAD + chunked(sse({"a": 1})), asyncio.Event())
    reader, writer = await opened(url, b"/v1/chat/completions", model="m")
    await reader.readuntil(b'"a"')
    signal.raise_signal(signal.SIGTERM)
    async with asyncio.timeout(PATIENCE):
        assert not (await reader.read()).endswith(b"0\r\n\r\n")  # no end that looks clean
        await backend.requests[-1].gone.wait()
    writer.close()


async def test_a_request_that_has_no_answer_yet_is_told_to_come_again(serve, backend, calling):
    caller = await calling("--grace", "0")
    backend.script(asyncio.Event())
    asking = asyncio.create_task(caller.ask())
    await backend.received(1)
    signal.raise_signal(signal.SIGTERM)
    answer = await asking
    assert (answer.status_code, error_of(answer)["type"]) == (503, "server_error")
    assert answer.headers["retry-after"] == "1"


async def test_a_client_that_takes_nothing_counts_as_gone_and_frees_its_conversation(calling, backend):
    caller = await calling("--client-stall-timeout", "0.3")
    id_ = await caller.conversation()
    backend.script(STREAM_HEAD + FLOOD, asyncio.Event())
    async with caller.http.stream(
        "POST", "/responses", json={"model": "m", "input": "x", "stream": True, "conversation": id_}
    ):
        async with asyncio.timeout(PATIENCE):
            await backend.requests[-1].gone.wait()
            while (answer := await caller.ask(conversation=id_)).status_code != 200:
                assert error_of(answer)["code"] == "conversation_locked"
