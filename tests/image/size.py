"""How large the image is to be: the wheels of uv.lock and the base image, compressed, for each architecture.

``python -m tests.image.size`` prints the table; pip fetches the wheels, since uv.lock need not say how large they are.
Exit code 1: a locked package has no wheel for an architecture, or the sum reaches the limit.

``PUBLISHED`` are the sizes of the base image as Docker's own record of official images has them:
repos/python/remote/3.13-slim-trixie.md of github.com/docker-library/repo-info, for the build of 2026-08-05 (Python
3.13.14). Later builds of the tag were not looked at.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging import tags
from packaging.markers import Marker
from packaging.utils import parse_wheel_filename

from tests.image import dockerfile

LIMIT = 120_000_000
"""Bytes, compressed: what a node pulls."""

MACHINES = ("x86_64", "aarch64")

PUBLISHED = {"3.13-slim-trixie": {"x86_64": 42_961_458, "aarch64": 43_237_284}}

GLIBC = {"bookworm": 36, "trixie": 41}
"""Second number of the glibc of Debian's releases (2.x)."""

Package = dict[str, Any]


class NoWheel(LookupError):
    """A locked package that would have to be compiled."""


def base_tag() -> str:
    """The tag of the base image, without a digest."""
    file = dockerfile.read((dockerfile.ROOT / "Dockerfile").read_text("utf-8"))
    return file.arguments["PYTHON"].partition("@")[0]


def wheels(tag: str, machine: str) -> dict[str, str]:
    """The file name of each runtime package's best wheel, by ``name==version``. Raises NoWheel."""
    lock = tomllib.loads((dockerfile.ROOT / "uv.lock").read_text("utf-8"))
    python = _python(tag)
    ranks = {each: rank for rank, each in enumerate(_tags(python, _platforms(tag, machine)))}
    environment = {
        "python_version": "{}.{}".format(*python),
        "python_full_version": "{}.{}.0".format(*python),
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    needed = _needed(lock["package"], environment)
    return {f"{each['name']}=={each['version']}": _best(each, ranks) for each in needed}


def published(tag: str, machine: str) -> int:
    """Bytes of the base image. Raises LookupError for a tag that was not looked up yet."""
    if tag not in PUBLISHED:
        raise LookupError(f"the size of python:{tag} is not known: add what is published to PUBLISHED")
    return PUBLISHED[tag][machine]


def sizes(tag: str, machine: str) -> dict[str, int]:
    """Bytes of the base image and of each wheel, fetched by pip. Raises LookupError."""
    parts, chosen = {f"python:{tag}": published(tag, machine)}, wheels(tag, machine)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--implementation=cp", "--python-version={}.{}".format(*_python(tag))]
        command += [f"--platform={each}" for each in _platforms(tag, machine)]
        subprocess.run([*command, f"--dest={folder}", *chosen], check=True)
        return parts | {package: (Path(folder) / wheel).stat().st_size for package, wheel in chosen.items()}


def _python(tag: str) -> tuple[int, int]:
    major, minor = tag.split("-")[0].split(".")[:2]
    return int(major), int(minor)


def _platforms(tag: str, machine: str) -> list[str]:
    """What wheels may be made for, best first: any glibc up to that of the tag's Debian."""
    newest = GLIBC[tag.split("-")[2]]
    named = {17: ["manylinux2014"], 12: ["manylinux2010"], 5: ["manylinux1"]}
    every = [[f"manylinux_2_{minor}", *named.get(minor, [])] for minor in range(newest, 4, -1)]
    return [f"{name}_{machine}" for names in every for name in names]


def _needed(packages: list[Package], environment: dict[str, str]) -> Iterator[Package]:
    """What statecar needs at run time, itself left out."""
    waiting = [("statecar", "")]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        found = [each for each in packages if each["name"] == name and _applies(each, environment)]
        assert len(found) == 1, f"{name} is locked {len(found)} times for {environment}"
        if name != "statecar" and not extra:
            yield found[0]
        wanted = found[0].get("optional-dependencies", {}).get(extra, []) if extra else found[0].get("dependencies", [])
        for one in wanted:
            if "marker" not in one or Marker(one["marker"]).evaluate(environment):
                new = {(one["name"], also) for also in ("", *one.get("extra", []))} - seen
                seen |= new
                waiting += sorted(new)


def _applies(package: Package, environment: dict[str, str]) -> bool:
    markers = package.get("resolution-markers", [])
    return not markers or any(Marker(each).evaluate(environment) for each in markers)


def _tags(python: tuple[int, int], platforms: list[str]) -> Iterator[tags.Tag]:
    yield from tags.cpython_tags(python, platforms=platforms)
    yield from tags.compatible_tags(python, "cp{}{}".format(*python), platforms)


def _best(package: Package, ranks: dict[tags.Tag, int]) -> str:
    fitting = []
    for wheel in package.get("wheels", []):
        name = wheel["url"].rpartition("/")[2]
        fitting += [(ranks[each], name) for each in parse_wheel_filename(name)[3] if each in ranks]
    if not fitting:
        raise NoWheel(f"{package['name']} {package['version']} has no wheel")
    return min(fitting)[1]


def main() -> int:
    """Prints the table; gives the exit code."""
    code = 0
    for machine in MACHINES:
        try:
            parts = sizes(base_tag(), machine)
        except LookupError as exc:
            print(f"{machine}: {exc}")
            return 1
        together = sum(parts.values())
        print(machine)
        for name, size in [*sorted(parts.items(), key=lambda part: -part[1]), ("together", together)]:
            print(f"  {name:28}{size / 1e6:8.2f} MB")
        code |= together >= LIMIT
    print(f"limit {LIMIT / 1e6:.0f} MB")
    return code


if __name__ == "__main__":
    sys.exit(main())
