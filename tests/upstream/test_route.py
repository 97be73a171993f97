"""The ways to an upstream: its addresses, TLS, proxies; and how many connections it is asked over."""

import asyncio
import gc
import shutil
import socket
import ssl
import subprocess
import weakref
from contextvars import ContextVar

import httpx
import pytest

from proxy.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from proxy.upstream import transport
from proxy.upstream.connection import Connection
from proxy.upstream.route import Route
from tests.backend import CLOSE, PATIENCE, Backend, completion, json_reply, reply
from tests.loops import forget_cancelled_timers
from tests.upstream.test_client import call
from tests.upstream.test_forward import pass_on

LOOPS = [("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})]
TCP = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
BOTH_LOOPS = pytest.mark.parametrize("anyio_backend", LOOPS, ids=["asyncio", "uvloop"])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """The file of a certificate for localhost, which is its own authority, and of its key."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl on PATH")
    folder = tmp_path_factory.mktemp("tls")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", folder / "key"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", *key, *name, "-days", "2", "-out", folder / "crt"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return folder / "crt", folder / "key"


@pytest.fixture
async def secure(backend, certificate):
    """The port of a server that takes TLS off before the scripted backend, and the names it was asked for."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    names = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    server = await asyncio.start_server(joined(backend.url), "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1], names
    server.close()


def joined(url):
    """What hands a connection on to the server at ``url``."""

    async def carry(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def accept(reader, writer):
        there = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2].partition("/")[0]))
        await asyncio.gather(carry(reader, there[1]), carry(there[0], writer), return_exceptions=True)

    return accept


@pytest.fixture
async def tunnel(secure):
    """The port of a proxy that leads every CONNECT to the secure server, what it was asked, and what it answers."""
    heads, answers = [], [b"HTTP/1.1 200 Connection established\r\nproxy-agent: x\r\n\r\n"]

    async def accept(reader, writer):
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answers[-1])
        if b" 200 " in answers[-1]:
            await joined(f"http://127.0.0.1:{secure[0]}")(reader, writer)
        else:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], heads, answers
    server.close()


@BOTH_LOOPS
async def test_tls_is_spoken_to_whom_the_environment_trusts(
    backend, secure, connect, certificate, monkeypatch, anyio_backend
):
    port, names = secure
    with pytest.raises(UpstreamUnreachable, match="not reachable: no secure connection"):
        await call(connect(f"https://localhost:{port}/v1"))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    upstream = connect(f"https://localhost:{port}/v1")
    body = b'"' + b"x" * 1_000_000 + b'"'
    for _ in range(2):
        assert await call(upstream, body, streamed=False) == [completion()]
    assert [request.body for request in backend.requests] == [body, body]
    assert backend.requests[0].values("host") == [f"localhost:{port}"] and backend.connections == 1
    assert set(names) == {"localhost"}
    with pytest.raises(UpstreamUnreachable, match="no secure connection"):  # the certificate is not for this name
        await call(connect(f"https://127.0.0.1:{port}/v1"))


@BOTH_LOOPS
async def test_a_proxy_leads_to_a_secure_upstream(backend, tunnel, connect, certificate, monkeypatch, anyio_backend):
    port, heads, answers = tunnel
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    monkeypatch.setenv("HTTPS_PROXY", f"user:p%40ss@127.0.0.1:{port}")
    upstream = connect("https://localhost/v1")
    for _ in range(2):
        assert await call(upstream, streamed=False) == [completion()]
    asked = b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n\r\n"
    assert heads == [asked]
    assert backend.requests[0].target == "/v1/chat/completions"
    assert not backend.requests[0].values("proxy-authorization")
    assert await call(connect("https://localhost./v1"), streamed=False) == [completion()]  # the certificate has no dot
    for answer, why in ((b"HTTP/1.1 407 No\r\n\r\n", "answered 407"), (b"", "gave no answer"), (b"?\r\n", "gave no")):
        answers.append(answer)
        with pytest.raises(UpstreamUnreachable, match=f"its proxy {why}"):
            await call(connect("https://localhost/v1"))
    answers.append(b"HTTP/1.1 200 OK\r\n\r\nno TLS at all")
    with pytest.raises(UpstreamUnreachable):
        await call(connect("https://upstream.invalid/v1"))


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "http://me:secret@proxy.invalid"])
async def test_a_proxy_that_is_away_is_not_taken_for_the_upstream(backend, connect, monkeypatch, caplog, proxy):
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(UpstreamUnreachable, match="not reachable: its proxy cannot be reached.$"):
        await call(connect("http://upstream.invalid/v1"))
    assert "[Errno " in caplog.text and "secret" not in caplog.text


