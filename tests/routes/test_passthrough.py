"""The pass-through behind a real server: raw bytes in, raw bytes out."""

import asyncio
import gzip
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount

from proxy.errors import StatecarError
from proxy.routes import sender
from proxy.routes.passthrough import Passthrough
from proxy.settings import Settings
from proxy.upstream import open_pool
from proxy.upstreams import Group, Replica
from tests.backend import (
    CLOSE,
    DONE,
    PATIENCE,
    RESET,
    STREAM_END,
    STREAM_HEAD,
    chunked,
    converse,
    reply,
    serving,
    sse,
)


def application(pool, *, keep_authorization=True):
    """The pass-through alone, with our errors answered as the whole application answers them."""

    async def refuse(_, error):
        return JSONResponse(error.body(), error.status)

    passthrough = Passthrough(pool, keep_authorization=keep_authorization, body_limit=1000)
    return Starlette(routes=[Mount("/", passthrough)], exception_handlers={StatecarError: refuse})


@asynccontextmanager
async def proxied(url, *, api_key=None, keep_authorization=True, groups=(), **options):
    behind = {"upstreams": groups} if groups else {"upstream": url}
    pool = open_pool(Settings(**behind, upstream_api_key=api_key or "", upstream_connect_timeout=PATIENCE))
    async with serving(application(pool, keep_authorization=keep_authorization), **options) as front:
        yield front
    await pool.aclose()


@pytest.fixture(params=["an upstream", "groups"])
async def front(backend, request):
    """Nothing differs where a body's model may decide."""
    other = Group("other", (Replica("http://127.0.0.1:9/v1"),), models=("other*",))
    groups = (Group("all", (Replica(backend.url),)), other) if request.param == "groups" else ()
    async with proxied(backend.url, groups=groups) as front:
        yield front


def request(method="GET", target="/v1/models", *lines, body=b"", close=True):
    head = [f"{method} {target} HTTP/1.1", "host: front", *lines, *(["connection: close"] if close else [])]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


async def exchange(front, *args, **options):
    """Head and body of the answer to one request."""
    head, _, body = (await converse(front, request(*args, **options))).partition(b"\r\n\r\n")
    return head.decode("latin-1"), body


def unchunked(body):
    """The bytes in a chunked body; fails if it does not end as one."""
    data = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            assert body == b"\r\n"
            return data
        data, body = data + body[:length], body[length + 2 :]


class Client:
    """A connection to the front that stays open."""

    def __init__(self, front):
        self._front = front

    async def __aenter__(self):
        host, _, port = self._front.removeprefix("http://").partition(":")
        self.reader, self.writer = await asyncio.open_connection(host, int(port))
        return self

    async def __aexit__(self, *_):
        self.leave()

    def send(self, data):
        self.writer.write(data)

    def leave(self):
        self.writer.transport.abort()

    async def until(self, text):
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(text)


async def soon(event):
    async with asyncio.timeout(PATIENCE):
        await event.wait()


async def test_a_request_arrives_byte_for_byte(backend, front):
    lines = (
        "x-empty:",
        "x-twice: 1",
        "x-twice: 2",
        "accept-encoding: br",
        "te: trailers",
        "cookie: a=1",
        "x-u: caf\xc3\xa9",
    )
    await exchange(front, "POST", "/v1/files/a%2Fb%7e/../c?q=%2F&&e=", *lines, "content-length: 3", body=b"\x00\xff!")
    got = backend.requests[0]
    assert got.head.decode("latin-1").split("\r\n") == [
        "POST /v1/files/a%2Fb%7e/../c?q=%2F&&e= HTTP/1.1",
        f"Host: {backend.url[7:-3]}",
        "x-empty: ",
        "x-twice: 1",
        "x-twice: 2",
        "accept-encoding: br",
        "cookie: a=1",
        "x-u: caf\xc3\xa9",
        "content-length: 3",
    ]
    assert got.body == b"\x00\xff!"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1/openai/v1/chat/completions", "/v1/chat/completions"),
        ("/tokenize", "/tokenize"),
        ("/", "/"),
    ],
)
async def test_paths_are_mapped(backend, front, given, meant):
    await exchange(front, "GET", given)
    assert backend.requests[0].target == meant


