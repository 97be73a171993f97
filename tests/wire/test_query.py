"""Query parameters (wire §1.4, §3.2, §3.5)."""

import pytest

from proxy import wire
from tests.wire.refusals import refusal

DEFAULTS = {"limit": 20, "order": "desc", "after": None, "before": None, "include": []}


@pytest.mark.parametrize(
    ("query", "differs"),
    [
        ([], {}),
        ([("beta", "true"), ("x", "")], {}),
        ([("after", ""), ("limit", ""), ("order", "")], {}),
        ([("limit", "1")], {"limit": 1}),
        ([("limit", "100"), ("order", "asc")], {"limit": 100, "order": "asc"}),
        ([("limit", "5"), ("limit", "007")], {"limit": 7}),
        ([("after", "msg_1")], {"after": "msg_1"}),
        ([("before", "msg_1"), ("after", "")], {"before": "msg_1"}),
        ([("include[]", "a"), ("include[]", "b")], {"include": ["a", "b"]}),
        ([("include", "a"), ("include", "b")], {"include": ["a", "b"]}),
        ([("include", "a, b,")], {"include": ["a", "b"]}),
    ],
)
def test_a_page_is_the_defaults_and_what_the_query_says(query, differs):
    assert wire.page(query) == {**DEFAULTS, **differs}


BELOW = "Invalid 'limit': integer below minimum value. Expected a value >= 1, but got {} instead."
ABOVE = "Invalid 'limit': integer above maximum value. Expected a value <= 100, but got {} instead."
TYPE = "Invalid type for 'limit': expected an integer, but got a string instead."


@pytest.mark.parametrize(
    ("value", "code", "message"),
    [
        ("0", "integer_below_min_value", BELOW),
        ("-3", "integer_below_min_value", BELOW),
        ("101", "integer_above_max_value", ABOVE),
        ("9" * 100, "integer_above_max_value", ABOVE),
        ("ten", "invalid_type", TYPE),
        ("1.5", "invalid_type", TYPE),
        ("1_0", "invalid_type", TYPE),
        (" 1", "invalid_type", TYPE),
        ("1\n", "invalid_type", TYPE),
        ("٣", "invalid_type", TYPE),
        ("9" * 5000, "invalid_type", TYPE),
    ],
)
def test_a_limit_that_is_none_is_refused(value, code, message):
    assert refusal(wire.page, [("limit", value)]) == (code, "limit", message.format(value))


def test_another_order_is_refused_with_the_two_there_are():
    message = "Invalid value: 'ASC'. Supported values are: 'asc' and 'desc'."
    assert refusal(wire.page, [("order", "ASC")]) == ("invalid_value", "order", message)


def test_both_cursors_at_once_are_refused():
    message = "Cannot provide both 'after' and 'before' in the same request."
    expected = ("mutually_exclusive_parameters", "after", message)
    assert refusal(wire.page, [("before", "a"), ("after", "b")]) == expected


@pytest.mark.parametrize(
    ("value", "meaning"),
    [("true", True), ("1", True), ("True", True), ("false", False), ("0", False), ("", False)],
)
def test_a_flag_is_true_or_false_or_a_digit(value, meaning):
    assert wire.flag([("stream", value)], "stream") is meaning


def test_an_absent_flag_is_false():
    assert wire.flag([("streams", "true")], "stream") is False


def test_a_flag_that_is_neither_is_refused():
    message = "Invalid type for 'stream': expected a boolean, but got a string instead."
    assert refusal(wire.flag, [("stream", "yes")], "stream") == ("invalid_type", "stream", message)


def test_starting_after_is_a_whole_number_from_zero_without_an_upper_bound():
    assert wire.starting_after([("starting_after", "0")]) == 0
    assert wire.starting_after([("starting_after", "99999999999")]) == 99999999999
    assert wire.starting_after([]) is None
    below = refusal(wire.starting_after, [("starting_after", "-1")])
    assert below[:2] == ("integer_below_min_value", "starting_after")
    for value in ("x", ""):
        wrong = refusal(wire.starting_after, [("starting_after", value)])
        assert wrong[:2] == ("invalid_type", "starting_after")


def test_a_text_is_the_last_value_of_its_name_that_is_not_empty():
    assert wire.text([("model", "a"), ("model", "b"), ("model", "")], "model") == "b"
    assert wire.text([("models", "a")], "model") is None
