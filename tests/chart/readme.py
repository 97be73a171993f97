"""Writes what the chart repeats: ``python -m tests.chart.readme``.

Into helm/README.md the table of values, from values.yaml; into values.yaml and its schema every option of statecar;
into helm/files/ the alerts of config/, as a chart can only read what lies in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.chart import options

CHART = Path(__file__).parents[2] / "helm"
RULES = CHART.parent / "config/prometheus-rules.yaml"
TABLE = re.compile(r"(<!-- values: [^\n]*-->\n).*?(<!-- end of values -->)", re.DOTALL)
CONFIG = re.compile(r"(  # config: [^\n]*\n).*?(  # end of config)", re.DOTALL)


def files() -> dict[Path, str]:
    """The files with written parts, as they should be, and those that are copies."""
    values, schema, readme = (CHART / name for name in ("values.yaml", "values.schema.json", "README.md"))
    new_values = CONFIG.sub(lambda marks: marks[1] + options.values_section() + marks[2], values.read_text("utf-8"))
    new_schema = json.loads(schema.read_text("utf-8"))
    new_schema["properties"]["config"] = options.schema_section()
    table = f"\n{values_table(new_values)}\n"
    return {
        values: new_values,
        schema: json.dumps(new_schema, indent=2) + "\n",
        readme: TABLE.sub(lambda marks: marks[1] + table + marks[2], readme.read_text("utf-8")),
        CHART / "files" / RULES.name: RULES.read_text("utf-8"),
    }


def values_table(text: str) -> str:
    """Every value with a ``# --`` comment as a Markdown table: key, default, meaning."""
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for key, default, comment in documented(text):
        shown = json.dumps(default, ensure_ascii=False).replace("|", "\\|")
        rows.append(f"| `{key}` | `{shown}` | {comment.replace('|', chr(92) + '|').replace('<', '&lt;')} |")
    return "\n".join(rows) + "\n"


def documented(text: str) -> Iterator[tuple[str, Any, str]]:
    """(key, default, comment) of every value. Raises ValueError for a value without a comment."""
    lines = text.splitlines()

    def walk(node: yaml.MappingNode, path: str) -> Iterator[tuple[str, Any, str]]:
        for key, value in node.value:
            name = f"{path}{key.value}"
            comment = _comment(lines, key.start_mark.line)
            if comment:
                yield name, _default(value), comment
            elif isinstance(value, yaml.MappingNode) and value.value:
                yield from walk(value, f"{name}.")
            else:
                raise ValueError(f"{name} has no `# --` comment")

    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    yield from walk(root, "")


def _comment(lines: list[str], line: int) -> str:
    above = lines[line - 1].strip() if line else ""
    return above.removeprefix("# -- ") if above.startswith("# -- ") else ""


def _default(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    return loader.construct_document(node)


if __name__ == "__main__":
    for file, content in files().items():
        file.write_text(content, "utf-8")