@pytest.mark.parametrize("target", ["/v1/responses/resp_1", "/v1/x/%2e%2e/conversations", "/v1//responses"])
async def test_the_upstreams_own_responses_are_not_found(backend, front, target):
    head, body = await exchange(front, "GET", target)
    assert head.startswith("HTTP/1.1 404")
    assert b"invalid_request_error" in body
    assert backend.requests == []


async def test_an_answer_arrives_byte_for_byte(backend, front):
    packed = gzip.compress(b"hello", mtime=0)
    headers = ("content-encoding: gzip", "set-cookie: a=1", "set-cookie: b=2", "x-empty:", "date: then", "x-l: caf\xe9")
    backend.script(reply(packed, status=203, headers=(*headers, "connection: x-mine", "x-mine: 1", "keep-alive: 5")))
    head, body = await exchange(front)
    assert head.split("\r\n") == [
        "HTTP/1.1 203 Non-Authoritative Information",
        "content-encoding: gzip",
        "set-cookie: a=1",
        "set-cookie: b=2",
        "x-empty: ",
        "date: then",
        "x-l: caf\xe9",
        f"content-length: {len(packed)}",
        "connection: close",
    ]
    assert body == packed


async def test_the_answer_to_head_keeps_its_length_and_has_no_body(backend, front):
    backend.script(reply(headers=("content-length: 1234",), length=False))
    head, body = await exchange(front, "HEAD")
    assert "content-length: 1234" in head.split("\r\n")
    assert body == b""


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (204, ()),
        (204, ("content-length: 0",)),
        (304, ("content-length: 99", 'etag: "a"')),
        (205, ("content-length: 0",)),
    ],
)
async def test_answers_without_a_body_end_cleanly_and_the_connection_goes_on(backend, front, status, headers):
    backend.script(reply(status=status, headers=headers, length=False))
    async with Client(front) as client:
        client.send(request(close=False))
        assert f" {status} ".encode() in await client.until(b"\r\n\r\n")
        client.send(request(close=False))
        assert b" 200 " in await client.until(b"\r\n\r\n")
    assert [got.connection for got in backend.requests] == [0, 0]


@pytest.mark.parametrize("status", [299, 418, 451, 599])
async def test_odd_statuses_pass(backend, front, status):
    backend.script(reply(b"odd", status=status))
    head, body = await exchange(front)
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert body == b"odd"


async def test_an_answer_without_a_length_is_chunked_anew(backend, front):
    backend.script(b"HTTP/1.1 200 OK\r\nserver: mine\r\n\r\nhello", CLOSE)
    head, body = await exchange(front)
    assert head.split("\r\n")[1:] == ["server: mine", "connection: close", "transfer-encoding: chunked"]
    assert unchunked(body) == b"hello"


async def test_an_answer_to_http_1_0_ends_with_its_connection(backend, front):
    backend.script(STREAM_HEAD + chunked(b"hello") + STREAM_END)
    answer = await converse(front, b"GET /v1/models HTTP/1.0\r\n\r\n")
    assert answer.endswith(b"hello\r\n0\r\n\r\n") or answer.endswith(b"\r\n\r\nhello")


