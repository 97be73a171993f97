"""uv.lock is that of pyproject.toml: an image is built from what it says, and from nothing else."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent


def test_the_lock_has_the_requirements_of_the_project():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    own = next(package["metadata"] for package in locked if package["name"] == "statecar")
    of_groups = {name: rows for name, rows in wanted["dependency-groups"].items() if name != "dev"}
    rows_of = {None: wanted["project"]["dependencies"], **of_groups}
    rows_of |= {f"extra == '{name}'": rows for name, rows in wanted["project"]["optional-dependencies"].items()}
    for name, rows in rows_of.items():
        of_project = [row for row in own["requires-dist"] if _extra(row) == name]
        there = own["requires-dev"][name] if name in of_groups else of_project
        given = {(one := Requirement(row)).name.lower(): one.specifier for row in rows}
        assert {row["name"]: SpecifierSet(row.get("specifier", "")) for row in there} == given, "make lock"


def _extra(row):
    """The extra that a requirement belongs to, as its marker has it; None for one of every installation."""
    found = re.search(r"extra == '[^']+'", row.get("marker", ""))
    return found and found[0]