@pytest.mark.parametrize(
    ("origin", "target"),
    [
        ("up.invalid", b"up.invalid:443"),
        ("up.invalid:81", b"up.invalid:81"),
        ("[::1]", b"[::1]:443"),
        ("[::1]:8", b"[::1]:8"),
    ],
)
async def test_a_proxy_is_told_the_port_whatever_the_host_is(tunnel, connect, monkeypatch, origin, target):
    port, heads, answers = tunnel
    answers.append(b"HTTP/1.1 407 No\r\n\r\n")
    monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{port}")
    with pytest.raises(UpstreamUnreachable):
        await call(connect(f"https://{origin}/v1"))
    assert heads == [b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, target)]


@pytest.mark.parametrize("proxy", ["socks5://me:secret@proxy:1080", "http://:secret@", "http://proxy:secret"])
def test_a_proxy_that_cannot_be_used_is_named_without_its_password(monkeypatch, proxy):
    monkeypatch.setenv("HTTP_PROXY", proxy)
    with pytest.raises(ValueError, match="HTTP_PROXY") as caught:
        transport.Transport("http://upstream.invalid")
    assert "secret" not in str(caught.value)


async def test_every_address_of_a_name_is_tried_and_asked_for_once(backend, connect, monkeypatch):
    loop, port = asyncio.get_running_loop(), int(backend.url[:-3].rpartition(":")[2])
    asked = []

    async def getaddrinfo(host, *_args, **_options):
        asked.append(host)
        return [(*TCP, ("127.0.0.1", 1)), (*TCP, ("127.0.0.1", port))]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    upstream = connect("http://several.invalid/v1")
    for answer in await asyncio.gather(*(call(upstream, streamed=False) for _ in range(5))):
        assert answer == [completion()]
    assert asked == ["several.invalid"] and backend.connections == 5


@pytest.fixture
async def lookups(monkeypatch):
    """What the loop was asked to look up: futures of addresses."""
    asked = []

    async def getaddrinfo(*_args, **_options):
        asked.append(asyncio.get_running_loop().create_future())
        return await asked[-1]

    async def begun(count):
        async with asyncio.timeout(PATIENCE):
            while len(asked) < count:  # noqa: ASYNC110 (nobody tells who waits for a name)
                await asyncio.sleep(0)
        return asked[-1]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    return begun


