"""The OpenAPI document as the tests read it: its operations, its schemas, and answers held against both."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import jsonschema
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from proxy.routes.openapi import DOCUMENT as PATH
from tests.callers import COMMENT, DONE, frames
from tests.live import strict

DOCUMENT: dict[str, Any] = json.loads(PATH.read_text("utf-8"))
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
ENDS = ("response.completed", "response.incomplete", "response.failed")
_REGISTRY = Registry().with_resource("urn:document", Resource(DOCUMENT, DRAFT202012))


@dataclass(frozen=True)
class Operation:
    """A method on a path of the document."""

    method: str
    path: str
    text: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.text["operationId"])

    @property
    def parameters(self) -> list[dict[str, Any]]:
        """Those of the path and its own, looked up."""
        given = [*DOCUMENT["paths"][self.path].get("parameters", ()), *self.text.get("parameters", ())]
        return [resolved(one) for one in given]

    def names(self, where: str) -> list[str]:
        """Its parameters in ``path`` or in ``query``."""
        return [one["name"] for one in self.parameters if one["in"] == where]


def operations() -> Iterator[Operation]:
    """Every operation of the document."""
    for path, item in DOCUMENT["paths"].items():
        for method in ("get", "post", "delete"):
            if method in item:
                yield Operation(method.upper(), path, item[method])


def resolved(value: dict[str, Any]) -> dict[str, Any]:
    """What a reference within the document refers to; anything else as it is."""
    if "$ref" not in value:
        return value
    found: Any = DOCUMENT
    for step in value["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return resolved(found)


def valid(value: Any, schema: dict[str, Any]) -> None:
    """Raises AssertionError unless a value fits a schema of the document."""
    faults = [
        f"{'/'.join(map(str, one.absolute_path))}: {one.message[:300]}"
        for one in _validator(_key(schema)).iter_errors(value)
    ]
    assert not faults, f"{faults[:5]}\n{json.dumps(value)[:2000]}"


def conforms(operation: Operation, answer: httpx.Response) -> None:
    """Raises AssertionError unless an answer is one that the document promises for the operation."""
    assert answer.headers.get("x-request-id"), "no x-request-id"
    promised = operation.text["responses"]
    declared = promised.get(str(answer.status_code), promised.get("default"))
    assert declared, f"{operation.name} answered {answer.status_code}, which is not documented: {answer.text[:500]}"
    content = resolved(declared)["content"]
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in content, f"{operation.name} answered {kind}"
    if kind == "text/event-stream":
        stream(answer.content, part=operation.name == "getResponse")
    elif not kind.endswith("json"):
        valid(answer.text, content[kind]["schema"])
    else:
        valid(json.loads(answer.content), content[kind]["schema"])


def stream(body: bytes, *, part: bool = False) -> None:
    """Raises AssertionError unless a whole stream holds valid events in a valid order and says that it is done.

    ``part``: it may begin anywhere, or hold none at all.
    """
    *found, last = frames(body)
    assert last == DONE
    events = [frame for frame in found if frame != COMMENT]
    for one in events:
        valid(one, SCHEMAS[f"Event.{one['type']}"])
    numbers = [one["sequence_number"] for one in events]
    if not part or numbers[:1] == [0]:
        strict.grammar(events)
    elif events:
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert [one["type"] in ENDS for one in events] == [False] * (len(events) - 1) + [True]


def _key(schema: dict[str, Any]) -> str:
    return json.dumps(schema)


@functools.cache
def _validator(key: str) -> jsonschema.Draft202012Validator:
    schema = json.loads(key.replace('"#/', '"urn:document#/'))
    return jsonschema.Draft202012Validator(schema, registry=_REGISTRY)
