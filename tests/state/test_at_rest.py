"""Stores whose content is wrapped: keys that change, options switched on and off, older schemas (ADR 0022)."""

import time
from math import inf

import pytest

from proxy import codec
from proxy.errors import EncryptionKeyMissing, NotFound
from proxy.state import Envelope, Lease, Page, Run, records, used
from proxy.state.envelope import key_name
from proxy.state.keys import MARKED, PLAIN, SCHEMA, Lineage
from tests.state.talk import MONTH, Talk, message, opened, texts

A, B = (letter * 16 for letter in "ab")
FORMS = {
    "plain": Envelope(),
    "packed": Envelope(compression="zstd"),
    "a": Envelope([A]),
    "b, a": Envelope([B, A], "zstd"),
    "b": Envelope([B]),
    "a and b, plain first": Envelope([A, B]),
}
LONG = "long words, long words, long words, " * 30


@pytest.fixture
async def at(store_url):
    """The talk of one tenant through a state of that form."""
    async with opened(store_url) as plain:
        tenant, states = Talk(plain).tenant, []

        async def enter(form):
            state = opened(store_url, envelope=FORMS[form])
            states.append(state)
            return Talk(await state.__aenter__(), tenant)

        yield enter
        for state in states:
            await state.__aexit__(None, None, None)


async def schema(talk, key):
    return int(await talk.state._client.command("HGET", key, "v"))


def record(draft):
    return Lineage(draft.minter.tag).record(draft.minter.turn)


async def everything(talk, made):
    """Calls of every verb that reads content of a chain's response, a conversation and a run."""
    response, conversation, run = made
    state, tenant = talk.state, talk.tenant
    page = Page(10, "asc")
    item = next(iter(response.input))["id"]
    return {
        "history": lambda: state.responses.history(response.id, tenant),
        "context": lambda: state.responses.context(response.id, tenant),
        "load": lambda: state.responses.load(response.id, tenant),
        "find": lambda: state.responses.find(response.id, tenant),
        "find a run": lambda: state.responses.find(run.id, tenant),
        "list": lambda: state.responses.list(tenant, page, None),
        "items": lambda: state.responses.items([item], tenant),
        "conversation": lambda: state.conversations.retrieve(conversation.id, tenant),
        "its items": lambda: state.conversations.list_items(conversation.id, tenant, page),
        "its past": lambda: state.conversations.past(conversation.id, tenant),
        "its item": lambda: state.conversations.item(conversation.id, tenant, "mine"),
        "an item behind a cursor": lambda: state.conversations.list_items(conversation.id, tenant, Page(after="mine")),
        "an item deleted": lambda: state.conversations.delete_item(conversation.id, tenant, "mine"),
        "run": lambda: state.runs.load(run.id, tenant),
        "claim": lambda: state.runs.claim(run.id, tenant, Lease(run.id)),
        "events": lambda: state.runs.events(run.id, -1),
    }


async def filled(talk):
    """(a response, a conversation with an item ``mine``, a run with an event)."""
    response = await talk.turn(words=f"q {LONG.replace(' ', '_')} a", model="gpt", body={"instructions": LONG})
    conversation = await talk.state.conversations.create(
        talk.tenant, {"k": LONG}, [message("one", "mine")], response.minter
    )
    draft = talk.draft()
    run = Run(draft.id, talk.tenant, int(time.time()), {"input": [LONG]}, [], headers="[]", secrets="hush")
    lease = Lease(run.id)
    await talk.state.runs.create(run, lease)
    await talk.state.runs.append(lease, 0, [b"event: x\ndata: {}\n\n"])
    await talk.state.runs.release(lease, talk.tenant)
    return response, conversation, run


async def answers(talk, made):
    """What all of these verbs answer, the one that deletes last."""
    calls = await everything(talk, made)
    calls["an item deleted"] = calls.pop("an item deleted")
    return {name: await call() for name, call in calls.items()}


@pytest.mark.parametrize("written", ["plain", "packed", "a"])
async def test_whatever_was_written_is_read_after_the_key_has_changed(at, written):
    old, new = await at(written), await at("b, a")
    made = await filled(old)
    found = await answers(new, made)
    assert texts(found["history"].items) == f"q {LONG.replace(' ', '_')} a"
    assert found["load"].body["instructions"] == LONG and found["load"].model == "gpt"
    assert [one.id for one in found["list"][0]] == [made[0].id]
    assert found["conversation"].metadata == {"k": LONG}
    assert texts([found["its item"]]) == texts(found["its items"][0]) == "one"
    assert found["an item behind a cursor"] == ([], False)
    assert (found["run"].request, found["run"].secrets) == ({"input": [LONG]}, "hush")
    assert found["events"] == [b"event: x\ndata: {}\n\n"]
    with pytest.raises(NotFound):
        await new.state.conversations.item(made[1].id, new.tenant, "mine")


