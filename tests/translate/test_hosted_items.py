"""What the model reads of tools that ran here, in this turn and in later ones (wire §7.10)."""

import pytest

from proxy.translate.dialects import Dialect
from proxy.translate.hosting import Outcome
from proxy.translate.input import to_messages
from proxy.translate.truncation import shortened
from tests.translate.replies import calls, texts
from tests.translate.test_hosted_calls import CALLED, ERROR, FILES, LOGS, PAGES, STOP, asked, searched, turn

USER = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "u"}]}
REQUEST = {
    "type": "mcp_approval_request",
    "id": "mcpr_1",
    "server_label": "docs",
    "name": "search",
    "arguments": '{"q":1}',
}
MADE = REQUEST | {"type": "mcp_call", "id": "mcp_1", "approval_request_id": "mcpr_1", "output": "found"}


def answer(approve, **rest):
    return {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": approve, **rest}


def messages(*items):
    return to_messages(None, [USER, *items], Dialect())[1:]


def brief(sent):
    """Messages in a few words: what was called, what was given back, what was said."""
    return [
        " + ".join(f"{call['function']['name']} {call['function']['arguments']}" for call in message["tool_calls"])
        if message.get("tool_calls")
        else message["content"]
        for message in sent
    ]


@pytest.mark.parametrize(
    ("name", "arguments", "outcome", "read"),
    [
        ("docs__search", '{"q":1}', Outcome("found"), "found"),
        ("docs__search", '{"q":1}', Outcome(error=ERROR), "no such page"),
        ("docs__search", '{"q":1}', Outcome(error={"type": "http_error", "code": 504, "message": "late"}), "late"),
        ("web_search", '{"query":"news"}', Outcome(found=PAGES[:1]), "[1] A\nhttps://a.example/\na"),
        ("web_search", '{"query":"news"}', Outcome("No results."), "No results."),
        ("web_search", '{"query":"news"}', Outcome(error=ERROR), "no such page"),
        ("file_search", '{"queries":["a","b"]}', Outcome(found=FILES), "[1] a.md\na"),
        ("code_interpreter", '{"code":"print(2+2)"}', LOGS, "4"),
    ],
)
def test_a_call_and_its_outcome_are_read_by_the_model(name, arguments, outcome, read):
    stream, _ = turn([calls(asked(name, arguments)), CALLED], outcomes={name.removeprefix("docs__"): outcome})
    items = stream.stored_output()
    assert brief(messages(*items)) == [f"{name} {arguments}", read]
    assert messages(*items)[0]["tool_calls"][0]["id"] == messages(*items)[1]["tool_call_id"] == items[0]["id"]


def test_what_an_upstream_must_get_back_goes_with_its_call():
    """Gemini's signatures, over a turn that asked for leave too (wire §11.6)."""
    extras = {"extra_content": {"google": {"thought_signature": "s"}}}
    for name in ("docs__search", "web_search"):
        stream, _ = turn([calls({**asked(name, "{}"), **extras}), CALLED])
        assert messages(*stream.stored_output())[0]["tool_calls"][0].items() >= extras.items()
    stream, _ = turn([calls({**asked("asks__search", "{}"), **extras}), CALLED])
    (request,) = stream.stored_output()
    refused = answer(approve=False) | {"approval_request_id": request["id"]}
    assert messages(request, refused)[0]["tool_calls"][0].items() >= extras.items()


def test_rounds_are_read_one_after_the_other_and_calls_of_one_round_together():
    """Each upstream call sees what the one before it saw, and more."""
    both = calls(searched("a"), asked("docs__search", "{}", 1))
    rounds = [both, CALLED], [calls(searched("b")), CALLED], [*texts("So."), STOP]
    stream, _ = turn(*rounds, outcomes={"web_search": Outcome("r")})
    sent = messages(*stream.stored_output())
    assert brief(sent) == [
        'web_search {"query":"a"} + docs__search {}',
        "r",
        "found",
        'web_search {"query":"b"}',
        "r",
        "So.",
    ]
    for count in range(len(stream.items)):
        before = messages(*stream.stored_output()[: count + 1])
        assert count == 0 or sent[: len(before)] == before


@pytest.mark.parametrize(
    ("items", "read"),
    [
        ([REQUEST], []),
        ([REQUEST, answer(True)], []),
        ([REQUEST, answer(True), MADE], ['docs__search {"q":1}', "found"]),
        ([REQUEST, answer(False)], ['docs__search {"q":1}', "The user did not approve this call."]),
        (
            [REQUEST, answer(False, reason="Not now.")],
            ['docs__search {"q":1}', "The user did not approve this call. Not now."],
        ),
        ([REQUEST, answer(True), answer(False)], ['docs__search {"q":1}', "The user did not approve this call."]),
        ([REQUEST, answer(False), answer(True)], []),
        ([answer(False)], []),
    ],
)
def test_a_call_that_was_not_approved_is_one_that_failed(items, read):
    assert brief(messages(*items)) == read


def test_a_call_that_was_cut_off_is_read_as_one_without_output():
    cut = MADE | {"status": "incomplete", "output": None, "error": None, "arguments": '{"q"'}
    typed = {"type": "web_search_call", "id": "ws_1", "status": "incomplete", "action": {"type": "search"}}
    assert brief(messages(cut, typed)) == ["docs__search {}", "No output was given for this call."]


def test_a_long_turn_of_calls_is_made_shorter_call_by_call():
    steps = [MADE | {"id": f"mcp_{at}", "output": "x" * 100} for at in range(4)]
    kept = shortened([USER, *steps], 0.5)
    assert kept[0] == USER and kept[-1] == steps[-1] and 2 <= len(kept) < 5
