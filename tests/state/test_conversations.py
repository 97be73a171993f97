"""Conversations on every kind of store."""

import asyncio

import anyio
import pytest

from proxy import ids
from proxy.errors import InvalidRequest, LockLost, NotFound, StoreUnavailable
from proxy.state import Page, leases
from proxy.state.keys import SCHEMA, Lineage
from tests.state.talk import NOW, Talk, message, opened, texts


def lineage_of(conversation):
    return Lineage(ids.parse(conversation.id).tag)


async def test_a_conversation_comes_back_as_it_was_made(talk):
    minter = ids.Minter()
    items = [message("one"), message("two", "mine"), message("three", "not a path id!"), message("four", "mine")]
    made = await talk.state.conversations.create(talk.tenant, {"ключ": "\ud83d"}, items, minter, now=NOW)
    assert (made.id, made.created_at, made.metadata) == (minter.own("conv"), NOW, {"ключ": "\ud83d"})
    assert await talk.state.conversations.retrieve(made.id, talk.tenant) == made
    stored = (await talk.state.conversations.past(made.id, talk.tenant)).items
    assert texts(stored) == "one two three four"
    assert [item["id"] == "mine" for item in stored] == [False, True, False, False]
    assert len({item["id"] for item in stored}) == 4
    assert all(ids.is_path_id(item["id"]) for item in stored)


async def test_metadata_is_replaced(talk):
    made = await talk.conversation()
    changed = await talk.state.conversations.update(made.id, talk.tenant, {"b": "2"})
    assert changed.metadata == {"b": "2"}
    assert await talk.state.conversations.retrieve(made.id, talk.tenant) == changed


async def test_a_turn_appends_what_it_read_and_wrote(talk):
    made = await talk.conversation("one")
    first = await talk.converse(made, "q1 a1")
    await talk.converse(made, "q2 q3 a2")
    assert await talk.holds(made) == "one q1 a1 q2 q3 a2"
    assert await talk.read(first) == "one q1 a1"
    stored = await talk.state.responses.load(first.id, talk.tenant)
    assert (stored.conversation, texts(stored.input), texts(stored.output)) == (made.id, "q1", "a1")


async def test_a_failed_turn_appends_nothing_and_is_stored(talk):
    made = await talk.conversation("one")
    failed = await talk.converse(made, "q a", append=False)
    assert await talk.holds(made) == "one"
    assert await talk.read(failed) == "one q a"
    assert (await talk.state.responses.load(failed.id, talk.tenant)).conversation == made.id
    await talk.converse(made, "q2 a2")
    assert await talk.holds(made) == "one q2 a2"


async def test_a_response_of_a_conversation_can_be_continued_outside_it(talk):
    made = await talk.conversation("one")
    inside = await talk.converse(made, "q1 a1")
    outside = await talk.turn(inside, "q2 a2")
    assert await talk.read(outside) == "one q1 a1 q2 a2"
    assert await talk.holds(made) == "one q1 a1"
    assert (await talk.state.responses.load(outside.id, talk.tenant)).conversation is None


async def test_a_response_sees_for_ever_what_its_model_saw(talk):
    made = await talk.conversation("one two three four")
    items = (await talk.state.conversations.past(made.id, talk.tenant)).items
    for n in (0, 2):
        await talk.state.conversations.delete_item(made.id, talk.tenant, items[n]["id"])
    response = await talk.converse(made, "q a")
    await talk.state.conversations.delete_item(made.id, talk.tenant, items[1]["id"])
    await talk.state.conversations.delete_item(made.id, talk.tenant, response.output[0]["id"])
    assert await talk.holds(made) == "four q"
    assert await talk.read(response) == "two four q a"
    assert texts(await talk.state.responses.context(response.id, talk.tenant)) == "two four q"
    child = await talk.turn(response, "q2 a2")
    assert await talk.read(await talk.turn(child, "q3 a3")) == "two four q a q2 a2 q3 a3"


async def test_what_others_do_in_mid_turn_is_not_in_that_turns_context(talk):
    conversations = talk.state.conversations
    made = await talk.conversation("one two")
    items = (await conversations.past(made.id, talk.tenant)).items
    async with conversations.turn(made.id, talk.tenant) as past:
        await conversations.add_items(made.id, talk.tenant, [message("three")])
        await conversations.delete_item(made.id, talk.tenant, items[0]["id"])
        late = (await conversations.add_items(made.id, talk.tenant, [message("four")]))[0]
        await conversations.delete_item(made.id, talk.tenant, late["id"])
        draft = talk.draft(past, "q a")
        await talk.state.responses.save(draft)
    assert await talk.holds(made) == "two three q a"
    assert await talk.read(draft) == "one two q a"


