"""Answers held against every description of them: the official SDK's models without any coercion, the keys that Open
Responses demands (wire §5.1), OpenAI's own API description where it is at hand, and the grammar of a stream (wire §9).

A client with ``watch`` or ``watch_async`` among its response hooks has every answer of ours checked, whatever the test
does with it. What may deviate is listed once, in ``DEVIATIONS``, with the reason.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pydantic
from openai.types.conversations import Conversation, ConversationDeletedResource, ConversationItem, ConversationItemList
from openai.types.responses import (
    CompactedResponse,
    InputTokenCountResponse,
    Response,
    ResponseItemList,
    ResponseStreamEvent,
)
from openai.types.responses.responses_server_event import ResponseWsError
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.callers import DONE, unframed

OPENAPI = Path(__file__).parents[3] / "shared" / "design" / "openapi-subset.json"
"""OpenAI's API description; not part of this repository, so that its checks are skipped where it is not found."""


@dataclass(frozen=True)
class Deviation:
    """A fault that is none. ``source``: matches sdk or openapi; ``fault``: is found in ``path: message``."""

    source: str
    fault: str
    reason: str


DEVIATIONS = [
    Deviation("openapi", r"usage: None is not of type 'object'", "null before the end, as OpenAI sends it (wire §5.4)"),
    Deviation(
        "openapi",
        r"text/format/description: None is not of type 'string'",
        "Open Responses wants the key, and null where no description was given (wire §4.2)",
    ),
    Deviation(
        "(sdk|openapi)",
        r"error/code: (Input should be|'context_length_exceeded' is not one of)",
        "live OpenAI sends codes that its own enum lacks, and Codex acts on them (wire §5.3)",
    ),
    Deviation(
        "openapi",
        r"'request_id' is a required property",
        "of an approval response, whose description demands it and does not say what it is",
    ),
]


def response(value: dict[str, Any]) -> dict[str, Any]:
    """A Response object, whole."""
    _sdk(Response, value)
    for key, kind in OPEN_RESPONSES.items():
        assert key in value, f"no {key!r} in a response"
        assert type(value[key]) in kind, f"{key!r} is a {type(value[key])}"
    assert value["reasoning"].keys() >= {"effort", "summary"}
    assert (value["completed_at"] is not None) == (value["status"] == "completed")
    assert (value["error"] is not None) == (value["status"] == "failed")
    assert (value["incomplete_details"] is not None) == (value["status"] == "incomplete")
    if value["status"] in ("completed", "incomplete"):
        usage = value["usage"]
        assert usage["input_tokens_details"].keys() == {"cached_tokens", "cache_write_tokens"}
        assert usage["output_tokens_details"].keys() == {"reasoning_tokens"}
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    for row in value["output"]:
        item(row)
    assert not any({"authorization", "headers"} & tool.keys() for tool in value["tools"])
    _openapi("Response", value)
    return value


def item(value: dict[str, Any]) -> dict[str, Any]:
    """An item, of a response or a conversation."""
    _sdk(ConversationItem, value)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,128}", value["id"])
    if value["type"] == "message":
        assert value["role"] and value["status"]
        assert isinstance(value["content"], list)
        for part in value["content"]:
            for cited in part.get("annotations") or ():
                assert (
                    0 <= cited.get("start_index", 0) <= cited.get("end_index", len(part["text"])) <= len(part["text"])
                )
    assert not {"x_upstream", "authorization", "headers"} & value.keys()
    return value


def item_list(value: dict[str, Any], *, of_conversation: bool = False) -> list[dict[str, Any]]:
    """A list of items, either of a conversation or of a response's input."""
    rows: list[dict[str, Any]] = value["data"]
    _sdk(ConversationItemList if of_conversation else ResponseItemList, value, empty=not rows)
    assert value.keys() == {"object", "data", "first_id", "last_id", "has_more"}
    assert (value["first_id"], value["last_id"]) == ((rows[0]["id"], rows[-1]["id"]) if rows else (None, None))
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        item(row)
    if rows:
        _openapi("ConversationItemList" if of_conversation else "ResponseItemList", value)
    return rows


