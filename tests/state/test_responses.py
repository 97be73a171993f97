"""Responses on every kind of store."""

import asyncio
import logging
import time
from collections import Counter

import pytest

from proxy import ids
from proxy.errors import InvalidRequest, StatecarError, StoreUnavailable
from proxy.state import Page, Past
from proxy.state.keys import SCHEMA, Lineage, tenant_index
from tests.state.talk import NOW, Talk, opened, texts


async def test_a_chain_remembers_everything_in_order(talk):
    a = await talk.turn(words="hello hi")
    b = await talk.turn(a, "more sure")
    c = await talk.turn(b, "x y z")
    assert await talk.read(c) == "hello hi more sure x y z"
    assert await talk.read(a) == "hello hi"


async def test_a_response_comes_back_as_it_was_saved(talk):
    body = {
        "previous_response_id": None,
        "usage": {"input_tokens": 3, "output_tokens_details": {"reasoning_tokens": 0}},
        "metadata": {"ключ": "значение " * 40, "lone": "\ud83d"},
        "instructions": "Be brief. " * 200,
        "tools": [{"type": "function", "name": "f", "parameters": {"a": "b" * 600}}],
        "text": {"format": {"type": "text"}},
    }
    first = await talk.turn(words="q1 a1")
    body["previous_response_id"] = first.id
    saved = await talk.turn(first, "q2 q3 a2", body=dict(body), model="Qwen/\ud83d", status="incomplete")
    stored = await talk.state.responses.load(saved.id, talk.tenant)
    assert (stored.id, stored.status, stored.model) == (saved.id, "incomplete", "Qwen/\ud83d")
    assert (stored.created_at, stored.conversation) == (NOW, None)
    assert stored.body == body
    assert (stored.input, stored.output) == (saved.input, saved.output)
    assert (await talk.state.responses.history(saved.id, talk.tenant)).status == "incomplete"


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 16_384, 16_500, 300_000])
async def test_bodies_of_every_size_survive(talk, size):
    saved = await talk.turn(body={"user": "u" * size} if size else {})
    assert (await talk.state.responses.load(saved.id, talk.tenant)).body == saved.body


async def test_a_previous_response_of_another_lineage_stays_in_the_body(talk):
    other = ids.Minter().own("resp")
    saved = await talk.turn(body={"previous_response_id": other})
    assert (await talk.state.responses.load(saved.id, talk.tenant)).body == {"previous_response_id": other}


async def test_a_turn_without_items_is_a_turn(talk):
    empty = talk.draft(words="a")
    empty.output.clear()
    await talk.state.responses.save(empty)
    assert await talk.read(empty) == ""
    assert await talk.read(await talk.turn(empty, "q a")) == "q a"


async def test_many_and_large_items_survive(talk):
    words = " ".join(f"{n}" for n in range(3000))
    big = await talk.turn(words=words)
    assert await talk.read(big) == words
    huge = await talk.turn(big, "q " + "a" * 2_000_000)
    assert (await talk.read(huge)).endswith("a" * 2_000_000)


async def test_continuing_an_older_response_branches(talk):
    root = await talk.turn(words="r0 r1")
    left = await talk.turn(root, "l0 l1")
    right = await talk.turn(root, "x0 x1")
    deeper = await talk.turn(right, "y0 y1")
    assert await talk.read(left) == "r0 r1 l0 l1"
    assert await talk.read(right) == "r0 r1 x0 x1"
    assert await talk.read(deeper) == "r0 r1 x0 x1 y0 y1"


async def test_turns_at_once_on_one_tip_become_tip_and_branches(talk):
    root = await talk.turn(words="r0 r1")
    past = await talk.state.responses.history(root.id, talk.tenant)
    drafts = [talk.draft(past, f"q{n} a{n}") for n in range(8)]
    await asyncio.gather(*map(talk.state.responses.save, drafts))
    for n, draft in enumerate(drafts):
        assert await talk.read(draft) == f"r0 r1 q{n} a{n}"
    log = Lineage(past.tag).log(past.log)
    assert await talk.state._client.command("LLEN", log) == 4


