"""The tools of one turn that run here: what servers offer, what was approved, and the calls of each round (wire §9.5).

What a tool gives back is data for the model: nothing here looks into it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from time import perf_counter
from typing import Any

from proxy.errors import InvalidRequest, ToolServerError
from proxy.hosted import Box, Hosted
from proxy.state import Item
from proxy.translate.hosted_calls import HostedCall, McpApprovalRequest, McpCall, McpListTools
from proxy.translate.hosted_tools import allowed
from proxy.translate.hosting import Hosting, Outcome
from proxy.translate.items import Event
from proxy.translate.stream import ResponseStream
from proxy.translate.told import Kept, Told
from proxy.translate.tool_names import Tool, family
from proxy.translate.typed_calls import TypedCall
from proxy.turn.approvals import RESPONSE, approved, check_approvals
from proxy.turn.context import Context, minted_id
from proxy.turn.listings import check_servers, chosen_labels, listing_of, source_of
from proxy.turn.services import Services
from proxy.waits import Waiting

Keep = Callable[..., Awaitable[None]]
"""Keeps fields of a ``translate.told.Kept`` for whoever goes on with the turn. Raises RunLost."""

_AT_ONCE = 8
"""Calls of one round that run at a time."""

_LEFT = "The server restarted while this call was running."

_INVALID_PARAMS = -32602
"""What JSON-RPC answers to a call of a tool that is not there."""


def runs_here(request: dict[str, Any], items: Iterable[Item], hosted: Hosted) -> bool:
    """Whether a request, or its context of these items, brings tools that run here; or it answers for calls of them."""
    lists = [item["tools"] for item in items if item["type"] == "additional_tools"]
    brought = (tool["type"] for tools in (request.get("tools") or (), *lists) for tool in tools)
    if any(type_ == "mcp" or family(type_) in hosted.types for type_ in brought):
        return True
    return hosted.serves_mcp and any(item["type"] == RESPONSE for item in request["input"])


class HostedTools:
    """``hosting``: what of them the model is offered next; ``listed``: it is known what servers offer, ``failure``: why
    one could not be asked. ``over``: no other round follows. ``rounds``: upstream calls that are over, ``calls``: of
    tools that were made.
    """

    def __init__(
        self,
        hosted: Hosted,
        services: Services,
        request: dict[str, Any],
        context: Context,
        stream: ResponseStream,
        keep: Keep,
        kept: Kept | None,
    ) -> None:
        """``keep``: awaited before anybody hears of what it is given. ``kept``: by another process."""
        self._hosted, self._services = hosted, services
        self._request, self._context, self._stream, self._keep = request, context, stream, keep
        given = request.get("tools") or () if hosted.serves_mcp else ()
        self._servers = {tool["server_label"]: tool for tool in given if tool["type"] == "mcp"}
        self._box: Box = hosted.box(stream.response["id"])
        made = [item for item in stream.items if isinstance(item, Told) and item.runs_here]
        self.hosting = Hosting(types=hosted.types, mcp=hosted.serves_mcp, again=bool(made))
        self.listed, self.over = False, bool(kept and stream.is_over)
        self.failure: ToolServerError | None = None
        stream.learn(item.stored() for item in made)
        self.rounds, self.calls = kept.rounds if kept else 0, len(made)
        if (most := request.get("max_tool_calls")) is not None:
            stream.hosted_left = max(0, most - len(made))

    def close(self) -> None:
        """The turn is over: the servers are left."""
        self._box.close()
        del self._keep  # it is the turn's, which holds this: a cycle would keep the whole context for the collector

    def check(self) -> None:
        """Raises InvalidRequest for what cannot be served, before anything is asked."""
        check_servers(self._request, self._hosted, self._context.dialect)
        check_approvals(self._context.given, self._context.past.items, self._servers)

    def facts(self) -> dict[str, int]:
        """For the access log."""
        return {"rounds": self.rounds, "tool_calls": self.calls}

    def ending(self) -> list[Event]:
        """The events that are missing of calls that another process has left."""
        return self._stream.end_calls(_LEFT)

    # -- before the first round

    async def opening(self) -> AsyncGenerator[list[Event], None]:
        """Lists what is not listed yet, ends calls that another process has left, makes those that were approved.

        What is listed is told with the beginning of the answer (wire §2.6), which an approved call is. Raises
        ToolServerError for a server that the tool choice needs, InvalidRequest for an address where nobody may go.
        """
        yield await self._list()
        yield self.ending()
        self._limit()
        items = self._items()
        requests = approved(items, self._servers)
        if not requests:
            return
        stream = self._stream
        events = [] if stream.started else stream.start()
        calls: list[HostedCall] = []
        for request in requests:
            call = McpCall.approved(len(stream.items), minted_id(self._context.minter, "mcp_call"), request)
            events += stream.host(call)
            calls.append(call)
        yield events
        async with aclosing(self._run(calls)) as batches:
            async for events in batches:
                yield events

    async def _list(self) -> list[Event]:
        """The events of listings, which are made side by side."""
        items = self._items()
        known = {label: listing_of(tool, items) for label, tool in self._servers.items()}
        missing = [self._servers[label] for label, tools in known.items() if tools is None]
        events: list[Event] = []
        if missing:
            with Waiting("tools"):
                found = await asyncio.gather(*map(self._listed, missing))
            for tool, listed in zip(missing, found, strict=True):
                if isinstance(listed, InvalidRequest):
                    raise listed
                events += self._told_listing(tool, listed)
                known[tool["server_label"]] = [] if isinstance(listed, ToolServerError) else listed
        self.listed = True
        servers = {label: allowed(self._servers[label], tools or []) for label, tools in known.items()}
        self.hosting = replace(self.hosting, servers=servers)
        return events

    async def _listed(self, tool: Tool) -> list[Tool] | ToolServerError | InvalidRequest:
        try:
            return allowed(tool, await self._box.list(tool))
        except (ToolServerError, InvalidRequest) as exc:
            return exc

    def _told_listing(self, tool: Tool, listed: list[Tool] | ToolServerError) -> list[Event]:
        label = tool["server_label"]
        id_, at = minted_id(self._context.minter, "mcp_list_tools"), len(self._stream.items)
        if isinstance(listed, ToolServerError):
            if label in chosen_labels(self._request.get("tool_choice")):
                raise listed
            self.failure = listed
            return self._stream.host(McpListTools(at, id_, label, [], listed.message))
        return self._stream.host(McpListTools(at, id_, label, listed, source=source_of(tool)))

    # -- between the rounds

    async def between(self, *, done: bool) -> AsyncGenerator[list[Event], None]:
        """Runs what the round has called, and makes the next one ready; ``over`` is set when there is to be none.

        ``done``: the upstream said that it was finished. Raises UpstreamError for a round that is not whole.
        """
        self.rounds += 1
        stream = self._stream
        if all(item.closed for item in stream.items if isinstance(item, HostedCall)):
            self.over = True
            return
        events, calls = stream.end_round(done=done)
        waiting = stream.hosted_calls
        others = [call for call in calls if not isinstance(call, HostedCall) or isinstance(call, McpApprovalRequest)]
        last = len(stream.items) if others else 0
        await self._keep(rounds=self.rounds, last=last, usages=stream.figures.usages)
        yield events
        if waiting:
            async with aclosing(self._run(waiting)) as batches:
                async for events in batches:
                    yield events
        self.over = bool(others) or not waiting
        self.hosting = replace(self.hosting, again=True)
        self._limit()

    def _limit(self) -> None:
        """Offers no tools any more, once their calls or the rounds are used up."""
        if self._stream.hosted_left == 0 or self.rounds + 1 >= self._services.max_tool_rounds:
            self._stream.hosted_left = 0  # also what the model calls unasked
            self.hosting = replace(self.hosting, withheld=True)

    # -- calls

    async def _run(self, calls: list[HostedCall]) -> AsyncGenerator[list[Event], None]:
        """Runs calls side by side: the events of their beginnings, then of each outcome as it comes."""
        stream = self._stream
        yield [event for call in calls for event in stream.begin_call(call)]
        room = asyncio.Semaphore(_AT_ONCE)
        tasks = {asyncio.create_task(self._outcome(call, room)): call for call in calls}
        pending = set(tasks)
        try:
            while pending:
                with Waiting("tools"):
                    over, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                events: list[Event] = []
                answered = sorted(((tasks[task], task.result()) for task in over), key=lambda pair: pair[0].index)
                for call, outcome in answered:
                    events += stream.answer(call, outcome)
                await self._keep(items={call.index: call.stored() for call, _ in answered})
                yield events
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _outcome(self, call: HostedCall, room: asyncio.Semaphore) -> Outcome:
        kind = "mcp" if isinstance(call, McpCall) else family_of(call)
        async with room:
            self.calls += 1
            began, said, made = perf_counter(), "cancelled", None
            try:
                outcome = made = await self._made(call)
                said = "failed" if outcome.error else "completed"
            finally:
                self._services.heard_tool(kind, said, perf_counter() - began, call, made)
        return outcome

    async def _made(self, call: HostedCall) -> Outcome:
        tool, name = call.origin.tool or {}, call.origin.name
        if call.broken:
            return _refused("The arguments of the call are no JSON object: write them again.")
        if isinstance(call, TypedCall):
            return Outcome(**await self._box.run(family_of(call), tool, call.asked()))
        label = str(call.origin.namespace)
        tool = tool or self._servers[label]
        if not any(each["name"] == name for each in self.hosting.servers.get(label, ())):
            return _refused(f"There is no tool '{name}' that may be called at '{label}' now.")
        return Outcome(**await self._box.call(tool, name, call.arguments))

    def _items(self) -> list[Item]:
        context = self._context
        return [*context.past.items, *context.given, *self._stream.stored_output()]


def family_of(call: HostedCall) -> str:
    """The hosted type that a call is of."""
    return call.origin.item.removesuffix("_call")


def _refused(message: str) -> Outcome:
    return Outcome(error={"type": "mcp_protocol_error", "code": _INVALID_PARAMS, "message": message})
