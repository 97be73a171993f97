"""Requests passed on unread: what Upstream.forward sends and gives back."""

import asyncio

import pytest

from proxy.errors import NotFound, UpstreamError, UpstreamUnreachable
from proxy.upstream.forward import end_to_end
from tests.backend import CLOSE, PATIENCE, Backend, json_reply, reply


async def pass_on(upstream, method="GET", target=b"/v1/models", headers=(), body=None, **options):
    async with upstream.forward(method, target, headers, body, **options) as answer:
        return answer.status, answer.headers, b"".join([data async for data in answer.chunks()])


def test_only_what_speaks_of_one_connection_is_dropped():
    headers = [
        (b"Connection", b"close, X-Mine"),
        (b"connection", b"x-other"),
        (b"X-Mine", b"1"),
        (b"x-other", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"TE", b"trailers"),
        (b"Trailer", b"x"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Upgrade", b"h2c"),
        (b"Proxy-Connection", b"close"),
        (b"Set-Cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"X-Empty", b""),
        (b"Content-Length", b"3"),
    ]
    assert end_to_end(headers) == headers[10:]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
async def test_nothing_is_added_to_a_request_without_a_body(backend, upstream, method):
    await pass_on(upstream, method, b"/v1/x/%2F%zz/..//a?")
    assert backend.requests[0].head.decode() == f"{method} /v1/x/%2F%zz/..//a? HTTP/1.1\r\nHost: {backend.url[7:-3]}"


async def test_headers_arrive_in_their_order_repeated_empty_and_in_utf_8(backend, upstream):
    headers = [(b"host", b"elsewhere"), (b"x-a", b"1"), (b"x-b", b""), (b"x-a", b"2"), (b"x-c", b"caf\xc3\xa9")]
    await pass_on(upstream, headers=[*headers, (b"expect", b"100-continue")])
    assert [line for line in backend.requests[0].head.split(b"\r\n")[2:]] == [
        b"x-a: 1",
        b"x-b: ",
        b"x-a: 2",
        b"x-c: caf\xc3\xa9",
    ]


@pytest.mark.parametrize(
    ("key", "keep", "sent"),
    [(None, True, ["me"]), (None, False, []), ("up", True, ["Bearer up"]), ("up", False, ["Bearer up"])],
)
async def test_the_callers_authorization_goes_only_where_it_belongs(backend, connect, key, keep, sent):
    upstream = connect(backend.url, api_key=key)
    await pass_on(upstream, headers=[(b"authorization", b"me")], keep_authorization=keep)
    assert backend.requests[0].values("authorization") == sent


async def test_a_body_keeps_its_framing(backend, upstream):
    async def parts():
        yield b"ab"
        yield b"cd"

    for body in (b"abcd", parts()):
        await pass_on(upstream, "POST", headers=[(b"content-length", b"4")], body=body)
    for body in (b"abcd", parts()):
        await pass_on(upstream, "POST", headers=[(b"transfer-encoding", b"chunked")], body=body)
    assert [request.body for request in backend.requests] == [b"abcd"] * 4
    assert [request.values("content-length") for request in backend.requests] == [["4"], ["4"], [], []]
    assert [request.values("transfer-encoding") for request in backend.requests] == [[], [], ["chunked"], ["chunked"]]
    assert not any(request.values("content-type") for request in backend.requests)


async def test_a_content_length_of_none_is_kept(backend, upstream):
    await pass_on(upstream, "POST", headers=[(b"content-length", b"0")])
    assert backend.requests[0].values("content-length") == ["0"]


async def test_an_answer_is_given_as_it_came(backend, upstream):
    headers = (
        "Set-Cookie: a=1",
        "set-cookie: b=2",
        "X-Empty:",
        "content-encoding: gzip",
        "x-latin: caf\xe9",
        "Keep-Alive: 5",
    )
    backend.script(reply(b"\x1f\x8bnot really", status=299, headers=headers))
    status, raw, body = await pass_on(upstream)
    assert (status, body) == (299, b"\x1f\x8bnot really")
    assert raw == [
        (b"Set-Cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
        (b"X-Empty", b""),
        (b"content-encoding", b"gzip"),
        (b"x-latin", b"caf\xe9"),
        (b"content-length", b"12"),
    ]


async def test_redirects_and_errors_are_answers_like_others(backend, upstream):
    backend.script(reply(b"there", status=302, headers=("location: //[odd",)))
    backend.script(reply(b"busy", status=503))
    assert (await pass_on(upstream))[0] == 302
    assert (await pass_on(upstream))[0] == 503
    assert len(backend.requests) == 2


async def test_interim_answers_are_skipped(backend, upstream):
    backend.script(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", json_reply({}))
    assert (await pass_on(upstream))[0] == 200


@pytest.mark.parametrize("status", [101, 600, 999])
async def test_a_status_that_cannot_be_passed_on_is_an_error(backend, upstream, status):
    backend.script(reply(b"", status=status))
    with pytest.raises(UpstreamError, match=str(status)) as caught:
        await pass_on(upstream)
    assert caught.value.status == 502


async def test_a_long_header_is_let_through(backend, upstream):
    backend.script(reply(headers=("x-long: " + "a" * 60_000,)))
    _, headers, _ = await pass_on(upstream)
    assert dict(headers)[b"x-long"] == b"a" * 60_000


async def test_the_guard_stands_before_the_wire(backend, upstream):
    with pytest.raises(NotFound):
        await pass_on(upstream, target=b"/v1/%72esponses/resp_1")
    assert backend.connections == 0


async def test_only_connecting_has_a_time_limit(backend, connect):
    late = asyncio.Event()
    backend.script(late, reply(b"slow"))
    asyncio.get_running_loop().call_later(0.3, late.set)
    assert (await pass_on(connect(backend.url, first_byte_timeout=0.1, idle_timeout=0.1)))[2] == b"slow"
    with pytest.raises(UpstreamUnreachable):
        await pass_on(connect("http://127.0.0.1:1/v1"))


async def test_a_dead_connection_is_replaced_only_where_the_body_is_at_hand(backend, upstream):
    async def parts():
        yield b"ab"

    await pass_on(upstream)
    backend.script(CLOSE)
    assert (await pass_on(upstream, "POST", headers=[(b"content-length", b"2")], body=b"ab"))[0] == 200
    assert [request.connection for request in backend.requests] == [0, 0, 1]
    await pass_on(upstream)

    backend.script(CLOSE)
    with pytest.raises(UpstreamError):
        await pass_on(upstream, "POST", headers=[(b"content-length", b"2")], body=parts())
    assert len(backend.requests) == 5  # not sent again, and never on a connection
    assert backend.requests[4].connection == 2  # that may be dead, although one was kept


async def test_a_connection_of_its_own_is_closed_after_its_request(backend, upstream):
    async def parts():
        yield b"ab"

    await pass_on(upstream, "POST", headers=[(b"content-length", b"2")], body=parts())
    async with asyncio.timeout(PATIENCE):
        await backend.requests[0].gone.wait()


async def test_a_get_on_a_fresh_connection_is_not_sent_again(backend, upstream):
    backend.script(CLOSE)
    with pytest.raises(UpstreamError, match="before it answered"):
        await pass_on(upstream)
    assert len(backend.requests) == 1


async def test_an_answer_before_the_end_of_the_upload_is_given_at_once(connect):
    async with Backend(early=True) as backend:
        backend.script(reply(b"too large", status=413))
        upstream = connect(backend.url)
        never = asyncio.Event()

        async def parts():
            yield b"ab"
            await never.wait()

        headers = [(b"content-length", b"1000")]
        assert (await pass_on(upstream, "POST", headers=headers, body=parts()))[::2] == (413, b"too large")
        async with asyncio.timeout(PATIENCE):
            await backend.requests[0].gone.wait()


async def test_leaving_during_the_upload_closes_the_connection(backend, upstream):
    async def parts():
        yield b"ab"
        await asyncio.Event().wait()

    task = asyncio.create_task(pass_on(upstream, "POST", headers=[(b"content-length", b"9")], body=parts()))
    request = await backend.received(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(PATIENCE):
        await request.gone.wait()
