"""Random histories of one lineage of responses and one conversation, against a model of plain lists.

The model keeps whole contexts, so it knows nothing of logs, branches or positions. ``twice`` sends every script two
times, as after a lost reply; its second answer must serve as well as its first.
"""

import asyncio
from contextlib import asynccontextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.errors import NotFound
from proxy.state import Page
from proxy.state.client import Client
from tests.state.talk import Talk, message, opened

PICK = st.integers(0, 99)
STEP = st.one_of(
    st.tuples(st.just("reply"), PICK, st.booleans(), st.integers(1, 3)),
    st.tuples(st.just("race"), PICK, st.integers(2, 4)),
    st.tuples(st.just("in_flight"), PICK, PICK),
    st.tuples(st.just("delete"), PICK),
    st.tuples(st.just("resend"), PICK),
    st.tuples(st.just("add"), st.lists(st.sampled_from([None, "mine", "yours"]), min_size=1, max_size=3)),
    st.tuples(st.just("remove"), PICK),
    st.tuples(st.just("converse"), st.booleans(), st.lists(PICK, max_size=3)),
)

ONCE = ("delete", "conversation_update", "conversation_delete")  # the second answer is rightly that nothing is there


class Model:
    """What must be true: per response its whole context, per conversation its items in order."""

    def __init__(self, talk, conversation):
        self.talk, self.conversation = talk, conversation
        self.words = 0
        self.drafts, self.contexts, self.deleted = [], {}, set()
        self.parents = set()  # continued from by something saved
        self.erased = set()  # words that went with a deleted response
        self.own, self.inside = {}, set()
        self.held, self.ids = [], {}

    def fresh(self, n):
        self.words += n
        return [f"w{n}" for n in range(self.words - n, self.words)]

    def pick(self, n):
        alive = [d for d in self.drafts if d.id not in self.deleted]
        return alive[n % len(alive)] if alive else None

    def saved(self, draft, seen, words, parent=None):
        self.drafts.append(draft)
        self.contexts[draft.id], self.own[draft.id] = seen + words, words
        if parent:
            self.parents.add(parent.id)

    def expected(self, draft):
        return [word for word in self.contexts[draft.id] if word not in self.erased]

    async def start(self, n):
        parent = self.pick(n) if n % 4 else None
        past = await self.talk.state.responses.history(parent.id, self.talk.tenant) if parent else None
        return parent, past, list(self.contexts[parent.id]) if parent else []

    async def reply(self, n, append, size):
        parent, past, seen = await self.start(n)
        words = self.fresh(size)
        draft = self.talk.draft(past, " ".join(words), append=append)
        await self.talk.state.responses.save(draft)
        self.saved(draft, seen, words, parent)

    async def race(self, n, width):
        parent, past, seen = await self.start(n)
        if not parent:
            return
        batch = [(words := self.fresh(2), self.talk.draft(past, " ".join(words))) for _ in range(width)]
        await asyncio.gather(*(self.talk.state.responses.save(draft) for _, draft in batch))
        for words, draft in batch:
            self.saved(draft, seen, words, parent)

    async def in_flight(self, n, victim):
        """A turn during which another response, often its parent, is deleted."""
        parent, past, seen = await self.start(n)
        await self.delete(victim if victim % 2 else n)
        words = self.fresh(2)
        draft = self.talk.draft(past, " ".join(words))
        await self.talk.state.responses.save(draft)
        self.saved(draft, seen, words, parent)

    async def delete(self, n):
        draft = self.pick(n)
        if draft:
            assert await self.talk.state.responses.delete(draft.id, self.talk.tenant)
            self.deleted.add(draft.id)
            if draft.id not in self.parents and draft.id not in self.inside:
                self.erased.update(self.own[draft.id])

    async def resend(self, n):
        draft = self.pick(n)
        if draft:
            await self.talk.state.responses.save(draft)

    async def add(self, ids):
        words = self.fresh(len(ids))
        items = [message(word, id_) for word, id_ in zip(words, ids, strict=True)]
        stored = await self.talk.state.conversations.add_items(self.conversation.id, self.talk.tenant, items)
        self.append(words, stored)

    async def remove(self, n):
        if self.held:
            word = self.held.pop(n % len(self.held))
            await self.talk.state.conversations.delete_item(self.conversation.id, self.talk.tenant, self.ids.pop(word))

    def append(self, words, items):
        self.held += words
        self.ids.update({word: item["id"] for word, item in zip(words, items, strict=True)})
        assert len(set(self.ids.values())) == len(self.ids), "ids stay apart"

    async def converse(self, append, meanwhile):
        seen, words = list(self.held), self.fresh(2)
        async with self.talk.state.conversations.turn(self.conversation.id, self.talk.tenant) as past:
            assert [item["content"][0]["text"] for item in past.items] == seen
            for n in meanwhile:
                await (self.add(["mine"]) if n % 2 else self.remove(n))
            draft = self.talk.draft(past, " ".join(words), append=append)
            draft.input[0]["id"] = "mine" if "mine" not in self.ids.values() or meanwhile else draft.input[0]["id"]
            await self.talk.state.responses.save(draft)
        self.saved(draft, seen, words)
        if append:
            self.inside.add(draft.id)
            self.append(words, draft.input + draft.output)

    async def check(self):
        state, tenant = self.talk.state, self.talk.tenant
        for draft in self.drafts:
            past = await state.responses.history(draft.id, tenant)
            if draft.id in self.deleted:
                assert past is None
                continue
            assert [item["content"][0]["text"] for item in past.items] == self.expected(draft)
            stored = await state.responses.load(draft.id, tenant)
            assert (stored.input, stored.output) == (draft.input, draft.output)
            wanted = [item["id"] for item in draft.output]
            assert list(await state.responses.items(wanted, tenant)) == wanted
        listed, _ = await state.responses.list(tenant, Page(100), None)
        assert {one.id for one in listed} == {d.id for d in self.drafts} - self.deleted
        past = await state.conversations.past(self.conversation.id, tenant)
        assert [item["content"][0]["text"] for item in past.items] == self.held
        assert [item["id"] for item in past.items] == [self.ids[word] for word in self.held]
        pages, after = [], None
        while True:
            page, more = await state.conversations.list_items(self.conversation.id, tenant, Page(3, "asc", after))
            pages += page
            if not more:
                break
            after = page[-1]["id"]
        assert pages == past.items
        with pytest.raises(NotFound):
            await state.conversations.item(self.conversation.id, tenant, "nobodys")


@asynccontextmanager
async def sent_twice(active):
    evaluate, both = Client._evaluate, Client._evaluate_both

    async def twice(self, call):
        first = await evaluate(self, call)
        return first if call.script.name in ONCE else await evaluate(self, call)

    async def both_twice(self, call, beside):
        assert not {call.script.name, beside.script.name} & set(ONCE)
        await both(self, call, beside)
        return await both(self, call, beside)

    if active:
        Client._evaluate, Client._evaluate_both = twice, both_twice
    try:
        yield
    finally:
        Client._evaluate, Client._evaluate_both = evaluate, both


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEP, min_size=1, max_size=14), st.booleans())
async def test_the_store_agrees_with_plain_lists(store_url, steps, twice):
    async with opened(store_url) as state, sent_twice(twice):
        talk = Talk(state)
        model = Model(talk, await talk.conversation())
        for verb, *args in steps:
            await getattr(model, verb)(*args)
        await model.check()