async def test_thousands_of_deleted_items_stay_quick_and_exact(talk):
    conversations = talk.state.conversations
    made = await talk.conversation()
    stored = await conversations.add_items(made.id, talk.tenant, [message(str(n)) for n in range(3000)])
    odd = [item["id"] for item in stored[1::2]]
    index = lineage_of(made).index
    await talk.state._client.command("ZREM", index, *odd)
    response = await talk.converse(made, "q a")
    expected = " ".join(map(str, range(0, 3000, 2)))
    assert await talk.read(response) == f"{expected} q a"
    page, more = await conversations.list_items(made.id, talk.tenant, Page(100, "asc", stored[1000]["id"]))
    assert (texts(page), more) == (" ".join(map(str, range(1002, 1202, 2))), True)


# ---- the lock


async def test_a_second_turn_is_refused_while_one_runs(talk):
    conversations = talk.state.conversations
    made = await talk.conversation()
    async with conversations.turn(made.id, talk.tenant):
        with pytest.raises(InvalidRequest) as caught:
            async with conversations.turn(made.id, talk.tenant, param="conversation"):
                pytest.fail("two turns at once")
        assert (caught.value.status, caught.value.code) == (400, "conversation_locked")
        assert caught.value.param == "conversation"
        assert caught.value.message.startswith("Another process is currently operating on this conversation.")
    async with conversations.turn(made.id, talk.tenant):
        pass


async def test_a_turn_may_wait_for_the_one_before(talk):
    made = await talk.conversation()
    entered = asyncio.Event()

    async def first():
        async with talk.state.conversations.turn(made.id, talk.tenant) as past:
            entered.set()
            await talk.state.responses.save(talk.draft(past, "q1 a1"))

    async def second():
        await entered.wait()
        async with talk.state.conversations.turn(made.id, talk.tenant, wait=20) as past:
            await talk.state.responses.save(talk.draft(past, "q2 a2"))

    await asyncio.gather(first(), second())
    assert await talk.holds(made) == "q1 a1 q2 a2"


async def test_saving_releases_the_lock_in_the_same_step(talk):
    made = await talk.conversation()
    async with talk.state.conversations.turn(made.id, talk.tenant) as past:
        await talk.state.responses.save(talk.draft(past, "q1 a1"))
        assert await talk.state._client.command("EXISTS", lineage_of(made).lock) == 0
        async with talk.state.conversations.turn(made.id, talk.tenant):
            pass


async def test_every_way_out_of_a_turn_releases_the_lock(talk):
    made = await talk.conversation()
    turn = talk.state.conversations.turn
    with pytest.raises(ZeroDivisionError):
        async with turn(made.id, talk.tenant):
            1 / 0  # noqa: B018
    async with turn(made.id, talk.tenant) as past:
        await talk.state.responses.save(talk.draft(past, append=False))

    entered = asyncio.Event()

    async def cancelled():
        async with turn(made.id, talk.tenant):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(cancelled())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with anyio.create_task_group() as group:  # cancels again and again until the task has ended
        entered.clear()
        group.start_soon(cancelled)
        await entered.wait()
        group.cancel_scope.cancel()
    await talk.state.conversations.close()
    assert await talk.state._client.command("EXISTS", lineage_of(made).lock) == 0


async def test_a_turn_cancelled_while_it_takes_the_lock_does_not_keep_it(store_url):
    async def enter():
        async with talk.state.conversations.turn(made.id, talk.tenant):
            await asyncio.Event().wait()

    async with opened(store_url, connections=1) as state:  # over two, a busy store may take the lock after its release
        talk = Talk(state)
        made = await talk.conversation()
        lock = lineage_of(made).lock
        for steps in range(12):  # cancelled at every step on the way
            task = asyncio.create_task(enter())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=20)
            assert done, "the cancellation was lost"
            await state.conversations.close()
            assert await state._client.command("EXISTS", lock) == 0


async def test_the_lock_is_renewed_while_the_turn_runs(talk, monkeypatch):
    monkeypatch.setattr(leases, "RENEWAL", 0.01)
    made = await talk.conversation()
    lock = lineage_of(made).lock
    async with talk.state.conversations.turn(made.id, talk.tenant):
        await talk.state._client.command("PEXPIRE", lock, 5000)
        with anyio.fail_after(20):
            while await talk.state._client.command("PTTL", lock) <= 5000:
                pass


