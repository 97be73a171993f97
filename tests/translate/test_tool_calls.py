"""Calls of every kind of tool, back as the items they are of: custom, namespaces, shells, patches (wire §7.7, §9.6)."""

import json

import pytest

from proxy import wire
from proxy.translate.dialects import Dialect
from proxy.translate.tools import plan
from tests.translate import rules
from tests.translate.replies import (
    called,
    calls,
    chunk,
    entry,
    events_of,
    open_stream,
    output_of,
    plain,
    read,
    said,
    texts,
    used,
)
from tests.translate.test_text import READS

STOP, CALLED, CUT = chunk(finish="stop"), chunk(finish="tool_calls"), chunk(finish="length")
SQL = {"type": "custom", "name": "sql"}
FUNCTION = {"type": "function", "name": "f"}
SPACE = {"type": "namespace", "name": "mcp__wx", "description": "Weather", "tools": [FUNCTION, SQL]}
G, H = {"type": "function", "name": "g"}, {"type": "function", "name": "h"}
SPACES = {"a": [FUNCTION, G, H], "b": [FUNCTION, H]}
TOOLS = [SQL, FUNCTION, SPACE, {"type": "local_shell"}, {"type": "shell"}, {"type": "apply_patch"}]


def planned(**dialect):
    request = wire.create_response({"model": "m", "input": "x", "tools": TOOLS})
    return plan(request, request["input"], Dialect(**dialect))


def answered(*chunks, **options):
    """What comes of a reply when all of these tools were sent; the events echo them."""
    return read([*chunks], {"tools": TOOLS}, tools=planned(), **options)


def asked(name, *arguments, id="call_a", at=0):
    """The chunks of one call."""
    first, *rest = arguments or ("",)
    return [calls(entry(at, id, name, first)), *(calls(entry(at, arguments=text)) for text in rest)]


def native(at, id=None, name=None, text=None):
    """An entry of a call that the upstream made as one of a custom tool."""
    custom = {key: value for key, value in (("name", name), ("input", text)) if value is not None}
    return {"index": at, **({"id": id, "type": "custom"} if id else {}), "custom": custom}


# -- custom tools that functions stand for


@pytest.mark.parametrize(("arguments", "text"), READS)
def test_the_input_of_a_custom_tool_is_the_same_however_its_arguments_are_cut(arguments, text):
    whole = answered(plain({"tool_calls": [entry(0, "call_a", "sql", arguments)]}, "tool_calls"))
    assert output_of(whole.response) == [used("sql", text)]
    assert answered(*asked("sql", *arguments), CALLED).response == whole.response


def test_the_input_is_told_while_it_is_written():
    pieces = ['{"inp', 'ut": "sel', "ect\\", 'n\\"1', '\\" \\ud8', '3d\\ude00"', "}"]
    told = answered(*asked("sql", *pieces), CALLED)
    assert told.brief == events_of([used("sql", "sel", "ect", '\n"1', '" ', "😀")])


def test_text_that_is_no_such_object_is_told_at_its_end():
    assert answered(*asked("sql", "sel", "ect"), CALLED).brief == events_of([used("sql", "select")])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [('{"input":"ab', "ab"), (r'{"input":"ab\u00', "ab"), ('{"input":"ab"', "ab"), ('{"inp', '{"inp'), ("", "")],
)
def test_input_that_was_cut_off_is_kept_as_far_as_it_came(arguments, text):
    for end in (CUT, {"error": "dead"}):
        (told,) = output_of(answered(*asked("sql", arguments), end).response)
        assert told == used("sql", text).incomplete


# -- custom tools upstream


def test_a_native_custom_call_is_told_as_it_comes():
    chunks = [
        calls(native(0, "call_a", "sql", "")),
        *(calls(native(0, text=text)) for text in ('{"input":', "sel", "sel", "\ud83d", "\ude00}")),
    ]
    for options in ({"tools": planned()}, {"tools": planned(custom_tools=True)}):
        result = read([*chunks, CALLED], **options)
        assert result.brief == events_of([used("sql", '{"input":', "sel", "sel", "😀}")])


