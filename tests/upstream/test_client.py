"""Calls of the upstream over real sockets: what goes out, what comes back, and what goes wrong."""

import asyncio
import gc
import gzip
import json
import os
import socket

import httpx
import pytest
import respx

from proxy import __version__
from proxy.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from proxy.upstream import forwarded
from proxy.upstream.connection import Connection
from tests.backend import (
    CLOSE,
    DONE,
    PATIENCE,
    RESET,
    STREAM_END,
    STREAM_HEAD,
    Backend,
    chunk,
    chunked,
    completion,
    json_reply,
    reply,
    sse,
    stream,
    talk,
)
from tests.upstream.reading import batches

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def call(upstream, body=b"{}", headers=(), *, streamed=True):
    """Every chunk of one call."""
    async with upstream.open(body, headers, stream=streamed) as answer:
        return [chunk async for batch in batches(answer) for chunk in batch]


async def test_a_call_sends_exactly_these_bytes(backend, connect):
    backend.script(stream(*talk("Hi")))
    await call(
        connect(backend.url, api_key="sk-up"), b'{"a":1}', [("x-request-id", "r1"), ("authorization", "Bearer me")]
    )
    request = backend.requests[0]
    assert request.head.decode() == (
        "POST /v1/chat/completions HTTP/1.1\r\n"
        f"Host: {backend.url[7:-3]}\r\n"
        "x-request-id: r1\r\n"
        "authorization: Bearer sk-up\r\n"
        "content-type: application/json\r\n"
        "accept: text/event-stream\r\n"
        f"user-agent: statecar/{__version__}\r\n"
        "content-length: 7"
    )
    assert request.body == b'{"a":1}'


async def test_a_plain_call_accepts_json_and_keeps_the_callers_authorization(backend, upstream):
    assert await call(upstream, headers=[("authorization", "Bearer me")], streamed=False) == [completion()]
    assert backend.requests[0].values("accept") == ["application/json"]
    assert backend.requests[0].values("authorization") == ["Bearer me"]


def test_only_these_headers_of_a_caller_go_with_a_call():
    raw = [
        (b"Authorization", b"Bearer me"),
        (b"openai-organization", b"o"),
        (b"openai-project", b"p"),
        (b"traceparent", TRACE.encode()),
        (b"tracestate", b"a=1"),
        (b"tracestate", b"b=\xe9"),
        (b"x-request-id", b"theirs"),
        (b"cookie", b"a=1"),
        (b"user-agent", b"curl"),
        (b"accept-encoding", b"br"),
    ]
    kept = [("openai-organization", "o"), ("openai-project", "p"), ("traceparent", TRACE)]
    kept += [("tracestate", "a=1"), ("tracestate", "b=\xe9")]
    assert forwarded(raw, keep_authorization=True) == [("Authorization", "Bearer me"), *kept]
    assert forwarded(raw, keep_authorization=False) == kept


async def test_a_large_body_arrives_whole(backend, upstream):
    body = b'"' + b"x" * 5_000_000 + b'"'
    await call(upstream, body, streamed=False)
    assert backend.requests[0].body == body
    assert backend.requests[0].values("content-length") == ["5000002"]


async def test_chunks_come_as_they_are_read(backend, upstream):
    go = asyncio.Event()
    backend.script(
        STREAM_HEAD + chunked(sse(chunk({"content": "a"}))),
        go,
        chunked(sse(chunk({"content": "b"}), DONE)) + STREAM_END,
    )
    async with upstream.open(b"{}", [], stream=True) as answer:
        reads = batches(answer)
        assert await anext(reads) == [chunk({"content": "a"})]
        assert not answer.ended
        go.set()
        assert await anext(reads) == [chunk({"content": "b"})]
        assert [batch async for batch in reads] == []
        assert answer.ended
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream"


