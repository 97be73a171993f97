"""Bytes of an answer on one connection, however they are cut and wherever they end."""

import asyncio

import httpx
import pytest

from proxy.upstream.connection import Connection
from tests.backend import PATIENCE

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream \r\nX-Empty:\r\nx-a: 1\r\nx-a: 2\r\n"
HEADERS = [(b"Content-Type", b"text/event-stream"), (b"X-Empty", b""), (b"x-a", b"1"), (b"x-a", b"2")]
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3 ;x=y\r\ncde\r\n0\r\nx-trailer: 1\r\nx-b: 2\r\n\r\n"
BEGUN = CHUNKED.partition(b"0\r\nx-trailer")[0]
SIZED = HEAD + b"Content-Length: 5\r\n\r\nabcde"
UNSIZED = HEAD + b"\r\nabcde"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


class Socket:
    """What a connection has of its transport."""

    def __init__(self):
        self.written, self.aborted, self.paused = b"", False, False

    def write(self, data):
        self.written += data

    def abort(self):
        self.aborted = True

    def is_closing(self):
        return self.aborted

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False


def asked(*, bodiless=False):
    connection = Connection(asyncio.get_running_loop(), lambda _: None)
    connection.connection_made(Socket())
    connection.send(b"GET / HTTP/1.1\r\n\r\n", b"", bodiless=bodiless)
    return connection


def whole(connection):
    return connection.status, connection.over, connection.keeps, connection.parts and connection.take()


