"""Owners: kept with what they own from its run to its end; what may not be read is answered as what is not there."""

import secrets

import pytest

from proxy import ids
from proxy.errors import EncryptionKeyMissing, InvalidRequest, StoreUnavailable
from proxy.principals import Principal
from proxy.state import End, Lease, Page, Run
from proxy.state.envelope import Envelope
from proxy.state.keys import MARKED, PLAIN, SCHEMA, Lineage
from tests.state.talk import NOW, Talk, message, opened

ADA = Principal("ada", {"teams": ("red", "blue")})
BEN = Principal("Bén \U0001f600", {})
MANY = Principal("m" * 100, {"teams": tuple(f"team-{n}" for n in range(20)), "roles": ()})
OWNERS = [
    ADA,
    BEN,
    Principal(""),
    Principal("x" * 200, {"a": ("b",)}),
    Principal("\udcff", {"a": ("\ud800",)}),
    MANY,
    None,
]


def hers(_id, owner):
    return owner == ADA


def of(state, id_, tenant):
    return state.owners.of(id_, tenant)


async def field(talk, key, name):
    return await talk.state._client.command("HGET", key, name)


@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner and f"{len(owner.encoded())} bytes")
async def test_an_owner_is_kept_from_the_run_to_the_response(talk, owner):
    state, tenant, draft = talk.state, talk.tenant, talk.draft(owner=owner)
    lineage, turn, lease = Lineage(draft.minter.tag), draft.minter.turn, Lease(draft.id)
    await state.runs.create(Run(draft.id, tenant, draft.created_at, {}, draft.input, owner=owner), None)
    assert (await of(state, draft.id, tenant)).owner == owner
    assert (await state.runs.load(draft.id, tenant)).owner == owner
    assert (await state.responses.find(draft.id, tenant)).owner == owner
    run = await state.runs.claim(draft.id, tenant, lease)
    assert run.owner == owner
    schema = str(MARKED if owner else PLAIN).encode()
    assert await field(talk, lineage.run(turn), "v") == schema
    draft.end = End(lease, 0, [])
    await state.responses.save(draft)
    assert (await of(state, draft.id, tenant)).owner == owner
    assert (await state.responses.load(draft.id, tenant)).owner == owner
    assert await field(talk, lineage.record(turn), "v") == schema
    made = await state.conversations.create(tenant, {}, [], ids.Minter(), owner=owner)
    assert (await of(state, made.id, tenant)).owner == owner
    assert await field(talk, Lineage(ids.parse(made.id).tag).conversation, "v") == schema


async def test_there_is_no_owner_of_what_is_not_there_or_anothers_or_no_such_thing(talk):
    saved = await talk.turn(owner=ADA)
    made = await talk.conversation()
    others = ids.Minter(ids.parse(made.id).tag).own("conv")  # the same lineage, another turn
    for id_ in (ids.Minter().own("resp"), ids.Minter().own("conv"), others, saved.output[0]["id"], "resp_x", ""):
        assert await of(talk.state, id_, talk.tenant) is None
    other = Talk(talk.state)
    for id_ in (saved.id, made.id):
        assert await of(talk.state, id_, talk.tenant)
        assert await of(talk.state, id_, other.tenant) is None


async def test_a_newer_schema_is_an_error_and_not_missing(talk):
    saved = await talk.turn(owner=ADA)
    record = Lineage(saved.minter.tag).record(saved.minter.turn)
    await talk.state._client.command("HSET", record, "v", SCHEMA + 1)
    with pytest.raises(StoreUnavailable, match="later version"):
        await of(talk.state, saved.id, talk.tenant)


async def test_what_is_not_seen_is_missing_and_does_not_live_longer_for_it(talk):
    state, tenant = talk.state, talk.tenant
    ours, theirs = await talk.turn(owner=ADA), await talk.turn(owner=BEN)
    record = Lineage(theirs.minter.tag).record(theirs.minter.turn)
    await state._client.command("EXPIRE", record, 100)
    for verb in (state.responses.history, state.responses.context):
        assert await verb(ours.id, tenant, hers)
        assert await verb(theirs.id, tenant, hers) is None
    items = [ours.output[0]["id"], theirs.output[0]["id"]]
    assert list(await state.responses.items(items, tenant, hers)) == items[:1]
    assert await talk.ttl(record) <= 100
    assert list(await state.responses.items(items, tenant)) == items
    assert await talk.ttl(record) > 100