async def test_frames_cut_anywhere_by_http_chunks_are_put_together(backend, upstream):
    text = sse(*talk("h\u00e9", "\U0001f600"))
    backend.script(STREAM_HEAD, *(chunked(text[i : i + 7]) for i in range(0, len(text), 7)), STREAM_END)
    assert await call(upstream) == talk("h\u00e9", "\U0001f600")[:-1]


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            400,
            {
                "error": {
                    "code": 400,
                    "message": "request exceeds the available context size",
                    "type": "exceed_context_size_error",
                }
            },
            (400, "invalid_request_error", "context_length_exceeded"),
        ),
        (401, {"error": {"message": "wrong key", "type": "invalid_api_key"}}, (401, "invalid_api_key", None)),
        (429, {"message": "slow down"}, (429, "rate_limit_error", None)),
        (503, "<html>busy</html>", (503, "server_error", None)),
        (500, "", (500, "server_error", None)),
    ],
)
async def test_a_refusal_is_raised_on_entry_with_the_upstreams_status(backend, upstream, status, body, expected):
    raw = json.dumps(body).encode() if isinstance(body, dict) else body.encode()
    backend.script(reply(raw, status=status, headers=("retry-after: 7", "x-ratelimit-limit: 9", "x-secret: 1")))
    with pytest.raises(UpstreamError) as caught:
        await call(upstream)
    error = caught.value
    assert (error.status, error.type, error.code) == expected
    assert error.headers == {"retry-after": "7", "x-ratelimit-limit": "9"}


async def test_a_refusal_keeps_its_status_when_its_body_is_broken_huge_or_compressed(backend, upstream):
    backend.script(reply(headers=("content-length: 100",), status=429, length=False) + b'{"err', CLOSE)
    backend.script(reply(b"x" * 3_000_000, status=418))
    packed = gzip.compress(b'{"error":{"message":"packed"}}')
    backend.script(reply(packed, status=422, headers=("content-encoding: gzip",)))
    seen = []
    for _ in range(3):
        with pytest.raises(UpstreamError) as caught:
            await call(upstream)
        seen.append((caught.value.status, caught.value.message[:6]))
    assert seen == [(429, '{"err'), (418, "xxxxxx"), (422, "packed")]


async def test_a_redirect_is_an_error_and_not_followed(backend, upstream):
    backend.script(reply(status=307, headers=(f"location: {backend.url}/else",)))
    with pytest.raises(UpstreamError, match="redirect") as caught:
        await call(upstream)
    assert caught.value.status == 502
    assert len(backend.requests) == 1


async def test_no_connection_is_unreachable(connect):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = connect(f"http://127.0.0.1:{unused.getsockname()[1]}/v1")
        for upstream, reason in (
            (closed, ": Connection refused."),
            (connect("http://no.such.host.invalid/v1"), ": "),
            (connect("http+unix://%2Fno%2Fsuch.sock/v1"), ": No such file or directory."),
        ):
            with pytest.raises(UpstreamUnreachable, match=f"The upstream is not reachable{reason}") as caught:
                await call(upstream)
            assert caught.value.status == 502
            assert "127.0.0.1" not in caught.value.message


async def test_a_connection_that_is_not_taken_is_unreachable(connect):
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = []
        for _ in range(4):  # nobody accepts: the queue is full and the kernel ignores who comes next
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(full.getsockname())
        upstream = connect(f"http://127.0.0.1:{full.getsockname()[1]}/v1", connect_timeout=0.2)
        with pytest.raises(UpstreamUnreachable, match=r"no connection within 0\.2 s"):
            await call(upstream)
        for each in waiting:
            each.close()


async def test_no_first_byte_is_a_timeout(backend, connect):
    backend.default = (asyncio.Event(),)
    seconds = 0.1
    while not backend.requests:  # a limit that is over before it could ask is a limit as well
        with pytest.raises(UpstreamTimeout, match=f"no first byte within {seconds:g} s") as caught:
            await call(connect(backend.url, first_byte_timeout=seconds))
        assert caught.value.status == 504
        seconds *= 2
    async with asyncio.timeout(PATIENCE):
        await backend.requests[0].gone.wait()


