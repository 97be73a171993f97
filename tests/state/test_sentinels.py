"""A store behind Sentinels: found, followed to its new primary, refused clearly, and never slow for a dead Sentinel."""

import asyncio
import re
import socket
from pathlib import Path

import anyio
import pytest

from proxy.errors import StoreUnavailable
from proxy.state import address, archive, open_state
from proxy.state.keys import Lineage
from proxy.state.sentinels import Place, Sentinels
from tests import servers
from tests.state.talk import Talk, opened
from tests.state.test_runs import made

BOUND = 10
REDIS = Path(__file__).parents[2] / "docs" / "operations" / "redis.md"


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    group = servers.Watched(servers.valkey_binary(), tmp_path_factory.mktemp("w"))
    yield group
    group.stop()


@pytest.fixture
def silent():
    """The port of somebody who takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


async def recovered(talk):
    """A turn, as soon as one is saved; every refusal on the way is bounded and ours."""
    with anyio.fail_after(servers.PATIENCE):
        while True:
            try:
                with anyio.fail_after(BOUND):
                    return await talk.turn()
            except StoreUnavailable:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis+sentinel://a:1,b:2", "must end with the name that the Sentinels know"),
        ("redis+sentinel://a:1/talks/x", "must end with the name that the Sentinels know"),
        ("redis+sentinel://a:1,:2/talks", "has no HOST:PORT in ':2'"),
        ("redis+sentinel://a:1,/talks", "has no HOST:PORT in ''"),
        ("redis+sentinel://a:port/talks", "has no HOST:PORT in 'a:port'"),
        ("redis+sentinel://a:1/talks?nonsense=1", "has an option Redis clients do not know"),
    ],
)
def test_a_bad_url_is_said_clearly(url, says):
    with pytest.raises(ValueError, match=says):
        open_state(url, response_ttl=0, conversation_ttl=0)


def test_a_bad_url_is_shown_without_its_passwords():
    with pytest.raises(ValueError) as caught:
        open_state("redis+sentinel://me:hush@a/s?sentinel_password=hush&no=1", response_ttl=0, conversation_ttl=0)
    assert "hush" not in str(caught.value) and "me:***@a" in str(caught.value)


async def test_sentinels_that_are_dead_or_hang_cost_nothing(watched, silent, monkeypatch):
    monkeypatch.setattr("proxy.state.sentinels.ATTEMPT", 10 * BOUND)  # what one of the silent would cost
    for name in ("socket_timeout", "socket_connect_timeout"):
        monkeypatch.setitem(address._BOUNDS, name, 10 * BOUND)
    places = f"127.0.0.1:{silent},127.0.0.1:{servers.free_port()},[::1]:{silent},127.0.0.1:{watched.port}"
    async with opened(f"redis+sentinel://{places}/{watched.service}/2", connections=8) as state:
        talk = Talk(state)
        with anyio.fail_after(BOUND):
            saved = await talk.turn()
            assert await asyncio.gather(*(talk.read(saved) for _ in range(50))) == ["q a"] * 50
        with watched.primary.admin() as admin:
            assert int(admin.info("keyspace")["db2"]["keys"])


@pytest.mark.parametrize(
    ("places", "service", "said"),
    [
        ("127.0.0.1:{port}", "nobody", "no Sentinel knows a service 'nobody'"),
        ("127.0.0.1:{free}", "talks", "127.0.0.1:{free}"),
        ("127.0.0.1:{silent}", "talks", "Timeout"),
    ],
)
async def test_no_sentinel_with_an_answer_is_a_bounded_refusal(watched, silent, caplog, places, service, said):
    at = {"port": watched.port, "free": servers.free_port(), "silent": silent}
    async with opened(f"redis+sentinel://{places.format(**at)}/{service}") as state:
        with anyio.fail_after(BOUND), pytest.raises(StoreUnavailable):
            await state.ping()
    assert said.format(**at) in caplog.text


async def test_who_the_sentinels_ask_for_a_password_is_told_it_and_the_store_another(watched, caplog):
    [rights] = re.findall(r"-@all \+auth .*?(?=`)", REDIS.read_text("utf-8"))
    users = [(watched.sentinel, "guard", rights.split())] + [(server, "data", ["+@all"]) for server in watched.servers]
    for server, password, allowed in users:
        with server.admin() as admin:
            admin.execute_command("ACL", "SETUSER", "me", "on", f">{password}", "~*", "&*", *allowed)
    place = f"127.0.0.1:{watched.port}/{watched.service}"
    async with opened(f"redis+sentinel://me:data@{place}?sentinel_username=me&sentinel_password=guard") as state:
        await Talk(state).turn()
    for login, password in (("me:data", "wrong"), ("me:wrong", "guard")):
        caplog.clear()
        url = f"redis+sentinel://{login}@{place}?sentinel_username=me&sentinel_password={password}"
        async with opened(url) as state:
            with pytest.raises(StoreUnavailable, match="refused"):
                await state.ping()
        assert "AuthenticationError" in caplog.text
        assert "guard" not in caplog.text and "data" not in caplog.text.replace("database", "")


async def test_a_primary_that_hangs_is_left_for_the_new_one_with_all_its_connections(watched):
    async with opened(watched.url) as state:
        talk, first = Talk(state), watched.primary
        kept = await talk.turn()
        await asyncio.gather(*(talk.read(kept) for _ in range(8)))  # connections that must not be used again
        watched.catch_up()
        first.pause()
        with anyio.fail_after(BOUND), pytest.raises(StoreUnavailable):
            await talk.turn()
        saved = [await recovered(talk) for _ in range(9)]
        watched.moved_from(first)
        first.resume()
        assert [await talk.read(each) for each in (kept, *saved)] == ["q a"] * 10
        watched.follow(first)


async def test_a_primary_that_lives_on_after_a_failover_is_left_too(watched):
    """Its connections stay, and what it takes is lost as soon as it is made a replica."""
    async with opened(watched.url) as state, opened(watched.url) as other:
        talk, first = Talk(state), watched.primary
        await asyncio.gather(talk.turn(), Talk(other).turn())
        _, _, lease = await made(talk)
        await state.runs.append(lease, 0, [b"0"])
        await state.runs.ready()
        assert state.runs.append_soon(lease, 1, [b"1"], bool)
        pool = state._client._redis.connection_pool
        in_use = await pool.get_connection()
        with watched.sentinel.admin() as admin:
            servers.until(lambda: admin.execute_command("SENTINEL FAILOVER", watched.service))
        second = watched.moved_from(first)
        with anyio.fail_after(BOUND), second.admin() as admin:
            while not await saved_on(admin, await recovered(talk)):
                pass
            await pool.release(in_use)
            assert await saved_on(admin, await talk.turn()), "a connection in use meanwhile leads nowhere else"
            run, _, lease = await made(talk)
            assert not state.runs.append_soon(lease, 0, [b"0"], pytest.fail), "nor does the one that runs share"
            await state.runs.append(lease, 0, [b"0"])
            assert admin.xlen(state.runs._keys(run.id)[2]) == 1
        watched.follow(first)
        assert await talk.read(await Talk(other, talk.tenant).turn()) == "q a", "READONLY is a reason to ask again"


async def saved_on(admin, draft):
    return admin.exists(Lineage(draft.minter.tag).record(draft.minter.turn))


async def test_while_every_sentinel_is_dead_the_primary_that_was_known_goes_on(watched):
    async with opened(watched.url, connections=8) as state:
        talk, primary = Talk(state), watched.primary
        saved = await talk.turn()
        watched.sentinel.stop()
        try:
            assert await asyncio.gather(*(talk.read(saved) for _ in range(8))) == ["q a"] * 8
            with primary.admin() as admin:
                admin.client_kill_filter(_type="normal", skipme=True)
            assert await talk.read(await talk.turn()) == "q a"
        finally:
            watched.sentinel.start()


class Told:
    """A Sentinel's client that names this place, once it may speak."""

    def __init__(self, place):
        self.place, self.speaks = place, asyncio.Event()
        self.speaks.set()

    async def execute_command(self, command, service):
        await self.speaks.wait()
        if command == "SENTINEL MASTER":
            return {"config-epoch": self.place.epoch}
        return self.place.host.encode(), self.place.port

    async def aclose(self):
        pass


