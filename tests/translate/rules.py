"""What holds for every stream of events, whatever the backend did (wire §9.2–§9.4)."""

from __future__ import annotations

import functools
import re
from typing import Any, get_args

import pydantic
from openai.types.responses import ResponseStreamEvent

from proxy import codec, sse
from proxy.translate.calls import is_complete

TERMINAL = ("response.completed", "response.incomplete", "response.failed")

Event = dict[str, Any]

_TEXTS = {
    "response.output_text": "text",
    "response.refusal": "refusal",
    "response.reasoning_text": "text",
    "response.reasoning_summary_text": "text",
    "response.function_call_arguments": "arguments",
    "response.custom_tool_call_input": "input",
    "response.mcp_call_arguments": "arguments",
    "response.code_interpreter_call_code": "code",
}
_CALLS = {
    "function_call": "arguments",
    "custom_tool_call": "input",
    "mcp_call": "arguments",
    "code_interpreter_call": "code",
}
_HOSTED = {
    "mcp_list_tools": "in_progress (completed|failed) ",
    "mcp_call": "in_progress (delta )*done ((completed|failed) )?",
    "mcp_approval_request": "",
    "web_search_call": "in_progress (searching )?(completed )?",
    "file_search_call": "in_progress (searching )?(completed )?",
    "code_interpreter_call": "in_progress (delta )*done (interpreting )?(completed )?",
}
"""Items of tools that run here: the events between the first and the last (wire §9.5)."""
_RUNS = {
    "local_shell_call": {"type": "exec", "command": [], "env": {}},
    "shell_call": {"commands": [], "timeout_ms": None, "max_output_length": None},
    "apply_patch_call": {"type": "update_file", "path": "", "diff": ""},
}
"""What a call that a client runs may hold before its end: nothing to run."""
_MAY_CHANGE = {
    "status",
    "output",
    "usage",
    "error",
    "incomplete_details",
    "completed_at",
    "service_tier",
    "model",
}


def check(events: list[Event]) -> None:
    """A stream from ``response.created`` to its terminal event."""
    _numbers(events)
    _lifecycle(events)
    written = _Written()
    for event in events[2:-1]:
        written.read(event)
    written.compare(events[-1]["response"])
    for event in events:
        valid(event)


def valid(event: Event) -> None:
    """An event as the official SDK's model of its type has it, nothing coerced, and as it crosses the wire.

    Error codes and service tiers are open-ended in practice (wire §5.3), so its enumerations of them are not asked.
    """
    told = event
    if "response" in event:
        error = event["response"]["error"] and {
            "code": "server_error",
            "message": event["response"]["error"]["message"],
        }
        told = {**event, "response": {**event["response"], "error": error, "service_tier": "default"}}
        assert type(event["response"]["service_tier"]) is str
    _models()[event["type"]].validate_python(told, strict=True)
    _, _, data = sse.encode(event).partition(b"data: ")
    assert codec.loads(data) == event


@functools.cache
def _models() -> dict[str, pydantic.TypeAdapter[Any]]:
    models = get_args(get_args(ResponseStreamEvent)[0])
    return {get_args(model.model_fields["type"].annotation)[0]: pydantic.TypeAdapter(model) for model in models}


def _numbers(events: list[Event]) -> None:
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    types = [event["type"] for event in events]
    background = events[0]["response"]["background"]
    assert types[:2] == ["response.created", "response.queued" if background else "response.in_progress"]
    assert not background or types[2] in ("response.in_progress", *TERMINAL)
    assert [type_ for type_ in types if type_ in TERMINAL] == types[-1:]


def _lifecycle(events: list[Event]) -> None:
    responses = [event["response"] for event in events if "response" in event]
    last = responses[-1]
    for response in responses:
        assert response.keys() == last.keys()
        assert {k: v for k, v in response.items() if k not in _MAY_CHANGE} == {
            k: v for k, v in last.items() if k not in _MAY_CHANGE
        }
    for response in responses[:-1]:
        assert response["status"] in ("queued", "in_progress")
        assert (response["output"], response["usage"]) == ([], None)
    assert events[-1]["type"] == f"response.{'failed' if last['status'] == 'cancelled' else last['status']}"
    assert (type(last["completed_at"]) is int) == (last["status"] == "completed")
    assert bool(last["error"]) == (last["status"] == "failed")
    assert bool(last["incomplete_details"]) == (last["status"] == "incomplete")
    assert bool(last["usage"]) or last["status"] in ("failed", "cancelled")


