"""``/v1/responses`` (wire §3.1–3.7)."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from proxy import codec, ids
from proxy.errors import InvalidRequest, NotFound, StoreUnavailable, UpgradeRequired
from proxy.routes.access import Access, check_asked
from proxy.routes.edge import answer, facts, json_body, listed, page_of
from proxy.routes.keyed import REPLAYED, KeyedReply
from proxy.routes.open import OpenRequests
from proxy.routes.resources import Resource
from proxy.routes.streaming import DetachedJsonReply, DetachedReply, JsonReply, Pace, RunReply, SseReply, ValueReply
from proxy.rules import DELETE, READ, RESPONSE, UPDATE
from proxy.runs import KeyedRequest, Runner
from proxy.state import Claim, Run, State, Stored, cut
from proxy.translate.items import public
from proxy.translate.response import restore
from proxy.turn import Services, Turn, admit, compact, input_tokens, stateless
from proxy.waits import Waits, begin
from proxy.wire import (
    compact_response,
    count_input_tokens,
    create_response,
    flag,
    idempotency_key,
    on_disconnect,
    starting_after,
)


@dataclass(frozen=True)
class Responses:
    """The endpoints of responses over what they need. ``body_limit``: bytes.

    ``on_disconnect``: what becomes of a turn whose client leaves, ``cancel`` or ``detach``.
    """

    services: Services
    runner: Runner
    access: Access
    requests: OpenRequests
    pace: Pace
    body_limit: int
    on_disconnect: str = "cancel"

    def routes(self, prefix: str, *, done: bool) -> list[Resource]:
        """``prefix``: ``/v1`` or an alias of it. ``done``: whether streams end with ``data: [DONE]``."""
        at = f"{prefix}/responses"

        async def create(request: Request) -> ASGIApp:
            return await self.create(request, done=done)

        async def retrieve(request: Request) -> ASGIApp:
            return await self.retrieve(request, done=done)

        return [
            Resource(at, POST=create, GET=self.list),
            Resource(f"{at}/compact", POST=self.compact),
            Resource(f"{at}/input_tokens", POST=self.input_tokens),
            Resource(f"{at}/{{response_id}}", GET=retrieve, DELETE=self.delete),
            Resource(f"{at}/{{response_id}}/cancel", POST=self.cancel),
            Resource(f"{at}/{{response_id}}/input_items", GET=self.input_items),
        ]

    @property
    def _state(self) -> State:
        return self.services.state

    async def create(self, request: Request, *, done: bool) -> ASGIApp:
        waits = begin()
        # sealed for nobody in particular, what clients carry for us would be lost
        unknown = self.services.stateless and self.services.sealer is None
        caller = await self.access.caller(request, unknown=unknown)
        given = await json_body(request, self.body_limit)
        body = create_response(given)
        check_asked(caller, body)
        if body.get("store", True):
            self.services.guard.check_create(caller, RESPONSE)
        headers = request.headers.items()
        disconnect, key = on_disconnect(headers) or self.on_disconnect, idempotency_key(headers)
        if key and body.get("store", True):
            if not caller.tenant:
                raise StoreUnavailable  # whose key it is cannot be known
            user = caller.principal.name if caller.principal else ""
            claim = Claim.of(caller.tenant, key, codec.canonical(given), user)
            return self._keyed(request, Turn(self.services, body, caller), claim, waits, done=done)
        unkept = await stateless(body, self.services, caller)
        if unkept:
            body["store"] = False
        turn = Turn(self.services, body, caller, unkept=unkept)
        if body.get("background"):
            return await self._background(request, turn, None, done=done)
        if disconnect == "detach" and body.get("store", True):
            return self._detached(turn, waits, None, done=done)
        if body.get("stream"):
            return SseReply(turn, self.requests, waits, self.pace, done=done)
        return JsonReply(turn, self.requests, waits)

    def _keyed(self, request: Request, turn: Turn, claim: Claim, waits: Waits, *, done: bool) -> ASGIApp:
        """The turn that stands for its key, or the answer of the one that does (wire §10.13)."""
        key = self.runner.keyed(claim)

        async def make() -> ASGIApp:
            if turn.is_background:
                return await self._background(request, turn, key, done=done)
            return self._detached(turn, waits, key, done=done)

        async def join(found: Stored | Run) -> ASGIApp | None:
            if turn.streams:
                if not await self._is_logged(found):
                    raise InvalidRequest("The events of this key's response are no longer there: ask with a new key.")
                self.runner.reading.check_room()
                return self._events(found.id, -1, done=done, headers=REPLAYED)
            if isinstance(found, Run) and not turn.is_background:
                ended = await self.runner.reading.end(found.id, found.tenant)
                return answer(_whole(ended), headers=REPLAYED) if ended else None
            return answer(await self._seen(found), headers=REPLAYED)

        return KeyedReply(key, make, join)

    async def _background(self, request: Request, turn: Turn, key: KeyedRequest | None, *, done: bool) -> ASGIApp:
        if turn.streams:
            self.runner.reading.check_room()
        running = await self.runner.begin(turn, key)
        facts(request.scope).update(model=running.run.request["model"][:128], response=running.run.id)
        if turn.streams:
            return self._events(running.run.id, -1, done=done, headers=turn.headers)
        return answer(running.opening, headers=turn.headers)

    def _detached(self, turn: Turn, waits: Waits, key: KeyedRequest | None, *, done: bool) -> ASGIApp:
        make = partial(self.runner.detached, turn, key)
        if turn.streams:
            return DetachedReply(turn, self.runner, make, self.requests, waits, self.pace, done=done)
        return DetachedJsonReply(turn, make, self._ended)

    async def _ended(self, id_: str, tenant: str) -> dict[str, Any]:
        """The response that a run has ended with elsewhere."""
        stored = await self.runner.reading.end(id_, tenant)
        if stored is None:
            raise _missing(id_)
        return _whole(stored)

    def _events(self, id_: str, after: int, *, done: bool, headers: dict[str, str] | None = None) -> ASGIApp:
        followed = self.runner.reading.follow(id_, after)
        return RunReply(followed, self.requests, self.pace, done=done, headers=headers)

    async def list(self, request: Request) -> Response:
        """Not in OpenAI's API; newest first, each with its own ``input`` (wire §3)."""
        if request.headers.get("upgrade", "").lower() == "websocket":
            raise UpgradeRequired("WebSocket mode is not served here: use HTTP.", headers={"upgrade": "websocket"})
        caller = await self.access.caller(request)
        page = page_of(request)
        model, sees = request.query_params.get("model"), self.services.guard.sees(caller)
        found, has_more = await self._state.responses.list(caller.tenant, page, model, sees)
        rows = [{**_whole(stored), "input": [public(item) for item in stored.input]} for stored in found]
        return listed(rows, has_more=has_more)

    async def retrieve(self, request: Request, *, done: bool) -> ASGIApp:
        query = request.query_params.multi_items()
        streamed = flag(query, "stream")
        after = starting_after(query) if streamed else None
        found = await self._found(request)
        if not streamed:
            return answer(await self._seen(found))
        if not await self._is_logged(found):
            was_run = isinstance(found, Run) or found.body.get("background") or found.logged
            missing = "stream" if was_run else "background"
            raise InvalidRequest(
                f"This response cannot be streamed because it was not created with {missing}=true.", param="stream"
            )
        self.runner.reading.check_room()
        return self._events(found.id, -1 if after is None else after, done=done)

    async def delete(self, request: Request) -> Response:
        caller, id_ = await self.access.caller(request), _id(request)
        if not await self.services.guard.may(caller, DELETE, id_):
            raise _missing(id_)
        freed = await self._state.responses.delete(id_, caller.tenant)
        if freed is None:
            if await self._state.runs.load(id_, caller.tenant):
                raise InvalidRequest("Cannot delete an in-flight response.")
            freed = await self._state.responses.delete(id_, caller.tenant)  # it may have ended between the two looks
        if freed is None:
            raise _missing(id_)
        await self._state.quotas.give_back(caller.tenant, caller.grant.quota, id_, freed)
        return answer({"id": id_, "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        found = await self._found(request, UPDATE)
        if was_run := isinstance(found, Run):
            await self.runner.cancel(found.id, found.tenant)
            found = await self._found(request, UPDATE)
        if isinstance(found, Run) or not (was_run or found.body.get("background") or found.status == "cancelled"):
            raise InvalidRequest("Cannot cancel a synchronous response.")
        return answer(_whole(found))

    async def input_items(self, request: Request) -> Response:
        """All the model saw but the instructions: the context carried over, then the request's input (wire §3.5)."""
        caller, id_, page = await self.access.caller(request), _id(request), page_of(request)
        guard = self.services.guard
        items = await self._state.responses.context(id_, caller.tenant, sees := guard.sees(caller))
        if items is None and (run := await self._state.runs.load(id_, caller.tenant)):
            items = await self.runner.reading.context(run) if guard.allows(caller, READ, id_, run.owner) else None
        if items is None:  # it may have ended between the two looks
            items = await self._state.responses.context(id_, caller.tenant, sees)
        if items is None:
            raise _missing(id_)
        rows, has_more = cut(items, page)
        return listed([public(item) for item in rows], has_more=has_more)

    async def compact(self, request: Request) -> ASGIApp:
        caller = await self.access.caller(request)
        body = compact_response(await json_body(request, self.body_limit))
        facts(request.scope)["model"] = body["model"][:128]
        check_asked(caller, body)

        async def compacted() -> tuple[dict[str, Any], dict[str, str]]:
            async with AsyncExitStack() as stack:
                admission = await admit(stack, self.services, caller, stores=False)
                answered, headers = await compact(body, self.services, caller, admission)
            return answered, headers | admission.headers

        return ValueReply(compacted)

    async def input_tokens(self, request: Request) -> ASGIApp:
        caller = await self.access.caller(request)
        body = count_input_tokens(await json_body(request, self.body_limit))
        facts(request.scope)["model"] = body["model"][:128]
        check_asked(caller, body, "read")

        async def counted_here() -> tuple[dict[str, Any], dict[str, str]]:
            async with AsyncExitStack() as stack:
                admission = await admit(stack, self.services, caller, stores=False)
                tokens = await input_tokens(body, self.services, caller, admission)
            return {"object": "response.input_tokens", "input_tokens": tokens}, admission.headers

        return ValueReply(counted_here)

    async def _seen(self, found: Stored | Run) -> dict[str, Any]:
        """The response as it stands."""
        return await self.runner.reading.snapshot(found) if isinstance(found, Run) else _whole(found)

    async def _is_logged(self, found: Stored | Run) -> bool:
        """Whether there are events of it to be read."""
        if isinstance(found, Run):
            return bool(found.request.get("stream"))
        return await self.runner.reading.is_logged(found)

    async def _found(self, request: Request, action: str = READ) -> Stored | Run:
        """The response, or the run that will become it. Raises NotFound, and Forbidden where it may only be read."""
        caller, id_ = await self.access.caller(request), _id(request)
        found = await self._state.responses.find(id_, caller.tenant)
        if found and self.services.guard.allows(caller, action, id_, found.owner):
            return found
        raise _missing(id_)


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