async def test_a_lock_that_a_killed_process_left_lasts_a_whole_lease_for_the_one_that_goes_on(talk):
    made = await talk.conversation()
    lock = lineage_of(made).lock
    await talk.state._client.command("SET", lock, "token", "PX", 3000)
    async with talk.state.conversations.turn(made.id, talk.tenant, token="token"):
        assert await talk.state._client.command("PTTL", lock) > 3000


async def test_a_lost_lock_appends_nothing_and_leaves_the_new_owner_alone(talk):
    made = await talk.conversation("one")
    lock = lineage_of(made).lock
    async with talk.state.conversations.turn(made.id, talk.tenant) as past:
        await talk.state._client.command("SET", lock, "another")
        draft = talk.draft(past)
        with pytest.raises(LockLost):
            await talk.state.responses.save(draft)
    assert await talk.state._client.command("GET", lock) == b"another"
    assert await talk.holds(made) == "one"
    assert await talk.read(draft) is None


async def test_a_killed_process_frees_its_lock_by_itself(talk):
    made = await talk.conversation()
    async with talk.state.conversations.turn(made.id, talk.tenant):
        assert 0 < await talk.state._client.command("PTTL", lineage_of(made).lock) <= 15_000


async def test_reading_a_conversation_needs_no_lock(talk):
    made = await talk.conversation("one")
    async with talk.state.conversations.turn(made.id, talk.tenant):
        past = await talk.state.conversations.past(made.id, talk.tenant)
        assert (texts(past.items), past.lock) == ("one", None)


async def test_a_conversation_deleted_in_mid_turn_is_not_recreated(talk):
    made = await talk.conversation("one")
    async with talk.state.conversations.turn(made.id, talk.tenant) as past:
        await talk.state.conversations.delete(made.id, talk.tenant)
        draft = talk.draft(past, "q a")
        await talk.state.responses.save(draft)
    assert await talk.read(draft) == "one q a"
    assert (await talk.state.responses.load(draft.id, talk.tenant)).conversation == made.id
    own = lineage_of(made)
    assert await talk.state._client.command("EXISTS", own.conversation, own.index, own.lock) == 0
    assert await talk.state._client.command("LLEN", own.log("c")) == 1


async def test_a_store_emptied_in_mid_turn_leaves_the_response_whole(talk):
    made = await talk.conversation("one")
    own = lineage_of(made)
    async with talk.state.conversations.turn(made.id, talk.tenant) as past:
        await talk.state._client.command("DEL", own.conversation, own.index, own.lock, own.log("c"))
        draft = talk.draft(past, "q a")
        await talk.state.responses.save(draft)
    assert await talk.read(draft) == "one q a"
    with pytest.raises(NotFound):
        await talk.state.conversations.retrieve(made.id, talk.tenant)


# ---- ids


async def test_an_id_that_is_taken_meanwhile_is_minted_anew(talk):
    conversations = talk.state.conversations
    made = await talk.conversation()
    async with conversations.turn(made.id, talk.tenant) as past:
        draft = talk.draft(past, "q1 q2 a")
        draft.input[0]["id"] = draft.input[1]["id"] = "mine"
        given = draft.input[0]
        await conversations.add_items(made.id, talk.tenant, [message("theirs", "mine")])
        await talk.state.responses.save(draft)
    assert given["id"] == "mine", "the caller's item is left alone"
    stored = (await conversations.past(made.id, talk.tenant)).items
    assert texts(stored) == "theirs q1 q2 a"
    assert [item["id"] for item in stored[1:]] == [item["id"] for item in draft.input + draft.output]
    assert len({item["id"] for item in stored}) == 4


async def test_two_input_items_with_one_id_are_told_apart(talk):
    made = await talk.conversation()
    async with talk.state.conversations.turn(made.id, talk.tenant) as past:
        draft = talk.draft(past, "q1 q2 a")
        draft.input[0]["id"] = draft.input[1]["id"] = "mine"
        await talk.state.responses.save(draft)
    stored = (await talk.state.conversations.past(made.id, talk.tenant)).items
    assert texts(stored) == "q1 q2 a"
    assert stored[0]["id"] == "mine" and len({item["id"] for item in stored}) == 3


async def test_added_items_keep_their_ids_only_once(talk):
    conversations = talk.state.conversations
    made = await talk.conversation()
    first = await conversations.add_items(made.id, talk.tenant, [message("a", "mine"), message("b")])
    again = await conversations.add_items(made.id, talk.tenant, [message("a", "mine"), message("c", "yours")])
    assert (first[0]["id"], again[1]["id"]) == ("mine", "yours")
    assert again[0]["id"] != "mine"
    assert (await conversations.past(made.id, talk.tenant)).items == first + again