async def test_a_sentinel_that_missed_a_failover_is_not_believed(monkeypatch):
    """Also where it is always the first to answer."""
    old, new = Told(Place(1, "old", 1)), Told(Place(2, "new", 1))
    sentinels, moves = Sentinels([("old", 1), ("new", 1)], "talks", {}), []
    sentinels._clients, late = [old, new], asyncio.Event()

    async def moved():
        moves.append(sentinels._last)
        late.set()

    sentinels.moved = moved
    new.speaks.clear()
    assert await sentinels.primary() == old.place
    new.speaks.set()
    with anyio.fail_after(BOUND):
        await late.wait()
    assert [await sentinels.primary() for _ in range(20)] == [new.place] * 20
    new.speaks.clear()
    monkeypatch.setattr("proxy.state.sentinels.ATTEMPT", 0.05)
    assert await sentinels.primary() == old.place, "where nobody knows better, it may have been set up anew"
    assert moves == [new.place, old.place]
    await sentinels.close()


async def test_a_tenant_s_data_is_taken_out_away_and_in_again(watched):
    async with opened(watched.url) as state:
        talk = await settled(state)
        draft = await talk.turn()
        lines = [archive.write(line) async for line in state.export(talk.tenant).lines()]
        assert (await state.purge(talk.tenant).run()).keys >= 3
        restore = await state.restore(talk.tenant)
        for line in lines[:-1]:
            assert await restore.put(archive.read(line)) == "written"
        assert await talk.read(draft) == "q a"


async def settled(state):
    """Somebody who talks, once the store takes what is said: another test may have moved its primary."""
    talk = Talk(state)
    await recovered(talk)
    return Talk(state)
