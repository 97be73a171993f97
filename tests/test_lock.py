"""uv.lock is that of pyproject.toml: an image is built from what it says, and from nothing else."""

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
    for name, rows in [(None, wanted["project"]["dependencies"]), *of_groups.items()]:
        there = own["requires-dist"] if name is None else own["requires-dev"][name]
        given = {(one := Requirement(row)).name.lower(): one.specifier for row in rows}
        assert {row["name"]: SpecifierSet(row.get("specifier", "")) for row in there} == given, "make lock"
