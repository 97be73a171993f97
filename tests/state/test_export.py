"""A tenant's data out of a store as lines, and into one again: everything answers as it did before."""

import asyncio
import time

import pytest

from proxy import codec, ids
from proxy.errors import EncryptionKeyMissing
from proxy.principals import Principal
from proxy.state import Claim, End, Envelope, Lease, Page, Run, Stored, archive, export, keys, sweep
from tests.state.talk import Talk, message, opened

TOOLS = [{"type": "function", "name": f"tool_{n}", "parameters": {"type": "object"}} for n in range(30)]


async def rich(talk):
    """A bit of everything that can be stored; the ids of responses and conversations."""
    state, tenant = talk.state, talk.tenant
    first = await talk.turn(words="q1 a1", body={"instructions": "x" * 900, "tools": TOOLS, "temperature": 0.1})
    second = await talk.turn(first, "q2 a2", body={"tools": TOOLS, "previous_response_id": first.id})
    branch = await talk.turn(first, "q3 a3", body={"previous_response_id": first.id}, model="odd \ud83d name")
    deleted = await talk.turn(second, "q4 a4")
    tip = await talk.turn(deleted, "q5 a5", owner=Principal("me", {"teams": ("a", "b")}))
    await state.responses.delete(deleted.id, tenant)
    failed = await talk.turn(tip, "q6 a6", append=False, body={"error": {"code": "server_error"}})
    gone = await talk.turn(words="never mind")
    await state.responses.delete(gone.id, tenant)
    made = await state.conversations.create(
        tenant, {"topic": "talk"}, [message("one"), message("two", "mine")], ids.Minter(), owner=Principal("me")
    )
    inside = await talk.converse(made, "q7 a7")
    await state.conversations.delete_item(made.id, tenant, "mine")
    later = await talk.converse(made, "q8 a8")
    aside = await talk.turn(inside, "q9 a9")
    lost = await talk.conversation("three")
    kept = await talk.converse(lost, "q10 a10")
    await state.conversations.delete(lost.id, tenant)
    empty = await talk.conversation()
    streamed = await run_of(talk)
    claim = Claim.of(tenant, "key", b"body")
    await state.idempotency.take(claim)
    await state.idempotency.name(claim, streamed.id)
    await state.idempotency.let_go(claim)
    ending = await talk.turn(words="soon over")
    responses = [first, second, branch, deleted, tip, failed, gone, inside, later, aside, kept, streamed, ending]
    return [one.id for one in responses], [made.id, lost.id, empty.id]


async def run_of(talk):
    """A finished background response, with the log of its events."""
    draft = talk.draft(words="q a")
    lease = Lease(draft.id)
    await talk.state.runs.create(Run(draft.id, talk.tenant, draft.created_at, {}, draft.input), lease)
    await talk.state.runs.append(lease, 0, [f"event: {n}\n\n".encode() for n in range(1500)])
    draft.end = End(lease, 1500, [b"data: \xc3\xa9\n\n"])
    await talk.state.responses.save(draft)
    await talk.state.runs.ended(draft.id, talk.tenant)
    return draft


async def answers(talk, responses, conversations):
    """All that can be asked for, as it is answered."""
    state, tenant = talk.state, talk.tenant
    told = {}
    for id_ in responses:
        told[id_] = await state.responses.load(id_, tenant), await state.owners.of(id_, tenant)
        told[id_, "context"] = await state.responses.context(id_, tenant)
        told[id_, "past"] = past(await state.responses.history(id_, tenant))
        told[id_, "events"] = await state.runs.events(id_, -1), await state.runs.events(id_, 999)
        stored = told[id_][0]
        own = [item["id"] for item in stored.output] if isinstance(stored, Stored) else []
        told[id_, "items"] = await state.responses.items(own, tenant)
    for id_ in conversations:
        try:
            told[id_] = await state.conversations.retrieve(id_, tenant), await state.owners.of(id_, tenant)
            told[id_, "list"] = [await state.conversations.list_items(id_, tenant, Page(limit=2, order="asc"))]
            told[id_, "past"] = past(await state.conversations.past(id_, tenant))
        except Exception as exc:
            told[id_] = repr(exc)
    for page in (Page(limit=3), Page(limit=100, order="asc"), Page(limit=2, after=responses[0], order="asc")):
        told[repr(page)] = await state.responses.list(tenant, page, None)
    told["model"] = await state.responses.list(tenant, Page(), "odd \ud83d name")
    claim = Claim.of(tenant, "key", b"body")
    told["key"] = await state.idempotency.take(claim)
    return told


