"""``/v1/responses`` (wire §3.1–3.7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from proxy import ids
from proxy.errors import InvalidRequest, NotFound, UpgradeRequired
from proxy.routes.edge import Access, Resource, answer, facts, json_body, listed, page_of
from proxy.routes.open import OpenRequests
from proxy.routes.streaming import JsonReply, Pace, SseReply, ValueReply
from proxy.state import State, Stored, cut
from proxy.translate.response import public, restore
from proxy.turn import Services, Turn, compact, input_tokens
from proxy.waits import begin
from proxy.wire import compact_response, count_input_tokens, create_response, flag


@dataclass(frozen=True)
class Responses:
    """The endpoints of responses over what they need. ``body_limit``: bytes."""

    services: Services
    access: Access
    requests: OpenRequests
    pace: Pace
    body_limit: int

    def routes(self, prefix: str, *, done: bool) -> list[BaseRoute]:
        """``prefix``: ``/v1`` or an alias of it. ``done``: whether streams end with ``data: [DONE]``."""
        at = f"{prefix}/responses"

        async def create(request: Request) -> ASGIApp:
            return await self.create(request, done=done)

        return [
            Resource(at, POST=create, GET=self.list),
            Resource(f"{at}/compact", POST=self.compact),
            Resource(f"{at}/input_tokens", POST=self.input_tokens),
            Resource(f"{at}/{{response_id}}", GET=self.retrieve, DELETE=self.delete),
            Resource(f"{at}/{{response_id}}/cancel", POST=self.cancel),
            Resource(f"{at}/{{response_id}}/input_items", GET=self.input_items),
        ]

    @property
    def _state(self) -> State:
        return self.services.state

    async def create(self, request: Request, *, done: bool) -> ASGIApp:
        waits = begin()
        caller = await self.access.caller(request)
        body = create_response(await json_body(request, self.body_limit))
        turn = Turn(self.services, body, caller)
        if body.get("stream"):
            return SseReply(turn, self.requests, waits, self.pace, done=done)
        return JsonReply(turn, self.requests, waits)

    async def list(self, request: Request) -> Response:
        """Not in OpenAI's API; newest first, each with its own ``input`` (wire §3)."""
        if request.headers.get("upgrade", "").lower() == "websocket":
            raise UpgradeRequired("WebSocket mode is not served here: use HTTP.", headers={"upgrade": "websocket"})
        caller = await self.access.caller(request)
        page = page_of(request)
        found, has_more = await self._state.responses.list(caller.tenant, page, request.query_params.get("model"))
        rows = [{**_whole(stored), "input": [public(item) for item in stored.input]} for stored in found]
        return listed(rows, has_more=has_more)

    async def retrieve(self, request: Request) -> Response:
        stored = await self._stored(request)
        if flag(request.query_params.multi_items(), "stream"):
            raise InvalidRequest(
                "This response cannot be streamed because it was not created with background=true.", param="stream"
            )
        return answer(_whole(stored))

    async def delete(self, request: Request) -> Response:
        caller, id_ = await self.access.caller(request), _id(request)
        if not await self._state.responses.delete(id_, caller.tenant):
            raise _missing(id_)
        return answer({"id": id_, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        await self._stored(request)
        raise InvalidRequest("Cannot cancel a synchronous response.")

    async def input_items(self, request: Request) -> Response:
        """All the model saw but the instructions: the context carried over, then the request's input (wire §3.5)."""
        caller, id_, page = await self.access.caller(request), _id(request), page_of(request)
        items = await self._state.responses.context(id_, caller.tenant)
        if items is None:
            raise _missing(id_)
        rows, has_more = cut(items, page)
        return listed([public(item) for item in rows], has_more=has_more)

    async def compact(self, request: Request) -> ASGIApp:
        caller = await self.access.caller(request)
        body = compact_response(await json_body(request, self.body_limit))
        facts(request.scope)["model"] = body["model"][:128]
        return ValueReply(lambda: compact(body, self.services, caller))

    async def input_tokens(self, request: Request) -> ASGIApp:
        caller = await self.access.caller(request)
        body = count_input_tokens(await json_body(request, self.body_limit))
        facts(request.scope)["model"] = body["model"][:128]

        async def counted() -> tuple[dict[str, Any], dict[str, str]]:
            tokens = await input_tokens(body, self.services, caller)
            return {"object": "response.input_tokens", "input_tokens": tokens}, {}

        return ValueReply(counted)

    async def _stored(self, request: Request) -> Stored:
        caller, id_ = await self.access.caller(request), _id(request)
        stored = await self._state.responses.load(id_, caller.tenant)
        if stored is None:
            raise _missing(id_)
        return stored


def _id(request: Request) -> str:
    id_: str = request.path_params["response_id"]
    facts(request.scope)["response"] = id_[:128]
    if not ids.of_kind(id_, "resp"):
        raise _missing(id_)
    return id_


def _missing(id_: str) -> NotFound:
    return NotFound(f"Response with id '{id_[:128]}' not found.")


def _whole(stored: Stored) -> dict[str, Any]:
    return restore(
        stored.body,
        id=stored.id,
        created_at=stored.created_at,
        status=stored.status,
        model=stored.model,
        output=stored.output,
        conversation=stored.conversation,
    )