async def test_without_the_key_every_read_is_a_clear_error_and_nothing_is_shorter(at):
    made = await filled(await at("a"))
    for form in ("b", "plain", "packed"):
        talk = await at(form)
        for call in (await everything(talk, made)).values():
            with pytest.raises(EncryptionKeyMissing):
                await call()
    assert texts((await answers(await at("a"), made))["its items"][0]) == "one"


async def test_one_talk_may_hold_every_form(at):
    talks = [await at(form) for form in ("plain", "packed", "a", "b, a", "plain", "a and b, plain first")]
    previous, said, conversation = None, [], await talks[0].conversation("zero")
    everyone = await at("b, a")
    for number, talk in enumerate(talks):
        said.append(f"q{number} {LONG.replace(' ', '_')} a{number}")
        past = await everyone.state.responses.history(previous.id, talk.tenant) if previous else None
        draft = talk.draft(past, said[-1])
        await talk.state.responses.save(draft)
        previous = draft
        await talk.state.conversations.add_items(conversation.id, talk.tenant, [message(f"n{number}")])
        assert await everyone.read(previous) == " ".join(said)
    expected = "zero " + " ".join(f"n{number}" for number in range(len(talks)))
    assert await everyone.holds(conversation) == expected
    with pytest.raises(EncryptionKeyMissing):
        await talks[0].read(previous)


async def test_an_id_is_taken_whatever_its_name_was_made_with(at):
    plain, old, new = await at("plain"), await at("a"), await at("b, a")
    made = await plain.conversation()
    for talk, id_ in ((plain, "of-plain"), (old, "of-a"), (new, "of-b")):
        await talk.state.conversations.add_items(made.id, talk.tenant, [message("x", id_)])
    ids = ["of-plain", "of-a", "of-b", "free", "free"]
    added = await new.state.conversations.add_items(made.id, new.tenant, [message("y", id_) for id_ in ids])
    assert [item["id"] == id_ for item, id_ in zip(added, ids, strict=True)] == [False, False, False, True, False]
    async with new.state.conversations.turn(made.id, new.tenant) as past:
        draft = new.draft(past, "q a")
        draft.input[0]["id"] = "of-a"
        await new.state.responses.save(draft)
    assert draft.input[0]["id"] != "of-a"
    found = await new.state.responses.items([draft.input[0]["id"], draft.output[0]["id"]], new.tenant)
    assert texts(found.values()) == "q a"


@pytest.mark.parametrize("forms", [("plain",), ("plain", "a"), ("packed", "a", "b, a")], ids=str)
async def test_a_list_of_one_model_has_all_its_responses_whatever_their_form(at, forms):
    made = [await (await at(form)).turn(model="gpt") for form in forms]
    await (await at(forms[0])).turn(model="another")
    last = await at("b, a")
    listed, _ = await last.state.responses.list(last.tenant, Page(), "gpt")
    assert {one.id for one in listed} == {one.id for one in made} and {one.model for one in listed} == {"gpt"}


async def test_a_text_is_kept_once_in_each_form(at):
    plain, sealed, new = await at("plain"), await at("a"), await at("b, a")
    previous = None
    for talk in (plain, plain, sealed, sealed, new):
        past = await new.state.responses.history(previous.id, new.tenant) if previous else None
        previous = talk.draft(past, body={"instructions": LONG})
        await talk.state.responses.save(previous)
        assert (await new.state.responses.load(previous.id, new.tenant)).body["instructions"] == LONG
    assert await new.state._client.command("HLEN", Lineage(previous.minter.tag).texts) == 3


async def test_a_list_of_one_model_is_an_error_where_a_name_cannot_be_read(at):
    old, new = await at("a"), await at("b")
    await old.turn(model="gpt")
    await new.turn(model="gpt")
    with pytest.raises(EncryptionKeyMissing):
        await new.state.responses.list(new.tenant, Page(), "gpt")


# -- keys that are missing, at the start


def missing(warnings):
    """The keys that these warn of."""
    return {form: sum(key_name(key) in warning for warning in warnings) for form, key in (("a", A), ("b", B))}


async def test_a_process_that_lacks_a_key_is_told_so_at_its_start(at):
    started = [(form, missing(await (await at(form)).state.warnings())) for form in ("plain", "a", "packed", "b")]
    assert started == [(form, {"a": form in ("packed", "b"), "b": 0}) for form, _ in started]
    assert missing(await (await at("plain")).state.warnings()) == {"a": 1, "b": 1}
    assert not await (await at("b, a")).state.warnings()


async def test_a_key_is_asked_for_until_all_that_it_has_encrypted_is_gone(store_url):
    async def starts(*of, **lives):
        async with opened(store_url, envelope=Envelope(of), **lives) as state:
            found = missing(await state.warnings())
            return found, await state._client.command("ZSCORE", used.KEYS_USED, key_name(A))

    assert await starts(A) == ({"a": 0, "b": 0}, inf)
    for lives in ({"response_ttl": 0}, {"conversation_ttl": 0}):
        assert await starts(B, **lives) == ({"a": 1, "b": 0}, inf)
    now = time.time()
    _, until = await starts(B, A)
    assert now + MONTH < until < now + MONTH + 24 * 3600
    assert await starts(B) == ({"a": 1, "b": 0}, until)
    assert await starts(A) == ({"a": 0, "b": 1}, inf)
    async with opened(store_url) as state:
        await state._client.command("ZADD", used.KEYS_USED, 1, key_name(A))
    assert await starts(B) == ({"a": 0, "b": 0}, None)


