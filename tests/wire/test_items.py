"""Items and content parts: the stored form, and every refusal with its place (wire §3.5, §6.1–6.3)."""

import json

import pytest

from proxy import wire
from tests.wire.refusals import refusal


def stored(item):
    return wire.input_item(item, "input[1]")


def user(*parts):
    return {"type": "message", "status": "completed", "role": "user", "content": list(parts)}


def part(given, role="user"):
    [kept] = stored({"role": role, "content": [given]})["content"]
    return kept


TEXT = {"type": "input_text", "text": "a"}
SAID = {"type": "output_text", "text": "a", "annotations": [], "logprobs": []}
IMAGE = {"type": "input_image", "image_url": "http://x/a.png", "detail": "auto"}
FILE = {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,YQ=="}
AUDIO = {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}}
VIDEO = {"type": "input_video", "video_url": "http://x/a.mp4"}

PARTS = [
    ("user", {"type": "input_text", "text": "a"}, TEXT),
    ("user", {"type": "text", "text": "a"}, TEXT),
    ("user", {"type": "output_text", "text": "a"}, TEXT),
    ("system", {"type": "text", "text": "a"}, TEXT),
    ("assistant", {"type": "output_text", "text": "a"}, SAID),
    ("assistant", {"type": "text", "text": "a"}, SAID),
    ("assistant", {"type": "input_text", "text": "a"}, SAID),
    ("assistant", {"type": "output_text", "text": "a", "annotations": None, "logprobs": None}, SAID),
    (
        "assistant",
        {**SAID, "annotations": [{"type": "url_citation"}]},
        {**SAID, "annotations": [{"type": "url_citation"}]},
    ),
    ("assistant", {"type": "refusal", "refusal": "no"}, {"type": "refusal", "refusal": "no"}),
    ("user", {"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}}, TEXT),
    ("user", {"type": "input_image", "image_url": "http://x/a.png"}, IMAGE),
    ("user", {"type": "input_image", "image_url": "http://x/a.png", "detail": None, "file_id": None}, IMAGE),
    ("user", {**IMAGE, "detail": "original"}, {**IMAGE, "detail": "original"}),
    ("user", {"type": "input_image", "image_url": {"url": "http://x/a.png"}}, IMAGE),
    ("user", {"type": "image_url", "image_url": "http://x/a.png"}, IMAGE),
    (
        "user",
        {"type": "image_url", "image_url": {"url": "http://x/a.png", "detail": "low"}},
        {**IMAGE, "detail": "low"},
    ),
    ("user", {"type": "input_image", "file_id": "f"}, {"type": "input_image", "file_id": "f", "detail": "auto"}),
    ("user", FILE, FILE),
    ("user", {"type": "file", "file": {k: v for k, v in FILE.items() if k != "type"}}, FILE),
    (
        "user",
        {"type": "input_file", "file_url": "http://x/a.pdf"},
        {"type": "input_file", "file_url": "http://x/a.pdf"},
    ),
    ("user", AUDIO, AUDIO),
    ("user", VIDEO, VIDEO),
    ("user", {"type": "video_url", "video_url": {"url": "http://x/a.mp4"}}, VIDEO),
    ("user", {"type": "of_tomorrow", "x": [None], "y": None}, {"type": "of_tomorrow", "x": [None]}),
]


@pytest.mark.parametrize(("role", "given", "kept"), PARTS)
def test_a_part_is_kept_under_its_responses_name_with_its_defaults(role, given, kept):
    assert part(given, role) == kept
    assert part(kept, role) == kept


@pytest.mark.parametrize("role", ["user", "system", "developer", "assistant"])
def test_a_string_becomes_one_part_named_after_the_role(role):
    kept = stored({"role": role, "content": "a"})
    assert kept == {**user(SAID if role == "assistant" else TEXT), "role": role}
    assert stored({"type": "message", "role": role, "content": "a"}) == kept


def test_keys_lie_in_the_order_in_which_items_are_shown():
    message = stored({"content": "a", "extra": 1, "role": "user", "id": "msg_1"})
    assert list(message) == ["id", "type", "status", "role", "content", "extra"]
    call = stored({"arguments": "{}", "name": "f", "namespace": "n", "call_id": "c", "type": "function_call"})
    assert list(call) == ["type", "status", "call_id", "name", "arguments", "namespace"]


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
DONE = {"status": "completed"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "a"}
CUSTOM = {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "x"}
CUSTOM_OUTPUT = {"type": "custom_tool_call_output", "call_id": "c", "output": "a"}
REASONING = {"type": "reasoning", "id": "rs_1", "summary": []}
FUNCTION = {"type": "function", "name": "f"}

SHELL = {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}}
SHELL_OUTPUT = {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "", "stderr": ""}]}
LOCAL_SHELL = {"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["ls"], "env": {}}}
LOCAL_SHELL_OUTPUT = {"type": "local_shell_call_output", "id": "c", "output": "{}"}
PATCH = {"type": "apply_patch_call", "call_id": "c", "operation": {"type": "delete_file", "path": "a"}}
PATCH_OUTPUT = {"type": "apply_patch_call_output", "call_id": "c", "status": "failed"}
LISTED = {"name": "n", "input_schema": {"type": "object"}}
TOOLS = {"type": "mcp_list_tools", "server_label": "s", "tools": [LISTED]}
MCP = {"type": "mcp_call", "server_label": "s", "name": "n", "arguments": '{"a":1}'}
MCP_FAILED = {**MCP, "status": "failed", "approval_request_id": None, "output": None}
SEARCH = {"type": "web_search_call", "action": {"type": "search", "query": "x", "queries": ["x"]}}
FILES = {"type": "file_search_call", "queries": ["x"]}
CODE = {"type": "code_interpreter_call", "code": "1", "container_id": "c"}

ITEMS = [
    (CALL, {**CALL, **DONE}),
    ({**CALL, "status": None, "id": None, "namespace": "n"}, {**CALL, **DONE, "namespace": "n"}),
    ({**CALL, "status": "incomplete", "id": "fc_1"}, {**CALL, "status": "incomplete", "id": "fc_1"}),
    ({**CALL, "arguments": "not json"}, {**CALL, **DONE, "arguments": "not json"}),
    ({**CALL, "arguments": {"a": [1, "ü"]}}, {**CALL, **DONE, "arguments": '{"a":[1,"ü"]}'}),
    ({**CALL, "arguments": None}, {**CALL, **DONE}),
    (OUTPUT, {**OUTPUT, **DONE}),
    ({**OUTPUT, "output": None}, {**OUTPUT, **DONE, "output": ""}),
    ({**OUTPUT, "output": []}, {**OUTPUT, **DONE, "output": []}),
    ({**OUTPUT, "output": [{"type": "text", "text": "a"}, IMAGE]}, {**OUTPUT, **DONE, "output": [TEXT, IMAGE]}),
    (CUSTOM, {**CUSTOM, **DONE}),
    ({**CUSTOM, "input": None}, {**CUSTOM, **DONE, "input": ""}),
    (CUSTOM_OUTPUT, {**CUSTOM_OUTPUT, **DONE}),
    ({**CUSTOM_OUTPUT, "output": [TEXT]}, {**CUSTOM_OUTPUT, **DONE, "output": [TEXT]}),
    (REASONING, REASONING),
    ({**REASONING, "content": None, "encrypted_content": None, "status": None}, REASONING),
    ({"type": "reasoning", "summary": None}, {"type": "reasoning", "summary": []}),
    (
        {**REASONING, "content": [{"type": "reasoning_text", "text": "a", "x": None}], "encrypted_content": "e"},
        {**REASONING, "content": [{"type": "reasoning_text", "text": "a"}], "encrypted_content": "e"},
    ),
    ({"type": "reasoning", "id": "rs_1"}, {"type": "item_reference", "id": "rs_1"}),
    ({"type": "item_reference", "id": "msg_1"}, {"type": "item_reference", "id": "msg_1"}),
    ({"id": "msg_1"}, {"type": "item_reference", "id": "msg_1"}),
    ({"id": "msg_1", "type": None, "status": None}, {"type": "item_reference", "id": "msg_1"}),
    ({"type": "compaction", "encrypted_content": "e"}, {"type": "compaction", "encrypted_content": "e"}),
    (
        {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "function": {"name": "f"}}]},
        {"type": "additional_tools", "role": "developer", "tools": [FUNCTION]},
    ),
    (
        {"type": "additional_tools", "tools": []},
        {"type": "additional_tools", "role": "developer", "tools": []},
    ),
    (
        {**SHELL, "action": {**SHELL["action"], "timeout_ms": None}},
        {**SHELL, **DONE, "action": SHELL["action"] | {"timeout_ms": None}},
    ),
    ({**SHELL, "status": "incomplete"}, {**SHELL, "status": "incomplete"}),
    (LOCAL_SHELL, {**LOCAL_SHELL, **DONE}),
    (PATCH, {**PATCH, **DONE}),
    (SHELL_OUTPUT, {**SHELL_OUTPUT, **DONE, "max_output_length": None}),
    ({**SHELL_OUTPUT, "max_output_length": 9}, {**SHELL_OUTPUT, **DONE, "max_output_length": 9}),
    ({**CALL, "x_upstream": {"extra_content": 1}}, {**CALL, **DONE}),
    ({"role": "user", "content": [], "x_upstream": "x"}, user()),
    (LOCAL_SHELL_OUTPUT, {**LOCAL_SHELL_OUTPUT, **DONE, "call_id": "c"}),
    (
        {**LOCAL_SHELL_OUTPUT, "call_id": "d", "output": None},
        {**LOCAL_SHELL_OUTPUT, **DONE, "call_id": "d", "output": ""},
    ),
    ({**PATCH_OUTPUT, "output": None}, PATCH_OUTPUT),
    ({**PATCH_OUTPUT, "output": "x"}, {**PATCH_OUTPUT, "output": "x"}),
    ({"type": "mcp_list_tools", "server_label": "s", "tools": [{**LISTED, "annotations": None}], "error": None}, TOOLS),
    ({**MCP, "arguments": {"a": 1}}, {**MCP, **DONE, "approval_request_id": None, "error": None, "output": None}),
    ({**MCP, "error": {"type": "x"}, "status": "failed"}, {**MCP_FAILED, "error": {"type": "x"}}),
    ({**MCP, "error": "x", "status": "failed"}, {**MCP_FAILED, "error": "x"}),
    ({"type": "web_search_call"}, {"type": "web_search_call", **DONE}),
    ({**SEARCH, "action": {**SEARCH["action"], "queries": ["x"], "sources": None}}, {**SEARCH, **DONE}),
    ({"type": "file_search_call"}, {"type": "file_search_call", **DONE, "queries": [], "results": None}),
    ({**FILES, "results": [{"text": "t", "attributes": None}]}, {**FILES, **DONE, "results": [{"text": "t"}]}),
    ({**CODE, "outputs": None}, {**CODE, **DONE, "outputs": None}),
    (
        {"type": "code_interpreter_call", "outputs": [{"type": "logs", "logs": "4"}]},
        {"type": "code_interpreter_call", **DONE, "code": None, "outputs": [{"type": "logs", "logs": "4"}]},
    ),
    ({"role": "user", "content": None}, user()),
    ({"role": "user", "content": []}, user()),
    ({"role": "user", "content": "a", "phase": None, "id": None}, user(TEXT)),
    ({"role": "user", "content": "a", "id": "any id / at all"}, {**user(TEXT), "id": "any id / at all"}),
]


