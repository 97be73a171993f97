"""Request headers of our own, and of those that OpenAI's clients send (wire §3.1).

They are given as (name, value) pairs, names in lower case; an empty value is the same as none.
"""

from __future__ import annotations

from proxy.wire import check
from proxy.wire.query import Query, text

_ON_DISCONNECT = "statecar-on-disconnect"


def on_disconnect(headers: Query) -> str | None:
    """What is to become of a turn whose client leaves: ``cancel``, ``detach``, or None where nothing is said."""
    value = text(headers, _ON_DISCONNECT)
    return None if value is None else str(check.one_of("cancel", "detach")(value, _ON_DISCONNECT))
