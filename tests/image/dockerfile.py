"""A Dockerfile and its .dockerignore, read: stages of instructions, and the files of the build context."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Instruction:
    """One instruction: ``RUN --mount=type=cache,target=/x a b`` has the flag ``mount`` and the text ``a b``."""

    keyword: str
    flags: Mapping[str, str]
    text: str

    @property
    def is_exec(self) -> bool:
        """Whether it has the exec form, a JSON array."""
        return self.text.startswith("[")

    @property
    def words(self) -> list[str]:
        """The arguments, whichever form they have."""
        words: list[str] = json.loads(self.text) if self.is_exec else shlex.split(self.text)
        return words

    @property
    def pairs(self) -> dict[str, str]:
        """The values of an ARG, ENV or LABEL by name; an ARG without a default is empty."""
        return {name: value for name, _, value in (word.partition("=") for word in self.words)}


@dataclass
class Stage:
    """What follows one FROM. ``base`` as it is written."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, keyword: str) -> list[Instruction]:
        return [each for each in self.instructions if each.keyword == keyword]

    def last(self, keyword: str) -> Instruction:
        return self.all(keyword)[-1]


@dataclass
class Dockerfile:
    """``arguments``: the defaults of the ARGs before the first FROM."""

    arguments: dict[str, str]
    stages: list[Stage]


def read(text: str) -> Dockerfile:
    """Reads a Dockerfile without heredocs and parser directives."""
    file = Dockerfile({}, [])
    for instruction in _instructions(text):
        if instruction.keyword == "FROM":
            base, _, name = (
                re.split(r"(?i)\s+(as)\s+", instruction.text)
                if " " in instruction.text
                else (instruction.text, "", str(len(file.stages)))
            )
            file.stages.append(Stage(base, name))
        elif file.stages:
            file.stages[-1].instructions.append(instruction)
        else:
            file.arguments |= instruction.pairs
    return file


def _instructions(text: str) -> Iterator[Instruction]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        keyword, _, rest = line.strip().partition(" ")
        flags = {}
        while found := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
            flags[found[1]] = found[2]
            rest = rest[found.end() :]
        yield Instruction(keyword.upper(), flags, rest.strip())


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text with ``$NAME`` and ``${NAME}`` replaced; a name without a value is empty."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda name: values.get(name[1] or name[2], ""), text)


def context(root: Path = ROOT) -> list[str]:
    """The files of the build context: those that .dockerignore leaves, relative to the root, sorted."""
    rules = [
        (line.startswith("!"), re.compile(_expression(line.lstrip("!").strip("/"))))
        for line in (root / ".dockerignore").read_text("utf-8").splitlines()
        if line and not line.startswith("#")
    ]

    def is_left(path: str) -> bool:
        parts = path.split("/")
        ways = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        left = True
        for kept, expression in rules:
            if any(expression.fullmatch(way) for way in ways):
                left = kept
        return left

    files = []
    for name in sorted(os.listdir(root)):
        if is_left(name):
            path = root / name
            below = [path] if path.is_file() else [each for each in path.rglob("*") if not each.is_dir()]
            files += [str(each.relative_to(root)) for each in below]
    return sorted(path for path in files if is_left(path))


def _expression(pattern: str) -> str:
    """A pattern of .dockerignore as a regular expression: ``*`` and ``?`` stay within a name, ``**`` does not."""
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    return "".join(wild.get(part, part if part.startswith("[") else re.escape(part)) for part in parts)
