"""A small MCP server to try hosted tools with: notes that are kept as long as it runs, and searched.

In the repository: pip install -e '.[mcp]' && python examples/mcp_server.py    # http://127.0.0.1:8090/mcp
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from mcp.server import MCPServer
from mcp_types import ToolAnnotations

READ_ONLY = ToolAnnotations(read_only_hint=True)

server = MCPServer("notes", instructions="Keeps short notes and finds them again.", log_level="WARNING")
notes = ["The oven takes eleven minutes to warm up.", "The spare key lies under the blue flower pot."]


@dataclass
class Note:
    """A note and where it stands."""

    number: int
    text: str


@server.tool(annotations=READ_ONLY)
def search_notes(query: str) -> list[Note]:
    """The notes that have a word of the query in them; short words do not count."""
    words = {word.strip(".,;:?!\"'").lower() for word in query.split()}
    words = {word for word in words if len(word) > 3}
    return [Note(n, text) for n, text in enumerate(notes, 1) if any(word in text.lower() for word in words)]


@server.tool()
def add_note(text: str) -> str:
    """Keeps a note."""
    notes.append(text)
    return f"Kept as note {len(notes)}."


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8090)
    server.run("streamable-http", port=parser.parse_args().port)
