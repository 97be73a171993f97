"""Items to chat messages: roles, grouping, the order that backends demand, what is repaired and what refused (§7)."""

import json

import pytest

from proxy import wire
from proxy.errors import InvalidRequest
from proxy.translate.dialects import Dialect
from proxy.translate.input import to_messages
from proxy.translate.tools import plan

OPENAI = Dialect(openai_like=True, developer_role=True)
REASONED = {"reasoning_content", "reasoning"}
SYNTHETIC = "No output was given for this call."


def messages(*items, instructions=None, like=None, **dialect):
    """The chat messages of items as clients write them; ``like``: for this dialect, else for one of these fields."""
    checked = wire.create_response({"model": "m", "input": list(items)})["input"]
    return to_messages(instructions, checked, like or Dialect(**dialect))


def user(text="q"):
    return {"role": "user", "content": text}


def system(text, role="system"):
    return {"role": role, "content": text}


def assistant(text="a"):
    return {"role": "assistant", "content": text}


def thought(text, **rest):
    return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}], **rest}


def call(id_, name="f", arguments="{}"):
    return {"type": "function_call", "call_id": id_, "name": name, "arguments": arguments}


def output(id_, text="done"):
    return {"type": "function_call_output", "call_id": id_, "output": text}


def asked(*ids, text="", **rest):
    """The assistant message that calls ``f`` under these ids."""
    calls = [{"id": id_, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id_ in ids]
    return {"role": "assistant", "content": text, **rest, "tool_calls": calls}


def told(id_, text="done"):
    return {"role": "tool", "tool_call_id": id_, "content": text}


def refusal(*items, **rest):
    with pytest.raises(InvalidRequest) as caught:
        messages(*items, **rest)
    return caught.value.message, caught.value.param, caught.value.code


# -- §7.1, §7.2: system and developer


def test_a_text_is_a_user_message():
    assert messages(user("Hi")) == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("merge", [system("I\n\nS1\n\nD1\n\nS2\n\nD2"), user("q1"), assistant("a"), user("q2")]),
        (
            "keep",
            [system("I\n\nS1\n\nD1"), user("q1"), system("S2"), assistant("a"), system("D2"), user("q2")],
        ),
        (
            "user",
            [system("I\n\nS1\n\nD1"), user("q1"), user("S2"), assistant("a"), user("D2"), user("q2")],
        ),
    ],
)
def test_later_system_messages_go_where_the_option_says(mode, expected):
    """Row 37: many templates allow one system message, at the front only; Codex sends them in mid-history."""
    items = [system("S1"), system("D1", "developer"), user("q1"), system("S2"), assistant("a")]
    items += [system("D2", "developer"), user("q2")]
    assert messages(*items, instructions="I", system_messages=mode) == expected


def test_parts_of_a_system_message_are_joined():
    parts = [{"type": "input_text", "text": "One"}, {"type": "input_text", "text": "Two"}]
    assert messages(system(parts), user())[0] == system("One\nTwo")


def test_only_openai_is_told_of_developers():
    items = [system("D1", "developer"), user(), system("D2", "developer")]
    keep = {"system_messages": "keep"}
    assert messages(*items, **keep) == [system("D1"), user(), system("D2")]
    like = Dialect(developer_role=True, system_messages="keep")
    assert messages(*items, like=like) == [system("D1", "developer"), user(), system("D2", "developer")]
    assert messages(*items, instructions="I", like=like)[0] == system("I\n\nD1")


def test_instructions_alone_are_a_message():
    assert messages(instructions="Go") == [system("Go")]
    assert messages(user(), instructions="") == [user()]


def test_nothing_at_all_is_refused():
    """Wire §7.12."""
    for items in ([], [thought("x")], [{"type": "web_search_call", "id": "ws_1", "status": "completed"}]):
        assert refusal(*items)[1] == "input"


# -- §7.4: assistants


def test_texts_of_an_assistant_are_one_text():
    parts = [{"type": "output_text", "text": "Hi"}, {"type": "input_text", "text": " there"}]
    assert messages({"role": "assistant", "content": parts, "phase": "final_answer"}) == [assistant("Hi there")]


