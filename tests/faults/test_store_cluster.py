"""A Cluster that loses a node, and moves slots, under turns."""

import asyncio

import pytest

from proxy.state.keys import PROBE
from tests import servers
from tests.backend import STREAM_END, STREAM_HEAD, chunked, sse, talk
from tests.callers import refusal
from tests.live import strict

pytestmark = pytest.mark.live

HALF = STREAM_HEAD + chunked(sse(*talk("Hel")[:2]))
REST = chunked(sse(*talk("lo")[1:])) + STREAM_END
UNAVAILABLE = (503, "store_unavailable", None)


@pytest.fixture
def cluster(tmp_path):
    nodes = servers.Cluster(servers.valkey_binary(), tmp_path, "--appendonly", "yes")
    yield nodes
    nodes.stop()


def key_of(id_):
    """A key of the lineage that an id names."""
    return f"sc:{{{id_.partition('_')[2][:16]}}}:m"


async def conversation_on(caller, cluster, *nodes):
    """A conversation that lies on one of these."""
    while cluster.node_of(key_of(found := await caller.conversation())) not in nodes:
        pass
    return found


async def talked(caller, conversation, text):
    """A turn of the conversation, as soon as there is one."""
    async with asyncio.timeout(servers.PATIENCE):
        while (answer := await caller.ask(text, conversation=conversation)).status_code == 503:
            assert refusal(answer) == UNAVAILABLE
            await asyncio.sleep(0.05)
    assert answer.status_code == 200, answer.text


async def test_a_node_that_hangs_or_is_lost_and_a_moved_slot_cost_only_the_talks_they_hold(
    cluster, calling, backend, monkeypatch
):
    monkeypatch.setattr("proxy.state._FRESH", 0)  # seconds for which a good save is enough
    caller = await calling("--conversation-lock-wait=20", store=cluster.url)
    node = cluster.node_of(PROBE)
    lost = await conversation_on(caller, cluster, node)
    kept = await conversation_on(caller, cluster, *(other for other in cluster.nodes if other is not node))
    for conversation in (lost, kept):
        await caller.create("one", conversation=conversation)

    async def streamed(conversation, text, meanwhile):
        """The last response of a stream, something having happened in the middle of it."""
        go, asked = asyncio.Event(), len(backend.requests)
        backend.script(HALF, go, REST)
        async with asyncio.TaskGroup() as tasks:
            turn = tasks.create_task(caller.events(text, conversation=conversation))
            await backend.received(asked + 1)
            await meanwhile()
            go.set()
        return strict.stream(turn.result())

    async def lose():
        node.pause()
        waiting = [asyncio.create_task(caller.http.get(f"/conversations/{lost}/items")) for _ in range(70)]
        await asyncio.sleep(0.1)  # as many as may are at the node that hangs
        strict.response(await caller.create("meanwhile", conversation=kept))
        node.stop()
        assert {refusal(answer) for answer in await asyncio.gather(*waiting)} == {UNAVAILABLE}
        asked = len(backend.requests)
        refused = await asyncio.gather(
            caller.ask("no", conversation=lost),
            caller.http.get(f"/conversations/{lost}/items"),
        )
        assert [refusal(answer) for answer in refused] == [UNAVAILABLE] * 2
        for _ in range(2):
            strict.response(await caller.create("meanwhile", conversation=kept))
        assert len(backend.requests) == asked + 2

    assert (await streamed(lost, "lost", lose))["status"] == "failed"
    node.start()
    await talked(caller, lost, "two")
    assert await caller.texts(lost) == ["one", "Hi", "two", "Hi"]
    assert await caller.texts(kept) == ["one", "Hi", *["meanwhile", "Hi"] * 3]

    async def move():
        await asyncio.to_thread(cluster.move, key_of(kept), node)

    assert (await streamed(kept, "moved", move))["status"] == "completed"
    await talked(caller, kept, "three")
    assert (await caller.texts(kept))[-4:] == ["moved", "Hello", "three", "Hi"]