@pytest.mark.parametrize(("given", "kept"), ITEMS)
def test_an_item_is_kept_in_its_stored_form(given, kept):
    assert stored(given) == kept
    assert stored(kept) == kept


FOREIGN = [
    {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "b"},
    {"type": "of_tomorrow", "role": 3, "content": 4, "call_id": ""},
]


@pytest.mark.parametrize("item", FOREIGN)
def test_items_of_other_servers_and_of_unknown_types_are_kept_as_given(item):
    assert stored(item) == item


def test_an_object_as_arguments_becomes_the_same_json():
    arguments = {"a": {"b": [None, 1.5, "ü\ud83d"]}}
    assert json.loads(stored({**CALL, "arguments": arguments})["arguments"]) == arguments


def test_arguments_too_deep_to_be_written_again_are_refused():
    arguments = {}
    for _ in range(100_000):
        arguments = {"a": arguments}
    code, param, text = refusal(wire.input_item, {**CALL, "arguments": arguments}, "input[1]")
    assert (code, param) == ("invalid_value", "input[1].arguments")
    assert text == "Invalid 'input[1].arguments': nested too deeply."


def message(*parts):
    return {"role": "user", "content": list(parts)}


LONG_IMAGE = {"type": "input_image", "image_url": "x" * 20_971_521}
REFUSALS = [
    ("hi", "invalid_type", ""),
    (None, "invalid_type", ""),
    ({}, "missing_required_parameter", ".type"),
    ({"content": "hi"}, "missing_required_parameter", ".type"),
    ({"id": "x", "content": "hi"}, "missing_required_parameter", ".type"),
    ({"type": 1}, "invalid_type", ".type"),
    ({"type": ""}, "empty_string", ".type"),
    ({**MCP, "call_id": [1]}, "invalid_type", ".call_id"),
    ({**MCP, "server_label": None}, "missing_required_parameter", ".server_label"),
    ({**MCP, "name": ""}, "empty_string", ".name"),
    ({**MCP, "arguments": 5}, "invalid_type", ".arguments"),
    ({**MCP, "output": ["a"]}, "invalid_type", ".output"),
    ({**MCP, "error": 5}, "invalid_type", ".error"),
    ({**MCP, "approval_request_id": 5}, "invalid_type", ".approval_request_id"),
    ({**TOOLS, "tools": [LISTED, {**LISTED, "description": 5}]}, "invalid_type", ".tools[1].description"),
    ({**TOOLS, "tools": [{**LISTED, "input_schema": 5}]}, "invalid_type", ".tools[0].input_schema"),
    ({**TOOLS, "tools": [{**LISTED, "annotations": [1]}]}, "invalid_type", ".tools[0].annotations"),
    ({**SEARCH, "action": "x"}, "invalid_type", ".action"),
    ({**SEARCH, "action": {"type": "search", "query": 5}}, "invalid_type", ".action.query"),
    ({**FILES, "queries": "x"}, "invalid_type", ".queries"),
    ({**FILES, "results": ["x"]}, "invalid_type", ".results[0]"),
    ({**CODE, "code": 5}, "invalid_type", ".code"),
    ({**CODE, "container_id": 5}, "invalid_type", ".container_id"),
    ({**CODE, "outputs": "x"}, "invalid_type", ".outputs"),
    ({"type": "of_tomorrow", "call_id": {}}, "invalid_type", ".call_id"),
    ({"type": "message", "content": "hi"}, "missing_required_parameter", ".role"),
    ({"role": "tool", "content": "hi"}, "invalid_value", ".role"),
    ({"role": ["user"], "content": "hi"}, "invalid_type", ".role"),
    ({"role": "user"}, "missing_required_parameter", ".content"),
    ({"role": "user", "content": 1}, "invalid_type", ".content"),
    ({"role": "user", "content": {"type": "text"}}, "invalid_type", ".content"),
    ({"role": "user", "content": "a", "id": 7}, "invalid_type", ".id"),
    ({"role": "user", "content": "a", "status": 7}, "invalid_type", ".status"),
    (message("a"), "invalid_type", ".content[0]"),
    (message(TEXT, None), "invalid_type", ".content[1]"),
    (message({"text": "a"}), "missing_required_parameter", ".content[0].type"),
    (message({"type": ["text"]}), "invalid_type", ".content[0].type"),
    (message({"type": "input_text"}), "missing_required_parameter", ".content[0].text"),
    (message({"type": "text", "text": {"value": "a"}}), "invalid_type", ".content[0].text"),
    (message({"type": "text", "text": "x" * 10_485_761}), "string_above_max_length", ".content[0].text"),
    (message({"type": "refusal"}), "missing_required_parameter", ".content[0].refusal"),
    (message({"type": "refusal", "refusal": 1}), "invalid_type", ".content[0].refusal"),
    (message({"type": "input_image"}), "missing_required_parameter", ".content[0].image_url"),
    (message({"type": "input_image", "image_url": ""}), "empty_string", ".content[0].image_url"),
    (message({"type": "input_image", "image_url": 1}), "invalid_type", ".content[0].image_url"),
    (message({"type": "input_image", "file_id": 1}), "invalid_type", ".content[0].file_id"),
    (message({**IMAGE, "detail": 1}), "invalid_type", ".content[0].detail"),
    (message({"type": "image_url", "image_url": {}}), "missing_required_parameter", ".content[0].image_url.url"),
    (message(LONG_IMAGE), "string_above_max_length", ".content[0].image_url"),
    (message({"type": "input_file", "filename": "a"}), "missing_required_parameter", ".content[0].file_data"),
    (message({"type": "file"}), "missing_required_parameter", ".content[0].file"),
    (message({"type": "file", "file": "x"}), "invalid_type", ".content[0].file"),
    (message({**FILE, "filename": 1}), "invalid_type", ".content[0].filename"),
    (message({**FILE, "file_id": 1}), "invalid_type", ".content[0].file_id"),
    (message({**FILE, "file_url": 1}), "invalid_type", ".content[0].file_url"),
    (message({**FILE, "file_data": "x" * 33_554_433}), "string_above_max_length", ".content[0].file_data"),
    (message({"type": "input_audio"}), "missing_required_parameter", ".content[0].input_audio"),
    (message({"type": "input_audio", "input_audio": {}}), "missing_required_parameter", ".content[0].input_audio.data"),
    (message({"type": "input_video"}), "missing_required_parameter", ".content[0].video_url"),
    ({"role": "assistant", "content": [{**SAID, "annotations": {}}]}, "invalid_type", ".content[0].annotations"),
    ({**CALL, "call_id": None}, "missing_required_parameter", ".call_id"),
    ({**CALL, "call_id": ""}, "empty_string", ".call_id"),
    ({**CALL, "call_id": 1}, "invalid_type", ".call_id"),
    ({**CALL, "name": None}, "missing_required_parameter", ".name"),
    ({**CALL, "arguments": []}, "invalid_type", ".arguments"),
    ({k: v for k, v in CALL.items() if k != "arguments"}, "missing_required_parameter", ".arguments"),
    ({k: v for k, v in CUSTOM.items() if k != "input"}, "missing_required_parameter", ".input"),
    ({**CUSTOM, "input": {}}, "invalid_type", ".input"),
    ({**OUTPUT, "call_id": ""}, "empty_string", ".call_id"),
    ({"type": "function_call_output", "call_id": "c"}, "missing_required_parameter", ".output"),
    ({**OUTPUT, "output": {"a": 1}}, "invalid_type", ".output"),
    ({**OUTPUT, "output": [TEXT, {"type": "text"}]}, "missing_required_parameter", ".output[1].text"),
    ({**REASONING, "summary": "a"}, "invalid_type", ".summary"),
    ({**REASONING, "summary": ["a"]}, "invalid_type", ".summary[0]"),
    ({**REASONING, "content": [{"text": 1}]}, "invalid_type", ".content[0].text"),
    ({**REASONING, "encrypted_content": 1}, "invalid_type", ".encrypted_content"),
    ({**REASONING, "encrypted_content": "x" * 20_971_521}, "string_above_max_length", ".encrypted_content"),
    ({"type": "item_reference"}, "missing_required_parameter", ".id"),
    ({"type": "item_reference", "id": ""}, "empty_string", ".id"),
    ({"type": "reasoning", "id": None}, "missing_required_parameter", ".id"),
    ({"type": "compaction"}, "missing_required_parameter", ".encrypted_content"),
    ({"type": "additional_tools"}, "missing_required_parameter", ".tools"),
    ({"type": "additional_tools", "role": "user", "tools": []}, "invalid_value", ".role"),
    ({**SHELL, "call_id": None}, "missing_required_parameter", ".call_id"),
    ({**SHELL, "action": None}, "missing_required_parameter", ".action"),
    ({**LOCAL_SHELL, "action": "ls"}, "invalid_type", ".action"),
    ({**PATCH, "operation": None}, "missing_required_parameter", ".operation"),
    ({**SHELL_OUTPUT, "output": None}, "missing_required_parameter", ".output"),
    ({**SHELL_OUTPUT, "output": "x"}, "invalid_type", ".output"),
    ({**SHELL_OUTPUT, "output": [{}, "x"]}, "invalid_type", ".output[1]"),
    ({**LOCAL_SHELL_OUTPUT, "id": None}, "missing_required_parameter", ".call_id"),
    ({**LOCAL_SHELL_OUTPUT, "output": {}}, "invalid_type", ".output"),
    ({**PATCH_OUTPUT, "output": []}, "invalid_type", ".output"),
    ({"type": "additional_tools", "tools": [{"type": "function"}]}, "missing_required_parameter", ".tools[0].name"),
]