def test_a_refusal_is_a_field_for_openai_and_text_for_all_others():
    refused = assistant([{"type": "refusal", "refusal": "No"}])
    both = assistant([{"type": "output_text", "text": "Hm"}, {"type": "refusal", "refusal": "No"}])
    assert messages(refused, both) == [assistant("No"), assistant("Hm\nNo")]
    assert messages(refused, like=OPENAI) == [{"role": "assistant", "content": None, "refusal": "No"}]
    assert messages(both, like=OPENAI) == [{"role": "assistant", "content": "Hm", "refusal": "No"}]


def test_calls_without_text_have_null_content_for_openai_and_empty_content_for_all_others():
    items = [user(), call("a"), output("a")]
    assert messages(*items)[1]["content"] == ""
    assert messages(*items, like=OPENAI)[1]["content"] is None


def test_adjacent_messages_of_one_role_stay_apart():
    assert messages(user("1"), user("2"), assistant("3"), assistant("4")) == [
        user("1"),
        user("2"),
        assistant("3"),
        assistant("4"),
    ]


# -- §7.5: grouping and order; the matrix


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        pytest.param(
            [user(), assistant("Let me see."), call("a"), call("b"), output("a", "1"), output("b", "2"), user()],
            [user(), asked("a", "b", text="Let me see."), told("a", "1"), told("b", "2"), user()],
            id="text and parallel calls are one message",
        ),
        pytest.param(
            [user(), call("a"), call("b"), call("c"), output("c"), output("a"), output("b")],
            [user(), asked("a", "b", "c"), told("a"), told("b"), told("c")],
            id="outputs follow in the order of the calls",
        ),
        pytest.param(
            [user(), call("a"), assistant("Text"), output("a")],
            [user(), asked("a", text="Text"), told("a")],
            id="text between a call and its output joins the call",
        ),
        pytest.param(
            [user(), assistant("One"), call("a"), assistant("Two"), output("a")],
            [user(), asked("a", text="One\nTwo"), told("a")],
            id="also beside a text that came before",
        ),
        pytest.param(
            [user(), call("a"), output("a"), call("b"), output("b"), assistant("End")],
            [user(), asked("a"), told("a"), asked("b"), told("b"), assistant("End")],
            id="calls after outputs are another message",
        ),
        pytest.param(
            [user("1"), call("a"), user("2"), output("a")],
            [user("1"), user("2"), asked("a"), told("a")],
            id="semantic-kernel: a call moves down to its late output",
        ),
        pytest.param(
            [user("1"), call("a"), call("b"), output("a"), user("2"), output("b")],
            [user("1"), asked("a"), told("a"), user("2"), asked("b"), told("b")],
            id="only the late one of two calls moves",
        ),
        pytest.param(
            [user("1"), assistant("Let me see."), call("a"), user("2"), output("a")],
            [user("1"), assistant("Let me see."), user("2"), asked("a"), told("a")],
            id="the text stays where it was said",
        ),
        pytest.param(
            [user("1"), call("a"), call("b"), user("2"), output("b"), output("a")],
            [user("1"), user("2"), asked("a", "b"), told("a"), told("b")],
            id="two late calls stay together",
        ),
        pytest.param(
            [user("1"), call("a"), call("b"), user("2"), output("b"), user("3"), output("a")],
            [user("1"), user("2"), asked("b"), told("b"), user("3"), asked("a"), told("a")],
            id="each late call moves to its own output",
        ),
        pytest.param(
            [user("1"), call("a"), user("2"), call("b"), output("b"), output("a")],
            [user("1"), user("2"), asked("b"), told("b"), asked("a"), told("a")],
            id="a late call moves behind calls that are in place",
        ),
        pytest.param(
            [user("1"), call("a"), assistant("Later"), user("2"), output("a"), assistant("End")],
            [user("1"), assistant("Later"), user("2"), asked("a"), told("a"), assistant("End")],
            id="a late call between texts",
        ),
        pytest.param(
            [user(), call("a"), output("a", "1"), output("a", "2")],
            [user(), asked("a"), told("a", "2")],
            id="of two outputs the last one counts",
        ),
        pytest.param(
            [user(), call("a"), output("a", "1"), user("2"), output("a", "2")],
            [user(), asked("a"), told("a", "2"), user("2")],
            id="also when it is late",
        ),
        pytest.param(
            [user("1"), call("a"), output("a", "1"), user("2"), call("a"), output("a", "2")],
            [user("1"), asked("a"), told("a", "1"), user("2"), asked("a"), told("a", "2")],
            id="an id used again is another call",
        ),
        pytest.param(
            [user("1"), call("a"), call("a"), output("a", "2"), output("a", "1")],
            [user("1"), asked("a", "a"), told("a", "1"), told("a", "2")],
            id="an output answers the nearest open call",
        ),
        pytest.param(
            [user("1"), call("a"), user("2"), call("b"), output("b"), user("3")],
            [user("1"), asked("a"), told("a", SYNTHETIC), user("2"), asked("b"), told("b"), user("3")],
            id="an unanswered call of an older turn gets a word",
        ),
        pytest.param(
            [user("1"), call("a"), call("b"), output("a"), user("2"), assistant("End"), user("3")],
            [user("1"), asked("a", "b"), told("a"), told("b", SYNTHETIC), user("2"), assistant("End"), user("3")],
            id="also beside one that was answered",
        ),
        pytest.param(
            [call("a"), output("a")],
            [asked("a"), told("a")],
            id="nothing but a call and its output",
        ),
        pytest.param(
            [user(), call("a"), {"type": "strange", "id": "x"}, output("a")],
            [user(), asked("a"), told("a")],
            id="unknown items do not come between",
        ),
        pytest.param(
            [user(), call("a"), system("S", "developer"), output("a")],
            [system("S"), user(), asked("a"), told("a")],
            id="nor do merged system messages",
        ),
    ],
)
def test_every_call_stands_directly_before_its_output(items, expected):
    assert messages(*items) == expected


