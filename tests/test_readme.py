"""The README and the changelog say what the code says. ``python -m tests.test_readme`` writes the options table."""

import re
from pathlib import Path

import proxy
from proxy.settings import options_table

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TABLE = re.compile(r"(<!-- options: [^\n]*-->\n).*?(<!-- end of options -->)", re.DOTALL)


def written(text: str) -> str:
    return TABLE.sub(lambda marks: f"{marks[1]}\n{options_table()}\n{marks[2]}", text)


def test_the_options_table_is_current():
    assert README.read_text("utf-8") == written(README.read_text("utf-8"))


def test_the_changelog_begins_with_this_version():
    first = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert first and first[1] == proxy.__version__


def test_every_linked_file_exists():
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text("utf-8"))
    assert linked and all((ROOT / path).exists() for path in linked)


if __name__ == "__main__":
    README.write_text(written(README.read_text("utf-8")), "utf-8")
