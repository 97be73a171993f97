"""A tenant's list of lineages: what is written is listed, for longer than it lives, and for its owner alone."""

import time
from math import inf

import pytest

from proxy import ids
from proxy.errors import NotFound
from proxy.state import keys
from tests.state.talk import MONTH, Talk, message, opened


async def listed(talk):
    """Until when each lineage of the tenant is listed, by tag."""
    flat = await talk.state._client.command("ZRANGE", keys.tenant_lineages(talk.tenant), 0, -1, "WITHSCORES")
    return {tag.hex(): float(until) for tag, until in zip(flat[::2], flat[1::2], strict=True)}


def tag_of(id_):
    return ids.parse(id_).tag


async def test_a_lineage_is_listed_with_its_first_write_and_outlives_its_records_there(talk):
    chain = await talk.turn()
    await talk.turn(chain)
    made = await talk.conversation("one")
    found = await listed(talk)
    assert set(found) == {tag_of(chain.id), tag_of(made.id)}
    assert all(2 * MONTH <= until - time.time() <= 2.1 * MONTH for until in found.values())
    assert await talk.state.responses.delete(chain.id, talk.tenant)
    await talk.state.conversations.delete(made.id, talk.tenant)
    assert await listed(talk) == found
    assert 2 * MONTH <= await talk.ttl(keys.tenant_lineages(talk.tenant)) <= 2.1 * MONTH


async def test_what_has_been_gone_for_long_is_dropped_with_the_next_write(talk):
    name = keys.tenant_lineages(talk.tenant)
    old, new = bytes(8), bytes([1]) * 8
    await talk.state._client.command("ZADD", name, int(time.time()) - 1, old, int(time.time()) + 100, new)
    draft = await talk.turn()
    assert set(await listed(talk)) == {new.hex(), tag_of(draft.id)}


async def test_what_is_kept_for_ever_is_listed_for_ever(store_url):
    async with opened(store_url, 0, 0) as state:
        talk = Talk(state)
        chain, made = await talk.turn(), await talk.conversation()
        assert await listed(talk) == {tag_of(chain.id): inf, tag_of(made.id): inf}
        assert await talk.ttl(keys.tenant_lineages(talk.tenant)) == -1
    async with opened(store_url) as state:
        shorter = Talk(state, talk.tenant)
        await shorter.turn()
        assert await shorter.ttl(keys.tenant_lineages(talk.tenant)) == -1  # that of others may not end for all


@pytest.mark.parametrize("use", ["items", "metadata", "turn", "reference"])
async def test_use_that_prolongs_a_life_prolongs_the_entry(talk, use):
    made = await talk.conversation("one")
    store, tenant, tag = talk.state.conversations, talk.tenant, tag_of(made.id)
    [item] = (await store.past(made.id, tenant)).items
    name, lineage = keys.tenant_lineages(tenant), keys.Lineage(tag)
    await talk.state._client.command("ZADD", name, int(time.time()) + 100, bytes.fromhex(tag))
    for key in (lineage.conversation, lineage.index, lineage.log("c")):
        await talk.state._client.command("EXPIRE", key, MONTH - 7200)
    if use == "items":
        await store.add_items(made.id, tenant, [message("two")])
    elif use == "metadata":
        await store.update(made.id, tenant, {"a": "b"})
    elif use == "turn":
        await talk.converse(made)
    else:
        assert await talk.state.responses.items([item["id"]], tenant)
    assert (await listed(talk))[tag] >= time.time() + 2 * MONTH - 10


async def test_a_chain_that_is_only_read_on_stays_listed(talk):
    chain = await talk.turn()
    tag = tag_of(chain.id)
    lineage = keys.Lineage(tag)
    await talk.state._client.command(
        "ZADD", keys.tenant_lineages(talk.tenant), int(time.time()) + 100, bytes.fromhex(tag)
    )
    await talk.state._client.command("EXPIRE", lineage.record(chain.minter.turn), 100)
    assert await talk.read(chain) == "q a"
    assert (await listed(talk))[tag] >= time.time() + 2 * MONTH - 10


async def test_nobody_lists_what_is_anothers(talk):
    """A list says whose a lineage is: what is done with a tenant's data is done by it."""
    made, chain = await talk.conversation("one"), await talk.turn()
    stranger = Talk(talk.state)
    for attempt in (
        talk.state.conversations.add_items(made.id, stranger.tenant, [message("two")]),
        talk.state.conversations.update(made.id, stranger.tenant, {}),
    ):
        with pytest.raises(NotFound):
            await attempt
    assert await stranger.read(chain) is None
    assert not await talk.state.responses.items([chain.output[0]["id"]], stranger.tenant)
    assert await listed(stranger) == {}