async def test_an_item_is_seen_by_its_conversation_or_by_the_response_it_was_made_in(talk):
    state, tenant = talk.state, talk.tenant
    for of_conversation, of_response, seen in ((ADA, BEN, True), (BEN, ADA, True), (BEN, BEN, False)):
        made = await state.conversations.create(tenant, {}, [message("one")], ids.Minter(), owner=of_conversation)
        saved = await talk.converse(made, owner=of_response)
        added = await state.conversations.add_items(made.id, tenant, [message("two")])
        found = await state.responses.items([saved.output[0]["id"], added[0]["id"]], tenant, hers)
        assert (saved.output[0]["id"] in found) is seen
        assert (added[0]["id"] in found) is (of_conversation == ADA)


async def test_pages_hold_what_is_seen_and_are_as_full_as_there_is_of_it(talk):
    state, tenant = talk.state, talk.tenant
    made = [await talk.turn(owner=(ADA, BEN, None)[n % 3], created_at=NOW + n) for n in range(30)]
    ours = [one.id for one in made if one.owner == ADA]
    for order in ("asc", "desc"):
        wanted = ours if order == "asc" else ours[::-1]
        for limit in (1, 3, 4, 10, 11, 100):
            got, cursor, more = [], None, True
            while more:
                page, more = await state.responses.list(tenant, Page(limit, order, after=cursor), None, hers)
                assert len(page) == limit or not more
                assert page or not got
                got += [one.id for one in page]
                cursor = got[-1]
            assert got == wanted
        page, more = await state.responses.list(tenant, Page(3, order, before=wanted[5]), None, hers)
        assert ([one.id for one in page], more) == (wanted[2:5], True)
    with pytest.raises(InvalidRequest, match="No item found"):
        await state.responses.list(tenant, Page(after=made[1].id), None, hers)
    assert (await state.responses.list(tenant, Page(after=made[1].id), None))[0]
    assert await state.responses.list(tenant, Page(), None, lambda _id, _owner: False) == ([], False)
    assert (await state.responses.list(tenant, Page(), "another", hers)) == ([], False)


async def test_an_owner_of_some_attributes_leaves_a_record_compact(talk):
    usual = Principal("ada@example.com", {"teams": ("t" * 20,) * 8})
    for owner, compact in ((ADA, True), (usual, True), (MANY, False)):
        saved = await talk.turn(owner=owner)
        record = Lineage(saved.minter.tag).record(saved.minter.turn)
        kind = await talk.state._client.command("OBJECT", "ENCODING", record)
        assert (kind in (b"listpack", b"ziplist")) is compact, len(owner.encoded())


async def test_owners_are_sealed_with_what_they_own(store_url):
    """And what was there before stays readable, as does all without sight of an owner."""
    tenant = secrets.token_hex(16)
    async with opened(store_url) as plain:
        before = await Talk(plain, tenant).turn(owner=ADA)
    async with opened(store_url, envelope=Envelope(["k" * 16], "off")) as state:
        talk = Talk(state, tenant)
        sealed = await talk.turn(before, owner=BEN)
        made = await state.conversations.create(tenant, {}, [message("one")], ids.Minter(), owner=ADA)
        draft = talk.draft(owner=ADA)
        await state.runs.create(Run(draft.id, tenant, draft.created_at, {}, draft.input, owner=ADA), None)
        for id_, owner in ((before.id, ADA), (sealed.id, BEN), (made.id, ADA), (draft.id, ADA)):
            assert (await of(state, id_, tenant)).owner == owner
        assert (await state.responses.load(sealed.id, tenant)).owner == BEN
        assert (await state.runs.load(draft.id, tenant)).owner == ADA
        assert await state.responses.history(sealed.id, tenant, hers) is None
        page, _ = await state.responses.list(tenant, Page(), None, hers)
        assert (before.id in [one.id for one in page], sealed.id in [one.id for one in page]) == (True, False)
        keys = (
            Lineage(sealed.minter.tag).record(sealed.minter.turn),
            Lineage(ids.parse(made.id).tag).conversation,
            Lineage(draft.minter.tag).run(draft.minter.turn),
        )
        for key in keys:
            kept = b"".join(await talk.state._client.command("HVALS", key))
            assert b"teams" not in kept and b'"ada"' not in kept and BEN.name.encode() not in kept
    async with opened(store_url) as state:  # the key has gone
        with pytest.raises(EncryptionKeyMissing):
            await of(state, sealed.id, tenant)
        assert (await of(state, before.id, tenant)).owner == ADA