def conversation(value: dict[str, Any]) -> dict[str, Any]:
    """A Conversation object."""
    _sdk(Conversation, value)
    assert value.keys() == {"id", "object", "created_at", "metadata"}
    assert type(value["created_at"]) is int
    _openapi("ConversationResource", value)
    return value


def deleted_conversation(value: dict[str, Any]) -> None:
    """The receipt of a deleted conversation."""
    _sdk(ConversationDeletedResource, value)
    _openapi("DeletedConversationResource", value)


def deleted_response(value: dict[str, Any]) -> None:
    """The receipt of a deleted response (wire §3.3)."""
    assert value == {"id": value["id"], "object": "response", "deleted": True}


def response_list(value: dict[str, Any]) -> list[dict[str, Any]]:
    """The list of a caller's responses, each with its input (wire §3)."""
    rows: list[dict[str, Any]] = value["data"]
    assert value.keys() == {"object", "data", "first_id", "last_id", "has_more"}
    assert (value["first_id"], value["last_id"]) == ((rows[0]["id"], rows[-1]["id"]) if rows else (None, None))
    for row in rows:
        response({key: inner for key, inner in row.items() if key != "input"})
        assert all(item(one) for one in row["input"])
    return rows


def compacted(value: dict[str, Any]) -> dict[str, Any]:
    """A compacted context: messages of the user, then one compaction item (wire §3.7)."""
    _sdk(CompactedResponse, value | {"output": value["output"][-1:]})  # its type knows messages of the assistant only
    assert value.keys() == {"id", "object", "created_at", "output", "usage"}
    assert type(value["created_at"]) is int
    *messages, last = [item(row) for row in value["output"]]
    assert {(row["type"], row["role"], row["status"]) for row in messages} <= {("message", "user", "completed")}
    assert last["type"] == "compaction" and last["encrypted_content"]
    assert value["usage"]["total_tokens"] == value["usage"]["input_tokens"] + value["usage"]["output_tokens"]
    _openapi("CompactResource", value)
    return value


def input_tokens(value: dict[str, Any]) -> int:
    """A count of input tokens (wire §3.6)."""
    _sdk(InputTokenCountResponse, value)
    assert value.keys() == {"object", "input_tokens"}
    _openapi("TokenCountsResource", value)
    return int(value["input_tokens"])


def error(value: dict[str, Any]) -> dict[str, Any]:
    """An error in OpenAI's shape, all four keys there (wire §2.1)."""
    assert value.keys() == {"error"}
    told: dict[str, Any] = value["error"]
    assert told.keys() == {"message", "type", "param", "code"}
    assert isinstance(told["message"], str) and told["message"]
    assert isinstance(told["type"], str)
    assert all(told[key] is None or isinstance(told[key], str) for key in ("param", "code"))
    _openapi("ErrorResponse", value)
    return told


def error_frame(value: dict[str, Any]) -> dict[str, Any]:
    """An error told over a WebSocket: nested, with a status and a code (wire §13.7)."""
    _sdk(ResponseWsError, value)
    assert value.keys() - {"stream_id"} == {"type", "status", "error"}
    told: dict[str, Any] = value["error"]
    assert told.keys() - {"headers"} == {"message", "type", "param", "code"}
    assert isinstance(told["code"], str) and told["code"]
    assert 400 <= value["status"] <= 599
    return told


def stream(events: list[dict[str, Any]]) -> dict[str, Any]:
    """A whole stream of events; gives the response of its terminal event."""
    for value in events:
        event(value)
    return grammar(events)


def rest_of_stream(events: list[dict[str, Any]]) -> None:
    """The last events of a stream."""
    for value in events:
        event(value)
    assert [one["sequence_number"] - at for at, one in enumerate(events)] == [events[0]["sequence_number"]] * len(
        events
    )


def event(value: dict[str, Any]) -> None:
    """One event of a stream."""
    _sdk(_event_models()[value["type"]], value)
    if name := _event_schemas().get(value["type"]):
        _openapi(name, value)
    if "response" in value:
        response(value["response"])


# -- every answer of a client


def watch(response: Any) -> None:
    """A response hook of a synchronous client: checks the answer (an ``httpx.Response``) as soon as it is read."""
    if (judge := _judge_of(response)) is not None:
        # a client takes only its own library's streams: httpx's, or that of the httpx that the official client brings
        kind = type("Watched", (_Watched, type(response.stream)), {})
        response.stream = kind(response.stream, judge)