async def test_a_failed_turn_never_moves_the_tip(talk):
    root = await talk.turn(words="r0 r1")
    failed = await talk.turn(root, "f0 f1", append=False)
    after = await talk.turn(root, "q a")
    assert await talk.read(after) == "r0 r1 q a"
    assert (await talk.state.responses.history(after.id, talk.tenant)).log == root.minter.turn
    retry = await talk.turn(failed, "again ok")
    assert await talk.read(retry) == "r0 r1 f0 f1 again ok"


async def test_saving_twice_is_saving_once(talk):
    root = await talk.turn(words="r0 r1")
    past = await talk.state.responses.history(root.id, talk.tenant)
    draft = talk.draft(past, "q a")
    await asyncio.gather(*(talk.state.responses.save(draft) for _ in range(3)))
    assert await talk.read(draft) == "r0 r1 q a"
    assert await talk.state._client.command("LLEN", Lineage(past.tag).log(past.log)) == 4
    assert len((await talk.state.responses.list(talk.tenant, Page(), None))[0]) == 2


async def test_the_context_is_what_the_model_saw(talk):
    a = await talk.turn(words="q1 a1")
    b = await talk.turn(a, "q2 q3 a2")
    assert texts(await talk.state.responses.context(b.id, talk.tenant)) == "q1 a1 q2 q3"


async def test_a_deleted_response_is_gone_and_its_children_live(talk):
    a = await talk.turn(words="a0 a1")
    b = await talk.turn(a, "b0 b1")
    c = await talk.turn(b, "c0 c1")
    assert await talk.state.responses.delete(b.id, talk.tenant)
    assert await talk.read(b) is None
    assert await talk.state.responses.load(b.id, talk.tenant) is None
    assert await talk.state.responses.context(b.id, talk.tenant) is None
    assert not await talk.state.responses.delete(b.id, talk.tenant)
    assert await talk.read(c) == "a0 a1 b0 b1 c0 c1"


async def test_deleting_the_newest_erases_its_items_from_the_store(talk):
    a = await talk.turn(words="a0 a1")
    b = await talk.turn(a, "secret hidden")
    await talk.state.responses.delete(b.id, talk.tenant)
    log = Lineage(a.minter.tag).log(a.minter.turn)
    assert await talk.state._client.command("LRANGE", log, 2, -1) == [b"", b""]
    late = await talk.turn(a, "x0 x1")
    assert await talk.read(late) == "a0 a1 x0 x1"


async def test_deleting_never_erases_what_a_branch_points_at(talk):
    a = await talk.turn(words="a0 a1")
    b = await talk.turn(a, "b0 b1")
    failed = await talk.turn(b, "f0 f1", append=False)
    await talk.state.responses.delete(b.id, talk.tenant)
    assert await talk.read(failed) == "a0 a1 b0 b1 f0 f1"


async def test_a_child_in_flight_of_a_deleted_parent_lands_on_nobodys_turn(talk):
    a = await talk.turn(words="a0 a1")
    b = await talk.turn(a, "b0 b1")
    past = await talk.state.responses.history(b.id, talk.tenant)
    await talk.state.responses.delete(b.id, talk.tenant)
    other = await talk.turn(a, "o0 o1")
    child = talk.draft(past, "c0 c1")
    await talk.state.responses.save(child)
    assert await talk.read(other) == "a0 a1 o0 o1"
    assert await talk.read(child) == "a0 a1 c0 c1"


async def test_a_parent_that_expired_in_mid_turn_leaves_the_child_whole(talk):
    a = await talk.turn(words="a0 a1")
    past = await talk.state.responses.history(a.id, talk.tenant)
    lineage = Lineage(past.tag)
    await talk.state._client.command("DEL", lineage.record(a.minter.turn), lineage.log(past.log), lineage.meta)
    child = talk.draft(past, "q a")
    await talk.state.responses.save(child)
    assert await talk.read(child) == "a0 a1 q a"
    stored = await talk.state.responses.load(child.id, talk.tenant)
    assert (texts(stored.input), texts(stored.output)) == ("q", "a")
    assert await talk.read(await talk.turn(child, "q2 a2")) == "a0 a1 q a q2 a2"


