"""The rest of an answer that another process began: how much has been told, and what is asked for (wire §10.5)."""

from __future__ import annotations

import logging
from typing import Any

from proxy.errors import StatecarError
from proxy.translate.dialects import Dialect
from proxy.translate.rest import Chat, rest_of
from proxy.translate.told import Telling
from proxy.turn.context import Context
from proxy.turn.counting import tokens_of
from proxy.turn.services import Caller, Services

log = logging.getLogger("statecar.turn")

RESTARTED = "The server restarted while this response was running."
"""What a response fails with that was begun by another process and cannot be gone on with."""


class Rest:
    """``told``: the tokens of what has been told: its deltas, until the upstream has counted them. ``start``: the index
    of the first item of the answer; before it lies what earlier calls gave.
    """

    def __init__(self, telling: Telling) -> None:
        items = [item.item for item in telling.items]
        self.start, self.told = telling.round_start, telling.deltas
        self._items = items[self.start :]
        self._before: int | None = None

    def body(self, chat: Chat, dialect: Dialect) -> Chat:
        """What asks for the rest. ``chat``: what asked for the whole answer. Raises StatecarError where no rest of it
        can be asked for.
        """
        rest = rest_of(chat, self._items, dialect, self.told.whole)
        if rest is None:
            raise StatecarError(RESTARTED)
        return rest

    async def count(self, chat: Chat, services: Services, caller: Caller, context: Context) -> None:
        """Has what was told counted. Raises as ``body`` does, also where the upstream's template drops blanks at the
        end of the text: nobody can tell how its model would say them again.
        """
        rest = self.body(chat, context.dialect)
        before = await tokens_of(chat, services, caller, context)
        after = None if before is None else await tokens_of(rest, services, caller, context)
        if before is None or after is None:
            log.info("nothing counts the tokens that were told: taken for as many as their deltas")
            return
        self._before = before.number
        self.told = self.told._replace(whole=max(self.told.whole, after.number - before.number))
        *others, said = rest["messages"]
        bare = said["content"].rstrip()
        if after.tokens and bare != said["content"]:
            trimmed = {**rest, "messages": [*others, {**said, "content": bare}]}
            if await tokens_of(trimmed, services, caller, context) == after:
                raise StatecarError(RESTARTED)

    def spent(self, limit: int | None) -> dict[str, Any] | None:
        """The chunk of an upstream that may add nothing, when what was told has reached the request's limit."""
        if limit is None or self.told.whole < limit:
            return None
        usage = (
            {} if self._before is None else {"prompt_tokens": self._before + self.told.whole, "completion_tokens": 0}
        )
        return {**reached_limit(), "usage": usage}


def reached_limit() -> Chat:
    """The chunk of an upstream that may add nothing."""
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