def test_a_system_message_kept_in_place_makes_an_output_late():
    items = [user(), call("a"), system("S"), output("a")]
    assert messages(*items, system_messages="keep") == [user(), system("S"), asked("a"), told("a")]


@pytest.mark.parametrize(
    "items", [[user(), call("a")], [user(), call("a"), user()], [call("b"), output("b"), call("a"), assistant()]]
)
def test_an_unanswered_call_of_the_newest_turn_is_refused_or_repaired(items):
    assert refusal(*items) == ("No tool output found for function call a.", "input", None)
    assert told("a", "") in messages(*items, repair_tool_history=True)


@pytest.mark.parametrize("items", [[output("a")], [output("a"), call("a")], [call("b"), output("b"), output("a")]])
def test_an_output_without_its_call_is_refused(items):
    expected = ("No tool call found for function call output with call_id a.", "input", None)
    assert refusal(user(), *items) == expected
    assert refusal(user(), *items, repair_tool_history=True) == expected


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [('{"a": 1}', '{"a": 1}'), ("", "{}"), ('{"a":', "{}"), ("[]", "{}"), ("null", "{}"), ('"x"', "{}")],
)
def test_arguments_that_are_no_object_are_sent_as_an_empty_one(arguments, sent):
    """llama.cpp answers 500 to every later turn of a talk that holds a broken one."""
    (_, message, _) = messages(user(), call("a", arguments=arguments), output("a"))
    assert message["tool_calls"][0]["function"]["arguments"] == sent


def test_custom_calls_are_given_back_as_they_were_made_upstream():
    """Wire §7.7: as themselves where there are custom tools, else as calls of the function that stands for them."""
    custom = {"type": "custom_tool_call", "call_id": "a", "name": "sql", "input": 'select "1"'}
    answer = {"type": "custom_tool_call_output", "call_id": "a", "output": "1"}
    function = {"name": "sql", "arguments": '{"input":"select \\"1\\""}'}
    asked_ = {"role": "assistant", "content": "", "tool_calls": [{"id": "a", "type": "function", "function": function}]}
    assert messages(user(), custom, answer) == [user(), asked_, told("a", "1")]
    native = {"id": "a", "type": "custom", "custom": {"name": "sql", "input": 'select "1"'}}
    sent = [user(), {**asked_, "tool_calls": [native]}, told("a", "1")]
    assert messages(user(), custom, answer, custom_tools=True) == sent
    spaced = {**custom, "namespace": "db", "x_upstream": {"extra_content": 1}}
    (message, _) = to_messages(None, [spaced, answer], Dialect(custom_tools=True))
    (call_,) = message["tool_calls"]
    assert call_ == {**native, "extra_content": 1, "custom": {"name": "db__sql", "input": 'select "1"'}}