async def test_silence_in_mid_stream_is_a_timeout_after_the_chunks_before_it(backend, connect):
    backend.script(STREAM_HEAD + chunked(sse({"a": 1})), asyncio.Event())
    seen = []
    with pytest.raises(UpstreamTimeout, match=r"silent for 0\.1 s"):
        async with connect(backend.url, idle_timeout=0.1).open(b"{}", [], stream=True) as answer:
            async for batch in batches(answer):
                seen += batch
    assert seen == [{"a": 1}]
    async with asyncio.timeout(PATIENCE):
        await backend.requests[0].gone.wait()


async def test_a_head_without_a_body_is_no_beginning(backend, connect):
    """vLLM sends its head before it has read the prompt: the first byte's limit goes on."""
    thought = asyncio.Event()
    backend.script(STREAM_HEAD, thought, chunked(sse({"a": 1})), STREAM_END)
    asyncio.get_running_loop().call_later(0.3, thought.set)
    async with connect(backend.url, idle_timeout=0.2).open(b"{}", [], stream=True) as answer:
        assert [chunk async for batch in batches(answer) for chunk in batch] == [{"a": 1}]


async def test_a_head_and_nothing_after_it_is_no_first_byte(backend, connect):
    backend.script(STREAM_HEAD, asyncio.Event())
    with pytest.raises(UpstreamTimeout, match=r"no first byte within 0\.2 s"):
        async with connect(backend.url, first_byte_timeout=0.2).open(b"{}", [], stream=True) as answer:
            async for _ in batches(answer):
                pass


async def test_each_timeout_counts_in_its_own_phase_only(backend, connect):
    thought, spoken = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    backend.script(thought, STREAM_HEAD + chunked(sse({"a": 1})), CLOSE)
    loop.call_later(0.3, thought.set)
    with pytest.raises(UpstreamError, match="closed"):
        await call(connect(backend.url, idle_timeout=0.2))

    backend.script(STREAM_HEAD + chunked(sse({"a": 1})), spoken, chunked(sse(DONE)) + STREAM_END)
    loop.call_later(0.6, spoken.set)
    assert await call(connect(backend.url, first_byte_timeout=0.5)) == [{"a": 1}]


