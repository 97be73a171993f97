"""Attribute filters of file searches, as OpenAI's vector stores have them."""

import pytest

from proxy.hosted.filters import matches

FILE = {"lang": "en", "year": 2024, "draft": False}


@pytest.mark.parametrize(
    ("type_", "key", "value", "expected"),
    [
        ("eq", "lang", "en", True),
        ("eq", "lang", "de", False),
        ("eq", "gone", "en", False),
        ("ne", "lang", "de", True),
        ("ne", "gone", "de", True),
        ("ne", "lang", "en", False),
        ("gt", "year", 2023, True),
        ("gt", "year", 2024, False),
        ("gte", "year", 2024.0, True),
        ("lt", "year", 2025, True),
        ("lt", "gone", 2025, False),
        ("lte", "lang", "en", True),
        ("gt", "lang", 5, False),
        ("gt", "draft", -1, False),
        ("in", "lang", ["de", "en"], True),
        ("in", "gone", ["de"], False),
        ("in", "lang", "en", False),
        ("nin", "lang", ["de"], True),
        ("nin", "lang", ["en"], False),
        ("nin", "gone", ["en"], True),
    ],
)
def test_a_comparison_holds_or_not(type_, key, value, expected):
    assert matches({"type": type_, "key": key, "value": value}, FILE) is expected


def test_comparisons_are_combined():
    english = {"type": "eq", "key": "lang", "value": "en"}
    old = {"type": "lt", "key": "year", "value": 2000}
    assert not matches({"type": "and", "filters": [english, old]}, FILE)
    assert matches({"type": "or", "filters": [english, old]}, FILE)
    assert matches({"type": "and", "filters": [english, {"type": "or", "filters": [old, english]}]}, FILE)