@pytest.mark.parametrize(("space", "name"), [("mcp__wx", "get"), ("n" * 60, "long"), ("with.dots", "f")])
def test_a_call_in_a_namespace_is_given_back_under_the_name_its_tool_was_sent_with(space, name):
    tools = [{"type": "namespace", "name": space, "tools": [{"type": "function", "name": name}]}]
    request = wire.create_response({"model": "m", "input": "x", "tools": tools})
    (declared,) = plan(request, request["input"], Dialect()).tools
    (_, message, _) = messages(user(), {**call("a", name), "namespace": space}, output("a"))
    assert message["tool_calls"][0]["function"]["name"] == declared["function"]["name"]


def test_a_namespace_that_is_none_is_left_out():
    for odd in (5, [], {}):
        assert messages(user(), {**call("a"), "namespace": odd}, output("a"))[1] == asked("a")


def test_declarations_of_tools_are_no_message():
    declaration = {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "f"}]}
    assert messages(declaration, user(), call("a"), declaration, output("a")) == [user(), asked("a"), told("a")]


EXIT = {"type": "exit", "exit_code": 0}
CLIENT_RAN = [
    (
        {"type": "local_shell_call", "action": {"type": "exec", "command": ["ls"], "env": {}, "user": None}},
        {"output": '{"stdout":"a"}'},
        ("local_shell", {"command": ["ls"]}, '{"stdout":"a"}'),
    ),
    (
        {
            "type": "local_shell_call",
            "action": {"type": "exec", "command": ["ls"], "env": {"A": "b"}, "timeout_ms": 5, "more": 1},
        },
        {"output": None},
        ("local_shell", {"command": ["ls"], "env": {"A": "b"}, "timeout_ms": 5}, ""),
    ),
    (
        {"type": "shell_call", "action": {"commands": ["ls", "x"], "timeout_ms": None, "max_output_length": 9}},
        {
            "output": [
                {"stdout": "a\n", "stderr": "", "outcome": EXIT},
                {"stdout": "", "stderr": "no x\n", "outcome": {"type": "exit", "exit_code": 127}},
                {"stdout": "b", "stderr": "c", "outcome": {"type": "timeout"}},
            ]
        },
        (
            "shell",
            {"commands": ["ls", "x"], "max_output_length": 9},
            "a\n[exit code 0]\n[stderr]\nno x\n[exit code 127]\nb\n[stderr]\nc\n[timed out]",
        ),
    ),
    (
        {"type": "apply_patch_call", "operation": {"type": "update_file", "path": "a", "diff": "@@"}},
        {"status": "completed"},
        ("apply_patch", {"type": "update_file", "path": "a", "diff": "@@"}, "completed"),
    ),
    (
        {"type": "apply_patch_call", "operation": {"type": "delete_file", "path": "a"}},
        {"status": "failed", "output": "no such file"},
        ("apply_patch", {"type": "delete_file", "path": "a"}, "failed: no such file"),
    ),
    (
        {"type": "apply_patch_call", "operation": {"type": "delete_file", "path": "a"}},
        {"status": "failed"},
        ("apply_patch", {"type": "delete_file", "path": "a"}, "failed"),
    ),
    (
        {"type": "apply_patch_call", "operation": {"type": "delete_file", "path": "a"}},
        {"status": "completed", "output": "Deleted a"},
        ("apply_patch", {"type": "delete_file", "path": "a"}, "Deleted a"),
    ),
    ({"type": "shell_call", "action": {}}, {"output": []}, ("shell", {}, "")),
    (
        {"type": "shell_call", "action": {"commands": [5]}},
        {"output": [{"outcome": 1}]},
        ("shell", {}, "[exit code None]"),
    ),
]


@pytest.mark.parametrize(("made", "answer", "expected"), CLIENT_RAN)
def test_what_a_client_ran_is_given_back_as_a_call_of_its_function(made, answer, expected):
    answer = {"type": f"{made['type']}_output", "call_id": "a", **answer}
    _, message, tool = messages(user(), {**made, "call_id": "a"}, answer)
    name, arguments, text = expected
    (sent,) = message["tool_calls"]
    assert (sent["function"]["name"], json.loads(sent["function"]["arguments"])) == (name, arguments)
    assert tool == told("a", text)