async def test_an_upstream_that_does_not_take_the_body_is_cut_off_at_once(connect):
    taken, over, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def deaf(reader, writer):
        taken.set()
        await over.wait()
        writer.transport.abort()
        closed.set()

    async with await asyncio.start_server(deaf, "127.0.0.1", 0) as server:
        upstream = connect(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", first_byte_timeout=0.2)
        before = len(os.listdir("/dev/fd"))
        with pytest.raises(UpstreamTimeout):
            await call(upstream, b"x" * 50_000_000)
        async with asyncio.timeout(PATIENCE):
            await taken.wait()
            while len(os.listdir("/dev/fd")) > before + 1:  # noqa: ASYNC110 (a file descriptor has no event)
                await asyncio.sleep(0.01)  # only the server's end remains, although nobody has read what was sent
            over.set()
            await closed.wait()


@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize("rest", [b"", b"ff\r\ndata: {", chunked(b'data: {"b"')])
async def test_a_stream_that_breaks_off_fails_after_the_chunks_before_it(backend, upstream, end, rest):
    go = asyncio.Event()
    backend.script(STREAM_HEAD + chunked(sse({"a": 1})), go, rest, end)
    seen = []
    with pytest.raises(UpstreamError, match="The upstream closed the stream before it finished.") as caught:
        async with upstream.open(b"{}", [], stream=True) as answer:
            async for batch in batches(answer):
                seen += batch
                go.set()
    assert seen == [{"a": 1}]
    assert caught.value.status == 502
    assert len(backend.requests) == 1


async def test_a_stream_with_broken_framing_fails(backend, upstream):
    go = asyncio.Event()
    backend.script(STREAM_HEAD + chunked(sse({"a": 1})), go, b"zz\r\nwhat?\r\n")
    with pytest.raises(UpstreamError, match="before it finished"):
        async with asyncio.timeout(PATIENCE), upstream.open(b"{}", [], stream=True) as answer:
            async for _ in batches(answer):
                go.set()


async def test_a_body_that_is_shorter_than_it_says_fails(backend, upstream):
    backend.script(
        reply(b'{"a":', headers=("content-type: application/json", "content-length: 50"), length=False), CLOSE
    )
    with pytest.raises(UpstreamError, match="before it finished"):
        await call(upstream, streamed=False)


async def test_a_stream_that_ends_with_its_connection_ends_cleanly(backend, upstream):
    backend.script(b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + sse({"a": 1}), CLOSE)
    assert await call(upstream) == [{"a": 1}]


async def test_what_is_no_http_fails(backend, upstream):
    backend.script(b"SSH-2.0-OpenSSH\r\n\r\n")
    with pytest.raises(UpstreamError, match="not valid HTTP"):
        await call(upstream)


async def test_a_connection_serves_again(backend, upstream):
    for script in (stream(*talk("a")), json_reply(completion()), reply(b"no", status=400)):
        backend.script(script)
    await call(upstream)
    await call(upstream, streamed=False)
    with pytest.raises(UpstreamError):
        await call(upstream)
    await call(upstream)
    assert {request.connection for request in backend.requests} == {0}


async def test_a_connection_serves_again_when_the_end_comes_just_after_done(backend, upstream):
    late = asyncio.Event()
    backend.script(STREAM_HEAD + chunked(sse(*talk("a"))), late, STREAM_END)
    async with upstream.open(b"{}", [], stream=True) as answer:
        async for _ in batches(answer):
            pass
        assert answer.ended
        late.set()
    await call(upstream)
    assert backend.connections == 1


async def test_a_body_that_never_ends_after_done_is_cut(backend, upstream):
    backend.script(STREAM_HEAD + chunked(sse(*talk("a"))), asyncio.Event())
    assert await call(upstream) == talk("a")[:-1]
    async with asyncio.timeout(PATIENCE):
        await backend.requests[0].gone.wait()


@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_a_kept_connection_found_dead_is_replaced_once_and_by_a_fresh_one(backend, upstream, end):
    gate = asyncio.Event()
    backend.script(gate, json_reply(completion()))
    backend.script(gate, json_reply(completion()))
    first = [asyncio.create_task(call(upstream, streamed=False)) for _ in range(2)]
    await backend.received(2)
    gate.set()
    await asyncio.gather(*first)

    backend.script(end)
    assert await call(upstream, b'{"again":1}', streamed=False) == [completion()]
    assert [request.body for request in backend.requests[2:]] == [b'{"again":1}'] * 2
    assert backend.requests[2].connection in (0, 1)  # both were idle,
    assert backend.requests[3].connection == 2  # but the other one may be dead as well


async def test_a_large_body_can_be_sent_again(backend, upstream):
    await call(upstream, streamed=False)
    backend.script(CLOSE)
    body = b'"' + b"x" * 3_000_000 + b'"'
    assert await call(upstream, body, streamed=False) == [completion()]
    assert [request.body for request in backend.requests[1:]] == [body, body]


async def test_a_request_is_sent_twice_at_most(backend, upstream):
    await call(upstream, streamed=False)
    backend.script(CLOSE)
    backend.script(CLOSE)
    with pytest.raises(UpstreamError, match="before it answered"):
        await call(upstream)
    assert len(backend.requests) == 3


@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_a_fresh_connection_that_hangs_up_is_not_tried_again(backend, upstream, end):
    backend.script(end)
    with pytest.raises(UpstreamError, match="before it answered") as caught:
        await call(upstream)
    assert not isinstance(caught.value, UpstreamUnreachable)
    assert len(backend.requests) == 1


async def test_leaving_in_mid_stream_closes_the_connection(backend, upstream):
    backend.script(STREAM_HEAD + chunked(sse({"a": 1})), asyncio.Event())
    async with upstream.open(b"{}", [], stream=True) as answer:
        async for _ in batches(answer):
            break
    async with asyncio.timeout(PATIENCE):
        await backend.requests[0].gone.wait()


@pytest.mark.parametrize("steps", [(), (STREAM_HEAD + chunked(sse({"a": 1})),)])
async def test_a_cancelled_call_closes_the_connection(backend, upstream, steps):
    backend.script(*steps, asyncio.Event())
    task = asyncio.create_task(call(upstream))
    request = await backend.received(1)
    async with asyncio.timeout(PATIENCE):
        await request.complete.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await request.gone.wait()


async def test_cookies_are_neither_kept_nor_sent(backend, connect):
    upstream = connect(backend.url.replace("127.0.0.1", "localhost"))
    backend.script(json_reply(completion(), headers=("set-cookie: a=1; path=/",)))
    await call(upstream, streamed=False)
    await call(upstream, streamed=False)
    assert backend.requests[1].values("cookie") == [] and not list(upstream._client.cookies.jar)


async def test_a_unix_socket_can_be_the_upstream(tmp_path, connect):
    async with Backend(str(tmp_path / "b.sock")) as backend:
        assert await call(connect(backend.url), streamed=False) == [completion()]
        assert backend.requests[0].target == "/v1/chat/completions"
        assert backend.requests[0].values("host") == ["localhost"]


async def test_the_environments_proxy_is_used(backend, connect, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", backend.url[:-3].replace("http://", "http://user:pass@"))
    assert await call(connect("http://upstream.invalid/v1"), streamed=False) == [completion()]
    assert backend.requests[0].target == "http://upstream.invalid/v1/chat/completions"
    assert backend.requests[0].values("host") == ["upstream.invalid"]
    assert backend.requests[0].values("proxy-authorization") == ["Basic dXNlcjpwYXNz"]


async def test_the_environments_exceptions_from_its_proxy_are_kept(backend, connect, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert await call(connect(backend.url), streamed=False) == [completion()]


async def test_a_netrc_file_is_no_business_of_ours(backend, connect, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    upstream = connect(backend.url)
    await call(upstream, headers=[("authorization", "Bearer mine")], streamed=False)
    await call(upstream, streamed=False)
    assert [request.values("authorization") for request in backend.requests] == [["Bearer mine"], []]


@pytest.mark.parametrize(("status", "ready"), [(200, True), (401, True), (404, True), (500, False), (503, False)])
async def test_readiness_asks_for_the_models(backend, connect, status, ready):
    backend.script(reply(b"x", status=status))
    reason = await connect(backend.url, api_key="k").check()
    assert (reason is None) == ready
    assert ready or str(status) in reason
    assert (backend.requests[0].method, backend.requests[0].target) == ("GET", "/v1/models")
    assert backend.requests[0].values("authorization") == ["Bearer k"]


async def test_readiness_says_why_there_is_no_upstream(connect):
    assert "not reachable" in await connect("http://127.0.0.1:1/v1").check()


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})])  # whose transports keep their protocol
async def test_nothing_remembers_a_connection_that_has_closed(backend, upstream, anyio_backend):
    def kept():
        gc.collect()
        return sum(isinstance(thing, Connection) for thing in gc.get_objects())

    head = reply(headers=("content-type: text/event-stream", "connection: close"), length=False)
    for _ in range(5):
        backend.script(head, sse(*talk("Hi")), CLOSE)
        await call(upstream)
    for _ in range(200):
        if not kept():
            break
        await asyncio.sleep(0.01)
    assert not kept()


async def test_a_closed_upstream_leaves_no_connection(backend, upstream):
    await call(upstream, streamed=False)
    assert backend.open_connections == 1
    await upstream.aclose()
    async with asyncio.timeout(PATIENCE):
        await backend.requests[0].gone.wait()


async def test_it_can_be_mocked_as_any_httpx_client(connect):
    upstream = connect("http://up.example/v1")
    with respx.mock(using="httpx") as mock:
        mock.post("http://up.example/v1/chat/completions").respond(json=completion("mocked"))
        assert await call(upstream, streamed=False) == [completion("mocked")]
        mock.post("http://up.example/v1/chat/completions").mock(side_effect=httpx.ConnectError("no"))
        with pytest.raises(UpstreamUnreachable):
            await call(upstream)
        mock.post("http://up.example/v1/chat/completions").mock(side_effect=httpx.ReadTimeout("no"))
        with pytest.raises(UpstreamTimeout):
            await call(upstream)
