"""What a request continues from and what it brings: history, references, ids (wire §7.11, §10.1, §10.4, §10.8)."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from proxy import ids
from proxy.errors import InvalidRequest, NotFound
from proxy.rules import READ, UPDATE
from proxy.state import Item, Past, Run, conversation_missing
from proxy.translate.compaction import compacted
from proxy.translate.dialects import Dialect
from proxy.translate.sealed import opened
from proxy.turn.seals import Seals
from proxy.turn.services import Caller, Services
from proxy.upstream import Target

TRIGGER = "compaction_trigger"

_LOCK_WAIT = 30.0
"""Seconds that a run waits for its conversation, where its lock has run out and another turn has come between."""


@dataclass
class Context:
    """What a request is answered from. ``given``: its own items; ``sent``: what the model is to see, oldest first.

    ``upstream``: who is asked, ``model``: by which name; ``dialect``: in which manners, as far as is known by now.
    ``alone``: no other request belongs to it, as far as can be known.
    """

    past: Past
    given: list[Item]
    minter: ids.Minter
    model: str
    upstream: Target
    dialect: Dialect
    seals: Seals
    sent: list[Item]
    alone: bool = False

    def followed_by(self, *items: Item) -> list[Item]:
        """What the model sees of all the items there are and these: from the last compaction on, thoughts opened.

        Raises InvalidRequest for a compaction item that cannot be opened.
        """
        whole = compacted([*self.past.items, *self.given, *items], self.seals.open_summary)
        return opened(whole, self.seals.open_thought)


async def context_of(
    request: dict[str, Any],
    services: Services,
    caller: Caller,
    stack: AsyncExitStack,
    *,
    storing: bool,
    run: Run | None = None,
    patient: bool = True,
) -> Context:
    """``storing``: the request will write to what it continues from. ``run``: what was kept of it, if it is one that
    another process began; ``patient``: it waits for a conversation that others have by now. Raises as ``past_of`` and
    ``input_of`` do.
    """
    past = await past_of(request, services, caller, stack, storing=storing, run=run, patient=patient)
    if storing:
        await services.state.check(past.tag)  # before the model works for nothing
    minter = ids.Minter(past.tag) if run is None else _minter_of(run)
    session = services.sessions.of(request, caller.tenant, caller.headers, past.tag)
    upstream = services.pool.pick(request["model"], session)
    dialect = await services.manners.of(upstream, upstream.model, caller.headers)
    if run is None:
        given = await input_of(request, past, minter, services, caller, signed=dialect.signed_calls)
    else:
        given = run.given
    context = Context(past, given, minter, upstream.model, upstream, dialect, Seals(services.sealer, caller.tenant), [])
    context.sent = context.followed_by()
    context.alone = not storing and not past.items and session == past.tag
    return context


def context_lost(run: Run, services: Services, caller: Caller) -> Context:
    """What is left of a run's context when what it continued from has gone: enough to end it."""
    minter, model = _minter_of(run), run.request["model"]
    upstream = services.pool.pick("", minter.tag)  # never asked; its own may be served no more
    seals = Seals(services.sealer, caller.tenant)
    return Context(Past.none(minter.tag), run.given, minter, model, upstream, Dialect(), seals, [])


def _minter_of(run: Run) -> ids.Minter:
    minted = ids.of_kind(run.id, "resp")
    assert minted, "runs are named by ids of ours"
    return ids.Minter.again(minted, len(run.given))


async def past_of(
    request: dict[str, Any],
    services: Services,
    caller: Caller,
    stack: AsyncExitStack,
    *,
    storing: bool,
    run: Run | None = None,
    patient: bool = True,
) -> Past:
    """What the request continues from. ``storing``: it will write there, so a conversation is locked.

    Raises InvalidRequest for an unknown response or a busy conversation, NotFound for an unknown conversation.
    """
    state, tenant = services.state, caller.tenant
    seen = await state.responses.past_of_run(run) if run and run.past else None
    if (previous := request.get("previous_response_id")) is not None:
        if previous in caller.recent:
            return caller.recent[previous]
        return seen or await _past_of_response(previous, services, caller)
    if (conversation := request.get("conversation")) is not None:
        if run is None and not await services.guard.may(caller, UPDATE if storing else READ, conversation):
            raise conversation_missing(conversation, "conversation")
        if not storing:
            return seen or await state.conversations.past(conversation, tenant, param="conversation")
        wait = services.lock_wait if run is None else _LOCK_WAIT * patient
        token = run.lock if run else ""
        turn = state.conversations.turn(conversation, tenant, wait=wait, param="conversation", token=token)
        try:
            past = await stack.enter_async_context(turn)
        except NotFound:
            if seen is None:
                raise
            return seen  # deleted since: nothing is appended
        return replace(seen, lock=past.lock) if seen else past
    return Past.none(ids.new_tag() if run is None else _minter_of(run).tag)


