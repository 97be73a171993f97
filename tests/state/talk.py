"""A way to take turns on a state, with items that read as words."""

import secrets
import time
from contextlib import asynccontextmanager

from proxy import ids
from proxy.state import Draft, Past, open_state

MONTH = 30 * 24 * 3600
NOW = int(time.time())


class Talk:
    """One tenant's turns on a state; items carry readable texts, so that a history reads as a list of words."""

    def __init__(self, state, tenant=None):
        self.state = state
        self.tenant = tenant or secrets.token_hex(16)

    def draft(self, past=None, words="q a", *, append=True, **rest):
        """A turn on that past: the last word is its output, the others are its input."""
        past = past or Past.none(ids.new_tag())
        minter = ids.Minter(past.tag)
        items = [message(word, minter.item("message")) for word in words.split()]
        values = {
            "id": minter.own("resp"),
            "tenant": self.tenant,
            "status": "completed" if append else "failed",
            "model": "m",
            "created_at": NOW,
            "body": {},
            "input": items[:-1],
            "output": items[-1:],
            "past": past,
            "append": append,
            "minter": minter,
        }
        return Draft(**values | rest)

    async def turn(self, previous=None, words="q a", **rest):
        """A saved turn that continues from a response, or begins a lineage."""
        past = await self.state.responses.history(previous.id, self.tenant) if previous else None
        draft = self.draft(past, words, **rest)
        await self.state.responses.save(draft)
        return draft

    async def converse(self, conversation, words="q a", **rest):
        """A saved turn in a conversation."""
        async with self.state.conversations.turn(conversation.id, self.tenant) as past:
            draft = self.draft(past, words, **rest)
            await self.state.responses.save(draft)
        return draft

    async def conversation(self, words=""):
        items = [message(word) for word in words.split()]
        return await self.state.conversations.create(self.tenant, {}, items, ids.Minter())

    async def read(self, response):
        """The words of a response's history, or None."""
        past = await self.state.responses.history(response.id, self.tenant)
        return past and texts(past.items)

    async def holds(self, conversation):
        """The words of a conversation."""
        return texts((await self.state.conversations.past(conversation.id, self.tenant)).items)

    async def ttl(self, key):
        return await self.state._client.command("TTL", key)


def message(text, id_=None):
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    return {"id": id_} | item if id_ else item


def texts(items):
    return " ".join(item["content"][0]["text"] for item in items)


@asynccontextmanager
async def opened(url, response_ttl=MONTH, conversation_ttl=MONTH, **rest):
    state = open_state(url, response_ttl=response_ttl, conversation_ttl=conversation_ttl, **rest)
    try:
        yield state
    finally:
        await state.close()