def past(one):
    return one and (one.tag, one.items, one.log, one.length, one.gone, one.status)


async def lives(state, tag):
    """When what of a lineage expires, by key."""
    names = [name async for part in state._client.scan(f"sc:{{{tag}}}:*") for name in part]
    return {name: await state._client.command("PEXPIRETIME", name) for name in names if b":b:" not in name}


async def exported(state, tenant):
    return [archive.write(line) async for line in state.export(tenant).lines()]


async def imported(state, tenant, lines):
    """What became of each line."""
    restore = await state.restore(tenant)
    return [await restore.put(line) for line in map(archive.read, lines) if line["type"] != "end"]


async def flushed(state, tenant):
    await state.purge(tenant).run()
    assert not [name async for part in state._client.scan(f"*{tenant}*") for name in part]


async def test_everything_answers_as_before(talk):
    told = await rich(talk)
    before = await answers(talk, *told)
    ending = ids.parse(told[0][-1])
    await talk.state._client.command("EXPIRE", keys.Lineage(ending.tag).record(ending.turn), 3000)
    lines = await exported(talk.state, talk.tenant)
    tags = {ids.parse(id_).tag for part in told for id_ in part}
    times = {tag: await lives(talk.state, tag) for tag in tags}
    await flushed(talk.state, talk.tenant)
    assert not any([await lives(talk.state, tag) for tag in tags])
    became = await imported(talk.state, talk.tenant, lines)
    assert set(became) == {"written"}
    listed = await talk.state._client.command("ZRANGE", keys.tenant_lineages(talk.tenant), 0, -1)
    assert {codec.loads(line).get("tag") for line in lines} - {None} == {tag.hex() for tag in listed}
    now_lives = {tag: await lives(talk.state, tag) for tag in tags}
    assert await exported(talk.state, talk.tenant) == lines
    assert await answers(talk, *told) == before
    for tag, then in times.items():
        now = now_lives[tag]
        assert all(abs(now[name] - then[name]) <= 1 for name in now)
        assert set(now) <= set(then)


async def test_talks_go_on_after_it(talk):
    responses, conversations = await rich(talk)
    lines = await exported(talk.state, talk.tenant)
    await flushed(talk.state, talk.tenant)
    await imported(talk.state, talk.tenant, lines)
    tip = await talk.state.responses.load(responses[4], talk.tenant)
    assert await talk.read(await talk.turn(tip, "r s")) == "q1 a1 q2 a2 q4 a4 q5 a5 r s"
    assert await talk.read(await talk.turn(tip, "t u")) == "q1 a1 q2 a2 q4 a4 q5 a5 t u"
    made = await talk.state.conversations.retrieve(conversations[0], talk.tenant)
    await talk.converse(made, "v w")
    assert await talk.holds(made) == "one q7 a7 q8 a8 v w"
    assert await talk.state.conversations.add_items(made.id, talk.tenant, [message("x", "mine")])


async def test_a_second_import_changes_nothing_and_what_went_on_meanwhile_stays(talk):
    await rich(talk)
    lines = await exported(talk.state, talk.tenant)
    assert set(await imported(talk.state, talk.tenant, lines)) == {"there"}
    assert await exported(talk.state, talk.tenant) == lines
    first = await talk.turn(words="q a")
    lines = await exported(talk.state, talk.tenant)
    second = await talk.turn(first, "r b")
    await talk.state.responses.delete(first.id, talk.tenant)
    assert set(await imported(talk.state, talk.tenant, lines)) == {"there"}
    assert await talk.read(first) is None
    assert await talk.read(second) == "q a r b"