async def watch_async(response: Any) -> None:
    """The same for an asynchronous client."""
    watch(response)


def _judge_of(answer: Any) -> Callable[[bytes], Any] | None:
    """What an answer's body must pass; None for an answer that is not ours."""
    found = re.match(r"(/v1/openai)?/v1(/(?:responses|conversations)\b.*)", answer.request.url.path)
    if found is None or answer.request.method in ("HEAD", "OPTIONS"):
        return None
    alias, path = found[1], found[2].rstrip("/")
    assert answer.headers["x-request-id"]
    if answer.headers["content-type"].startswith("text/event-stream"):
        whole = "starting_after" not in answer.request.url.params
        return lambda body: (stream if whole else rest_of_stream)(unframed(body, done=not alias))
    assert answer.headers["content-type"] == "application/json"
    if answer.status_code >= 400:
        return lambda body: error(json.loads(body))
    assert answer.status_code == 200
    called = f"{answer.request.method} {path}"
    check = next(check for pattern, check in _ANSWERS.items() if re.fullmatch(pattern, called))
    return lambda body: check(json.loads(body))


_ANSWERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "POST /responses/compact": compacted,
    "POST /responses/input_tokens": input_tokens,
    "POST /responses(/[^/]+/cancel)?": response,
    "GET /responses": response_list,
    "GET /responses/[^/]+": response,
    "DELETE /responses/[^/]+": deleted_response,
    "GET /responses/[^/]+/input_items": item_list,
    "(GET|POST) /conversations/[^/]+/items": lambda value: item_list(value, of_conversation=True),
    "GET /conversations/[^/]+/items/[^/]+": item,
    "DELETE /conversations/[^/]+": deleted_conversation,
    ".* /conversations.*": conversation,
}
"""Method and path to the check of a success; the first that fits."""


class _Watched:
    """A body that is judged when it has been read whole; one that was left before its end is not."""

    def __init__(self, inner: Any, judge: Callable[[bytes], Any]) -> None:
        self._inner, self._judge, self._body = inner, judge, b""

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._inner:
            self._body += piece
            yield piece
        self._end()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._inner:
            self._body += piece
            yield piece
        self._end()

    def close(self) -> None:
        self._inner.close()
        self._left()

    async def aclose(self) -> None:
        await self._inner.aclose()
        self._left()

    def _left(self) -> None:
        if self._body.endswith(f"data: {DONE}\n\n".encode()):  # a client may hang up as soon as it has read that
            self._end()

    def _end(self) -> None:
        body, self._body = self._body, b""
        if body:
            self._judge(body)


# -- the grammar of a stream

_TERMINAL = ("response.completed", "response.incomplete", "response.failed")
_DELTAS = {
    "response.output_text.delta": ("response.output_text.done", "text"),
    "response.refusal.delta": ("response.refusal.done", "refusal"),
    "response.reasoning_text.delta": ("response.reasoning_text.done", "text"),
    "response.reasoning_summary_text.delta": ("response.reasoning_summary_text.done", "text"),
    "response.function_call_arguments.delta": ("response.function_call_arguments.done", "arguments"),
    "response.custom_tool_call_input.delta": ("response.custom_tool_call_input.done", "input"),
    "response.mcp_call_arguments.delta": ("response.mcp_call_arguments.done", "arguments"),
    "response.code_interpreter_call_code.delta": ("response.code_interpreter_call_code.done", "code"),
}
_SEARCHED = "added in_progress searching( completed)? done"
_HOSTED = {
    "mcp_list_tools": "added in_progress (completed|failed) done",
    "mcp_call": "added in_progress( delta)* done (completed|failed) done",
    "mcp_approval_request": "added done",
    "web_search_call": _SEARCHED,
    "file_search_call": _SEARCHED,
    "code_interpreter_call": "added in_progress( delta)* done interpreting( completed)? done",
}
"""The events of an item that a hosted tool gave, by the last words of their types (wire §9.5)."""


