"""Turns while the store is away, where the operator wants them: made and told, and nothing of them kept."""

from __future__ import annotations

from typing import Any

from proxy.errors import StoreUnavailable
from proxy.turn.context import is_reference
from proxy.turn.services import Caller, Services

HEADER = "statecar-stateless"
"""Says of an answer that it was made so."""


async def stateless(request: dict[str, Any], services: Services, caller: Caller) -> bool:
    """Whether a create request is to be answered as with ``store: false``, as the store is away.

    Raises StoreUnavailable for one that cannot be: whose tenant is not known, and that needs state.
    """
    if not services.stateless:
        return False
    if _needs_state(request, caller):
        if not caller.tenant:
            raise StoreUnavailable
        return False  # what it needs is not there either, which is said where it is looked for
    if not request.get("store", True):
        return False
    if not caller.tenant:
        return True
    try:
        await services.state.check()
    except StoreUnavailable:
        return True
    return False


def _needs_state(request: dict[str, Any], caller: Caller) -> bool:
    if request.get("conversation") or request.get("background"):
        return True
    previous = request.get("previous_response_id")
    return bool(previous and previous not in caller.recent) or any(map(is_reference, request["input"]))