# -- schemas


async def test_a_record_says_the_lowest_schema_that_reads_it_and_what_it_continues(at):
    plain, sealed = await at("plain"), await at("a")
    first = await plain.turn()
    second = await sealed.turn(first)
    branch = await plain.turn(first, "r b")
    assert [await schema(plain, record(one)) for one in (first, second, branch)] == [PLAIN, MARKED, PLAIN]
    third = plain.draft((await sealed.state.responses.history(second.id, plain.tenant)), "s c")
    await plain.state.responses.save(third)  # what it says is plain, what it continues is not
    assert await schema(plain, record(third)) == MARKED


async def test_a_conversation_says_it_too_from_its_first_wrapped_word_on(at):
    plain, sealed = await at("plain"), await at("a")
    for change in (
        lambda made: sealed.state.conversations.update(made.id, sealed.tenant, {"a": "b"}),
        lambda made: sealed.state.conversations.add_items(made.id, sealed.tenant, [message("x")]),
        lambda made: sealed.converse(made),
    ):
        made = await plain.conversation("one")
        before = await plain.converse(made)
        key = Lineage(before.minter.tag).conversation
        assert [await schema(plain, one) for one in (key, record(before))] == [PLAIN, PLAIN]
        await change(made)
        assert await schema(plain, key) == MARKED
        assert await plain.read(before) == "one q a"


async def test_a_run_says_it_too(at):
    plain, sealed = await at("plain"), await at("a")
    first = await sealed.turn()
    past = await sealed.state.responses.history(first.id, plain.tenant)
    draft = plain.draft(past)
    await plain.state.runs.create(Run(draft.id, plain.tenant, 0, {}, [], past=past.place), None)
    assert await schema(plain, Lineage(draft.minter.tag).run(draft.minter.turn)) == MARKED
    found = await sealed.state.runs.load(draft.id, plain.tenant)
    assert (await sealed.state.responses.past_of_run(found)).schema == found.past.schema == MARKED


OF_SCHEMA_1 = ["v", 1, "st", "completed", "m", "a \udc80 name".encode("utf-8", "surrogatepass"), "c", 1700000000]
OF_SCHEMA_1 += [
    "l",
    "f" * 28,
    "s",
    0,
    "p",
    1,
    "e",
    2,
    "0",
    b'{"temperature":0.5,"metadata":{"a":"b"},"user":"x" ',
    "1",
    b"}",
]


async def test_a_record_of_the_first_schema_is_read_for_ever(at):
    """As version 0.1 wrote them, field by field."""
    for talk in (await at("plain"), await at("b, a")):
        draft = talk.draft(words="q a")
        lineage, turn = Lineage(draft.minter.tag), draft.minter.turn
        fields = [turn if part == "f" * 28 else part for part in OF_SCHEMA_1]
        await talk.state._client.command("HSET", lineage.record(turn), "t", talk.tenant, *fields)
        await talk.state._client.command("RPUSH", lineage.log(turn), *map(codec.dumps, [*draft.input, *draft.output]))
        stored = await talk.state.responses.load(draft.id, talk.tenant)
        assert (stored.model, stored.body["user"], texts(stored.output)) == ("a \udc80 name", "x", "a")
        assert await talk.read(draft) == "q a"
        assert await talk.read(await talk.turn(draft, "r b")) == "q a r b"


def test_records_are_taken_through_every_step_to_the_newest_schema(monkeypatch):
    monkeypatch.setattr(records, "SCHEMA", 4)
    steps = {
        number: (lambda fields, number=number: {**fields, "steps": fields["steps"] + b"%d" % number})
        for number in (1, 2, 3)
    }
    monkeypatch.setattr(records, "_MIGRATIONS", steps)
    for old, wanted in ((b"1", b"123"), (b"3", b"3"), (b"4", b"")):
        assert records.migrated({"v": old, "steps": b""})["steps"] == wanted


def test_there_is_a_step_from_every_schema_that_ever_was():
    assert set(records._MIGRATIONS) == set(range(PLAIN, SCHEMA))


async def test_a_model_whose_name_looks_wrapped_is_a_model(at):
    for form in ("plain", "packed", "a"):
        talk = await at(form)
        made = await talk.turn(model="\x01\x02odd")
        assert (await talk.state.responses.load(made.id, talk.tenant)).model == "\x01\x02odd"
        listed, _ = await talk.state.responses.list(talk.tenant, Page(), "\x01\x02odd")
        assert made.id in [one.id for one in listed]
