"""Request headers of our own, and of those that OpenAI's clients send (wire §3.1).

They are given as (name, value) pairs, names in lower case; an empty value is the same as none.
"""

from __future__ import annotations

import re

from proxy.errors import InvalidRequest
from proxy.wire import check
from proxy.wire.query import Query, text

_ON_DISCONNECT = "statecar-on-disconnect"
_KEY = "Idempotency-Key"
_VISIBLE = re.compile("[!-~]{1,255}", re.ASCII)


def on_disconnect(headers: Query) -> str | None:
    """What is to become of a turn whose client leaves: ``cancel``, ``detach``, or None where nothing is said."""
    value = text(headers, _ON_DISCONNECT)
    return None if value is None else str(check.one_of("cancel", "detach")(value, _ON_DISCONNECT))


def idempotency_key(headers: Query) -> str | None:
    """The key that a request and its repetitions share; None for none. Raises for one that cannot be (wire §10.13)."""
    given = [value for name, value in headers if name == _KEY.lower()]
    if not given:
        return None
    if len(given) > 1 or not _VISIBLE.fullmatch(given[0]):
        raise check.wrong_form(_KEY, ", ".join(given), "one key of 1 to 255 visible ASCII characters")
    if text(headers, _ON_DISCONNECT) == "cancel":
        raise InvalidRequest(
            f"Cannot provide both '{_KEY}' and '{_ON_DISCONNECT}: cancel' in the same request: a response that others"
            " may wait for does not end with its client.",
            code="mutually_exclusive_parameters",
            param=_ON_DISCONNECT,
        )
    return given[0]
