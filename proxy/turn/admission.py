"""What a turn takes of its tenant's limits (ADR 0023)."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from proxy import codec
from proxy.state import Admission, Item
from proxy.translate.response import usage
from proxy.translate.stream import ResponseStream
from proxy.turn.services import Caller, Services

if TYPE_CHECKING:
    from proxy.turn.work import Work

_MOST = 1 << 40
"""More tokens than a turn can have: what an upstream tells may be any number."""

_BYTES = 4
"""Bytes of text to a token, about, where nobody has counted."""

_BASE64 = re.compile(rb"(?<![A-Za-z0-9+/=_-])[A-Za-z0-9+/=_-]{512,}+")
_LETTERS = bytes(ord("a") if re.match(rb"[A-Za-z0-9+/=_-]", bytes([byte])) else ord(" ") for byte in range(256))
_RUN = b"a" * 512


async def admit(
    stack: AsyncExitStack, services: Services, caller: Caller, *, stores: bool, again: bool = False
) -> Admission:
    """Lets a request in for as long as ``stack`` is open. Raises as ``Quotas.admitted`` does."""
    quotas, quota = services.state.quotas, caller.grant.quota
    admitted = quotas.admitted(caller.tenant, quota, stores=stores, again=again)
    admission = await stack.enter_async_context(admitted)
    caller.limits.update(admission.headers)
    return admission


def note(admission: Admission, work: Work, *, asked: bool, saved: bool) -> None:
    """Notes what a turn took. ``asked``: an upstream was; ``saved``: so is the response."""
    told, sent = work.stream.figures.usages, work.context.sent
    admission.tokens = taken(work.stream, sent) if told or (asked and not work.is_cut) else 0
    if work.is_cut:
        admission.tokens += estimated([sent])
    if not saved:
        admission.kept = ("", 0, 0)


def taken(stream: ResponseStream, sent: list[Item]) -> int:
    """The tokens of upstream calls: as the upstream told, else about what the text comes to."""
    if usages := stream.figures.usages:
        return counted(usage(*usages)["total_tokens"])
    return estimated([sent, stream.stored_output()])


def estimated(texts: list[Any]) -> int:
    """About how many tokens a text takes that nobody has counted."""
    return legible(codec.dumps(texts)) // _BYTES


def legible(text: bytes) -> int:
    """The bytes of a text that a model reads as such; what is base64 there, as pictures are, counts a hundredth."""
    if _RUN not in text.translate(_LETTERS):  # a sixth of what the expression takes
        return len(text)
    encoded = sum(run.end() - run.start() for run in _BASE64.finditer(text))
    return len(text) - encoded + encoded // 100


def counted(tokens: int) -> int:
    """A number of tokens that an upstream told, as one that can be added up."""
    return min(max(0, tokens), _MOST)
