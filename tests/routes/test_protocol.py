"""What reaches the app, and what does not, of clients that offer upgrades, send in pieces, or take nothing."""

import asyncio
import json
import socket as sockets

import pytest

import proxy.protocol
from proxy.protocol import Http, WebSocket
from tests.backend import PATIENCE, STREAM_HEAD, chunk, chunked, json_reply, sse, stream, talk
from tests.routes.test_background import eventually
from tests.sockets import opened

JAVA = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAA\r\n"
BROWSER = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
BODY = '{"model":"m","input":"Hi"}'
SIZED = f"content-length: {len(BODY)}\r\n\r\n{BODY}"
IN_CHUNKS = f"transfer-encoding: chunked\r\n\r\n{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"


@pytest.fixture
def seen(monkeypatch):
    """The server's side of every WebSocket."""
    made, found = WebSocket.connection_made, []

    def watched(self, transport):
        found.append(self)
        made(self, transport)

    monkeypatch.setattr(WebSocket, "connection_made", watched)
    return found


@pytest.mark.parametrize("offer", [JAVA, BROWSER, "connection: close, upgrade\r\nupgrade: foo/2\r\n"])
@pytest.mark.parametrize("body", [SIZED, IN_CHUNKS], ids=["sized", "in chunks"])
async def test_a_body_is_read_although_an_upgrade_is_offered(url, backend, offer, body):
    backend.default = (json_reply({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}),)
    reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
    asking = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\n{offer}{body}".encode()
    many = 1 if "close" in offer else 60
    writer.write(asking * (many - 1) + asking[:-40])
    await asyncio.sleep(0.01)
    writer.write(asking[-40:])
    async with asyncio.timeout(PATIENCE):
        for _ in range(many):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            assert json.loads(await reader.readexactly(length))["status"] == "completed"
        if many == 1:
            assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("at", [0, 40])
async def test_trailers_are_no_headers(url, backend, at):
    asking = f"POST /v1/x HTTP/1.1\r\nhost: x\r\nx-user: me\r\nconnection: close\r\n{IN_CHUNKS}".encode()
    asking = asking[:-2] + b"x-user: you\r\nauthorization: Bearer yours\r\n\r\n"
    reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
    writer.write(asking[: len(asking) - at])
    await asyncio.sleep(0.01)
    writer.write(asking[len(asking) - at :])
    async with asyncio.timeout(PATIENCE):
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    assert backend.requests[0].values("x-user") == ["me"] and not backend.requests[0].values("authorization")
    assert backend.requests[0].body == BODY.encode()
    writer.close()


async def test_a_message_in_pieces_is_one_however_many_they_are(url, backend, seen):
    backend.default = (stream(*talk("Hi")),)
    text = json.dumps({"type": "response.create", "model": "m", "input": "Grüße"}, ensure_ascii=False).encode()
    pieces = [text[n : n + 1] for n in range(len(text))] + [b""] * 100

    async with opened(url) as socket:

        async def given():
            for piece in pieces:
                yield piece
            await asyncio.wait_for(await socket.ws.ping(), PATIENCE)
            assert len(seen[0].frames) < 2  # of those that have come

        await socket.ws.send(given(), text=True)
        assert (await socket.events())[-1]["type"] == "response.completed"
    assert backend.requests[-1].json["messages"][-1]["content"] == "Grüße"


async def test_pings_of_a_client_that_takes_nothing_are_not_all_answered(url, seen):
    async with opened(url) as socket:
        wire = socket.ws.transport.get_extra_info("socket")
        wire.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 1 << 16)
        seen[0].transport.get_extra_info("socket").setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 1 << 16)
        socket.ws.transport.pause_reading()
        ping = b"\x89\xfd\0\0\0\0" + b"p" * 125
        for _ in range(40):
            socket.ws.transport.write(ping * 1000)
            await asyncio.sleep(0.001)
            assert seen[0].transport.get_write_buffer_size() < 1 << 20
        assert not seen[0].writable.is_set()
        answered = await socket.ws.ping()
        socket.ws.transport.write(ping * 2)
        await asyncio.sleep(0.05)
        socket.ws.transport.resume_reading()
        await asyncio.wait_for(answered, PATIENCE)