async def test_a_save_that_begins_again_lists_its_response_again(talk, monkeypatch):
    """Whoever reads the list between the two finds nothing to its entry, and takes it off."""
    if talk.state._client.is_cluster:  # the list belongs to another server
        return
    a, script, answers = await talk.turn(), talk.state._client.script, []

    async def watched(called, *args, **how):
        answers.append(reply := await script(called, *args, **how))
        if reply == b"ORPHAN":
            assert await talk.state.responses.list(talk.tenant, Page(), None) == ([], False)
        return reply

    past = await talk.state.responses.history(a.id, talk.tenant)
    lineage = Lineage(past.tag)
    await talk.state._client.command("DEL", lineage.record(a.minter.turn), lineage.log(past.log), lineage.meta)
    child = talk.draft(past)
    with monkeypatch.context() as patched:
        patched.setattr(talk.state._client, "script", watched)
        await talk.state.responses.save(child)
    assert b"ORPHAN" in answers
    listed, _ = await talk.state.responses.list(talk.tenant, Page(), None)
    assert [each.id for each in listed] == [child.id]


async def test_what_is_stored_nowhere_is_carried_by_the_response_that_continues_it(talk):
    before = talk.draft(words="a0 a1")
    child = talk.draft(Past(before.past.tag, [*before.input, *before.output]), "q a")
    await talk.state.responses.save(child)
    await talk.state.responses.save(child)
    assert await talk.read(child) == "a0 a1 q a"
    stored = await talk.state.responses.load(child.id, talk.tenant)
    assert (texts(stored.input), texts(stored.output)) == ("q", "a")
    assert texts(await talk.state.responses.context(child.id, talk.tenant)) == "a0 a1 q"
    assert await talk.read(await talk.turn(child, "q2 a2")) == "a0 a1 q a q2 a2"
    assert await talk.read(before) is None


async def test_a_shortened_history_is_an_error_and_never_served(talk, caplog):
    a = await talk.turn(words="a0 a1")
    b = await talk.turn(await talk.turn(a, "b0 b1"), "c0 c1")
    await talk.state._client.command("RPOP", Lineage(a.minter.tag).log(a.minter.turn), 2)
    for read in (talk.state.responses.history, talk.state.responses.context, talk.state.responses.load):
        with pytest.raises(StatecarError) as caught:
            await read(b.id, talk.tenant)
        assert (caught.value.status, caught.value.code) == (500, "history_damaged")
    assert "damaged" in caplog.text


async def test_a_foreign_response_is_a_missing_one(state, talk):
    saved = await talk.turn()
    stranger = Talk(state)
    responses = state.responses
    assert await responses.history(saved.id, stranger.tenant) is None
    assert await responses.context(saved.id, stranger.tenant) is None
    assert await responses.load(saved.id, stranger.tenant) is None
    assert not await responses.delete(saved.id, stranger.tenant)
    assert await responses.items([saved.output[0]["id"]], stranger.tenant) == {}
    assert await responses.list(stranger.tenant, Page(), None) == ([], False)
    with pytest.raises(InvalidRequest):
        await responses.list(stranger.tenant, Page(after=saved.id), None)
    assert await talk.read(saved) == "q a"


@pytest.mark.parametrize("id_", ["", "resp_x", "resp_" + "0" * 48, "conv_" + "0" * 48, "resp_" + "0" * 47 + "1", "}{*"])
async def test_what_is_no_id_of_ours_is_missing(talk, id_):
    assert await talk.state.responses.history(id_, talk.tenant) is None
    assert await talk.state.responses.load(id_, talk.tenant) is None
    assert not await talk.state.responses.delete(id_, talk.tenant)
    assert await talk.state.responses.items([id_], talk.tenant) == {}