class _Written:
    """The items as a client writes them down, event by event."""

    def __init__(self) -> None:
        self.added: list[dict[str, Any]] = []
        self.done: dict[int, dict[str, Any]] = {}
        self.parts: dict[tuple[int, str], list[dict[str, Any]]] = {}
        self.texts: dict[tuple[Any, ...], str] = {}
        self.told: set[tuple[Any, ...]] = set()
        self.open: set[tuple[Any, ...]] = set()
        self.story: dict[int, str] = {}

    def read(self, event: Event) -> None:
        if event["type"] in ("response.queued", "response.in_progress", "error"):
            return
        at = event["output_index"]
        if event["type"] == "response.output_item.added":
            assert at == len(self.added)
            self.added.append(event["item"])
            self._check_shell(event["item"])
            return
        assert at not in self.done
        if event["type"] == "response.output_item.done":
            assert not [place for place in self.open if place[0] == at], "an item ended before its parts"
            assert event["item"]["type"] not in _CALLS or (at, "content_index", None) in self.told
            self._check_same(self.added[at], event["item"])
            self._check_story(event["item"], self.story.get(at, ""))
            self.done[at] = event["item"]
            return
        assert event["item_id"] == self.added[at]["id"]
        self.story[at] = f"{self.story.get(at, '')}{event['type'].rpartition('.')[2]} "
        self._part(event, at)

    def compare(self, response: dict[str, Any]) -> None:
        """Holds the final output against what was written."""
        assert len(response["output"]) == len(self.added)
        failed = response["status"] in ("failed", "cancelled")
        assert failed or (self.done.keys() == set(range(len(self.added))) and not self.open)
        for at, item in enumerate(response["output"]):
            self._check_same(self.added[at], item)
            if at in self.done:
                assert item == self.done[at]
            elif "status" in item:
                assert item["status"] == _cut(item)
                assert _is_hosted(item) or item.get("action", item.get("operation")) == _RUNS.get(item["type"])
            self._check_texts(at, item)
        if not failed:
            ended = ("completed", "failed")
            cut = [item for item in response["output"] if item.get("status", "completed") not in ended]
            assert all(item["status"] == _cut(item) for item in cut)
            assert all(item is response["output"][-1] or _is_broken(item) for item in cut)
            last_is_cut = cut[-1:] == response["output"][-1:]
            assert last_is_cut == (response["status"] == "incomplete") or "status" not in response["output"][-1]
            assert response["output"], "an output is never empty"

    @staticmethod
    def _check_shell(item: dict[str, Any]) -> None:
        if item["type"] in ("mcp_list_tools", "mcp_approval_request"):
            assert "status" not in item and item.get("tools") in ([], None)
            return
        assert item["status"] == "in_progress"
        assert not any(item.get(key) for key in ("output", "error", "code", "outputs", "results"))
        assert not any(item.get(key) for key in ("content", "summary", "arguments", "input", "encrypted_content"))
        assert _is_hosted(item) or item.get("action", item.get("operation")) == _RUNS.get(item["type"])

    @staticmethod
    def _check_story(item: dict[str, Any], story: str) -> None:
        if _is_hosted(item):
            assert re.fullmatch(_HOSTED[item["type"]], story), story
            assert "status" not in item or ("completed " in story) == (item["status"] == "completed")
            assert item["type"] != "mcp_call" or ("failed " in story) == (item["status"] == "failed")

    @staticmethod
    def _check_same(first: dict[str, Any], last: dict[str, Any]) -> None:
        keep = ("id", "type", "call_id", "name", "namespace", "role", "environment", "server_label", "queries")
        assert [first.get(key) for key in keep] == [last.get(key) for key in keep]
        assert first.keys() == last.keys() - {"encrypted_content"} - ({"error"} - first.keys())

    def _part(self, event: Event, at: int) -> None:
        kind = "summary_index" if "summary_index" in event else "content_index"
        place = (at, kind, event.get(kind))
        match event["type"].rpartition("."):
            case ("response.content_part" | "response.reasoning_summary_part", _, "added"):
                parts = self.parts.setdefault(place[:2], [])
                assert event[kind] == len(parts)
                assert not any(event["part"].get(key) for key in ("text", "refusal", "logprobs", "annotations"))
                parts.append(event["part"])
                self.open.add(place)
            case ("response.content_part" | "response.reasoning_summary_part", _, "done"):
                assert place in self.told, "a part ended before its text"
                self.open.remove(place)
                part = self.parts[place[:2]][event[kind]] = event["part"]
                assert self.texts.get(place, "") == part.get("text", part.get("refusal"))
            case (_, _, "delta"):
                assert place not in self.told
                assert event["delta"], "an empty delta"
                assert event.get(kind) is None or place in self.open
                self.texts[place] = self.texts.get(place, "") + event["delta"]
            case (name, _, "done"):
                assert event[_TEXTS[name]] == self.texts.get(place, "")
                assert place not in self.told
                self.told.add(place)
            case (_, _, "in_progress" | "searching" | "interpreting" | "completed" | "failed"):
                assert event["type"].split(".")[1] == self.added[at]["type"]
            case (name, _, "added"):
                assert name == "response.output_text.annotation"
                assert place in self.open

    def _check_texts(self, at: int, item: dict[str, Any]) -> None:
        if text := _CALLS.get(item["type"]):
            deltas = self.texts.get((at, "content_index", None), "")
            assert deltas == item[text] or at not in self.done
            assert item[text].startswith(deltas)
        for kind, key in (("content_index", "content"), ("summary_index", "summary")):
            for number, part in enumerate(item.get(key, ())):
                text = part.get("text", part.get("refusal"))
                assert self.texts.get((at, kind, number), "") == text or at not in self.done
                assert text.startswith(self.texts.get((at, kind, number), ""))


def _cut(item: dict[str, Any]) -> str:
    """The status of an item that was cut off: patches know no ``incomplete``."""
    return "in_progress" if item["type"] == "apply_patch_call" else "incomplete"


def _is_hosted(item: dict[str, Any]) -> bool:
    return item["type"] in _HOSTED


def _is_broken(item: dict[str, Any]) -> bool:
    """Whether a call's arguments are no whole JSON object, as far as the item shows them, or it was never run."""
    if item["type"] == "function_call":
        return not is_complete(item["arguments"])
    return item["type"] == "custom_tool_call" or item["type"] in _RUNS or _is_hosted(item)