def test_native_custom_calls_stay_open_beside_others():
    """Nothing tells when such an input is whole."""
    chunks = [
        calls(native(0, "call_a", "sql", "{}"), entry(1, "call_b", "f", "{}")),
        calls(native(0, text="b")),
        calls(native(2, "call_c", "mcp__wx__sql", "c")),
    ]
    story = [used("sql", "{}b"), called("f", "{}", id="call_b"), used("sql", "c", id="call_c", namespace="mcp__wx")]
    assert output_of(answered(*chunks, CALLED).response) == story
    assert output_of(answered(*chunks, CUT).response) == [*story[:2], story[2].incomplete]


def test_a_plain_reply_with_a_native_custom_call_is_read_alike():
    message = {"tool_calls": [{"id": "call_a", "type": "custom", "custom": {"name": "sql", "input": "select 1;"}}]}
    assert answered(plain(message, "tool_calls")).brief == events_of([used("sql", "select 1;")])


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (native(0, "call_b", "other", "b"), [used("sql", "a"), used("other", "b", id="call_b")]),
        (native(0, "call_a", None, "b"), [used("sql", "ab")]),
        (native(0, "call_a", "sql", "a"), [used("sql", "aa")]),
        ({"custom": {"input": "b"}}, [used("sql", "ab")]),
        (native(1, "call_a", "sql", "a"), [used("sql", "a"), used("sql", "a", id="call_minted1")]),
    ],
)
def test_native_custom_calls_are_told_apart_without_reading_their_input(second, expected):
    assert output_of(answered(calls(native(0, "call_a", "sql", "a")), calls(second), CALLED).response) == expected


@pytest.mark.parametrize("second", [native(0, None, None, "{}"), native(0, None, "sql", "{}"), native(0, text="{}")])
def test_native_input_that_looks_like_arguments_is_text_all_the_same(second):
    chunks = [calls(native(0, "call_a", "sql", "{}")), calls(second), CALLED]
    assert output_of(answered(*chunks).response) == [used("sql", "{}{}")]


# -- namespaces


def test_a_call_in_a_namespace_carries_both_names_from_the_first_event_on():
    result = answered(
        *asked("mcp__wx__f", "{", "}"), *asked("mcp__wx__sql", '{"input":"a"}', id="call_b", at=1), CALLED
    )
    first, second = result.response["output"]
    assert (first["type"], first["name"], first["namespace"]) == ("function_call", "f", "mcp__wx")
    assert (second["type"], second["name"], second["namespace"]) == ("custom_tool_call", "sql", "mcp__wx")
    added = [event["item"] for event in result.events if event["type"] == "response.output_item.added"]
    assert [(item["name"], item["namespace"]) for item in added] == [("f", "mcp__wx"), ("sql", "mcp__wx")]
    done = [event for event in result.events if event["type"] == "response.function_call_arguments.done"]
    assert [event["name"] for event in done] == ["f"]


def test_a_tool_outside_of_namespaces_has_none():
    (item,) = answered(*asked("f", "{}"), CALLED).response["output"]
    assert "namespace" not in item


def test_a_name_that_was_not_declared_is_passed_on_as_a_function():
    assert output_of(answered(*asked("mcp__wx__other", "{}"), CALLED).response) == [called("mcp__wx__other", "{}")]


@pytest.mark.parametrize(("name", "space"), [("g", "a"), ("a.g", "a"), ("b.f", "b"), ("f", None), ("h", None)])
def test_a_tool_called_by_its_own_name_is_told_in_its_namespace_where_that_is_clear(name, space):
    """As small models do; ``f`` is a function of its own, and ``h`` might be either."""
    tools = [FUNCTION, *({"type": "namespace", "name": n, "tools": many} for n, many in SPACES.items())]
    request = wire.create_response({"model": "m", "input": "x", "tools": tools})
    result = read([*asked(name, "{}"), CALLED], tools=plan(request, request["input"], Dialect()))
    (item,) = result.response["output"]
    assert (item["name"], item.get("namespace")) == (name.split(".")[-1], space)


def test_such_a_name_of_an_allowed_tool_is_allowed():
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "namespace", "name": "a"}]}
    tools = [{"type": "namespace", "name": n, "tools": many} for n, many in SPACES.items()]
    request = wire.create_response({"model": "m", "input": "x", "tools": tools, "tool_choice": choice})
    chunks = [*asked("g", "{}"), *asked("b.h", "{}", id="call_b", at=1), CALLED]
    (item,) = read(chunks, tools=plan(request, request["input"], Dialect())).response["output"]
    assert (item["name"], item["namespace"]) == ("g", "a")