@pytest.fixture
def deaf():
    """An address that takes no connection and refuses none, as that of a pod that is gone."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        yield full.getsockname()
        for each in waiting:
            each.close()


@pytest.mark.parametrize(
    ("found", "message"),
    [(socket.gaierror(socket.EAI_AGAIN, "try again"), "reachable: try again."), ([], "reachable.")],
)
async def test_one_lookup_serves_all_and_outlives_who_asked_for_it(connect, lookups, found, message):
    upstream = connect("http://several.invalid/v1")
    first, *others = (asyncio.create_task(call(upstream)) for _ in range(3))
    lookup = await lookups(1)
    first.cancel()
    await asyncio.sleep(0)
    if isinstance(found, list):
        lookup.set_result(found)
    else:
        lookup.set_exception(found)
    for task in others:
        with pytest.raises(UpstreamUnreachable, match=message):
            async with asyncio.timeout(PATIENCE):
                await task


async def test_a_name_is_looked_up_again_when_its_address_takes_no_connection(backend, connect, lookups, deaf):
    upstream = connect("http://moving.invalid/v1", connect_timeout=0.5)
    task = asyncio.create_task(call(upstream))
    (await lookups(1)).set_result([(*TCP, deaf)])
    with pytest.raises(UpstreamUnreachable, match="no connection within"):
        await task
    task = asyncio.create_task(call(upstream, streamed=False))
    (await lookups(2)).set_result([(*TCP, ("127.0.0.1", int(backend.url[:-3].rpartition(":")[2])))])
    assert await task == [completion()]


async def test_an_address_of_ipv6_is_reached(connect):
    async def answer(reader, writer):
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(json_reply(completion(), headers=("connection: close",)))
        writer.close()

    heads = []
    try:
        server = await asyncio.start_server(answer, "::1", 0)
    except OSError:
        pytest.skip("no IPv6 here")
    port = server.sockets[0].getsockname()[1]
    assert await call(connect(f"http://[::1]:{port}/v1"), streamed=False) == [completion()]
    assert b"Host: [::1]:%d\r\n" % port in heads[0]
    server.close()


@BOTH_LOOPS
@pytest.mark.parametrize("answering", ["first", "second", "second, where the first is deaf", "none", "none of one"])
async def test_connecting_keeps_nothing_of_the_context_it_is_asked_in(backend, monkeypatch, deaf, answering):
    class Mark:
        """What only the context holds."""

    async def reached():
        variable.set(Mark())
        route = Route(httpx.URL("http://several.invalid/v1"), None)
        try:
            connection = await route.connect(lambda: Connection(loop, bool))
        except httpx.ConnectError:
            assert answering.startswith("none")
        else:
            assert connection.transport.get_extra_info("peername") == there
            connection.cut()
        return weakref.ref(variable.get())

    async def getaddrinfo(host, *rest, **options):
        if host == "several.invalid":
            return [(*TCP, address) for address in addresses[answering]]
        return await resolve(host, *rest, **options)  # uvloop's for numbers

    loop, variable = asyncio.get_running_loop(), ContextVar("mark")
    resolve = loop.getaddrinfo
    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    away, there = ("127.0.0.1", 1), ("127.0.0.1", int(backend.url[:-3].rpartition(":")[2]))
    addresses = {
        "first": [there, away],
        "second": [away, there],
        "second, where the first is deaf": [deaf, there],
        "none": [away, away],
        "none of one": [away],
    }
    gc.collect()
    gc.disable()
    try:
        left = await asyncio.create_task(reached())
        await forget_cancelled_timers()
        assert left() is None
    finally:
        gc.enable()


async def test_leaving_while_there_is_no_connection_yet_leaves_nothing(connect, deaf):
    url = f"http://127.0.0.1:{deaf[1]}/v1"
    with pytest.raises(UpstreamTimeout, match="no first byte within 0.1 s"):
        await call(connect(url, first_byte_timeout=0.1))
    task = asyncio.create_task(call(connect(url)))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (reply(b"x"), True),
        (reply(status=204, length=False), True),
        (reply(b"x", headers=("connection: close",)), False),
        (reply(b"x").replace(b"1.1", b"1.0"), False),
        (reply(b"x") + reply(b"unasked"), False),
        (reply(b"x") + b"unasked", False),
    ],
)
async def test_a_connection_is_kept_where_the_answer_allows_it(backend, upstream, answer, kept):
    backend.script(answer)
    await pass_on(upstream)
    await pass_on(upstream)
    assert backend.connections == 2 - kept


async def test_an_answer_to_head_has_no_body_whatever_it_says_and_nobody_meets_one_that_comes(backend, upstream):
    backend.script(reply(headers=("content-length: 5",), length=False))
    assert (await pass_on(upstream, "HEAD"))[::2] == (200, b"")
    assert (await pass_on(upstream))[0] == 200
    assert backend.connections == 2


@pytest.mark.parametrize("unasked", [CLOSE, reply(b"late")])
async def test_an_idle_connection_on_which_anything_happens_is_dropped(backend, upstream, unasked):
    later = asyncio.Event()
    backend.script(reply(b"x"), later, unasked)
    await pass_on(upstream)
    later.set()
    async with asyncio.timeout(PATIENCE):
        await backend.requests[0].gone.wait()
        while upstream._transport._connections:  # noqa: ASYNC110 (what the loop does next is no event)
            await asyncio.sleep(0)
    assert not upstream._transport._idle
    await pass_on(upstream)
    assert backend.connections == 2


async def test_a_connection_that_was_idle_for_too_long_is_not_used(backend, upstream, monkeypatch):
    await pass_on(upstream)
    monkeypatch.setattr(transport, "KEEPALIVE", 0.0)  # as where the loop was busy when it should have been closed
    await pass_on(upstream)
    assert backend.connections == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [((b"HTTP/1.1 200", CLOSE), "before it answered"), ((asyncio.Event(),), "no first byte")],
)
async def test_a_request_is_not_sent_again_when_its_answer_has_begun_or_takes_too_long(backend, connect, answer, error):
    upstream = connect(backend.url, first_byte_timeout=PATIENCE if CLOSE in answer else 0.5)
    await call(upstream, streamed=False)
    backend.script(*answer)
    with pytest.raises(UpstreamError, match=error):
        await call(upstream)
    assert len(backend.requests) == 2 and backend.connections == 1


async def test_idle_connections_are_closed_and_the_latest_serves_first(backend, upstream, monkeypatch):
    monkeypatch.setattr(transport, "KEEPALIVE", 1.0)
    both = asyncio.Event()
    for _ in range(2):
        backend.script(both, reply(b"x"))
    calls = [asyncio.create_task(pass_on(upstream)) for _ in range(2)]
    await backend.received(2)
    both.set()
    await asyncio.gather(*calls)
    for _ in range(3):
        await pass_on(upstream)
    assert len({request.connection for request in backend.requests[2:]}) == 1
    async with asyncio.timeout(PATIENCE):
        while backend.open_connections:  # noqa: ASYNC110 (each connection has an event of its own)
            await asyncio.sleep(0.01)


async def test_a_slow_reader_holds_the_upstream_back_and_loses_nothing(connect):
    size, sent = 60_000_000, 0

    async def flood(reader, writer):
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(b"x" * 1_000_000)
            sent += 1_000_000
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(flood, "127.0.0.1", 0) as server:
        upstream = connect(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
        async with upstream.forward("GET", b"/v1/x", [], None) as answer:
            chunks = answer.chunks()
            came = len(await anext(chunks))
            before = -1
            while sent != before:
                before = sent
                await asyncio.sleep(0.05)
            assert sent < size
            came += sum([len(chunk) async for chunk in chunks])
        assert came == size


async def test_a_line_break_in_a_header_is_not_sent(backend, connect):
    for upstream in (connect(backend.url, api_key="sk\nx-evil: 1"), connect(backend.url, user_agent="a\r\n\r\n")):
        with pytest.raises(ValueError, match="line break"):
            await call(upstream)
    assert not backend.connections


async def test_calls_in_flight_end_as_broken_when_all_is_closed(backend, upstream):
    await pass_on(upstream)  # whose connection serves again, and could be replaced
    backend.script(asyncio.Event())
    backend.script(reply(headers=("content-length: 5",), length=False), asyncio.Event())
    tasks = [asyncio.create_task(pass_on(upstream)) for _ in range(2)]
    await backend.received(3)
    await asyncio.sleep(0.05)
    tasks.append(asyncio.create_task(pass_on(upstream)))
    await asyncio.sleep(0)  # it connects
    await upstream.aclose()
    for task in tasks:
        with pytest.raises(UpstreamError, match="closed the"):
            await task
    assert len(backend.requests) == 3
    async with asyncio.timeout(PATIENCE):
        while backend.open_connections:  # noqa: ASYNC110 (each connection has an event of its own)
            await asyncio.sleep(0.01)


@BOTH_LOOPS
async def test_a_connection_serves_again_on_either_loop(backend, connect, anyio_backend):
    upstream = connect(backend.url)
    for _ in range(3):
        assert await call(upstream, streamed=False) == [completion()]
    backend.script(CLOSE)
    assert await call(upstream, streamed=False) == [completion()]
    assert backend.connections == 2


async def test_a_unix_socket_is_no_affair_of_a_proxy(tmp_path, connect, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with Backend(str(tmp_path / "b.sock")) as backend:
        assert await call(connect(backend.url), streamed=False) == [completion()]