def test_the_output_of_a_local_shell_may_carry_its_calls_id_as_its_own():
    """The published form has no other."""
    made = {"type": "local_shell_call", "call_id": "a", "action": {"type": "exec", "command": ["ls"], "env": {}}}
    answer = {"type": "local_shell_call_output", "id": "a", "output": "x"}
    assert messages(user(), made, answer)[-1] == told("a", "x")
    assert to_messages(None, [wire.input_item(made, "input[0]"), answer], Dialect())[-1] == told("a", "x")
    assert refusal(user(), {**answer, "id": "b"})[1] == "input"


def test_hosted_tools_of_another_servers_history_are_told_as_far_as_chat_can():
    """Wire §7.10."""
    mcp = {"type": "mcp_call", "id": "mcp_1", "server_label": "docs", "name": "find", "arguments": "{}", "output": "x"}
    others = ["web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "computer_call"]
    dropped = [{"type": type_, "id": f"x_{n}", "status": "completed"} for n, type_ in enumerate(others)]
    dropped += [{"type": "computer_call_output", "call_id": "c", "output": {}}]
    dropped += [{"type": type_, "call_id": "c"} for type_ in ("tool_search_call", "tool_search_output")]
    dropped += [{"type": "mcp_list_tools", "server_label": "docs", "tools": []}]
    dropped += [{"type": "mcp_approval_request", "server_label": "docs", "name": "find", "arguments": "{}"}]
    dropped += [{"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}]
    dropped += [{"type": "program", "call_id": "c"}, {"type": "program_output", "call_id": "c"}]
    _, asked_, answer = messages(user(), *dropped, mcp)
    assert asked_["tool_calls"][0]["function"] == {"name": "docs__find", "arguments": "{}"}
    assert (asked_["tool_calls"][0]["id"], answer) == ("mcp_1", told("mcp_1", "x"))


@pytest.mark.parametrize("key", ["name", "arguments", "output", "server_label"])
@pytest.mark.parametrize("odd", [None, 5, [], {}, [5], "x"])
def test_a_foreign_call_may_hold_anything(key, odd):
    """Such were stored before they were checked."""
    mcp = {
        "type": "mcp_call",
        "id": "mcp_1",
        "server_label": "s",
        "name": "n",
        "arguments": "{}",
        "output": "x",
        key: odd,
    }
    written = to_messages(None, [*wire.create_response({"model": "m", "input": "q"})["input"], mcp], Dialect())
    assert [message["role"] for message in written] == ["user", "assistant", "tool"]


def test_extras_of_a_call_go_back_and_strange_ones_do_no_harm():
    """Gemini refuses a call without its ``thought_signature`` (row 42)."""
    extras = {"extra_content": {"google": {"thought_signature": "s"}}, "id": "never this"}
    asked_, _ = to_messages(None, [{**call("a"), "x_upstream": extras}, output("a")], Dialect())
    (sent,) = asked_["tool_calls"]
    assert (sent["extra_content"], sent["id"]) == (extras["extra_content"], "a")
    for odd in ("x", 5, ["x"]):
        assert to_messages(None, [{**call("a"), "x_upstream": odd}, output("a")], Dialect())[0] == asked("a")


def test_a_compaction_of_another_maker_is_refused():
    _, param, code = refusal(user(), {"type": "compaction", "encrypted_content": "x"})
    assert (param, code) == ("input", "invalid_encrypted_content")


# -- §7.6: reasoning


HISTORY = [
    user("1"),
    thought("old"),
    call("a"),
    output("a"),
    thought("said"),
    assistant("A"),
    user("2"),
    thought("new"),
    assistant("Hm."),
    call("b"),
    output("b"),
    thought("newer"),
    call("c"),
    output("c"),
]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("always", ["old", "said", "new", "newer"]),
        ("tool_turns", ["new", "newer"]),
        ("never", []),
    ],
)
def test_reasoning_goes_back_as_the_policy_says(policy, expected):
    """Row 38: DeepSeek demands it between calls, old servers forbid it anywhere else."""
    sent = messages(*HISTORY, reasoning_replay=policy)
    assert [message["reasoning_content"] for message in sent if "reasoning_content" in message] == expected
    assert all(message["reasoning"] == message["reasoning_content"] for message in sent if "reasoning" in message)


@pytest.mark.parametrize("fields", [("reasoning_content",), ("reasoning",), ("reasoning_content", "reasoning")])
def test_reasoning_goes_back_in_the_fields_of_the_dialect(fields):
    _, message, _ = messages(user(), thought("t"), call("a"), output("a"), reasoning_fields=fields)
    assert {key: message[key] for key in REASONED & message.keys()} == dict.fromkeys(fields, "t")


def test_reasoning_is_its_text_or_else_its_summary():
    summary = {"summary": [{"type": "summary_text", "text": "One"}, {"type": "summary_text", "text": "Two"}]}
    two = [{"type": "reasoning_text", "text": "A"}, {"type": "reasoning_text", "text": "B"}]
    for item, expected in (
        ({"type": "reasoning", **summary}, "One\nTwo"),
        ({"type": "reasoning", **summary, "content": two}, "AB"),
        ({"type": "reasoning", **summary, "encrypted_content": "foreign"}, "One\nTwo"),
    ):
        assert messages(user(), item, call("a"), output("a"))[1]["reasoning_content"] == expected
    sealed = {"type": "reasoning", "summary": [], "encrypted_content": "foreign"}
    assert messages(user(), sealed, call("a"), output("a"))[1] == asked("a")


def test_thoughts_before_one_message_are_joined():
    assert messages(user(), thought("A"), thought("B"), call("a"), output("a"))[1]["reasoning_content"] == "A\nB"


def test_a_thought_that_led_to_nothing_is_dropped():
    assert messages(user(), thought("x")) == [user()]
    assert messages(user("1"), thought("x"), user("2"), reasoning_replay="always") == [user("1"), user("2")]


def test_a_thought_moves_with_its_call_if_nothing_else_was_said():
    items = [user("1"), thought("t"), call("a"), user("2"), output("a")]
    sent = messages(*items, reasoning_replay="always", reasoning_fields=("reasoning",))
    assert sent == [user("1"), user("2"), asked("a", reasoning="t"), told("a")]
    items.insert(2, assistant("Hm"))
    sent = messages(*items, reasoning_replay="always", reasoning_fields=("reasoning",))
    assert sent == [user("1"), {**assistant("Hm"), "reasoning": "t"}, user("2"), asked("a"), told("a")]


# -- §12.2: ids


def test_mistral_gets_ids_of_nine_characters_that_are_always_the_same():
    items = [user(), call("call_1"), call("abcDEF123"), output("call_1"), output("abcDEF123")]
    sent = messages(*items, tool_call_ids="mistral9")
    first, second = (entry["id"] for entry in sent[1]["tool_calls"])
    assert (len(first), first.isalnum(), second) == (9, True, "abcDEF123")
    assert [message["tool_call_id"] for message in sent[2:]] == [first, second]
    assert messages(*items, tool_call_ids="mistral9") == sent
    assert messages(*items)[1]["tool_calls"][0]["id"] == "call_1"


def test_the_items_given_are_not_changed():
    items = wire.create_response({"model": "m", "input": HISTORY})["input"]
    before = repr(items)
    to_messages("I", items, Dialect(reasoning_replay="always"))
    assert repr(items) == before


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([user(), call("a"), call("b"), output("b"), output("a")], []),
        ([user(), call("a"), user(), output("a")], ["a"]),
        ([user(), call("a"), call("b"), output("b"), user(), output("a")], ["a"]),
        ([user(), call("a"), user(), call("b"), output("b")], ["a"]),
        ([user(), call("a"), call("b"), user(), output("b"), assistant(), user()], ["a", "b"]),
    ],
    ids=["in order", "late", "one of two late", "never answered", "one of each"],
)
def test_the_calls_that_were_moved_or_given_an_output_are_told(items, expected):
    repaired = []
    checked = wire.create_response({"model": "m", "input": items})["input"]
    to_messages(None, checked, Dialect(), repaired)
    assert repaired == expected