def test_allowed_tools_are_told_by_what_was_sent():
    request = {"model": "m", "input": "x", "tools": TOOLS}
    request["tool_choice"] = {"type": "allowed_tools", "mode": "auto", "tools": [{**SQL, "namespace": "mcp__wx"}]}
    checked = wire.create_response(request)
    few = plan(checked, checked["input"], Dialect())
    chunks = [*asked("mcp__wx__sql", '{"input":"a"}'), *asked("sql", '{"input":"b"}', id="call_b", at=1), CALLED]
    assert output_of(read(chunks, tools=few).response) == [used("sql", "a", namespace="mcp__wx")]


def test_a_plan_may_change_until_the_first_chunk():
    """A remedy may send the tools in another form than was planned."""
    stream = open_stream()
    events = stream.start()
    stream.tools = planned()
    for one in (*asked("sql", '{"input":"a"}'), CALLED):
        events += stream.feed(one)
    events += [*stream.finish(1, done=True), stream.end()]
    rules.check(events)
    assert output_of(events[-1]["response"]) == [used("sql", "a")]


# -- what clients run


NOTHING = {
    "local_shell": {"type": "exec", "command": [], "env": {}},
    "shell": {"commands": [], "timeout_ms": None, "max_output_length": None},
    "apply_patch": {"type": "update_file", "path": "", "diff": ""},
}
KEY = {"local_shell": "action", "shell": "action", "apply_patch": "operation"}
RUNS = [
    ("local_shell", {"command": ["ls", "-l"]}, {"type": "exec", "env": {}, "command": ["ls", "-l"]}),
    (
        "local_shell",
        {"command": ["x"], "env": {"A": "b"}, "timeout_ms": 5, "user": "u", "working_directory": "/"},
        {
            "type": "exec",
            "env": {"A": "b"},
            "command": ["x"],
            "timeout_ms": 5,
            "user": "u",
            "working_directory": "/",
        },
    ),
    ("local_shell", {"command": ["x"], "env": None, "user": None}, {"type": "exec", "env": {}, "command": ["x"]}),
    ("shell", {"commands": ["ls", "pwd"]}, {**NOTHING["shell"], "commands": ["ls", "pwd"]}),
    (
        "shell",
        {"max_output_length": 9, "timeout_ms": 0, "commands": ["ls"]},
        {"commands": ["ls"], "timeout_ms": 0, "max_output_length": 9},
    ),
    ("apply_patch", {"type": "create_file", "path": "a", "diff": ""}, {"type": "create_file", "path": "a", "diff": ""}),
    (
        "apply_patch",
        {"path": "a", "type": "update_file", "diff": "@@\n-a\n+b"},
        {"type": "update_file", "path": "a", "diff": "@@\n-a\n+b"},
    ),
    ("apply_patch", {"type": "delete_file", "path": "a", "diff": ""}, {"type": "delete_file", "path": "a"}),
    ("apply_patch", {"type": "delete_file", "path": "a", "diff": "-a"}, {"type": "delete_file", "path": "a"}),
    ("apply_patch", {"type": "create_file", "path": "a"}, {"type": "create_file", "path": "a", "diff": ""}),
    ("shell", {"commands": "ls -l"}, {**NOTHING["shell"], "commands": ["ls -l"]}),
    ("shell", {"commands": ["ls"], "timeout_ms": 1000.0}, {**NOTHING["shell"], "commands": ["ls"], "timeout_ms": 1000}),
]


@pytest.mark.parametrize(("tool", "arguments", "does"), RUNS)
def test_a_call_that_the_client_runs_is_told_whole_or_not_at_all(tool, arguments, does):
    text = json.dumps(arguments, ensure_ascii=False)
    result = answered(*asked(tool, *text), CALLED)
    item, key = f"{tool}_call", KEY[tool]
    assert result.brief[2:-1] == [f"0 output_item.added {item}", f"0 output_item.done {item}"]
    (told,) = result.response["output"]
    assert result.events[2]["item"] == {**told, "status": "in_progress", key: NOTHING[tool]}
    shell = {"environment": {"type": "local"}} if tool == "shell" else {}
    assert told == {
        "id": f"{item}_1",
        "type": item,
        "status": "completed",
        "call_id": "call_a",
        key: does,
        **shell,
    }
    whole = answered(plain({"tool_calls": [entry(0, "call_a", tool, text)]}, "tool_calls"))
    assert whole.events == result.events