def grammar(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The order of a stream (wire §9.2, §9.4); gives the response of its terminal event."""
    types = [one["type"] for one in events]
    assert [one["sequence_number"] for one in events] == list(range(len(events)))
    background = events[0]["response"]["background"]
    assert types[:2] == ["response.created", "response.queued" if background else "response.in_progress"]
    assert not background or types[2] in ("response.in_progress", *_TERMINAL)
    assert [type_ for type_ in types if type_ in _TERMINAL] == types[-1:]
    last: dict[str, Any] = events[-1]["response"]
    assert types[-1] == f"response.{'failed' if last['status'] == 'cancelled' else last['status']}"
    _check_lifecycle(events, last)
    opened = _check_items(events)
    failed = last["status"] in ("failed", "cancelled")
    assert failed or len(opened) == types.count("response.output_item.done")
    assert [row["id"] for row in last["output"]] == opened
    _check_parts(events, failed)
    _check_deltas(events, failed)
    _check_hosted(events)
    return last


def _check_lifecycle(events: list[dict[str, Any]], last: dict[str, Any]) -> None:
    changing = {"status", "output", "usage", "error", "incomplete_details", "completed_at", "service_tier", "model"}
    for one in events:
        if "response" in one:
            assert {k: v for k, v in one["response"].items() if k not in changing} == {
                k: v for k, v in last.items() if k not in changing
            }
    for one in events[:2]:
        assert one["response"]["status"] == ("queued" if last["background"] else "in_progress")
        assert (one["response"]["output"], one["response"]["usage"]) == ([], None)


def _check_items(events: list[dict[str, Any]]) -> list[str]:
    """The ids of the items in the order in which they were opened."""
    opened: list[str] = []
    done: dict[str, dict[str, Any]] = {}
    for one in events:
        match one["type"]:
            case "response.output_item.added":
                assert one["output_index"] == len(opened)
                opened.append(one["item"]["id"])
            case "response.output_item.done":
                assert opened[one["output_index"]] == one["item"]["id"]
                assert one["item"]["id"] not in done
                done[one["item"]["id"]] = one["item"]
        if "item_id" in one:
            assert opened[one["output_index"]] == one["item_id"]
            assert one["item_id"] not in done
    for row in events[-1]["response"]["output"]:
        assert done.get(row["id"], row) == row
    return opened


def _check_parts(events: list[dict[str, Any]], failed: bool) -> None:
    opened, closed = set[tuple[Any, ...]](), set[tuple[Any, ...]]()
    for one in events:
        if "content_index" not in one:
            continue
        place = one["item_id"], one["content_index"]
        if one["type"] == "response.content_part.added":
            opened.add(place)
        assert place in opened - closed
        if one["type"] == "response.content_part.done":
            closed.add(place)
    assert failed or opened == closed


def _check_deltas(events: list[dict[str, Any]], failed: bool) -> None:
    written: dict[tuple[Any, ...], str] = {}
    for one in events:
        if "delta" in one:
            assert one["delta"]
            done, _ = _DELTAS[one["type"]]
            place = (done, *_place(one))
            written[place] = written.get(place, "") + one["delta"]
    told = {
        (one["type"], *_place(one)): one[field]
        for one in events
        for done, field in _DELTAS.values()
        if one["type"] == done
    }
    assert failed or written.keys() <= told.keys()
    for place, text in told.items():
        assert written.get(place, "") == text or (not written.get(place) and text == "{}")


def _check_hosted(events: list[dict[str, Any]]) -> None:
    """Items that a hosted tool gave tell their story whole, but for those that were cut off."""
    told: dict[str, list[str]] = {}
    for one in events:
        item_id = one["item_id"] if "item_id" in one else one.get("item", {}).get("id")
        told.setdefault(item_id, []).append(one["type"].rpartition(".")[2])
    for row in events[-1]["response"]["output"]:
        if row["type"] in _HOSTED and row.get("status") != "incomplete" and told[row["id"]][-1] == "done":
            assert re.fullmatch(_HOSTED[row["type"]], " ".join(told[row["id"]])), (row, told[row["id"]])
            assert row.get("status") in (None, "completed", "failed")
            assert "status" not in row or (row["status"] == "completed") == ("completed" in told[row["id"]])
            assert bool(row.get("error")) == ("failed" in told[row["id"]])


def _place(one: dict[str, Any]) -> tuple[Any, ...]:
    return one["item_id"], one.get("content_index"), one.get("summary_index")


# -- the sources

_NULLABLE_INT, _NULLABLE_TEXT, _NUMBER = (int, type(None)), (str, type(None)), (int, float)

OPEN_RESPONSES: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "object": (str,),
    "created_at": (int,),
    "status": (str,),
    "background": (bool,),
    "completed_at": _NULLABLE_INT,
    "error": (dict, type(None)),
    "incomplete_details": (dict, type(None)),
    "instructions": _NULLABLE_TEXT,
    "max_output_tokens": _NULLABLE_INT,
    "max_tool_calls": _NULLABLE_INT,
    "metadata": (dict,),
    "model": (str,),
    "output": (list,),
    "parallel_tool_calls": (bool,),
    "previous_response_id": _NULLABLE_TEXT,
    "prompt_cache_key": _NULLABLE_TEXT,
    "safety_identifier": _NULLABLE_TEXT,
    "reasoning": (dict,),
    "service_tier": (str,),
    "store": (bool,),
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "presence_penalty": _NUMBER,
    "frequency_penalty": _NUMBER,
    "top_logprobs": (int,),
    "text": (dict,),
    "tool_choice": (str, dict),
    "tools": (list,),
    "truncation": (str,),
    "usage": (dict, type(None)),
}
"""Key to types of what Open Responses wants in every Response object (wire §5.1, column R-OR)."""


@functools.cache
def _event_models() -> dict[str, Any]:
    models = get_args(get_args(ResponseStreamEvent)[0])
    return {get_args(model.model_fields["type"].annotation)[0]: model for model in models}


@functools.cache
def _adapter(model: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(model)


def _sdk(model: Any, value: Any, *, empty: bool = False) -> None:
    try:
        _adapter(model).validate_python(value, strict=True)
    except pydantic.ValidationError as exc:
        faults = [f"{'/'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in exc.errors()]
        if empty:
            faults = [fault for fault in faults if not re.match("(first|last)_id: ", fault)]
        _judge("sdk", faults, value)


def _judge(source: str, faults: list[str], value: Any) -> None:
    known = [deviation.fault for deviation in DEVIATIONS if re.fullmatch(deviation.source, source)]
    unknown = [fault for fault in faults if not any(re.search(pattern, fault) for pattern in known)]
    if unknown:
        raise AssertionError(f"{source}: {unknown}\n{json.dumps(value)[:3000]}")


@functools.cache
def _description() -> dict[str, Any] | None:
    return json.loads(OPENAPI.read_text("utf-8")) if OPENAPI.exists() else None


@functools.cache
def _validator(name: str) -> jsonschema.Draft202012Validator | None:
    found = _description()
    if found is None:
        return None
    registry = Registry().with_resource("urn:openapi", Resource(found, DRAFT202012))
    return jsonschema.Draft202012Validator({"$ref": f"urn:openapi#/components/schemas/{name}"}, registry=registry)


@functools.cache
def _event_schemas() -> dict[str, str]:
    """Event type to the name of its schema; empty without the description."""
    found = _description() or {"components": {"schemas": {}}}
    names: dict[str, str] = {}
    for name, schema in found["components"]["schemas"].items():
        kind = (schema.get("properties") or {}).get("type") or {}
        if name.endswith("Event") and len(kind.get("enum", ())) == 1:
            names.setdefault(kind["enum"][0], name)
    return names


def _openapi(name: str, value: Any) -> None:
    validator = _validator(name)
    if validator is not None:
        _judge("openapi", [fault for error in validator.iter_errors(value) for fault in _leaves(error)], value)


def _leaves(error: jsonschema.ValidationError) -> list[str]:
    """What is wrong, of a union the faults of the branch that was meant: the one whose ``type`` fits."""
    if not error.context:
        return [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}"]
    branches: dict[Any, list[jsonschema.ValidationError]] = {}
    for inner in error.context:
        branches.setdefault(inner.relative_schema_path[0], []).append(inner)

    def misfit(faults: list[jsonschema.ValidationError]) -> tuple[bool, int]:
        return any(list(f.relative_path) in (["type"], []) for f in faults), len(faults)

    return [leaf for fault in min(branches.values(), key=misfit) for leaf in _leaves(fault)]