@pytest.mark.parametrize(
    ("answer", "bodiless", "end", "expected"),
    [
        (CHUNKED, False, False, (200, True, True, b"abcde")),
        (SIZED, False, False, (200, True, True, b"abcde")),
        (INTERIM + SIZED, False, False, (200, True, True, b"abcde")),
        (UNSIZED, False, True, (200, True, False, b"abcde")),
        (NO_CONTENT, False, False, (204, True, True, [])),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", False, False, (304, True, True, [])),
        (HEAD + b"Content-Length: 5\r\n\r\n", True, False, (200, True, False, [])),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n", True, False, (200, True, False, [])),
        (b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", False, False, (101, True, False, [])),
        (
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi",
            False,
            False,
            (200, True, False, b"hi"),
        ),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", False, False, (200, True, False, b"hi")),
        (b"HTTP/1.1 200 OK\ncontent-length: 2\n\nhi", False, False, (200, True, True, b"hi")),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhi", False, True, (200, True, False, b"hi")),
    ],
)
async def test_every_cut_of_an_answer_gives_the_same(answer, bodiless, end, expected):
    for at in range(1, len(answer) + 1):
        connection = asked(bodiless=bodiless)
        connection.data_received(answer[:at])
        if answer[at:]:
            connection.data_received(answer[at:])
        if end:
            connection.eof_received()
        assert whole(connection) == expected, at
        if answer.endswith(CHUNKED) or answer.endswith(SIZED):
            assert [
                pair for pair in connection.headers if pair[0].lower()[-6:] not in (b"length", b"coding")
            ] == HEADERS


async def test_all_chunks_of_a_read_are_one_piece():
    connection = asked()
    connection.data_received(CHUNKED.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    connection.data_received(b"1\r\na\r\n" * 500)
    assert connection.take() == b"a" * 500


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("answer", [CHUNKED, SIZED, INTERIM + SIZED, UNSIZED, NO_CONTENT])
async def test_an_answer_that_ends_early_is_a_failure_wherever_it_does(answer, reset):
    headed = len(answer) - 5 if answer is UNSIZED else len(answer)
    for at in range(headed):
        connection = asked()
        if at:
            connection.data_received(answer[:at])
        connection.connection_lost(ConnectionResetError() if reset else None)
        assert isinstance(connection.failure, httpx.ReadError), at
        assert connection.silent == (at == 0)
        assert not connection.over and not connection.free()


async def test_a_reset_is_no_end_even_where_the_connections_end_is_one():
    connection = asked()
    connection.data_received(UNSIZED)
    connection.connection_lost(ConnectionResetError())
    assert connection.take() == b"abcde"
    assert isinstance(connection.failure, httpx.ReadError)


async def test_what_is_cut_off_here_is_no_end_either():
    connection = asked()
    connection.data_received(UNSIZED)
    connection.cut()
    connection.connection_lost(None)
    assert not connection.over and isinstance(connection.failure, httpx.ReadError)


async def test_a_connection_that_was_closed_before_its_request_is_broken():
    connection = Connection(asyncio.get_running_loop(), lambda _: None)
    connection.connection_made(Socket())
    connection.eof_received()
    connection.transport.abort()
    connection.send(b"GET / HTTP/1.1\r\n\r\n", b"")
    with pytest.raises(httpx.ReadError):
        await connection.head(0)
    assert connection.silent and not connection.transport.written


@pytest.mark.parametrize(
    ("good", "junk"),
    [
        (b"", b"SSH-2.0-OpenSSH\r\n"),
        (b"", b"HTTP/1.1 abc\r\n\r\n"),
        (b"", HEAD + b"content-length: x\r\n\r\n"),
        (b"", HEAD + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n"),
        (b"", HEAD + b"x: a\0b\r\n\r\n"),
        (b"", b"HTTP/1.1 000 Nothing\r\ncontent-length: 2\r\n\r\nhi"),
        (b"", HEAD + b"x: y\r\n" * 12_000 + b"content-length: 2\r\n\r\nhi"),
        (b"", HEAD + b"x: " + b"y" * 70_000),
        (b"", HEAD + b"x: " + b"y" * 70_000 + b"\r\n\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 3000),
        (BEGUN, b"zz\r\nwhat?\r\n"),
        (BEGUN, b"-1\r\n"),
        (BEGUN, b"0\r\nx: " + b"y" * 70_000),
        (BEGUN, b"1;" + b"y" * 70_000),
    ],
)
async def test_junk_is_a_failure_after_what_was_good(good, junk):
    for step in (len(junk), 1000):
        connection = asked()
        if good:
            connection.data_received(good)
            assert connection.take() == b"abcde"
        for at in range(0, len(junk), step):
            if not connection.failure:
                connection.data_received(junk[at : at + step])
        assert isinstance(connection.failure, httpx.RemoteProtocolError)
        assert connection.transport.aborted and not connection.free()


@pytest.mark.parametrize("rest", [SIZED, b"more", b"\r\n\r\nx"])
async def test_what_comes_after_the_answer_costs_the_connection_and_not_the_answer(rest):
    for at in (0, 1):
        connection = asked()
        if at == 0:
            connection.data_received(SIZED + rest)
        else:
            connection.data_received(SIZED)
            connection.data_received(rest)
        assert connection.take() == b"abcde" and connection.status == 200
        assert connection.over and not connection.free() and connection.transport.aborted


async def test_even_a_blank_line_between_requests_costs_the_connection():
    connection = asked()
    connection.data_received(SIZED)
    assert connection.free()
    connection.data_received(b"\r\n")
    assert connection.transport.aborted and not connection.keeps


async def test_a_limit_counts_what_is_waited_for_and_from_where_it_is_told():
    connection = asked()
    connection.limit(0.02)
    connection.data_received(HEAD + b"content-length: 5\r\n\r\na")
    await asyncio.sleep(0.05)
    assert not connection.failure  # nobody waits
    async with asyncio.timeout(PATIENCE):
        connection.take()
        await connection.news()
    assert isinstance(connection.failure, httpx.ReadTimeout) and connection.transport.aborted

    connection, long_ago = asked(), asyncio.get_running_loop().time() - 60
    connection.limit(50, long_ago)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(httpx.ReadTimeout):
            await connection.head(long_ago)


async def test_framing_alone_is_not_waited_for():
    connection = asked()
    connection.data_received(HEAD + b"transfer-encoding: chunked\r\n\r\n")
    waiter = connection.news()
    for byte in b"0000000001;x=y\r\n":
        connection.data_received(bytes([byte]))
    assert not waiter.done()
    connection.data_received(b"a")
    assert waiter.done() and connection.take() == b"a"
    waiter = connection.news()
    connection.data_received(b"\r\n0\r\n")
    assert not waiter.done()
    connection.data_received(b"\r\n")
    assert waiter.done() and connection.over


async def test_an_answer_that_comes_before_its_request_was_taken_costs_the_connection():
    connection = asked()
    connection.send(b"", b"x" * 1_000_000)
    connection.pause_writing()
    connection.data_received(SIZED)
    assert whole(connection) == (200, True, True, b"abcde") and not connection.free()


async def test_a_request_that_is_over_reads_no_more_of_its_body():
    left = asyncio.Event()

    async def parts():
        try:
            yield b"ab"
            await asyncio.Event().wait()
        finally:
            left.set()

    connection = asked()
    connection.send(b"", parts(), chunked=True)
    connection.data_received(SIZED)
    await asyncio.sleep(0)
    assert not connection.free()
    async with asyncio.timeout(PATIENCE):
        await left.wait()


async def test_a_body_that_none_may_have_costs_the_connection():
    connection = asked(bodiless=True)
    connection.data_received(SIZED)
    assert connection.over and not connection.parts and not connection.free()


async def test_a_connection_serves_one_request_after_the_other():
    connection = asked()
    for answer in (CHUNKED, SIZED, INTERIM + CHUNKED):
        connection.send(b"", b"")
        connection.data_received(answer)
        assert whole(connection) == (200, True, True, b"abcde")
        assert connection.free()


async def test_a_reader_that_lags_is_waited_for():
    connection = asked()
    connection.data_received(HEAD + b"content-length: 900001\r\n\r\n")
    for _ in range(3):
        connection.data_received(b"x" * 100_000)
    assert connection.transport.paused
    assert len(connection.take()) == 300_000 and not connection.transport.paused
    for _ in range(3):
        connection.data_received(b"x" * 200_000)
    connection.data_received(b"x")
    assert connection.over and connection.free() and not connection.transport.paused


async def test_a_body_is_sent_no_faster_than_it_is_taken():
    connection, given = asked(), []

    async def parts():
        for part in (b"ab", b"", b"c"):
            given.append(part)
            yield part

    connection.pause_writing()
    connection.send(b"", parts(), chunked=True)
    for _ in range(5):
        await asyncio.sleep(0)
    assert given == [b"ab"]
    connection.resume_writing()
    for _ in range(5):
        await asyncio.sleep(0)
    assert connection.transport.written.endswith(b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
    connection.data_received(SIZED)
    assert connection.over and not connection.free()  # it is nobody's any more


async def test_a_body_that_breaks_off_ends_the_request():
    connection = asked()

    async def parts():
        yield b"ab"
        raise KeyError("gone")

    connection.send(b"", parts(), chunked=True)
    with pytest.raises(httpx.WriteError) as caught:
        await connection.head(0)
    assert isinstance(caught.value.__cause__, KeyError) and connection.transport.aborted
