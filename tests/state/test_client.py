"""The client: every kind of URL, and stores that are down, paused, restarted, refusing or resharded."""

import asyncio
import itertools
import logging
import re
import time

import anyio
import pytest

from proxy import ids
from proxy.errors import StoreUnavailable
from proxy.state import open_state
from proxy.state.client import Client
from proxy.state.keys import Lifetimes, Lineage
from tests import servers
from tests.state.talk import Talk, message, opened

BOUND = 10
"""Seconds no refusal may take; the client's own limit is 2."""


@pytest.fixture
def own(tmp_path_factory):
    """A store of the test's own, to be mistreated."""
    server = servers.Server.on_socket(servers.valkey_binary(), tmp_path_factory.mktemp("o"))
    yield server
    server.resume()
    server.stop()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "must begin with one of redis://"),
        ("localhost:6379", "must begin with one of redis://"),
        ("http://localhost", "must begin with one of redis://"),
        ("redis://localhost:port", "is not valid"),
        ("redis://localhost?nonsense=1", "has an option Redis clients do not know"),
        ("redis+cluster://localhost?nonsense=1", "has an option Redis clients do not know"),
        ("redis+cluster://localhost/3", "has only number 0"),
        ("redis://localhost?db=x", "is not valid"),
        ("unix://", "names no socket"),
    ],
)
def test_a_bad_url_is_said_clearly(url, says):
    with pytest.raises(ValueError, match=says):
        open_state(url, response_ttl=0, conversation_ttl=0)


def test_a_bad_url_is_shown_without_its_password():
    with pytest.raises(ValueError) as caught:
        open_state("redis://user:hunter2@localhost?nonsense=1", response_ttl=0, conversation_ttl=0)
    assert "hunter2" not in str(caught.value) and "user:***@localhost" in str(caught.value)


async def test_a_url_cannot_loosen_the_bounds(valkey):
    async with opened(f"{valkey.url}?socket_timeout=60&timeout=9&max_connections=9&decode_responses=true") as state:
        assert state._client._redis.connection_pool.connection_kwargs["socket_timeout"] <= 1
        await Talk(state).turn()


async def test_a_password_is_sent_and_a_wrong_one_is_logged_as_an_error(tmp_path_factory, caplog):
    server = servers.Server.on_socket(servers.valkey_binary(), tmp_path_factory.mktemp("p"))
    try:
        with server.admin() as admin:
            admin.config_set("requirepass", "right")
        async with opened(server.url.replace("unix://", "unix://:right@")) as state:
            await state.ping()
        async with opened(server.url.replace("unix://", "unix://:wrong@")) as state:
            with pytest.raises(StoreUnavailable, match="refused"):
                await state.ping()
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        assert "wrong" not in caplog.text.replace("WRONGPASS", "")
    finally:
        server.stop()


async def every_verb(talk, response, conversation):
    """Calls of every verb, each on its own."""
    responses, conversations, tenant = talk.state.responses, talk.state.conversations, talk.tenant
    return [
        talk.state.ping(),
        talk.state.tenant_secret(),
        talk.state.warnings(),
        responses.history(response.id, tenant),
        responses.load(response.id, tenant),
        responses.context(response.id, tenant),
        responses.items([response.output[0]["id"]], tenant),
        responses.delete(response.id, tenant),
        responses.save(talk.draft()),
        conversations.create(tenant, {}, [], ids.Minter()),
        conversations.retrieve(conversation.id, tenant),
        conversations.update(conversation.id, tenant, {}),
        conversations.add_items(conversation.id, tenant, [message("x")]),
        conversations.past(conversation.id, tenant),
        conversations.turn(conversation.id, tenant).__aenter__(),
        conversations.delete(conversation.id, tenant),
    ]


async def test_a_store_that_is_down_is_said_within_the_bound_and_found_again(own):
    async with opened(own.url) as state:
        talk = Talk(state)
        response, conversation = await talk.turn(), await talk.conversation()
        own.stop()
        with anyio.fail_after(BOUND):
            results = await asyncio.gather(*await every_verb(talk, response, conversation), return_exceptions=True)
        assert {type(result) for result in results} == {StoreUnavailable}
        assert {(e.status, e.code, e.headers["retry-after"]) for e in results} == {(503, "store_unavailable", "1")}
        own.start()  # empty: scripts have to be sent anew
        await state.ping()
        assert await talk.read(await talk.turn()) == "q a"