async def test_writers_at_once_keep_every_item_and_every_id_apart(talk):
    conversations = talk.state.conversations
    made = await talk.conversation()
    batches = [[message(f"{n}a", "same"), message(f"{n}b")] for n in range(12)]
    stored = await asyncio.gather(*(conversations.add_items(made.id, talk.tenant, batch) for batch in batches))
    held = (await conversations.past(made.id, talk.tenant)).items
    assert sorted(item["id"] for item in held) == sorted(item["id"] for batch in stored for item in batch)
    assert len({item["id"] for item in held}) == 24
    assert [item["id"] for item in held].count("same") == 1
    words = texts(held).split()
    assert all(words[words.index(f"{n}a") + 1] == f"{n}b" for n in range(12)), "a batch stays together"


# ---- reading


async def test_items_page_both_ways_exactly_while_others_write(talk):
    conversations = talk.state.conversations
    made = await talk.conversation()
    stored = await conversations.add_items(made.id, talk.tenant, [message(str(n)) for n in range(23)])
    await conversations.delete_item(made.id, talk.tenant, stored.pop(7)["id"])
    expected = [item["id"] for item in stored]

    async def read(order):
        seen, after = [], None
        while True:
            page, more = await conversations.list_items(made.id, talk.tenant, Page(5, order, after))
            seen += [item["id"] for item in page]
            if not more:
                return seen
            after = seen[-1]
            await conversations.add_items(made.id, talk.tenant, [message("late")])

    assert (await read("desc")) == expected[::-1]
    everything = [item["id"] for item in (await conversations.past(made.id, talk.tenant)).items]
    upwards = await read("asc")
    assert upwards[: len(everything)] == everything
    assert len(set(upwards)) == len(upwards)


async def test_before_gives_the_nearest_ones_in_order(talk):
    conversations = talk.state.conversations
    made = await talk.conversation()
    stored = [
        item["id"] for item in await conversations.add_items(made.id, talk.tenant, [message(str(n)) for n in range(9)])
    ]
    for order, expected in (("asc", stored), ("desc", stored[::-1])):
        for at, n in ((0, 0), (2, 2), (5, 3)):
            page, more = await conversations.list_items(made.id, talk.tenant, Page(3, order, before=expected[at]))
            assert ([item["id"] for item in page], more) == (expected[at - n : at], at > 3)


async def test_an_empty_conversation_lists_nothing(talk):
    made = await talk.conversation()
    assert await talk.state.conversations.list_items(made.id, talk.tenant, Page()) == ([], False)


@pytest.mark.parametrize("direction", ["after", "before"])
async def test_an_unknown_cursor_is_the_callers_error(talk, direction):
    made = await talk.conversation("one")
    with pytest.raises(InvalidRequest, match="No item found with id 'msg_x'.") as caught:
        await talk.state.conversations.list_items(made.id, talk.tenant, Page(**{direction: "msg_x"}))
    assert (caught.value.status, caught.value.param) == (400, direction)


async def test_one_item_is_read_and_deleted(talk):
    conversations = talk.state.conversations
    made = await talk.conversation("one two")
    one, two = (await conversations.past(made.id, talk.tenant)).items
    assert await conversations.item(made.id, talk.tenant, two["id"]) == two
    assert await conversations.delete_item(made.id, talk.tenant, one["id"]) == made
    for verb in (conversations.item, conversations.delete_item):
        with pytest.raises(NotFound) as caught:
            await verb(made.id, talk.tenant, one["id"])
        assert caught.value.message == f"Item with id '{one['id']}' not found in conversation '{made.id}'."


async def every_verb(conversations, id_, tenant, param=None):
    """The errors of every verb on a conversation that must not be found."""
    errors = []
    for call in (
        lambda: conversations.retrieve(id_, tenant),
        lambda: conversations.update(id_, tenant, {"stolen": "yes"}),
        lambda: conversations.delete(id_, tenant),
        lambda: conversations.add_items(id_, tenant, [message("x")]),
        lambda: conversations.list_items(id_, tenant, Page()),
        lambda: conversations.item(id_, tenant, "msg_x"),
        lambda: conversations.delete_item(id_, tenant, "msg_x"),
        lambda: conversations.past(id_, tenant, param=param),
        lambda: conversations.turn(id_, tenant, param=param).__aenter__(),
    ):
        with pytest.raises((NotFound, StoreUnavailable)) as caught:
            await call()
        errors.append(caught.value)
    return errors


