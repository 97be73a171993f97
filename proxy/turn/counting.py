"""How long a context is, in the upstream's own tokens (wire §3.6, §10.8)."""

from __future__ import annotations

import logging
import re
from contextlib import AsyncExitStack, aclosing
from typing import Any

from proxy import ids
from proxy.errors import NotBuilt, UpstreamError, from_upstream
from proxy.state import Item
from proxy.translate.counting import TOKENIZERS, prompt_tokens
from proxy.translate.dialects import Dialect
from proxy.translate.request import to_chat
from proxy.translate.response import restore
from proxy.translate.stream import ResponseStream
from proxy.translate.tools import plan
from proxy.turn.asking import asked
from proxy.turn.context import Context, context_of
from proxy.turn.services import Caller, Services
from proxy.upstream import Upstream

log = logging.getLogger("statecar.turn")

Request = dict[str, Any]


async def input_tokens(request: Request, services: Services, caller: Caller) -> int:
    """The tokens a create request with this body would send. Nothing is stored, no conversation locked.

    Asks the upstream's tokenizer, else, where that is allowed, for an answer of one token. Raises NotBuilt when there
    is neither, and as a create request does before it is sent.
    """
    async with AsyncExitStack() as stack:
        context = await context_of(request, services, caller, stack, storing=False)
    dialect = await services.manners.of(context.upstream, request["model"], caller.headers)
    refused: UpstreamError | None = None
    try:
        counted = await tokenized(request, context.sent, context.upstream, caller, dialect)
    except UpstreamError as exc:
        if not _is_missing(exc, request["model"], dialect.kind):
            raise
        counted, refused = None, exc
    if counted is None and services.count_by_generation:
        return await _by_generation(request, services, caller, context)
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


async def tokenized(
    request: Request, items: list[Item], upstream: Upstream, caller: Caller, dialect: Dialect
) -> int | None:
    """By the upstream's own tokenizer; None for a kind of upstream that has none. Raises as ``Upstream.ask`` does."""
    if dialect.kind not in TOKENIZERS:
        return None
    chat = to_chat(request, items, plan(request, items, dialect), dialect, stream=False)
    counting = TOKENIZERS[dialect.kind](dialect.trimmed(chat))
    answer: Any = None
    while True:
        try:
            path, body = counting.send(answer)
        except StopIteration as end:
            counted: int = end.value
            return counted
        answer = await upstream.ask("POST", path, body, caller.headers)


async def size_of(
    request: Request, services: Services, caller: Caller, context: Context, dialect: Dialect
) -> int | None:
    """About how many tokens the model would see: counted, else as recorded with the past; None when nothing tells."""
    try:
        counted = await tokenized(request, context.sent, context.upstream, caller, dialect)
    except UpstreamError as exc:
        log.warning("the upstream's tokenizer failed: %s", exc.message)
        counted = None
    if counted is None:
        counted = await _recorded(services, caller, context)
    if counted is None:
        log.info("nothing tells how long the context is: it is compacted when the upstream refuses it as too long")
    return counted


async def _recorded(services: Services, caller: Caller, context: Context) -> int | None:
    """The tokens of the past as its newest response recorded them, this request's input not included.

    None when that response is not stored, had no figures, or was compacted, as its figures then hold another context.
    """
    minted = next((m for item in reversed(context.past.items) if (m := ids.parse(item["id"]))), None)
    if minted is None:
        return None
    stored = await services.state.responses.load(f"resp_{minted.tag}{minted.turn}0000", caller.tenant)
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


async def _by_generation(request: Request, services: Services, caller: Caller, context: Context) -> int:
    shortest = {**request, "max_output_tokens": 1}

    def written(dialect: Dialect) -> dict[str, Any]:
        return to_chat(shortest, context.sent, plan(request, context.sent, dialect), dialect, stream=False)

    async with AsyncExitStack() as stack:
        reply = await asked(stack, services, caller, context.upstream, request["model"], written)
        async with aclosing(reply.batches()) as batches:
            chunks = [chunk async for batch in batches for chunk in batch]
    if wrong := next(filter(ResponseStream.is_error, chunks), None):
        raise from_upstream(wrong, 200)
    return prompt_tokens(next((chunk for chunk in reversed(chunks) if chunk.get("usage")), None))