async def found_again(work):
    """What an operation gives, once the store is no longer held to be away."""
    with anyio.fail_after(servers.PATIENCE):
        while True:
            try:
                return await work()
            except StoreUnavailable:
                await asyncio.sleep(0.05)


async def test_a_cluster_that_is_down_is_said_within_the_bound_and_found_again(tmp_path_factory):
    cluster = servers.Cluster(servers.valkey_binary(), tmp_path_factory.mktemp("c"))
    try:
        async with opened(cluster.url) as state:
            talk = Talk(state)
            response, conversation = await talk.turn(), await talk.conversation()
            cluster.stop()
            for _ in range(2):
                calls = await every_verb(talk, response, conversation)
                with anyio.fail_after(BOUND):
                    results = await asyncio.gather(*calls, return_exceptions=True)
                assert {type(result) for result in results} == {StoreUnavailable}
            for node in cluster.nodes:
                node.start()
            assert await talk.read(await found_again(talk.turn)) == "q a"
    finally:
        cluster.stop()


async def test_a_paused_store_is_bounded_and_what_it_still_does_is_done_once(own):
    async with opened(own.url) as state:
        talk = Talk(state)
        root = await talk.turn(words="r0 r1")
        conversation = await talk.conversation()
        await state.conversations.add_items(conversation.id, talk.tenant, [message("one")])  # makes the script known
        past = await state.responses.history(root.id, talk.tenant)
        draft = talk.draft(past, "q a")
        async with state.conversations.turn(conversation.id, talk.tenant) as turn_past:
            other = talk.draft(turn_past, "q2 a2")
            await asyncio.gather(*(state.ping() for _ in range(8)))  # open connections take what is sent
            own.pause()
            with anyio.fail_after(BOUND):
                results = await asyncio.gather(
                    state.responses.save(draft),
                    state.responses.save(other),
                    state.conversations.add_items(conversation.id, talk.tenant, [message("two", "mine")]),
                    return_exceptions=True,
                )
            assert {type(result) for result in results} == {StoreUnavailable}
            own.resume()
            with own.admin() as admin:
                servers.until(lambda: admin.llen(Lineage(past.tag).log(past.log)) == 4)
                servers.until(lambda: admin.zcard(Lineage(turn_past.tag).index) == 4)
            await state.responses.save(draft)
            await state.responses.save(other)
        assert await talk.read(draft) == "r0 r1 q a"
        assert sorted((await talk.holds(conversation)).split()) == ["a2", "one", "q2", "two"]
        assert (await talk.read(other)).startswith("one") and (await talk.read(other)).endswith("q2 a2")


async def test_a_store_that_hangs_is_waited_for_by_one_at_a_time_and_by_what_was_worked_for(own):
    sent = []
    async with opened(own.url, heard=lambda name, seconds, ok: sent.append(name)) as state:
        talk = Talk(state)
        saved, draft = await talk.turn(), talk.draft()
        own.pause()
        with pytest.raises(StoreUnavailable):
            await talk.read(saved)
        sent.clear()
        asked = await asyncio.gather(*(state.ping() for _ in range(50)), talk.read(saved), return_exceptions=True)
        assert {type(result) for result in asked} == {StoreUnavailable} and not sent

        async def waits(work):
            """Whether this asks the store; its client leaves before the answer."""
            asking = asyncio.create_task(work)
            done, _ = await asyncio.wait([asking], timeout=0.1)
            asking.cancel()
            await asyncio.wait([asking])
            return not done

        with anyio.fail_after(BOUND):
            assert await waits(state.responses.save(draft))
            while not await waits(state.ping()):
                pass
        own.resume()
        assert await talk.read(saved) == "q a", "the next one finds out instead"


async def test_an_operation_that_alone_takes_too_long_keeps_nobody_else_out(own, monkeypatch):
    monkeypatch.setattr("proxy.state.nodes._OVERLOAD", 3.0)
    async with opened(own.url) as state:
        slow = asyncio.create_task(state._client.command("BLPOP", "nothing", 60))
        while not slow.done():
            await state.ping()
            await asyncio.sleep(0.02)
        assert isinstance(slow.exception(), StoreUnavailable)
        await state.ping()