NO_CALLS = [
    *[(tool, text) for tool in NOTHING for text in ("", "{}", "ls", "[]", '"ls"', "null", "{")],
    *[("shell", {"commands": odd}) for odd in ("", " ", [], [1], None, {"a": "ls"}, [["ls"]], 1.0)],
    ("shell", {"commands": ["ls"], "workdir": "/tmp"}),
    ("shell", {"commands": ["ls"], "timeout_ms": "1"}),
    ("shell", {"commands": ["ls"], "timeout_ms": True}),
    ("shell", {"commands": ["ls"], "timeout_ms": -1}),
    ("shell", {"commands": ["ls"], "timeout_ms": -1.0}),
    ("shell", {"commands": ["ls"], "timeout_ms": 1.5}),
    ("shell", '{"commands": ["ls"], "timeout_ms": 1e400}'),
    ("local_shell", {"command": "rm -rf build"}),
    ("local_shell", {"command": ["ls"], "env": {"A": 1}}),
    ("local_shell", {"command": ["ls"], "env": []}),
    ("local_shell", {"command": ["ls"], "cwd": "/tmp"}),
    ("local_shell", {"commands": ["ls"]}),
    ("apply_patch", {"type": "delete_file", "path": ""}),
    ("apply_patch", {"type": "delete_file", "path": " "}),
    ("apply_patch", {"type": "delete_file", "path": "a", "diff": 1}),
    ("apply_patch", {"type": "update_file", "path": "a"}),
    ("apply_patch", {"type": "move_file", "path": "a", "diff": ""}),
    ("apply_patch", {"type": ["delete_file"], "path": "a"}),
    ("apply_patch", {"operation": {"type": "delete_file", "path": "a"}}),
]


@pytest.mark.parametrize(("tool", "arguments"), NO_CALLS)
def test_arguments_that_are_no_valid_call_become_one_that_does_nothing(tool, arguments):
    """Half of a command is another command, and a key that is not understood may be what made it harmless."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    (told,) = answered(*asked(tool, text), CALLED).response["output"]
    assert (told[KEY[tool]], told["status"]) == (NOTHING[tool], "completed")


@pytest.mark.parametrize(("tool", "arguments", "does"), RUNS)
def test_a_call_cut_off_anywhere_does_nothing(tool, arguments, does):
    text = json.dumps(arguments)
    unfinished = "in_progress" if tool == "apply_patch" else "incomplete"
    for end in (CUT, {"error": "dead"}):
        for cut in (1, len(text) // 2, len(text) - 1):
            (told,) = answered(*asked(tool, text[:cut]), end).response["output"]
            assert (told[KEY[tool]], told["status"]) == (NOTHING[tool], unfinished)
    (told,) = answered(*asked(tool, text), CUT).response["output"]
    assert (told[KEY[tool]], told["status"]) == (does, unfinished)
    first, last = answered(*asked(tool, text[:-1]), *asked("f", "{}", id="call_b", at=1), CUT).response["output"]
    assert (first[KEY[tool]], first["status"], last["status"]) == (NOTHING[tool], unfinished, "incomplete")


def test_calls_of_all_kinds_stand_beside_each_other():
    kinds = [("f", "{}"), ("sql", '{"input":"a"}'), *((tool, json.dumps(args)) for tool, args, _ in RUNS)]
    entries = [entry(at, f"call_{at}", name, text) for at, (name, text) in enumerate(kinds)]
    streamed = answered(*texts("Hi"), *(calls(one) for one in entries), CALLED)
    assert streamed.response == answered(plain({"content": "Hi", "tool_calls": entries}, "tool_calls")).response
    types = [item["type"] for item in streamed.response["output"]]
    assert types[1:3] == ["function_call", "custom_tool_call"]
    assert types[3:] == [f"{tool}_call" for tool, _, _ in RUNS]
    assert output_of({"output": streamed.response["output"][:1]}) == [said("Hi")]


@pytest.mark.parametrize("name", ["f", "sql", "mcp__wx__sql", "shell", "apply_patch", "local_shell"])
def test_extras_of_every_kind_of_call_are_kept_and_never_shown(name):
    one = entry(0, "call_a", name, "{}") | {"extra_content": {"google": {"thought_signature": "s"}}}
    result = answered(calls(one), CALLED)
    assert "x_upstream" not in str(result.events)
    (stored,) = result.stream.stored_output()
    assert stored["x_upstream"] == {"extra_content": {"google": {"thought_signature": "s"}}}