async def test_an_import_that_was_cut_off_goes_on(talk):
    """Also one that died between a lineage and the lists it stands in."""
    told = await rich(talk)
    before, lines = await answers(talk, *told), await exported(talk.state, talk.tenant)
    await flushed(talk.state, talk.tenant)
    await imported(talk.state, talk.tenant, lines[: len(lines) // 2])
    await talk.state._client.command("DEL", keys.tenant_index(talk.tenant))
    await talk.state._client.command("DEL", keys.tenant_lineages(talk.tenant))
    became = await imported(talk.state, talk.tenant, lines)
    assert set(became) == {"there", "written"}
    assert await answers(talk, *told) == before
    assert await exported(talk.state, talk.tenant) == lines


async def test_one_tenant_s_purge_leaves_nothing_of_it_and_all_of_the_other(talk):
    other = Talk(talk.state)
    theirs, ours = await rich(other), await rich(talk)
    draft = talk.draft()
    lease = Lease(draft.id)
    await talk.state.runs.create(Run(draft.id, talk.tenant, draft.created_at, {}, draft.input), lease)
    await talk.state.runs.append(lease, 0, [b"told"])
    before = await answers(other, *theirs)
    lines = await exported(talk.state, other.tenant)
    purged = await talk.state.purge(talk.tenant).run()
    assert purged.runs == 1
    names = [name async for part in talk.state._client.scan("*") for name in part]
    tags = {ids.parse(id_).tag for part in ours for id_ in part} | {draft.minter.tag}
    assert not [name for name in names for text in (talk.tenant, *tags) if text.encode() in name]
    assert draft.id not in str(await talk.state._client.command("XRANGE", keys.STOPS, "-", "+"))
    assert draft.id not in dict(await talk.state.runs.due(1000))
    assert await answers(other, *theirs) == before
    assert await exported(talk.state, other.tenant) == lines


async def test_a_purge_says_whether_the_tenant_goes_on(talk):
    async def talking():
        while True:
            await talk.turn()

    await talk.turn()
    going = asyncio.create_task(talking())
    assert not (await talk.state.purge(talk.tenant).run()).done
    going.cancel()
    await asyncio.wait([going])
    assert (await talk.state.purge(talk.tenant).run()).done
    assert len(await exported(talk.state, talk.tenant)) == 1


async def test_what_an_earlier_statecar_has_not_listed_is_found(talk):
    told = await rich(talk)
    before = await exported(talk.state, talk.tenant)
    await talk.state._client.command("DEL", keys.tenant_lineages(talk.tenant))
    assert await exported(talk.state, talk.tenant) == before
    await talk.state._client.command("DEL", keys.tenant_lineages(talk.tenant))
    await talk.state.purge(talk.tenant).run()
    kept = [id_ for id_ in told[0] if await talk.state.responses.load(id_, talk.tenant)]
    assert not kept


async def test_a_lineage_of_another_tenant_is_not_taken_over(talk):
    draft = await talk.turn()
    lines = await exported(talk.state, talk.tenant)
    stranger = Talk(talk.state)
    assert await imported(talk.state, stranger.tenant, lines) == ["foreign"]
    assert (await talk.state.purge(stranger.tenant).run()).keys == 0
    assert await talk.read(draft) == "q a"


async def test_nothing_is_added_to_a_lineage_of_another_tenant(talk):
    """Not even keys that it has not got: both would export and purge what is there from then on."""
    draft = await talk.turn()
    line = line_of(tag=draft.minter.tag, conversation=None)
    line["logs"][2]["name"] = draft.minter.turn  # which would begin with what the line holds
    line["responses"][0]["id"] = f"resp_{draft.minter.tag}{'cd' * 14}0000"
    stranger = Talk(talk.state)
    for _ in range(2):
        assert await imported(talk.state, stranger.tenant, [archive.write(line)]) == ["foreign"]
        await talk.state._client.command("DEL", keys.tenant_lineages(talk.tenant))
    assert len(await exported(talk.state, stranger.tenant)) == 1
    assert await talk.read(await talk.turn(draft, "r b")) == "q a r b"


async def test_what_has_expired_meanwhile_stays_away(talk):
    draft = await talk.turn(words="q a")
    await talk.turn(draft, "r b")
    [line, _] = map(codec.loads, await exported(talk.state, talk.tenant))
    await flushed(talk.state, talk.tenant)
    line["responses"][0]["expires_at"] = int(time.time() * 1000) - 1
    assert await imported(talk.state, talk.tenant, [archive.write(line)]) == ["written"]
    assert len((await talk.state.responses.list(talk.tenant, Page(), None))[0]) == 1
    await flushed(talk.state, talk.tenant)
    for one in (*line["responses"], *line["logs"]):
        one["expires_at"] = 1
    assert await imported(talk.state, talk.tenant, [archive.write(line)]) == ["expired"]


async def test_more_lineages_than_fit_into_memory_come_in_their_order(talk, monkeypatch):
    for _ in range(40):
        await talk.turn()
    lines = await exported(talk.state, talk.tenant)
    monkeypatch.setattr(sweep, "_AT_ONCE", 9)
    assert await exported(talk.state, talk.tenant) == lines
    tags = [codec.loads(line)["tag"] for line in lines[:-1]]
    assert tags == sorted(tags)
    assert len(tags) == 40


async def test_keys_come_in_an_order_that_does_not_depend_on_the_store(talk):
    for n in range(20):
        claim = Claim.of(talk.tenant, f"key {n}", b"body")
        await talk.state.idempotency.take(claim)
        await talk.state.idempotency.name(claim, talk.draft().id)
    lines = [codec.loads(line)["key"] for line in (await exported(talk.state, talk.tenant))[:-1]]
    assert len(lines) == 20
    assert lines == sorted(lines)


async def test_runs_are_left_out_and_counted(talk):
    draft = talk.draft()
    await talk.state.runs.create(Run(draft.id, talk.tenant, draft.created_at, {}, draft.input), None)
    leaving = talk.state.export(talk.tenant)
    assert [line["type"] async for line in leaving.lines()] == ["end"]
    assert leaving.count.unfinished == 1
    await talk.state.purge(talk.tenant).run()


async def test_a_run_that_ends_while_it_is_exported_comes_as_its_response(talk):
    draft = await run_of(talk)
    held = await export._Held.read(talk.state._client, draft.minter.tag, [f"j:{draft.minter.turn}"])
    assert held.turns() == [draft.minter.turn]
    assert held.unfinished == 0
    assert held.expiry(f"e:{draft.minter.turn}")


async def test_a_talk_that_goes_on_while_it_is_exported_comes_whole(talk):
    draft = await talk.turn()

    async def talking():
        last = draft
        for _ in range(30):
            last = await talk.turn(last, "r b")

    going = asyncio.create_task(talking())
    lines = []
    while not going.done():
        lines.append(await exported(talk.state, talk.tenant))
    await going
    for number, one in enumerate(lines):
        await flushed(talk.state, talk.tenant)
        assert set(await imported(talk.state, talk.tenant, one)) <= {"written"}, number
        newest = codec.loads(one[0])["responses"][-1]
        words = (await talk.state.responses.history(newest["id"], talk.tenant)).items
        assert len(words) == newest["end"]


async def test_a_file_does_not_depend_on_the_form_in_the_store(valkey):
    """Out of an encrypted and compressed store, into a plain one, into one with another key."""
    forms = [Envelope(["a key of sixteen bytes"], "zstd"), Envelope(), Envelope(["another key of that length"])]
    tenant, told, before, lines = None, (), {}, []
    for form in forms:
        async with opened(valkey.url, envelope=form) as state:
            talk = Talk(state, tenant)
            if tenant is None:
                tenant, told = talk.tenant, await rich(talk)
                before = await answers(talk, *told)
                lines = await exported(state, tenant)
                assert b'"text":"q1"' in b"".join(lines)
            else:
                assert set(await imported(state, tenant, lines)) == {"written"}
            assert await answers(talk, *told) == before
            assert await exported(state, tenant) == lines
            if form is forms[-1]:
                tip = await state.responses.load(told[0][4], tenant)
                assert await talk.read(await talk.turn(tip, "r s")) == "q1 a1 q2 a2 q4 a4 q5 a5 r s"
                [entry] = await state._client.command("LRANGE", log_of(told[0][0]), 0, 0)
                assert b'"q1"' not in entry
                events = keys.Lineage(ids.parse(told[0][-2]).tag).events(ids.parse(told[0][-2]).turn)
                [(_, fields)] = await state._client.command("XRANGE", events, "-", "+", "COUNT", 1)
                assert b"event" not in fields[b"e"]
            await flushed(state, tenant)


def log_of(id_):
    minted = ids.parse(id_)
    return keys.Lineage(minted.tag).log(minted.turn)


async def test_an_export_without_the_key_is_an_error_and_not_a_shorter_file(valkey):
    async with opened(valkey.url, envelope=Envelope(["a key of sixteen bytes"])) as state:
        talk = Talk(state)
        await talk.turn()
    async with opened(valkey.url) as state:
        with pytest.raises(EncryptionKeyMissing):
            await exported(state, talk.tenant)


async def test_what_is_there_in_part_only_is_left_out_and_counted(talk):
    first = await talk.turn()
    await talk.turn(first)
    lineage = keys.Lineage(first.minter.tag)
    await talk.state._client.command("LPOP", lineage.log(first.minter.turn))
    leaving = talk.state.export(talk.tenant)
    [line, _] = [line async for line in leaving.lines()]
    assert leaving.count.damaged == 1
    assert len(line["responses"]) == 1


def line_of(**rest):
    """A lineage's line, with other values at these places, as ``logs__0__name``."""
    tag, turn = "ab" * 8, "cd" * 14
    item = {"id": "msg_1", "type": "message"}
    line = {
        "type": "lineage",
        "tag": tag,
        "logs": [
            {"name": turn, "items": [item, None], "expires_at": None},
            {"name": "c", "items": [item], "expires_at": 1, "floor": 1},
            {
                "name": "ef" * 14,
                "items": [],
                "expires_at": None,
                "parent": {"log": turn, "length": 2, "gone": "0,1-1"},
            },
        ],
        "links_expire_at": None,
        "texts": ["x"],
        "texts_expire_at": 5,
        "conversation": {
            "id": f"conv_{tag}{turn}0000",
            "created_at": 1,
            "metadata": {},
            "owner": ["me", {"teams": ["a"]}],
            "items": [0],
            "expires_at": None,
        },
        "responses": [
            {
                "id": f"resp_{tag}{turn}0000",
                "log": turn,
                "start": 0,
                "split": 1,
                "end": 2,
                "gone": "",
                "status": "completed",
                "model": "m",
                "created_at": 1,
                "conversation": None,
                "body": {},
                "texts": {"tools": 0},
                "owner": None,
                "logged": True,
                "listed_at": 1,
                "expires_at": None,
                "events": {"frames": ["data"], "expires_at": None},
            }
        ],
    }
    for path, value in rest.items():
        *way, last = (int(part) if part.isdecimal() else part for part in path.split("__"))
        place = line
        for part in way:
            place = place[part]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return line


def test_a_line_that_is_right_is_taken():
    assert archive.read(codec.dumps(line_of())) == line_of()


WRONG = [
    ({"type": "other"}, "type: must be one of statecar-export, lineage, key, end"),
    ({"tag": "AB" * 8}, "tag: must be a text of the form"),
    ({"more": 1}, "a lineage: has more, which this statecar does not know"),
    ({"texts": ...}, "a lineage: lacks texts"),
    ({"logs": {}}, "logs: must be a list"),
    ({"logs__0": []}, "logs[0]: must be an object"),
    ({"logs__0__name": "x}:y"}, "logs[0].name: must be a text"),
    ({"logs__1__name": "cd" * 14}, "logs[1].name: must be another than those before it"),
    ({"logs__0__items__0": {"id": 1}}, "logs[0].items[0]: must be an item with an id"),
    ({"logs__0__items__0": "text"}, "logs[0].items[0]: must be an item with an id"),
    ({"logs__1__floor": -1}, "logs[1].floor: must be a whole number"),
    ({"logs__0__expires_at": "soon"}, "logs[0].expires_at: must be a whole number"),
    ({"logs__2__parent__log": "other"}, "log: must be the name of a log in this line"),
    ({"logs__2__parent__length": 3}, "length: must be a whole number from 0 to 2"),
    ({"logs__2__parent__gone": "1|2"}, "gone: must be positions as in 3,5-7"),
    ({"logs__2__parent__gone": "5,1"}, "gone: must be positions that ascend"),
    ({"logs__2__parent__log": "ef" * 14, "logs__2__parent__length": 0}, "must be none of those that it branched from"),
    (
        {"logs__0__parent": {"log": "ef" * 14, "length": 0, "gone": ""}},
        "must be none of those that it branched from",
    ),
    ({"responses__0__id": f"resp_{'ac' * 8}{'cd' * 14}0000"}, "id: must be the id of a response of this lineage"),
    ({"responses__0__id": f"resp_{'ab' * 8}{'cd' * 14}0001"}, "id: must be the id of a response of this lineage"),
    ({"responses__0__log": "none"}, "responses[0].log: must be the name of a log in this line"),
    ({"responses__0__end": 3}, "responses[0].end: must be a whole number from 0 to 2"),
    ({"responses__0__start": 2}, "responses[0].split: must be 2 or more"),
    ({"responses__0__start": True}, "responses[0].start: must be a whole number"),
    ({"responses__0__status": "done"}, "responses[0].status: must be one of completed"),
    ({"responses__0__model": 1}, "responses[0].model: must be a text"),
    ({"responses__0__created_at": 1 << 60}, "responses[0].created_at: must be a whole number"),
    ({"responses__0__conversation": f"conv_{'ac' * 8}{'cd' * 14}0000"}, "must be the id of a conversation"),
    ({"responses__0__body": None}, "responses[0].body: must be an object"),
    ({"responses__0__texts": {"tools": 1}}, "responses[0].texts.tools: must be a whole number from 0 to 0"),
    ({"responses__0__owner": "me"}, "responses[0].owner: must be [name"),
    ({"responses__0__owner": ["me", {"teams": "a"}]}, "responses[0].owner: must be [name"),
    ({"responses__0__events__frames": [1]}, "responses[0].events.frames: must be texts"),
    ({"responses__0__more": 1}, "responses[0]: has more"),
    ({"conversation__id": None}, "conversation.id: must be an id"),
    ({"conversation__items": [1]}, "conversation.items[0]: must be a whole number from 0 to 0"),
    ({"conversation__items": [0, 0]}, "conversation.items[1]: must be where an item lies, each once"),
    ({"conversation__metadata": []}, "conversation.metadata: must be an object"),
]


@pytest.mark.parametrize(("change", "told"), WRONG, ids=[f"{n}" for n in range(len(WRONG))])
def test_a_line_that_would_do_harm_is_refused(change, told):
    with pytest.raises(ValueError) as refusal:
        archive.read(codec.dumps(line_of(**change)))
    assert told in str(refusal.value)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"no json\n", "no JSON: "),
        (codec.dumps(line_of())[:-9], "no JSON, and it ends in the middle"),
        (b"[]\n", "a line: must be a JSON object"),
        (b'{"a": 1}\n', "type: must be one of"),
        (b'{"type": []}\n', "type: must be one of"),
        (b'{"type": "statecar-export", "version": 2}\n', "version: is 2, and this statecar reads 1"),
        (
            b'{"type": "statecar-export", "version": 1, "tenant": "shared", "exported_at": 1, "fingerprint": "%s",'
            b' "secret": "%s"}' % (b"ab" * 16, b"ab" * 100),
            "secret: must be a text of the form [0-9a-f]{64}",
        ),
        (b'{"type": "key", "key": "x", "body": "", "response": "", "expires_at": 1}', "key: must be a text"),
        (b'{"type": "end"}', "the last line: lacks conversations, keys, lineages, responses"),
    ],
)
def test_a_foreign_line_is_refused(data, told):
    with pytest.raises(ValueError) as refusal:
        archive.read(data)
    assert told in str(refusal.value)
