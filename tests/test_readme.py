"""README, changelog and options say what the code says. ``python -m tests.test_readme`` writes the options' tables."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

import proxy
from proxy.settings import Settings, options_reference
from tests.chart.options import ELSEWHERE

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
OPTIONS = ROOT / "docs" / "reference" / "configuration.md"
TABLE = re.compile(r"(<!-- options: [^\n]*-->\n).*?(<!-- end of options -->)", re.DOTALL)


def written(text: str) -> str:
    return TABLE.sub(lambda marks: f"{marks[1]}{options_reference()}\n{marks[2]}", text)


def test_the_tables_of_options_are_current():
    assert OPTIONS.read_text("utf-8") == written(OPTIONS.read_text("utf-8"))


def test_every_option_is_told_in_all_four_places(capsys):
    with pytest.raises(SystemExit):
        Settings.resolve(["--help"], {})
    told = capsys.readouterr().out
    page, file = OPTIONS.read_text("utf-8"), (ROOT / "config" / "statecar.yaml").read_text("utf-8")
    values = yaml.safe_load((ROOT / "helm" / "values.yaml").read_text("utf-8"))
    for name in (f.name for f in fields(Settings)):
        flag = f"--{name.replace('_', '-')}"
        assert re.search(rf"^\s+{flag}\b", told, re.MULTILINE), flag
        assert f"| `{flag}` |" in page
        assert name == "config" or re.search(rf"^{name}:", file, re.MULTILINE), name
        place = values
        for key in ELSEWHERE.get(name, f"config.{name}").split("."):
            assert key in place, (name, key)
            place = place[key]


def test_the_changelog_begins_with_this_version():
    first = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert first and first[1] == proxy.__version__


def test_every_linked_file_exists():
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text("utf-8"))
    assert linked and all((ROOT / path).exists() for path in linked)


if __name__ == "__main__":
    OPTIONS.write_text(written(OPTIONS.read_text("utf-8")), "utf-8")
