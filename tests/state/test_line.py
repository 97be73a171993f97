"""Events appended over the connection that all runs share: in order, once, and never believed without an answer."""

import asyncio

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from proxy.errors import LogFull, RunCancelled, RunLost, StoreUnavailable
from proxy.state import Lease, Limits
from proxy.state.pool import Unix
from tests import servers
from tests.backend import PATIENCE
from tests.state.talk import Talk, opened
from tests.state.test_runs import made

LIMITS = Limits(log_bytes=100)
ON_UVLOOP = pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})])
"""Whose transports, once closed, refuse with a RuntimeError what asyncio's take in silence."""


@pytest.fixture
async def state(store_url):
    async with opened(store_url, limits=LIMITS) as one:
        yield one


@pytest.fixture
def server(tmp_path_factory):
    found = servers.Server.on_socket(servers.valkey_binary(), tmp_path_factory.mktemp("s"))
    yield found
    found.resume()
    found.stop()


async def outcome(runs, lease, first, events):
    """What is said of an append that nobody waits for."""
    heard = asyncio.get_running_loop().create_future()
    assert runs.append_soon(lease, first, events, heard.set_result)
    async with asyncio.timeout(PATIENCE):
        return await heard


async def ready(talk):
    """A run whose next event may be appended so: its first one was waited for."""
    run, _, lease = await made(talk)
    await talk.state.runs.append(lease, 0, [b"0"])
    await talk.state.runs.ready()
    return run, lease


async def test_what_is_refused_is_said_as_to_one_who_waits(talk):
    runs = talk.state.runs
    run, lease = await ready(talk)
    if talk.state._client.is_cluster:  # each lineage has a server of its own
        assert not runs.append_soon(lease, 1, [b"1"], pytest.fail)
        return
    assert await outcome(runs, lease, 1, [b"1"]) is None
    assert await outcome(runs, lease, 1, [b"1", b"2"]) is None
    assert isinstance(await outcome(runs, Lease(run.id), 3, [b"3"]), RunLost)
    assert isinstance(await outcome(runs, lease, 3, [b"3" * 97]), LogFull)
    await runs.cancel(run.id, talk.tenant)
    assert isinstance(await outcome(runs, lease, 4, [b"4"]), RunCancelled)
    assert [event[:1] for event in await runs.events(run.id, -1)] == [b"0", b"1", b"2", b"3", b"4"]


async def test_many_runs_share_one_connection(server):
    async with opened(server.url) as state:
        talk = Talk(state)
        run, lease = await ready(talk)
        others = [await made(talk) for _ in range(20)]
        with server.admin() as admin:
            before = len(admin.client_list())
            firsts = [outcome(state.runs, each, 0, [b"0"]) for _, _, each in others]
            rest = [outcome(state.runs, lease, number, [b"%d" % number]) for number in range(1, 50)]
            assert set(await asyncio.gather(*firsts, *rest)) == {None}
            assert len(admin.client_list()) == before
        assert await state.runs.events(run.id, -1) == [b"%d" % number for number in range(50)]
        assert [await state.runs.events(each.id, -1) for each, *_ in others] == [[b"0"]] * 20


async def test_the_connection_that_is_shared_gives_the_password_and_uses_the_database(server):
    with server.admin() as admin:
        admin.config_set("requirepass", "p")
    async with opened(f"{server.url.replace('://', '://:p@')}?db=3") as state:
        run, lease = await ready(Talk(state))
        assert await outcome(state.runs, lease, 1, [b"1"]) is None
        assert await state.runs.events(run.id, -1) == [b"0", b"1"]


TROUBLE = {
    "cut": "CLIENT KILL TYPE normal SKIPME yes",
    "hangs": "",
    "forgets": "SCRIPT FLUSH",
    "refuses": "REPLICAOF 127.0.0.1 1",
}


@pytest.mark.parametrize("trouble", TROUBLE)
async def test_what_has_no_answer_is_to_be_asked_again_and_adds_nothing_twice(server, trouble):
    async with opened(server.url) as state:
        runs, (run, lease) = state.runs, await ready(Talk(state))
        with server.admin() as admin:
            if command := TROUBLE[trouble]:
                admin.execute_command(*command.split())
            else:
                server.pause()
            assert isinstance(await outcome(runs, lease, 1, [b"1"]), StoreUnavailable)
            server.resume()
            admin.execute_command("REPLICAOF", "NO", "ONE")
        await runs.append(lease, 1, [b"1"])
        await runs.ready()
        assert await outcome(runs, lease, 2, [b"2"]) is None
        assert await runs.events(run.id, -1) == [b"0", b"1", b"2"]


async def test_a_connection_to_what_is_left_meanwhile_is_not_shared(server, monkeypatch):
    async with opened(server.url) as state:
        client, (_, lease) = state._client, await ready(Talk(state))
        client._close_line()
        connect = Unix.connect

        async def late(connection):
            await connect(connection)
            await client._leave()

        with monkeypatch.context() as patched:
            patched.setattr(Unix, "connect", late)
            await state.runs.ready()
        assert not state.runs.append_soon(lease, 1, [b"1"], pytest.fail)
        await state.runs.ready()
        assert await outcome(state.runs, lease, 1, [b"1"]) is None


@ON_UVLOOP
async def test_a_connection_that_closes_as_it_is_written_to_is_the_stores_trouble(server):
    async with opened(server.url) as state:
        connection = await state._client._redis.connection_pool.get_connection()
        connection.transport.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # by now it is closed
        with pytest.raises(RedisConnectionError):
            await connection.send_packed_command([b"x"])
        await state._client._redis.connection_pool.release(connection)
        await state.ping()