async def test_each_read_of_a_stream_is_sent_at_once(backend, front):
    go = [asyncio.Event(), asyncio.Event()]
    backend.script(STREAM_HEAD + chunked(sse("1")), go[0], chunked(sse("2")), go[1], chunked(sse(DONE)) + STREAM_END)
    async with Client(front) as client:
        client.send(request(close=False))
        assert (await client.until(b"\r\n\r\n")).endswith(b"transfer-encoding: chunked\r\n\r\n")
        assert await client.until(b"\n\n\r\n") == chunked(sse("1"))
        go[0].set()
        assert await client.until(b"\n\n\r\n") == chunked(sse("2"))
        go[1].set()
        assert await client.until(b"0\r\n\r\n") == chunked(sse(DONE)) + STREAM_END
        client.send(request(close=False))
        assert b" 200 " in await client.until(b"\r\n\r\n")


async def test_an_upload_is_streamed_both_ways_while_it_lasts(front, backend):
    backend.early = True
    backend.script(STREAM_HEAD + chunked(b"ready"), asyncio.Event())
    async with Client(front) as client:
        client.send(request("POST", "/v1/audio", "transfer-encoding: chunked", close=False) + b"2\r\nab\r\n")
        got = await backend.received(1)
        assert b"5\r\nready\r\n" in await client.until(b"ready\r\n")
        assert not got.complete.is_set()
        client.send(b"3\r\ncde\r\n0\r\n\r\n")
        await soon(got.complete)
    assert got.body == b"abcde"
    assert got.values("transfer-encoding") == ["chunked"]
    assert got.values("content-length") == []


async def test_a_large_upload_arrives_whole_and_keeps_its_length(backend, front):
    body = bytes(range(256)) * 20_000
    await exchange(front, "PUT", "/v1/files", f"content-length: {len(body)}", body=body)
    assert backend.requests[0].body == body
    assert backend.requests[0].values("content-length") == [str(len(body))]
    assert backend.requests[0].values("transfer-encoding") == []


async def test_who_asks_before_sending_is_told_to_go_on(backend, front):
    async with Client(front) as client:
        client.send(request("POST", "/v1/x", "expect: 100-continue", "content-length: 2", close=False))
        assert b" 100 " in await client.until(b"\r\n\r\n")
        client.send(b"ab")
        assert b" 200 " in await client.until(b"\r\n\r\n")
    assert backend.requests[0].body == b"ab"
    assert backend.requests[0].values("expect") == []


async def test_a_thousand_streams_are_open_at_once(backend, front):
    go = asyncio.Event()
    backend.default = (STREAM_HEAD + chunked(sse("1")), go, chunked(sse(DONE)) + STREAM_END)

    async def one():
        async with Client(front) as client:
            client.send(request(close=False))
            await client.until(b"data: 1\n\n\r\n")
            begun.release()
            await client.until(b"0\r\n\r\n")

    begun = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        for _ in range(1000):
            group.create_task(one())
        async with asyncio.timeout(60):
            for _ in range(1000):
                await begun.acquire()
        assert backend.open_connections == 1000
        go.set()


async def test_one_callers_cookies_are_never_sent_with_anothers_request(backend):
    async with proxied(backend.url.replace("127.0.0.1", "localhost")) as front:
        backend.script(reply(headers=("set-cookie: session=first; path=/",)))
        await exchange(front, "GET", "/v1/models", "cookie: mine=1")
        await exchange(front)
    assert [got.values("cookie") for got in backend.requests] == [["mine=1"], []]


@pytest.mark.parametrize(
    ("api_key", "keep", "sent"),
    [(None, True, ["Bearer me"]), (None, False, []), ("up", True, ["Bearer up"]), ("up", False, ["Bearer up"])],
)
async def test_the_callers_key_goes_no_further_than_it_should(backend, api_key, keep, sent):
    async with proxied(backend.url, api_key=api_key, keep_authorization=keep) as front:
        await exchange(front, "GET", "/v1/models", "authorization: Bearer me", "api-key: me too")
    assert backend.requests[0].values("authorization") == sent
    assert backend.requests[0].values("api-key") == ([] if api_key or not keep else ["me too"])