async def test_items_are_found_by_their_minted_ids_alone(talk):
    a = await talk.turn(words="q1 a1")
    b = await talk.turn(a, "q2 a2")
    elsewhere = await talk.turn(words="q3 a3")
    wanted = [a.output[0], b.input[0], b.output[0], elsewhere.output[0]]
    unknown = [ids.Minter().item("message"), ids.Minter(a.minter.tag).item("message"), "msg_mine", a.id]
    found = await talk.state.responses.items([item["id"] for item in wanted] + unknown, talk.tenant)
    assert found == {item["id"]: item for item in wanted}


async def test_items_of_a_conversation_are_found_too(talk):
    conversation = await talk.conversation("one two")
    turn = await talk.converse(conversation, "q a")
    items = (await talk.state.conversations.past(conversation.id, talk.tenant)).items
    found = await talk.state.responses.items([item["id"] for item in items], talk.tenant)
    assert found == {item["id"]: item for item in items}
    await talk.state.conversations.delete(conversation.id, talk.tenant)
    left = await talk.state.responses.items([item["id"] for item in items], talk.tenant)
    assert set(left) == {turn.input[0]["id"], turn.output[0]["id"]}


async def test_a_newer_schema_is_a_clear_error_not_a_crash(talk, caplog):
    saved = await talk.turn()
    record = Lineage(saved.minter.tag).record(saved.minter.turn)
    await talk.state._client.command("HSET", record, "v", SCHEMA + 1)
    responses = talk.state.responses
    for call in (responses.history, responses.context, responses.load, responses.delete):
        with pytest.raises(StoreUnavailable, match="later version"):
            await call(saved.id, talk.tenant)
    with pytest.raises(StoreUnavailable, match="later version"):
        await responses.items([saved.output[0]["id"]], talk.tenant)
    assert record in caplog.text


# ---- listing


async def test_a_list_pages_both_ways_exactly(talk):
    saved = [(await talk.turn(created_at=NOW - 100 + n)).id for n in range(7)]
    for order, expected in (("asc", saved), ("desc", saved[::-1])):
        seen, after = [], None
        while True:
            page, more = await talk.state.responses.list(talk.tenant, Page(3, order, after), None)
            seen += [one.id for one in page]
            if not more:
                break
            after = seen[-1]
        assert seen == expected
        page, more = await talk.state.responses.list(talk.tenant, Page(3, order, before=expected[5]), None)
        assert ([one.id for one in page], more) == (expected[2:5], True)
        page, more = await talk.state.responses.list(talk.tenant, Page(3, order, before=expected[2]), None)
        assert ([one.id for one in page], more) == (expected[:2], False)


async def test_a_list_keeps_the_order_of_saving_within_a_second(talk):
    saved = [(await talk.turn(created_at=int(time.time()))).id for _ in range(6)]
    listed, _ = await talk.state.responses.list(talk.tenant, Page(order="asc"), None)
    assert [one.id for one in listed] == saved


async def test_a_list_skips_and_forgets_what_is_dead_and_fills_the_page(talk):
    saved = [await talk.turn(created_at=NOW - 100 + n) for n in range(9)]
    for one in saved[1:6]:  # as if expired: the list does not know
        await talk.state._client.command("DEL", Lineage(one.minter.tag).record(one.minter.turn))
    page, more = await talk.state.responses.list(talk.tenant, Page(2, "asc"), None)
    assert ([one.id for one in page], more) == ([saved[0].id, saved[6].id], True)
    assert await talk.state._client.command("ZCARD", tenant_index(talk.tenant)) == 4


async def test_a_list_is_filtered_by_model(talk):
    odd = [(await talk.turn(model=f"m{n % 2}", created_at=NOW - 100 + n)).id for n in range(12)][1::2]
    page, more = await talk.state.responses.list(talk.tenant, Page(4, "asc"), "m1")
    assert ([one.id for one in page], more) == (odd[:4], True)
    page, more = await talk.state.responses.list(talk.tenant, Page(4, "asc", after=odd[3]), "m1")
    assert ([one.id for one in page], more) == (odd[4:], False)


