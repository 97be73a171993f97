"""``python -m tests.clients.tables``: writes what works into docs/compatibility.md, from the results of the last runs.

``build/clients.json`` is written by ``python -m tests.clients``, ``build/backends.json`` by the tests of the backends.
A table whose results are not there stays as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

ROOT = Path(__file__).parents[2]
COLUMNS = (
    *("text", "streaming", "tools", "parallel tools", "structured output", "reasoning", "images"),
    *("previous_response_id", "errors", "broken stream"),
)
"""What nearly all clients can do; whatever else one can stands in the last column."""
BUT = "But "
"""How the note of a feature begins that works with a reservation."""
MARKS = {"yes": "✓", "partly": "✓", "no": "✗", "failed": "✗"}


class Notes:
    """Footnotes: the same text has the same number."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def mark(self, sign: str, text: str) -> str:
        """A sign with the number of what is to be said of it."""
        if not text:
            return sign
        if text not in self._texts:
            self._texts.append(text)
        return f"{sign} ({self._texts.index(text) + 1})"

    def lines(self) -> str:
        return "".join(f"\n({number}) {text.rstrip('.')}.\n" for number, text in enumerate(self._texts, 1))


def clients(results: Sequence[Row]) -> str:
    """One row a client. A feature without a result is one that the client does not have."""
    notes = Notes()

    def shown(result: Row | None) -> str:
        if result is None:
            return ""
        if result["verdict"] != "ok":
            return notes.mark("✗", result["verdict"])
        return notes.mark("✓", result["note"].removeprefix(BUT) if result["note"].startswith(BUT) else "")

    lines = []
    for name in _names(results, "client"):
        own = {result["feature"]: result for result in results if result["client"] == name}
        cells = [shown(own.get(feature)) for feature in COLUMNS]
        more = [f"{feature} {shown(result)}" for feature, result in own.items() if feature not in COLUMNS]
        lines.append([name, next(iter(own.values()))["version"], *cells, ", ".join(more)])
    return _table(["client", "version", *COLUMNS, "more"], lines) + notes.lines()


def backends(results: Sequence[Row]) -> str:
    """One row a feature."""
    notes = Notes()
    names = _names(results, "backend")
    found = {(result["feature"], result["backend"]): result for result in results}

    def shown(result: Row | None) -> str:
        return notes.mark(MARKS[result["result"]], result["reason"]) if result else ""

    versions = {result["backend"]: result.get("version") or "" for result in results}
    head = [f"{name} {versions[name]}".strip() for name in names]
    lines = [[name, *(shown(found.get((name, backend))) for backend in names)] for name in _names(results, "feature")]
    return _table(["feature", *head], lines) + notes.lines()


def _names(results: Iterable[Row], key: str) -> list[str]:
    return list(dict.fromkeys(result[key] for result in results))


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |\n" for row in rows)


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {"clients": clients, "backends": backends}


def written(text: str, name: str, results: Sequence[Row]) -> str:
    """The text with what stands between the marks of one table replaced. Raises ValueError without such marks."""
    marks = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    new, count = marks.subn(lambda found: f"{found[1]}\n{TABLES[name](results)}\n{found[2]}", text)
    if not count:
        raise ValueError(f"the page has no marks '<!-- {name}: … -->' and '<!-- end of {name} -->'")
    return new


def main() -> None:
    page = ROOT / "docs" / "compatibility.md"
    for name in TABLES:
        path = ROOT / "build" / f"{name}.json"
        if path.exists():
            page.write_text(written(page.read_text("utf-8"), name, json.loads(path.read_text("utf-8"))), "utf-8")


if __name__ == "__main__":
    main()