async def _past_of_response(id_: str, services: Services, caller: Caller) -> Past:
    """Raises InvalidRequest for one that is unknown, or still made."""
    state, tenant, guard = services.state, caller.tenant, services.guard
    past = await state.responses.history(id_, tenant, sees := guard.sees(caller))
    if past is None and (run := await state.runs.load(id_, tenant)) and guard.allows(caller, READ, id_, run.owner):
        raise InvalidRequest(f"Previous response '{id_}' is still in progress.", param="previous_response_id")
    past = past or await state.responses.history(id_, tenant, sees)  # it may have ended between the two looks
    if past is None:
        raise InvalidRequest(
            f"Previous response with id '{id_}' not found.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return past


async def input_of(
    request: dict[str, Any], past: Past, minter: ids.Minter, services: Services, caller: Caller, *, signed: bool
) -> list[Item]:
    """This request's own items: references replaced, ids unique in the context (wire §1.9, §7.11).

    ``signed``: calls that were made here get their extras back (wire §11.6).
    Raises NotFound for a reference to nothing.
    """
    own: list[Item] = []
    items = [item for item in request["input"] if not _is_trigger(item)]
    looks_back = any("id" in item or item["type"] == "local_shell_call_output" for item in items)
    taken = {item["id"]: item for item in past.items} if looks_back else {}
    unanswered = _open_calls(past.items) if any(map(_is_call, items)) else {}
    for item in await _resolved(items, taken, services, caller, signed=signed):
        if _is_call(item) and _repeats(item, unanswered.get(item["call_id"])):
            continue  # sent back beside its output: a second call would stay without one
        if item["type"] == "local_shell_call_output":  # may name its call by that item's id
            call = taken.get(item["call_id"], item)
            item = {**item, "call_id": call.get("call_id", item["call_id"])}
        if not ids.is_path_id(item.get("id")) or item["id"] in taken:
            item = {**item, "id": minted_id(minter, item["type"])}
        taken[item["id"]] = item
        own.append(item)
    return own


def untold(items: list[Item]) -> list[Item]:
    """What of an input asks for something and says nothing: it is no item of the context."""
    return list(filter(_is_trigger, items))


def _is_trigger(item: Item) -> bool:
    return bool(item["type"] == TRIGGER)


def _is_call(item: Item) -> bool:
    return item["type"].endswith("_call") and "call_id" in item


def _open_calls(items: list[Item]) -> dict[str, Item]:
    """The calls without an output, by their call ids."""
    answered = {item.get("call_id") for item in items if item["type"].endswith("_output")}
    return {item["call_id"]: item for item in items if _is_call(item) and item["call_id"] not in answered}


def _repeats(item: Item, known: Item | None) -> bool:
    """Whether an item says nothing but what a known one says, whatever its id and status."""
    return known is not None and all(known.get(key) == item[key] for key in item.keys() - {"id", "status"})


async def _resolved(
    items: list[Item], known: dict[str, Item], services: Services, caller: Caller, *, signed: bool
) -> list[Item]:
    """The items, with what references mean in their place, once each and only if the context lacks it."""
    there = {item["id"] for item in items if "id" in item and not is_reference(item)}
    wanted = {item["id"] for item in items if is_reference(item) and item["id"] not in there}
    wanted |= {item["id"] for item in items if "id" in item and (_is_emptied(item) or (signed and _is_signed(item)))}
    wanted = {id_ for id_ in wanted if id_ not in known}  # not the difference, which goes through all that is known
    found = await services.state.responses.items(wanted, caller.tenant, services.guard.sees(caller)) if wanted else {}
    out: list[Item] = []
    for item in items:
        if not is_reference(item):
            made = found.get(item.get("id", ""))
            out.append(made if made and (_repeats(item, made) or _means(item, made)) else item)
        elif item["id"] not in there and item["id"] not in known:
            if item["id"] not in found and "summary" not in item:
                raise NotFound(
                    f"Item with id '{item['id']}' not found. Items are not persisted when `store` is set to false."
                    " Try again with `store` set to true, or remove this item from your input.",
                    param="input",
                )
            there.add(item["id"])
            out.append(found.get(item["id"], item))  # else another server's thought, without its text
    return out


_EMPTIED = {"mcp_call": ("output", "error"), "mcp_list_tools": ("tools", "error")} | dict.fromkeys(
    ("web_search_call", "file_search_call", "code_interpreter_call"), ()
)


def _is_emptied(item: Item) -> bool:
    """What a hosted tool gave, sent back without it (pydantic-ai), or of a kind that never shows all of it."""
    return item["type"] in _EMPTIED and not any(map(item.get, _EMPTIED[item["type"]]))


def _means(item: Item, made: Item) -> bool:
    """Whether an item that was emptied is this one, which has what it had."""
    same = ("type", "server_label", "name")
    return _is_emptied(item) and all(item.get(key) == made.get(key) for key in same)


def _is_signed(item: Item) -> bool:
    """Whether a model has made it as a call, and its upstream may want extras back with it."""
    return str(item["type"]).endswith(("_call", "mcp_approval_request"))


def is_reference(item: Item) -> bool:
    """An ``item_reference``, or a reasoning item that is nothing but an id."""
    if item["type"] == "item_reference":
        return True
    return (
        item["type"] == "reasoning"
        and "id" in item
        and not any(map(item.get, ("summary", "content", "encrypted_content")))
    )


def minted_id(minter: ids.Minter, type_: str) -> str:
    """A fresh id for an item of that type. Raises InvalidRequest when the turn holds too many."""
    try:
        return minter.item(type_)
    except OverflowError:
        raise InvalidRequest(
            f"Invalid 'input': array too long. Expected at most {ids.MAX_ORDINAL} items in one turn.",
            param="input",
            code="array_above_max_length",
        ) from None
