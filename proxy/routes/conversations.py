"""``/v1/conversations`` (wire §3.8)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from proxy import codec, ids
from proxy.errors import StatecarError
from proxy.routes.access import Access
from proxy.routes.edge import answer, facts, json_body, listed, page_of
from proxy.routes.resources import Resource
from proxy.rules import CONVERSATION, DELETE, READ, UPDATE
from proxy.state import Conversation, State, conversation_missing
from proxy.translate.items import public
from proxy.turn import Caller, Guard
from proxy.wire import create_conversation, create_items, update_conversation


@dataclass(frozen=True)
class Conversations:
    """The endpoints of conversations over what they need. ``now``: Unix seconds. ``body_limit``: bytes."""

    state: State
    guard: Guard
    access: Access
    now: Callable[[], float]
    body_limit: int

    def routes(self, prefix: str) -> list[Resource]:
        at = f"{prefix}/conversations"
        return [
            Resource(at, POST=self.create),
            Resource(f"{at}/{{conversation_id}}", GET=self.retrieve, POST=self.update, DELETE=self.delete),
            Resource(f"{at}/{{conversation_id}}/items", GET=self.list_items, POST=self.add_items),
            Resource(f"{at}/{{conversation_id}}/items/{{item_id}}", GET=self.item, DELETE=self.delete_item),
        ]

    async def create(self, request: Request) -> Response:
        caller = await self.access.caller(request)
        body = create_conversation(await json_body(request, self.body_limit, optional=True))
        self.guard.check_create(caller, CONVERSATION)
        minter = ids.Minter()
        id_ = minter.own("conv")
        size = _size(request, [id_, caller.tenant, _owner(caller), body["metadata"], body["items"]])
        async with self._kept(request, caller.tenant, id_, size):
            made = await self.state.conversations.create(
                caller.tenant, body["metadata"], body["items"], minter, now=int(self.now()), owner=caller.principal
            )
        facts(request.scope)["conversation"] = made.id
        return answer(_object(made))

    async def retrieve(self, request: Request) -> Response:
        tenant, id_ = await self._addressed(request, READ)
        return answer(_object(await self.state.conversations.retrieve(id_, tenant)))

    async def update(self, request: Request) -> Response:
        tenant, id_ = await self._addressed(request, UPDATE)
        metadata = update_conversation(await json_body(request, self.body_limit, optional=True))
        quota, grown = request.scope["statecar.grant"].quota, 0
        if quota and quota.stored_bytes:
            was = (await self.state.conversations.retrieve(id_, tenant)).metadata
            grown = _size(request, metadata) - _size(request, was)
        async with self._kept(request, tenant, id_, max(0, grown)):
            updated = await self.state.conversations.update(id_, tenant, metadata)
        await self.state.quotas.give_back(tenant, quota, id_, max(0, -grown))
        return answer(_object(updated))

    async def delete(self, request: Request) -> Response:
        tenant, id_ = await self._addressed(request, DELETE)
        await self.state.conversations.delete(id_, tenant)
        await self.state.quotas.give_back(tenant, request.scope["statecar.grant"].quota, id_)
        return answer({"id": id_, "object": "conversation.deleted", "deleted": True})

    async def add_items(self, request: Request) -> Response:
        tenant, id_ = await self._addressed(request, UPDATE)
        items = create_items(await json_body(request, self.body_limit))
        async with self._kept(request, tenant, id_, _size(request, items)):
            added = await self.state.conversations.add_items(id_, tenant, items)
        return listed([public(item) for item in added], has_more=False)

    async def list_items(self, request: Request) -> Response:
        tenant, id_ = await self._addressed(request, READ)
        rows, has_more = await self.state.conversations.list_items(id_, tenant, page_of(request))
        return listed([public(item) for item in rows], has_more=has_more)

    async def item(self, request: Request) -> Response:
        tenant, id_ = await self._addressed(request, READ)
        return answer(public(await self.state.conversations.item(id_, tenant, request.path_params["item_id"])))

    async def delete_item(self, request: Request) -> Response:
        """Answers the conversation, not a receipt (OpenAPI ``deleteConversationItem``)."""
        tenant, id_ = await self._addressed(request, UPDATE)
        item = request.path_params["item_id"]
        async with self._kept(request, tenant, id_, 0):  # which now lives for longer
            return answer(_object(await self.state.conversations.delete_item(id_, tenant, item)))

    @asynccontextmanager
    async def _kept(self, request: Request, tenant: str, id_: str, size: int) -> AsyncIterator[None]:
        """Counts the bytes that the body stores, unless it raises. Raises StorageFull."""
        quota, quotas = request.scope["statecar.grant"].quota, self.state.quotas
        await quotas.keep(tenant, quota, id_, size)
        try:
            yield
        except StatecarError:
            await quotas.give_back(tenant, quota, id_, size)
            raise

    async def _addressed(self, request: Request, action: str) -> tuple[str, str]:
        """(tenant, conversation id). Raises NotFound for what cannot be a conversation's id or may not be read, and
        Forbidden for what may be, but not that done with it.
        """
        caller = await self.access.caller(request)
        id_: str = request.path_params["conversation_id"]
        facts(request.scope)["conversation"] = id_[:128]
        if not ids.of_kind(id_, "conv"):
            raise conversation_missing(id_[:128])
        if not await self.guard.may(caller, action, id_):
            raise conversation_missing(id_)
        return caller.tenant, id_


def _owner(caller: Caller) -> str:
    """As it is kept, "" for nobody."""
    return caller.principal.encoded().decode() if caller.principal else ""


def _size(request: Request, value: Any) -> int:
    """The bytes of a value as JSON; 0 where nobody counts them."""
    quota = request.scope["statecar.grant"].quota
    return len(codec.dumps(value)) if quota and quota.stored_bytes else 0


def _object(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": conversation.created_at,
        "metadata": conversation.metadata,
    }
