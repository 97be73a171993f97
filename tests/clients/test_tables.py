"""The tables of docs/compatibility.md say what the results say."""

import json

import pytest

from tests.clients import catalogue, tables, upstream

LIMIT, REASON = catalogue.LIMITS["tool_search"]
RESULTS = [
    {"client": "a", "version": "1", "feature": "text", "ok": True, "note": ""},
    {"client": "a", "version": "1", "feature": "tool_search", "ok": False, "note": f"InvalidStatus: {LIMIT}"},
    {"client": "b", "version": "2", "feature": "tools", "ok": False, "note": "no | tools"},
    {"client": "b", "version": "2", "feature": "handoff", "ok": True, "note": "But slowly"},
]


def judged(results):
    return [result | {"verdict": catalogue.verdict(result)} for result in results]


def test_a_client_is_one_line_with_its_limits_as_notes():
    head, _, first, second, *notes = tables.clients(judged(RESULTS)).splitlines()
    assert head.startswith("| client | version | text | streaming | tools |") and head.endswith("| more |")
    assert first == f"| a | 1 | ✓ |{'  |' * 9} tool_search ✗ (1) |"
    assert second == f"| b | 2 |  |  | ✗ (2) |{'  |' * 7} handoff ✓ (3) |"
    assert notes == ["", f"(1) {REASON}.", "", "(2) failed: no | tools.", "", "(3) slowly."]


def test_a_backend_is_one_column():
    row = {"feature": "text", "result": "yes", "reason": "", "version": ""}
    results = [
        row | {"backend": "x"},
        row | {"backend": "y", "version": "7", "result": "partly", "reason": "slowly"},
        row | {"backend": "y", "version": "7", "feature": "stop", "result": "failed", "reason": "slowly"},
    ]
    assert tables.backends(results) == (
        "| feature | x | y 7 |\n| --- | --- | --- |\n| text | ✓ | ✓ (1) |\n| stop |  | ✗ (1) |\n\n(1) slowly.\n"
    )


def test_only_what_stands_between_the_marks_is_written():
    text = "before\n<!-- clients: written by x -->\nold\n<!-- end of clients -->\nafter\n"
    new = tables.written(text, "clients", judged(RESULTS))
    assert new.startswith("before\n<!-- clients: written by x -->\n\n| client |")
    assert new.endswith(".\n\n<!-- end of clients -->\nafter\n") and "old" not in new
    assert tables.written(new, "clients", judged(RESULTS)) == new
    with pytest.raises(ValueError, match="no marks"):
        tables.written("", "clients", [])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"feature": "text", "ok": True, "note": ""}, "ok"),
        ({"feature": "text", "ok": False, "note": LIMIT}, f"failed: {LIMIT}"),
        ({"feature": "tool_search", "ok": False, "note": f"so: {LIMIT}"}, REASON),
        ({"feature": "tool_search", "ok": False, "note": "HTTP 500"}, "failed: HTTP 500"),
        ({"feature": "tool_search", "ok": True, "note": ""}, "failed: it works now and is still listed as a limit"),
    ],
)
def test_only_a_listed_limit_that_fails_as_listed_is_no_failure(line, told):
    assert catalogue.verdict(line) == told


@pytest.mark.parametrize(
    ("after", "step"),
    [
        ([], {"say": "one"}),
        ([{"role": "assistant", "content": "one"}], {"say": "two"}),
        ([{"role": "assistant", "content": "one"}] * 2, {"say": "There is no step left."}),
        ([{"role": "assistant", "content": "one"}, {"role": "user", "content": "Hi"}], None),
    ],
)
def test_the_scripted_server_plays_the_step_after_those_in_the_messages(after, step):
    program = {"role": "user", "content": f"Do this. STEPS {json.dumps([{'say': 'one'}, {'say': 'two'}])}"}
    assert upstream.step_of({"messages": [{"role": "user", "content": "Hello"}, program, *after]}) == step
