"""What the upstream's refusals taught, kept for every replica and worker, one lesson for an upstream and a model.

A lesson names fields of a dialect and their values; nothing that a caller wrote is in it.
"""

from __future__ import annotations

import logging
from typing import Any

from proxy import codec
from proxy.state import keys
from proxy.state.client import Client

_SCHEMA = 1
_log = logging.getLogger(__name__)


class Lessons:
    """``lifetime``: seconds a lesson is kept; then the upstream is asked in its kind's dialect again."""

    def __init__(self, client: Client, lifetime: int) -> None:
        self._client = client
        self._lifetime = lifetime

    async def get(self, upstream: str, model: str) -> dict[str, Any]:
        """The lesson for a model of the upstream with this base URL, empty for none. Raises StoreUnavailable."""
        kept = await self._client.command("GET", keys.lesson(upstream, model))
        if kept is None:
            return {}
        try:
            value = codec.loads(kept)
        except ValueError:
            value = None
        if not isinstance(value, dict) or value.get("schema") != _SCHEMA or not isinstance(value.get("fields"), dict):
            _log.warning("a lesson in the store is of another version and is not used")
            return {}
        fields: dict[str, Any] = value["fields"]
        return fields

    async def put(self, upstream: str, model: str, fields: dict[str, Any]) -> None:
        """Keeps a lesson in place of the earlier one. Raises StoreUnavailable."""
        value = codec.dumps({"schema": _SCHEMA, "fields": fields})
        await self._client.command("SET", keys.lesson(upstream, model), value, "EX", self._lifetime)