async def test_a_kept_connection_found_dead_is_replaced_once(backend, front):
    await exchange(front)
    backend.script(CLOSE)
    head, _ = await exchange(front, "POST", "/v1/embeddings", "content-length: 2", body=b"{}")
    assert " 200 " in head
    assert [got.connection for got in backend.requests] == [0, 0, 1]
    assert [got.body for got in backend.requests] == [b"", b"{}", b"{}"]


async def test_a_kept_connection_is_not_replaced_twice(backend, front):
    await exchange(front)
    backend.script(CLOSE)
    backend.script(CLOSE)
    head, body = await exchange(front)
    assert " 502 " in head
    assert b"closed the connection before it answered" in body
    assert len(backend.requests) == 3


async def test_no_upstream_is_a_502_in_openais_shape():
    async with proxied("http://127.0.0.1:1/v1") as front:
        head, body = await exchange(front)
    assert head.startswith("HTTP/1.1 502 ")
    assert b'"code":"upstream_unreachable"' in body


@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize("framing", ["transfer-encoding: chunked", "content-length: 100"])
async def test_an_answer_that_breaks_off_never_looks_whole(backend, front, framing, end):
    go = asyncio.Event()
    part = chunked(b"half") if "chunked" in framing else b"half"
    backend.script(reply(headers=(framing,), length=False) + part, go, end)
    async with Client(front) as client:
        client.send(request(close=False))
        await client.until(b"half")
        go.set()
        async with asyncio.timeout(PATIENCE):
            rest = await client.reader.read()
    assert rest in (b"", b"\r\n")


async def test_a_client_that_leaves_before_the_answer_closes_the_upstream(backend, front):
    backend.script(asyncio.Event())
    async with Client(front) as client:
        client.send(request(close=False))
        got = await backend.received(1)
        await soon(got.complete)
        client.leave()
        await soon(got.gone)


async def test_a_client_that_leaves_in_its_upload_closes_the_upstream(backend, front):
    async with Client(front) as client:
        client.send(request("POST", "/v1/files", "content-length: 100", close=False) + b"ab")
        got = await backend.received(1)
        client.leave()
        await soon(got.gone)
    assert not got.complete.is_set()


async def test_a_client_that_leaves_an_upload_that_nobody_takes_is_seen(backend, monkeypatch):
    monkeypatch.setattr(sender, "_STUCK", 0.01)
    monkeypatch.setattr(sender, "_KEPT", 48 * 2**20)  # with less, what lies between the sockets may take it all
    pool, ended = open_pool(Settings(upstream=backend.url)), asyncio.Event()
    app = application(pool)

    async def watched(scope, receive, send):
        try:
            await app(scope, receive, send)
        finally:
            ended.set()

    async with serving(watched) as front, Client(front) as client:
        client.send(request("POST", "/v1/files", f"content-length: {2**30}", close=False) + b"ab")
        await backend.received(1)
        backend.stall()
        client.send(bytes(48 * 2**20))
        async with asyncio.timeout(PATIENCE):
            await client.writer.drain()
        client.leave()
        await soon(ended)
    await pool.aclose()


@pytest.mark.parametrize(("size", "count"), [(0, 64), (10, 4)])
async def test_what_is_kept_of_an_upload_that_nobody_takes_is_bounded(monkeypatch, size, count):
    monkeypatch.setattr(sender, "_STUCK", 0.0)
    monkeypatch.setattr(sender, "_KEPT", 30)
    asked, reached = 0, asyncio.Event()

    async def receive():
        nonlocal asked
        asked += 1
        if asked == count:
            reached.set()
        if asked == 64:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"x" * size, "more_body": True}

    caller = sender.Sender({"body": b"", "more_body": True}, receive)
    gone = asyncio.create_task(caller.gone())
    parts = caller.body()
    assert await anext(parts) == b""
    await soon(reached)
    for _ in range(50):
        await asyncio.sleep(0)
    assert asked == count
    await parts.aclose()  # as soon as it is wanted no more, nothing waits
    async with asyncio.timeout(PATIENCE):
        await gone