async def test_a_connection_whose_client_takes_nothing_is_not_kept_for_ever(serve, backend, seen, monkeypatch):
    monkeypatch.setattr(proxy.protocol, "_LEFT", 0.1)
    url = await serve("--client-stall-timeout=0.3", "--sse-keepalive-seconds=0")
    backend.script(STREAM_HEAD, *[chunked(sse(*[chunk({"content": "x" * 1000})] * 50))] * 400, asyncio.Event())
    async with opened(url) as socket:
        await socket.send()
        await backend.received(1)
        socket.ws.transport.pause_reading()

        async def ended():
            return seen[0].disconnected

        await eventually(ended)
        socket.ws.transport.abort()


async def test_nor_is_that_of_a_stream(serve, backend, monkeypatch):
    monkeypatch.setattr(proxy.protocol, "_LEFT", 0.1)
    lost, over = Http.connection_lost, asyncio.Event()
    monkeypatch.setattr(Http, "connection_lost", lambda self, exc: (lost(self, exc), over.set()))
    url = await serve("--client-stall-timeout=0.3", "--sse-keepalive-seconds=0")
    backend.script(STREAM_HEAD, *[chunked(sse(*[chunk({"content": "x" * 1000})] * 50))] * 400, asyncio.Event())
    _, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
    writer.transport.pause_reading()
    body = '{"model":"m","input":"Hi","stream":true}'
    writer.write(f"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
    await asyncio.wait_for(over.wait(), PATIENCE)
    writer.transport.abort()


async def test_what_is_told_behind_a_close_of_the_server_itself_is_no_mistake(url, backend, caplog):
    go = asyncio.Event()
    backend.script(STREAM_HEAD, *[chunked(sse(chunk({"content": "x"})))] * 200, go)
    async with opened(url) as socket:
        await socket.send()
        await socket.until("response.output_text.delta")
        socket.ws.transport.write(b"\xf1\x80\0\0\0\0")  # a bit that is reserved
        assert await closed(socket) == 1002
    await asyncio.wait_for(backend.requests[-1].gone.wait(), PATIENCE)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def closed(socket):
    """The code of the close, after whatever is told before."""
    while True:
        try:
            return await socket.closed()
        except AssertionError:
            pass


@pytest.fixture
def writes(monkeypatch):
    """What the server gives its transports to write, piece by piece; one in several parts counts once."""
    made, found = Http.connection_made, []

    class Transport:
        def __init__(self, real):
            self._real = real

        def __getattr__(self, name):
            return getattr(self._real, name)

        def write(self, data):
            found.append(data)
            self._real.write(data)

        def writelines(self, parts):
            found.append(b"".join(parts))
            self._real.writelines(parts)

    monkeypatch.setattr(Http, "connection_made", lambda self, transport: made(self, Transport(transport)))
    return found


async def test_the_head_of_an_answer_goes_with_what_follows_it_and_waits_for_nothing(caller, backend, writes):
    backend.script(json_reply({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}))
    await caller.create()
    [whole] = writes
    assert whole.startswith(b"HTTP/1.1 200 OK\r\n") and whole.endswith(b"}")
    writes.clear()
    more = asyncio.Event()
    backend.script(STREAM_HEAD, more, chunked(sse(*talk("Hi"))), b"0\r\n\r\n")
    async with caller.http.stream("POST", "/chat/completions", json={"model": "m", "stream": True}) as answer:
        assert answer.status_code == 200, "the body has not begun"
        more.set()
        await answer.aread()
    assert writes[0].endswith(b"\r\n\r\n")
    writes.clear()
    assert (await caller.http.head("/responses")).status_code == 200
    assert (await caller.http.get("/responses/x")).status_code == 404
    assert [told.count(b"HTTP/1.1 ") for told in writes] == [1, 1]