async def test_a_pool_that_is_empty_is_waited_for_on_every_store(store_url):
    async with opened(store_url, connections=2) as state:
        talk = Talk(state)
        saved = await talk.turn()
        assert await asyncio.gather(*(talk.read(saved) for _ in range(200))) == ["q a"] * 200


async def test_an_operation_costs_no_task(valkey):
    begun = []
    async with opened(valkey.url) as state:
        await state.ping()  # to connect costs some
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, work, **named: begun.append(work) or asyncio.Task(work, loop=loop, **named))
        try:
            await state.ping()
        finally:
            loop.set_task_factory(None)
    assert not begun


async def test_a_value_beyond_what_a_transport_takes_at_once_is_written_whole(store_url):
    async with opened(store_url) as state:
        talk = Talk(state)
        draft = await talk.turn(words="q " + "a" * 3_000_000)
        assert (await state.responses.load(draft.id, talk.tenant)).output == draft.output


async def test_a_cancelled_call_is_cancelled_and_spoils_no_connection(store_url):
    async with opened(store_url, connections=1) as state:
        talk = Talk(state)
        saved = await talk.turn()
        for steps, work in itertools.product(range(20), (lambda: talk.read(saved), talk.turn)):
            task = asyncio.create_task(work())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=20)
            assert done, "the cancellation was lost"
            assert task.cancelled() or task.result()
            assert await talk.read(saved) == "q a"


async def test_a_fault_of_ours_is_logged_loudly_and_not_called_unreachable(talk, caplog):
    saved = await talk.turn()
    await talk.state._client.command("DEL", Lineage(saved.minter.tag).log(saved.minter.turn))
    await talk.state._client.command("SET", Lineage(saved.minter.tag).log(saved.minter.turn), "no list")
    with pytest.raises(StoreUnavailable, match="The state store refused") as caught:
        await talk.read(saved)
    assert "WRONGTYPE" not in caught.value.message, "callers are told no internals"
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "history" in record.getMessage() and "WRONGTYPE" in record.getMessage()


async def test_a_full_store_refuses_and_says_so_in_the_log(own, caplog):
    async with opened(own.url) as state:
        talk = Talk(state)
        saved = await talk.turn()
        with own.admin() as admin:
            admin.config_set("maxmemory", "1mb")
        with pytest.raises(StoreUnavailable, match="refused"):
            await talk.turn(words="q " + "a" * 100_000)
        assert "OutOfMemoryError" in caplog.text
        assert await talk.read(saved) == "q a"
        assert await state.responses.delete(saved.id, talk.tenant)


async def test_an_operation_that_takes_long_is_told_where_debugging_is_wanted(own, caplog):
    caplog.set_level(logging.DEBUG, "proxy.state")
    async with opened(own.url) as state:
        await Talk(state).turn()
        with own.admin() as admin:
            admin.execute_command("CLIENT", "PAUSE", 150, "ALL")
        await state.ping()
    told = [re.fullmatch(r"the state store took (\d+) ms for (\w+)", message) for message in caplog.messages]
    assert told[-1][2] == "probe"
    assert all(int(each[1]) >= 100 for each in told)


