"""What the rules let a caller do with what is stored; asked before every verb (ADR 0021).

What may not be read is answered exactly as what is not there. A caller who is no user of its own within its tenant owns
nothing, and no rule is asked.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from proxy.errors import Forbidden
from proxy.principals import Principal
from proxy.rules import CONVERSATION, CREATE, READ, RESPONSE, Owner, Rules, deciding, permitted
from proxy.state import Owners, Sees

log = logging.getLogger("statecar.rules")


class User(Protocol):
    """Of a caller what rules speak of."""

    @property
    def tenant(self) -> str: ...

    @property
    def principal(self) -> Principal | None: ...


@dataclass(frozen=True)
class Guard:
    """``rules``: in the order in which they are asked; none for those that hold without any."""

    rules: Rules
    owners: Owners

    def sees(self, caller: User) -> Sees | None:
        """Whether the caller may read a thing, by its id and owner; None where all may be read."""
        user = caller.principal
        if user is None:
            return None
        return lambda id_, owner: permitted(self.rules, READ, _resource(id_), user, owner)

    def allows(self, caller: User, action: str, id_: str, owner: Owner) -> bool:
        """Whether the caller may do that with this owner's thing; False for what is to be answered as missing.

        Raises Forbidden for what may be read.
        """
        user = caller.principal
        if user is None:
            return True
        if not self._permits(READ, _resource(id_), user, owner):
            return False
        if action != READ and not self._permits(action, _resource(id_), user, owner):
            raise Forbidden(action, _kind(id_), id_)
        return True

    async def may(self, caller: User, action: str, id_: str) -> bool:
        """The same with what is stored under that id; False for nothing too. Raises StoreUnavailable as well."""
        if caller.principal is None:
            return True
        kept = await self.owners.of(id_, caller.tenant)
        return kept is not None and self.allows(caller, action, id_, kept.owner)

    def check_create(self, caller: User, kind: str) -> None:
        """Raises Forbidden where the caller may not make a response or a conversation of its own."""
        user = caller.principal
        if user and not self._permits(CREATE, f"{kind}::", user, user):
            raise Forbidden(CREATE, kind)

    def _permits(self, action: str, resource: str, user: Principal, owner: Owner) -> bool:
        """The same as ``permitted``; why not is told where debugging is wanted."""
        permits = permitted(self.rules, action, resource, user, owner)
        if not permits and log.isEnabledFor(logging.DEBUG):
            number = deciding(self.rules, action, resource, user, owner) if self.rules else None
            why = "no access rule permits it" if number is None else f"access_rules[{number}] forbids it"
            log.debug("not allowed to %s %s: %s", action, resource, why)
        return permits


def _kind(id_: str) -> str:
    return CONVERSATION if id_.startswith("conv_") else RESPONSE


def _resource(id_: str) -> str:
    return f"{_kind(id_)}::{id_}"
