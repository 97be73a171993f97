"""A summary of what a model sees, asked of the model itself, and what is made of it (wire §3.7, §10.8)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

from proxy import ids
from proxy.errors import OVERFLOW, InvalidRequest, UpstreamError
from proxy.refusals import passed_on
from proxy.state import Admission, Item
from proxy.translate.compaction import packed, question
from proxy.translate.dialects import Dialect
from proxy.translate.items import Message, public
from proxy.translate.request import to_chat
from proxy.translate.response import skeleton
from proxy.translate.stream import ResponseStream
from proxy.translate.tools import ToolPlan
from proxy.translate.truncation import SHARES, shorter, speaks_for_all
from proxy.turn.admission import estimated, taken
from proxy.turn.asking import asked
from proxy.turn.context import Context, context_of, minted_id
from proxy.turn.round import Answer
from proxy.turn.services import Caller, Services

_KEPT = (
    "model",
    "instructions",
    "reasoning",
    "service_tier",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "chat_template_kwargs",
    "thinking",
    "provider",
)
"""What of a request holds for the summary's call too; formats, limits and tools do not."""


@dataclass(frozen=True)
class Summary:
    """What a model wrote. ``stream``: of its call, which is over; ``headers``: of its answer, to be passed on."""

    text: str
    stream: ResponseStream
    headers: dict[str, str]


async def summarized(
    request: dict[str, Any], services: Services, caller: Caller, context: Context, *, users_stay: bool
) -> Summary:
    """A summary of ``context.sent``; of its newer part, where the whole does not fit into the model.

    ``users_stay``: leave out what the user said. Raises InvalidRequest when there is nothing to sum up, UpstreamError
    when the upstream refuses, fails, or writes nothing.
    """
    if all(map(speaks_for_all, context.sent)):
        raise InvalidRequest("There is nothing to compact: 'input' and its context hold no message.", param="input")
    sent, shares = context.sent, iter(SHARES)
    while True:
        try:
            return await _written(request, services, caller, context, [*sent, question(users_stay=users_stay)])
        except UpstreamError as exc:
            less = shorter(context.sent, sent, shares) if exc.code == OVERFLOW else None
            if less is None:
                raise
            sent = less


async def compact(
    request: dict[str, Any], services: Services, caller: Caller, admission: Admission
) -> tuple[dict[str, Any], dict[str, str]]:
    """(the answer of ``POST /responses/compact``, its headers). Nothing is stored. Raises as ``summarized`` does.

    ``admission``: is told what it took; of one that is cancelled, what was asked.
    """
    async with AsyncExitStack() as stack:
        context = await context_of(request, services, caller, stack, storing=False)
        try:
            summary = await summarized(request, services, caller, context, users_stay=True)
        except asyncio.CancelledError:
            admission.tokens = estimated(context.sent)
            raise
    admission.tokens = taken(summary.stream, context.sent)
    users = [public(item) for item in context.sent if item.get("role") == "user"]
    answer = {
        "id": context.minter.own("resp"),
        "object": "response.compaction",
        "created_at": int(services.now()),
        "output": [*users, compaction_item(context, summary, users_stay=True)],
        "usage": summary.stream.response["usage"],
    }
    return answer, summary.headers


def compaction_item(context: Context, summary: Summary, *, users_stay: bool) -> Item:
    """The item that stands for all before it."""
    content = context.seals.summary(packed(summary.text, users_stay=users_stay))
    return {"id": minted_id(context.minter, "compaction"), "type": "compaction", "encrypted_content": content}


async def _written(
    request: dict[str, Any], services: Services, caller: Caller, context: Context, items: list[Item]
) -> Summary:
    kept = {key: request[key] for key in _KEPT if key in request}

    def written(dialect: Dialect) -> dict[str, Any]:
        lenient = replace(dialect, repair_tool_history=True)  # a call may still be open
        return to_chat(kept, items, ToolPlan(), lenient, stream=services.streams(dialect))

    async with AsyncExitStack() as stack:
        reply = await asked(stack, services, caller, context, written)
        tags = context.dialect.think_tags
        stream = ResponseStream(skeleton(kept, "", 0), lambda type_: type_, ids.new_call_id, think_tags=tags)
        answer = Answer(reply, stream)
        while await answer.read():
            pass
        stream.finish(0, done=reply.ended)
        headers = passed_on(reply.headers)
    text = "".join(
        part.get("text", "") for item in stream.items if isinstance(item, Message) for part in item.item["content"]
    )
    if details := stream.response["incomplete_details"]:
        raise UpstreamError(f"The model's summary of the conversation was cut off: {details['reason']}.")
    if not text.strip():
        raise UpstreamError("The model wrote no summary of the conversation.")
    return Summary(text.strip(), stream, headers)
