"""How long a context is, in the upstream's own tokens (wire §3.6, §10.8)."""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import AsyncExitStack
from itertools import islice, takewhile
from typing import Any

from proxy import ids
from proxy.chunks import Chunk
from proxy.errors import NotBuilt, UpstreamError, UpstreamTimeout
from proxy.refusals import from_upstream
from proxy.state import Admission, Past
from proxy.translate.counting import TOKENIZERS, Counted, prompt_tokens
from proxy.translate.dialects import Dialect
from proxy.translate.hosting import Hosting
from proxy.translate.reply import is_error
from proxy.translate.request import to_chat
from proxy.translate.response import restore
from proxy.translate.tools import ToolPlan, plan
from proxy.turn.admission import counted as within
from proxy.turn.admission import estimated
from proxy.turn.asking import asked, fell_back
from proxy.turn.context import Context, context_of
from proxy.turn.listings import offered
from proxy.turn.services import Caller, Services

log = logging.getLogger("statecar.turn")

_PATIENCE = 2.0  # seconds a turn waits for the upstream's tokenizer
_LOOKED_AT = 8  # turns of the past, newest first, of which one should be a response

Request = dict[str, Any]


async def input_tokens(request: Request, services: Services, caller: Caller, admission: Admission) -> int:
    """The tokens a create request with this body would send. Nothing is stored, no conversation locked.

    ``admission``: is told what it took where a model read them to be counted; of one that is cancelled, what was asked.
    Asks the upstream's tokenizer, else, where that is allowed, for an answer of one token. Raises NotBuilt when there
    is neither, and as a create request does before it is sent.
    """
    async with AsyncExitStack() as stack:
        context = await context_of(request, services, caller, stack, storing=False)
    counted, refused = None, None
    while True:
        hosting = await offered(request, services.hosted, [*context.past.items, *context.given], context.dialect)
        try:
            counted = await tokenized(request, hosting, context, caller)
        except UpstreamError as exc:
            if await fell_back(services, caller, context, exc):
                continue
            if not _is_missing(exc, context.model, context.dialect.kind):
                raise
            refused = exc
        break
    if counted is None and services.count_by_generation:
        try:
            counted = await _by_generation(request, hosting, services, caller, context)
        except asyncio.CancelledError:
            admission.tokens = estimated(context.sent)
            raise
        admission.tokens = within(counted)
    if counted is None:
        told = f" Its tokenizer said: {refused.message}" if refused else ""
        raise NotBuilt(
            "Input tokens cannot be counted: the upstream offers no tokenizer for chat messages, and counting by"
            f" generation (--count-by-generation) is off.{told}"
        )
    return counted


def _is_missing(refusal: UpstreamError, model: str, kind: str) -> bool:
    """Whether a tokenizer's refusal means that there is none for chat messages: older SGLang's reads no messages."""
    if refusal.status in (404, 405, 501):  # but a 404 that names the model misses the model
        return not re.search(rf"(?<![\w-]){re.escape(model)}(?![\w-])", refusal.message)
    return kind == "sglang" and refusal.status in (400, 422)


async def tokenized(request: Request, hosting: Hosting, context: Context, caller: Caller) -> int | None:
    """By the upstream's own tokenizer; None for a kind of upstream that has none. Raises as ``Upstream.ask`` does."""
    items, dialect = context.sent, context.dialect
    if dialect.kind not in TOKENIZERS:
        return None
    chat = to_chat(request, items, plan(request, items, dialect, hosting), dialect, stream=False)
    return (await _asked(chat, caller, context)).number


async def tokens_of(chat: dict[str, Any], services: Services, caller: Caller, context: Context) -> Counted | None:
    """The tokens of a chat body's prompt by the upstream's tokenizer; None where it has none, fails or keeps silent."""
    if context.dialect.kind not in TOKENIZERS or not services.manners.may_count(context.upstream):
        return None
    try:
        async with asyncio.timeout(_PATIENCE):
            return await _asked(chat, caller, context)
    except (UpstreamTimeout, TimeoutError):
        log.warning("upstream %s: its tokenizer did not answer within %g s", context.upstream.name, _PATIENCE)
        services.manners.cannot_count(context.upstream)
    except UpstreamError as exc:
        log.warning("the upstream's tokenizer failed: %d, %s", exc.status, exc.code)
    return None


async def _asked(chat: dict[str, Any], caller: Caller, context: Context) -> Counted:
    chat = context.dialect.trimmed(chat)
    counting = TOKENIZERS[context.dialect.kind]({**chat, "model": context.model})
    answer: Any = None
    while True:
        try:
            path, body = counting.send(answer)
        except StopIteration as end:
            counted: Counted = end.value
            return counted
        answer = await context.upstream.ask("POST", path, body, caller.headers)


async def size_of(
    request: Request, tools: ToolPlan, services: Services, caller: Caller, context: Context
) -> int | None:
    """About how many tokens the model would see: counted, else as recorded with the past; None when nothing tells."""
    chat = to_chat(request, context.sent, tools, context.dialect, stream=False)
    told = await tokens_of(chat, services, caller, context)
    counted = told.number if told else None
    if counted is None:
        counted = await _recorded(services, caller, context)
    if counted is None:
        log.info("nothing tells how long the context is: it is compacted when the upstream refuses it as too long")
    return counted


async def _recorded(services: Services, caller: Caller, context: Context) -> int | None:
    """The tokens of the past as its newest stored response recorded them, what came after it not included.

    None when there is no such response, when it had no figures, and when there is a compaction in it or after it: then
    its figures hold another context.
    """
    stored = None
    for id_ in islice(_responses_of(context.past), _LOOKED_AT):
        if stored := await services.state.responses.load(id_, caller.tenant):
            break
    if stored is None or any(item["type"] == "compaction" for item in stored.output):
        return None
    response = restore(
        stored.body,
        id=stored.id,
        created_at=stored.created_at,
        status=stored.status,
        model=stored.model,
        output=(),
        conversation=None,
    )
    return (response["usage"] or {}).get("total_tokens") or None


def _responses_of(past: Past) -> list[str]:
    """The ids of the turns that made the items after the last compaction, newest first.

    Not every turn is a response: items are also added to a conversation by hand.
    """
    newest = takewhile(lambda item: item["type"] != "compaction", reversed(past.items))
    minted = filter(None, (ids.parse(item["id"]) for item in newest))
    return list(dict.fromkeys(f"resp_{one.tag}{one.turn}0000" for one in minted if one.tag == past.tag))


async def _by_generation(
    request: Request, hosting: Hosting, services: Services, caller: Caller, context: Context
) -> int:
    shortest = {**request, "max_output_tokens": 1}

    def written(dialect: Dialect) -> dict[str, Any]:
        tools = plan(request, context.sent, dialect, hosting)
        return to_chat(shortest, context.sent, tools, dialect, stream=False)

    async with AsyncExitStack() as stack:
        reply = await asked(stack, services, caller, context, written)
        chunks: list[Chunk] = []
        while batch := await reply.read():
            chunks += [chunk for chunk in batch if isinstance(chunk, dict)]  # texts tell nothing of usage
    if wrong := next(filter(is_error, chunks), None):
        raise from_upstream(wrong, 200)
    return prompt_tokens(next((chunk for chunk in reversed(chunks) if chunk.get("usage")), None))