async def test_start_up_warns_when_the_store_would_evict(own):
    async with opened(own.url) as state:
        assert await state.warnings() == []
        with own.admin() as admin:
            admin.config_set("maxmemory-policy", "volatile-lru")
            [warning] = await state.warnings()
            assert "volatile-lru" in warning and "noeviction" in warning
            admin.acl_setuser("default", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-info"])
        assert await state.warnings() == [], "not being allowed to look is no failure"


async def test_every_node_of_a_cluster_is_asked_for_its_policy(cluster):
    async with opened(cluster.url) as state:
        assert await state.warnings() == []
        with cluster.nodes[2].admin() as admin:
            admin.config_set("maxmemory-policy", "allkeys-lru")
            try:
                assert len(await state.warnings()) == 1
            finally:
                admin.config_set("maxmemory-policy", "noeviction")


async def test_a_slot_on_the_move_is_never_a_shorter_history_and_then_followed(cluster):
    async with opened(cluster.url) as state:
        talk = Talk(state)
        first = await talk.turn(words="a0 a1")
        last = await talk.turn(first, "b0 b1", append=False)
        lineage = Lineage(first.minter.tag)
        with cluster.nodes[0].admin() as admin:
            slot = admin.execute_command("CLUSTER KEYSLOT", lineage.meta)
        source = min(slot // 5461, 2) if slot != 10922 else 1
        target = (source + 1) % 3
        admins = [node.admin() for node in cluster.nodes]
        names = [admin.execute_command("CLUSTER MYID").decode() for admin in admins]
        admins[target].execute_command("CLUSTER SETSLOT", slot, "IMPORTING", names[source])
        admins[source].execute_command("CLUSTER SETSLOT", slot, "MIGRATING", names[target])
        port = cluster.nodes[target].url.rpartition(":")[2]

        def move(*keys):
            admins[source].execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)

        move(lineage.log(first.minter.turn))
        for _ in range(3):
            with anyio.fail_after(BOUND):
                try:
                    assert await talk.read(last) == "a0 a1 b0 b1"
                except StoreUnavailable:
                    pass
                try:
                    await talk.turn(last, append=False)
                except StoreUnavailable:
                    pass
        move(*admins[source].execute_command("CLUSTER GETKEYSINSLOT", slot, 100))
        for admin in (admins[target], admins[source], *admins):
            admin.execute_command("CLUSTER SETSLOT", slot, "NODE", names[target])
        for admin in admins:
            admin.close()
        assert await found_again(lambda: talk.read(last)) == "a0 a1 b0 b1"
        assert await talk.read(await talk.turn(last, "c0 c1")) == "a0 a1 b0 b1 c0 c1"


# ---- the tenant secret


async def test_replicas_agree_on_the_secret_and_keep_it_when_the_store_is_down(own):
    async with opened(own.url) as one, opened(own.url) as two:
        values = await asyncio.gather(*(state.tenant_secret() for state in (one, two, one, two)))
        assert len(set(values)) == 1 and len(values[0]) == 32
        own.stop()
        one._secret._until = two._secret._until = 0
        assert await one.tenant_secret() == values[0]
        async with opened(own.url) as three:
            with pytest.raises(StoreUnavailable):
                await three.tenant_secret()
        own.start()  # empty: the old secret is offered again
        one._secret._until = two._secret._until = 0
        assert await two.tenant_secret() == values[0]
        await two._secret._offering
        async with opened(own.url) as three:
            assert await three.tenant_secret() == values[0]


async def test_the_secret_is_asked_for_once_a_minute(own):
    async with opened(own.url) as state:
        value = await state.tenant_secret()
        own.stop()
        own.start()
        assert await state.tenant_secret() == value
        with own.admin() as admin:
            assert not admin.exists("sc:secret")
        own.stop()


def test_lifetimes_nest():
    for seconds in (1, 7, 8, 60, 3600, 30 * 86400):
        life = Lifetimes(seconds, seconds)
        assert life.record_due <= life.response <= life.log_due <= life.log <= life.conversation_log
    assert Lifetimes(0, 5).log == Lifetimes(0, 5).conversation_log == Lifetimes(5, 0).conversation_log == 0


async def test_more_than_can_be_done_in_the_limit_is_done_later_and_not_refused(valkey):
    client = Client(valkey.url, connections=1)
    client._limit = 0.7
    try:
        waiting = [client.command("XREAD", "BLOCK", 100, "STREAMS", f"sc:none:{n}", "$") for n in range(8)]
        assert await asyncio.gather(*waiting) == [[]] * 8  # each takes a tenth of a second or two
    finally:
        await client.close()


async def test_time_in_which_this_process_did_other_work_is_not_the_silence_of_the_store(valkey):
    client = Client(valkey.url, connections=1)
    client._limit = 0.1
    pings = asyncio.gather(*(client.command("GET", f"sc:none:{n}") for n in range(4)))
    try:
        while not pings.done():
            time.sleep(0.12)
            await asyncio.sleep(0)
        assert await pings == [None] * 4
    finally:
        await client.close()