async def test_an_upload_that_is_taken_again_is_kept_no_more_until_it_is_stuck_again(monkeypatch):
    monkeypatch.setattr(sender, "_STUCK", 0.0)
    monkeypatch.setattr(sender, "_KEPT", 30)
    sent = asyncio.Queue()

    async def taken(left):
        async with asyncio.timeout(PATIENCE):
            while sent.qsize() > left:  # noqa: ASYNC110  a queue tells nobody that it is empty
                await asyncio.sleep(0)

    def send(count):
        for _ in range(count):
            sent.put_nowait({"type": "http.request", "body": b"abc", "more_body": True})

    caller = sender.Sender({"body": b"", "more_body": True}, sent.get)
    gone = asyncio.create_task(caller.gone())
    parts = caller.body()
    assert await anext(parts) == b""
    send(10)
    await taken(0)
    monkeypatch.setattr(sender, "_STUCK", 3600.0)
    for _ in range(10):
        assert await anext(parts) == b"abc"
    send(3)
    await taken(1)
    for _ in range(50):
        await asyncio.sleep(0)
    assert sent.qsize() == 1
    monkeypatch.setattr(sender, "_STUCK", 0.0)
    for _ in range(2):
        assert await anext(parts) == b"abc"
    send(5)
    await taken(0)
    sent.put_nowait({"type": "http.disconnect"})
    async with asyncio.timeout(PATIENCE):
        await gone
    await parts.aclose()


async def test_a_client_that_leaves_in_mid_stream_closes_the_upstream(backend, front):
    backend.script(STREAM_HEAD + chunked(sse("1")), asyncio.Event())
    async with Client(front) as client:
        client.send(request(close=False))
        await client.until(b"data: 1")
        client.leave()
        await soon(backend.requests[0].gone)


async def test_a_client_that_reads_no_more_and_leaves_closes_the_upstream(backend, front):
    backend.script(
        reply(headers=("content-length: 200000000",), length=False), *[b"x" * 10_000_000] * 19, asyncio.Event()
    )
    async with Client(front) as client:
        client.send(request(close=False))
        await client.until(b"xxxx")
        client.leave()
        await soon(backend.requests[0].gone)


async def test_a_client_that_leaves_after_an_early_answer_has_begun_closes_the_upstream(backend, front):
    backend.early = True
    backend.script(STREAM_HEAD + chunked(sse("1")), asyncio.Event())
    async with Client(front) as client:
        client.send(request("POST", "/v1/x", "content-length: 100", close=False) + b"ab")
        await client.until(b"data: 1")
        client.leave()
        await soon(backend.requests[0].gone)


UPGRADE = ("connection: upgrade", "sec-websocket-version: 13", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==")


@pytest.mark.parametrize("ws", ["auto", "none"])
async def test_a_websocket_is_refused_as_not_implemented(backend, ws):
    async with proxied(backend.url, ws=ws) as front:
        answer = await converse(front, request("GET", "/v1/realtime", "upgrade: websocket", *UPGRADE))
    assert answer.startswith(b"HTTP/1.1 501 ")
    assert b'"code":"not_implemented"' in answer
    assert backend.requests == []


async def test_another_upgrade_is_refused_but_for_h2c_which_is_ignored(backend, front):
    assert (await converse(front, request("GET", "/x", "upgrade: foo/2", "connection: upgrade"))).startswith(
        b"HTTP/1.1 501 "
    )
    java = ("upgrade: h2c", "http2-settings: AAEAAEAA", "connection: Upgrade, HTTP2-Settings")
    async with Client(front) as client:
        client.send(request("GET", "/v1/models", *java, close=False))
        assert b" 200 " in await client.until(b"\r\n\r\n")
    assert [name.lower() for name, _ in backend.requests[0].headers] == ["host"]