async def test_of_another_model_nothing_is_loaded_however_long_the_list(store_url, monkeypatch):
    monkeypatch.setattr("proxy.state.responses._LOOKED_THROUGH", 7)
    asked = Counter()
    async with opened(store_url, heard=lambda name, _seconds, _ok: asked.update([name])) as state:
        talk = Talk(state)
        made = [
            await talk.turn(model="mn"[n in (0, 3, 4, 11, 12, 18, 19)], created_at=NOW - 100 + n) for n in range(20)
        ]
        dead, wanted = made.pop(7), [one.id for one in made if one.model == "n"]
        await state._client.command("DEL", Lineage(dead.minter.tag).record(dead.minter.turn))
        for order, ids_ in (("asc", wanted), ("desc", wanted[::-1])):
            for limit in range(1, 9):
                asked.clear()
                found, cursor, more = [], None, True
                while more:
                    page, more = await state.responses.list(talk.tenant, Page(limit, order, after=cursor), "n")
                    found += [one.id for one in page]
                    cursor = found[-1]
                assert found == ids_
                assert asked["load"] <= -(-len(ids_) // limit) * (2 * limit + 1)
                before, _ = await state.responses.list(talk.tenant, Page(limit, order, before=ids_[-1]), "n")
                assert [one.id for one in before] == ids_[:-1][-limit:]
        asked.clear()
        assert await state.responses.list(talk.tenant, Page(), "k") == ([], False)
        assert not asked["load"]


@pytest.mark.parametrize("cursor", ["resp_" + "0" * 48, "nonsense"])
async def test_an_unknown_cursor_is_the_callers_error(talk, cursor):
    await talk.turn()
    with pytest.raises(InvalidRequest, match=f"No item found with id '{cursor}'.") as caught:
        await talk.state.responses.list(talk.tenant, Page(after=cursor), None)
    assert (caught.value.status, caught.value.param) == (400, "after")
    with pytest.raises(InvalidRequest) as caught:
        await talk.state.responses.list(talk.tenant, Page(before=cursor), None)
    assert caught.value.param == "before"


async def test_a_deleted_response_leaves_the_list(talk):
    saved = await talk.turn()
    await talk.state.responses.delete(saved.id, talk.tenant)
    assert await talk.state._client.command("ZCARD", tenant_index(talk.tenant)) == 0


async def test_a_list_that_cannot_be_written_fails_no_save(talk, caplog):
    await talk.state._client.command("SET", tenant_index(talk.tenant), "no list")
    saved = await talk.turn()
    assert await talk.read(saved) == "q a"
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "WRONGTYPE" in errors[0].getMessage()
    assert "was not entered" in caplog.text


# ---- lifetimes


async def test_everything_of_a_response_expires_and_logs_outlive_records(store_url):
    async with opened(store_url, response_ttl=800) as state:
        talk = Talk(state)
        a = await talk.turn(body={"instructions": "x" * 600})
        b = await talk.turn(await talk.turn(a), append=False)
        lineage = Lineage(a.minter.tag)
        assert 790 < await talk.ttl(lineage.record(b.minter.turn)) <= 800
        for key in (lineage.log(a.minter.turn), lineage.log(b.minter.turn), lineage.meta, lineage.texts):
            assert 990 < await talk.ttl(key) <= 1000
        assert 790 < await talk.ttl(tenant_index(talk.tenant)) <= 800


async def test_zero_keeps_for_ever(store_url):
    async with opened(store_url, response_ttl=0, conversation_ttl=0) as state:
        talk = Talk(state)
        a = await talk.turn(body={"instructions": "x" * 600})
        b = await talk.turn(a, append=False)
        lineage = Lineage(a.minter.tag)
        for key in (lineage.record(b.minter.turn), lineage.log(a.minter.turn), lineage.meta, lineage.texts):
            assert await talk.ttl(key) == -1
        assert await talk.ttl(tenant_index(talk.tenant)) == -1


async def test_using_a_response_keeps_its_whole_path_alive_and_shortens_nothing(store_url):
    async with opened(store_url, response_ttl=800) as state:
        talk = Talk(state)
        a = await talk.turn(body={"instructions": "x" * 600})
        await talk.turn(a)
        b = await talk.turn(a)  # a log of its own
        lineage = Lineage(a.minter.tag)
        logs = [lineage.log(a.minter.turn), lineage.log(b.minter.turn)]
        record = lineage.record(b.minter.turn)
        for key in (record, *logs, lineage.meta, lineage.texts, lineage.record(a.minter.turn)):
            await state._client.command("EXPIRE", key, 100)
        await state._client.command("EXPIRE", logs[0], 5000)
        await talk.read(b)
        assert 790 < await talk.ttl(record) <= 800
        for key in (logs[1], lineage.meta, lineage.texts):
            assert 990 < await talk.ttl(key) <= 1000
        assert await talk.ttl(logs[0]) > 4900
        assert await talk.ttl(lineage.record(a.minter.turn)) <= 100, "an ancestor's record expires on its own"


@pytest.mark.parametrize("key", ["record", "log", "meta", "texts"])
async def test_any_key_that_runs_down_brings_a_touch(store_url, key):
    async with opened(store_url, response_ttl=800) as state:
        talk = Talk(state)
        a = await talk.turn(body={"instructions": "x" * 600})
        b = await talk.turn(a, append=False)
        lineage = Lineage(a.minter.tag)
        turn = b.minter.turn
        chosen = {"record": lineage.record(turn), "log": lineage.log(a.minter.turn)}
        chosen |= {"meta": lineage.meta, "texts": lineage.texts}
        await state._client.command("EXPIRE", chosen[key], 690)
        await talk.read(b)
        assert await talk.ttl(chosen[key]) > 790


async def test_a_fresh_parent_is_not_touched_again(state, talk, monkeypatch):
    sent = []
    script = state._client.script
    monkeypatch.setattr(
        state._client, "script", lambda one, *args, **rest: sent.append(one.name) or script(one, *args, **rest)
    )
    a = await talk.turn()
    record = Lineage(a.minter.tag).record(a.minter.turn)
    await talk.read(a)
    await talk.read(a)
    assert sent.count("history") == 2 and "touch" not in sent
    await state._client.command("EXPIRE", record, 30 * 24 * 3600 - 3500)
    await talk.read(a)
    assert "touch" not in sent, "within the hour"
    await state._client.command("EXPIRE", record, 30 * 24 * 3600 - 3700)
    await talk.read(a)
    await talk.read(a)
    assert sent.count("touch") == 1, "after an hour once"


async def test_resolving_an_item_counts_as_use(store_url):
    async with opened(store_url, response_ttl=800, conversation_ttl=800) as state:
        talk = Talk(state)
        a = await talk.turn()
        lineage = Lineage(a.minter.tag)
        keys = lineage.record(a.minter.turn), lineage.log(a.minter.turn)
        conversation = await talk.conversation("one")
        own = Lineage(ids.parse(conversation.id).tag)
        [item] = (await state.conversations.past(conversation.id, talk.tenant)).items
        keys += own.conversation, own.index, own.log("c")
        for key in keys:
            await state._client.command("EXPIRE", key, 100)
        await state.responses.items([a.output[0]["id"], item["id"]], talk.tenant)
        assert min([await talk.ttl(key) for key in keys]) > 790


async def test_a_changed_setting_reaches_what_is_used(store_url):
    async with opened(store_url, response_ttl=800) as mortal, opened(store_url, response_ttl=0) as eternal:
        talk = Talk(mortal)
        a = await talk.turn()
        lineage = Lineage(a.minter.tag)
        await Talk(eternal, talk.tenant).read(a)
        assert await talk.ttl(lineage.record(a.minter.turn)) == -1
        assert await talk.ttl(lineage.log(a.minter.turn)) == -1


async def test_long_texts_lie_once_a_lineage(talk):
    body = {"instructions": "x" * 600, "tools": [{"name": "y" * 600}], "text": {"z": "z" * 600}, "user": "u" * 600}
    draft = await talk.turn(body=dict(body))
    for _ in range(4):
        draft = await talk.turn(draft, body=dict(body))
    texts_key = Lineage(draft.minter.tag).texts
    assert await talk.state._client.command("HLEN", texts_key) == 3
    assert (await talk.state.responses.load(draft.id, talk.tenant)).body == body