@pytest.mark.parametrize(("item", "code", "place"), REFUSALS, ids=lambda value: str(value)[:60])
def test_a_faulty_item_is_refused_by_its_exact_place(item, code, place):
    found, param, text = refusal(wire.input_item, item, "input[1]")
    assert (found, param) == (code, f"input[1]{place}")
    assert f"'{param}'" in text or found == "invalid_value"


def test_content_that_is_neither_form_is_told_both():
    text = refusal(wire.input_item, {"role": "user", "content": {"type": "text"}}, "input[1]")[2]
    expected = "one of a string or array of objects, but got an object instead."
    assert text == f"Invalid type for 'input[1].content': expected {expected}"


def test_a_text_of_just_the_longest_length_passes():
    text = "x" * 10_485_760
    assert part({"type": "input_text", "text": text}) == {"type": "input_text", "text": text}
    assert wire.create_response({"model": "m", "input": text})["input"][0]["content"][0]["text"] == text


def test_another_role_is_refused_with_those_that_there_are():
    text = refusal(wire.input_item, {"role": "tool", "content": "hi"}, "input[1]")[2]
    assert text == "Invalid value: 'tool'. Supported values are: 'assistant', 'system', 'developer', and 'user'."


def test_a_fault_deep_in_a_list_names_the_whole_path():
    items = [message(TEXT), message(TEXT, {"type": "input_image", "image_url": 3})]
    code, param, text = refusal(wire.create_response, {"model": "m", "input": items})
    assert (code, param) == ("invalid_type", "input[1].content[1].image_url")
    assert text == f"Invalid type for '{param}': expected a string, but got an integer instead."