async def test_a_foreign_conversation_is_a_missing_one_and_is_left_alone(state, talk):
    made = await talk.conversation("one")
    minted = ids.parse(made.id)
    other_turn = f"conv_{minted.tag}{ids.Minter().turn}0000"
    stranger = Talk(state)
    for id_, tenant in (
        (made.id, stranger.tenant),
        (other_turn, talk.tenant),
        (ids.Minter().own("conv"), talk.tenant),
        ("conv_x", talk.tenant),
        ("", talk.tenant),
    ):
        errors = await every_verb(state.conversations, id_, tenant, "conversation")
        assert {(e.status, e.message) for e in errors} == {(404, f"Conversation with id '{id_}' not found.")}
        assert [e.param for e in errors] == [None] * 7 + ["conversation"] * 2
    assert await state._client.command("EXISTS", lineage_of(made).lock) == 0
    assert await talk.holds(made) == "one"
    assert (await state.conversations.retrieve(made.id, talk.tenant)).metadata == {}


async def test_a_deleted_conversation_is_gone_and_its_responses_stay(talk):
    made = await talk.conversation("one")
    response = await talk.converse(made, "q a")
    await talk.state.conversations.delete(made.id, talk.tenant)
    errors = await every_verb(talk.state.conversations, made.id, talk.tenant)
    assert {e.status for e in errors} == {404}
    assert await talk.read(response) == "one q a"
    assert await talk.read(await talk.turn(response, "q2 a2")) == "one q a q2 a2"


async def test_deleting_a_response_leaves_its_items_in_the_conversation(talk):
    made = await talk.conversation("one")
    response = await talk.converse(made, "q a")
    await talk.state.responses.delete(response.id, talk.tenant)
    assert await talk.holds(made) == "one q a"


async def test_a_newer_schema_is_a_clear_error_not_a_crash(talk):
    made = await talk.conversation("one")
    await talk.state._client.command("HSET", lineage_of(made).conversation, "v", SCHEMA + 1)
    errors = await every_verb(talk.state.conversations, made.id, talk.tenant)
    assert {(e.status, "later version" in e.message) for e in errors} == {(503, True)}


# ---- lifetimes


async def test_every_write_and_every_turn_slides_the_life_but_no_read(store_url):
    async with opened(store_url, response_ttl=80, conversation_ttl=800) as state:
        talk, conversations = Talk(state), state.conversations
        made = await talk.conversation("one two")
        own = lineage_of(made)
        keys = own.conversation, own.index, own.log("c")
        items = (await conversations.past(made.id, talk.tenant)).items

        async def lives():
            return [await talk.ttl(key) for key in keys]

        async def turn_without_a_save():
            async with conversations.turn(made.id, talk.tenant):
                pass

        assert min(await lives()) > 790
        for use in (
            lambda: conversations.update(made.id, talk.tenant, {}),
            lambda: conversations.add_items(made.id, talk.tenant, [message("x")]),
            lambda: conversations.delete_item(made.id, talk.tenant, items[0]["id"]),
            lambda: talk.converse(made),
            turn_without_a_save,
        ):
            for key in keys:
                await state._client.command("EXPIRE", key, 100)
            for read in (
                lambda: conversations.retrieve(made.id, talk.tenant),
                lambda: conversations.list_items(made.id, talk.tenant, Page()),
                lambda: conversations.item(made.id, talk.tenant, items[1]["id"]),
                lambda: conversations.past(made.id, talk.tenant),
            ):
                await read()
            assert max(await lives()) <= 100
            await use()
            assert min(await lives()) > 790


async def test_a_log_lives_as_long_as_whatever_needs_it(store_url):
    async with opened(store_url, response_ttl=800, conversation_ttl=0) as state:
        talk = Talk(state)
        made = await talk.conversation("one")
        response = await talk.converse(made)
        own = lineage_of(made)
        await state._client.command("EXPIRE", own.record(response.minter.turn), 100)
        await talk.read(response)
        assert await talk.ttl(own.log("c")) == -1, "kept for ever for the conversation, whatever uses its responses"
        await state.conversations.delete(made.id, talk.tenant)
        assert 990 < await talk.ttl(own.log("c")) <= 1000, "for the responses made in it"
    async with opened(store_url, response_ttl=0, conversation_ttl=800) as state:
        made = await Talk(state, talk.tenant).conversation("one")
        own = lineage_of(made)
        assert (await talk_ttl(state, own.log("c")), await talk_ttl(state, own.conversation) > 790) == (-1, True)
        await state.conversations.delete(made.id, talk.tenant)
        assert await talk_ttl(state, own.log("c")) == -1


async def talk_ttl(state, key):
    return await Talk(state).ttl(key)
