"""WebSockets of real processes: the official client, several workers, and the end of a process."""

import asyncio
import secrets

import openai
import pytest

from tests.backend import STREAM_END, STREAM_HEAD, chunked, sse, talk
from tests.live import strict
from tests.live.conftest import whole
from tests.sockets import opened

pytestmark = pytest.mark.live

HALF = STREAM_HEAD + chunked(sse(*talk("Hel")[:2]))
REST = chunked(sse(*talk("lo")[1:])) + STREAM_END


def sdk(site, kind, **options):
    key = {"base_url": f"{site.url}/v1", "api_key": f"sk-{secrets.token_hex(12)}", "max_retries": 0}
    return kind(**key, **options)


def frame(text, **fields):
    return {"type": "response.create", "model": "demo", "input": text, **fields}


def test_the_official_client_talks_over_a_connection(on_valkey):
    with sdk(on_valkey, openai.OpenAI) as client, client.responses.connect() as connection:

        def turn(text, **fields):
            connection.send(frame(text, **fields))
            events = []
            for event in connection:
                events.append(event)
                if event.type in ("response.completed", "error"):
                    return events

        first = turn("My name is Ada.", store=False, stream_id="a")
        assert {event.stream_id for event in first} == {"a"}
        made = strict.stream([whole(event) for event in first])
        *_, last = turn("What is my name?", previous_response_id=made["id"])
        assert "Ada" in last.response.output_text
        assert client.responses.retrieve(last.response.id).output_text == last.response.output_text
        [refused] = turn("Hello?", previous_response_id="resp_none")
        assert refused.error.code == "previous_response_not_found"


async def test_the_asynchronous_client_too(on_valkey):
    async with sdk(on_valkey, openai.AsyncOpenAI) as client, client.responses.connect() as connection:
        await connection.response.create(model="demo", input="My name is Ada.", store=False)
        events = []
        async for event in connection:
            events.append(whole(event))
            if event.type == "response.completed":
                break
        strict.stream(events)


async def test_any_worker_serves_and_what_is_stored_is_everywhere(of_many):
    key, previous = secrets.token_hex(12), None
    for n in range(8):
        async with opened(of_many.processes[n % 2].url(), key) as socket:
            text = "My name is Ada." if n == 0 else "What is my name?"
            more = {} if previous is None else {"previous_response_id": previous["id"]}
            previous = await socket.create(text, model="demo", **more)
    assert "Ada" in previous["output"][0]["content"][0]["text"]


async def test_the_end_of_a_process_lets_turns_end_and_then_closes(start, valkey, backend):
    process = start(f"--upstream={backend.url}", f"--store={valkey.url}", "--grace=2")
    url = await asyncio.to_thread(process.url)
    backend.requests.clear()
    go = asyncio.Event()
    async with opened(url) as idle, opened(url) as busy, opened(url) as stuck:
        backend.script(HALF, go, REST)
        await busy.send()
        begun = await busy.until("response.output_text.delta")
        backend.script(HALF, asyncio.Event())
        await stuck.send()
        half = await stuck.until("response.output_text.delta")
        process.ask_to_end()
        assert await idle.closed() == 1001
        go.set()
        assert (await busy.events(begun))[-1]["type"] == "response.completed"
        assert await busy.closed() == 1001
        last = (await stuck.events(half))[-1]["response"]
        assert (last["status"], last["output"][0]["content"][0]["text"]) == ("failed", "Hel")
        assert await stuck.closed() == 1012
    assert await asyncio.to_thread(process.ended) == 0
    assert "Task" not in process.stderr and "ERROR" not in process.stderr


async def test_a_frame_that_is_no_text_ends_the_connection_without_a_word(on_valkey):
    async with opened(on_valkey.url) as socket:
        await socket.create(model="demo")
        await socket.ws.send(b"\xff\xfe", text=True)
        assert await socket.closed() == 1007
    assert "Traceback" not in on_valkey.processes[0].stderr


@pytest.mark.parametrize("headers", ["x: y\r\n" * 300, f"authorization: Bearer {'x' * 9000}\r\n"])
async def test_a_handshake_that_cannot_be_read_is_refused(on_valkey, headers):
    host, port = on_valkey.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: x\r\n"
    writer.write(f"GET /v1/responses HTTP/1.1\r\nhost: x\r\n{upgrade}{headers}\r\n".encode())
    async with asyncio.timeout(20):
        assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
    writer.close()
    assert "Traceback" not in on_valkey.processes[0].stderr
