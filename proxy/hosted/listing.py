"""The tools of a server, page by page, as an mcp_list_tools item has them."""

from __future__ import annotations

import logging
import re
from typing import Any

from proxy import codec
from proxy.errors import ToolServerError

log = logging.getLogger("statecar.hosted")

MOST_TOOLS = 1000
MOST_PAGES = 100
MOST_BYTES = 1024 * 1024
_KEYS = ("name", "description", "input_schema", "annotations")
_NAME = re.compile(r"[^\x00-\x20\x7f]{1,128}")


class Listing:
    """What a server lists. ``tools``: in their item form, the first of each name; ``cursor``: of the next page."""

    def __init__(self, label: str) -> None:
        self.tools: list[dict[str, Any]] = []
        self.cursor: str | None = None
        self._label = label
        self._names: set[str] = set()
        self._pages = self._bytes = 0

    def add(self, page: dict[str, Any]) -> bool:
        """Takes a page in; whether there is another. Raises ToolServerError where a server lists without end."""
        self._pages += 1
        left_out = 0
        for tool in page["tools"]:
            if usable := self._usable(tool):
                self.tools.append(usable)
                self._bytes += len(codec.dumps(usable))
            else:
                left_out += 1
            if len(self.tools) > MOST_TOOLS or self._bytes > MOST_BYTES:
                raise ToolServerError(
                    self._label,
                    f"It lists more than is taken: {MOST_TOOLS} tools of {MOST_BYTES // 1024} KiB together.",
                )
        if left_out:
            log.warning("mcp %s: %d listed tools are unusable or listed twice", self._label, left_out)
        cursor = page.get("nextCursor")
        if cursor is not None and (cursor == self.cursor or self._pages == MOST_PAGES):
            raise ToolServerError(self._label, f"Its list of tools does not end within {MOST_PAGES} pages.")
        self.cursor = cursor
        return cursor is not None

    def _usable(self, tool: dict[str, Any]) -> dict[str, Any] | None:
        """The tool in its item form; None for one without a usable name or schema, or of a name that was there.

        What it does not have is left out: the AI SDK refuses answers with null as a description or as annotations.
        """
        name, schema = tool["name"], tool["inputSchema"]
        if name in self._names or not _NAME.fullmatch(name) or schema.get("type", "object") != "object":
            return None
        self._names.add(name)
        given = {**tool, "input_schema": {"type": "object", **schema}}
        return {key: given[key] for key in _KEYS if given.get(key) is not None}
