"""JSON that orjson refuses although it is legal, and what is no JSON at all."""

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import codec

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(categories=["L", "N", "Cs", "So"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(JSON)
def test_what_is_written_is_read_again(value):
    written = codec.dumps(value)
    assert codec.loads(written) == value
    assert codec.loads(written.decode()) == value
    assert json.loads(written) == value
    assert codec.loads(json.dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'"\\ud83d"', "\ud83d"),
        (b'["\\ude00\\ud83d", 1]', ["\ude00\ud83d", 1]),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'{"\\ud83d":"\\ud83d"}', {"\ud83d": "\ud83d"}),
        ('"\ud83d"', "\ud83d"),
        (' {"a": [1, 2.5, null, true]}\n', {"a": [1, 2.5, None, True]}),
    ],
)
def test_legal_json_is_read(text, value):
    assert codec.loads(text) == value
    assert codec.loads(codec.dumps(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{'a':1}",
        b"NaN",
        b"[Infinity]",
        b'["\\ud83d", NaN]',
        b'["\\ud83d", -Infinity]',
        b'["\\ud83d", 1e999]',
        b'"\\ud83d',
        b'"\xff"',
        b'"a\nb"',
        b"1 2",
        b"[" * 100_000 + b"]" * 100_000,
        b'["\\ud83d",' * 100_000 + b"1" + b"]" * 100_000,
    ],
    ids=lambda text: text[:20],
)
def test_anything_else_is_a_value_error(text):
    with pytest.raises(ValueError, match="."):
        codec.loads(text)


def test_output_is_compact_utf_8():
    assert codec.dumps({"a": ["é", 1, 1.0, None]}) == '{"a":["é",1,1.0,null]}'.encode()
    assert codec.dumps({"a": ["\ud83d", 1]}) == b'{"a":["\\ud83d",1]}'
    assert codec.dumps(2**70) == b"1180591620717411303424"


def test_what_is_too_deep_to_be_written_is_a_value_error():
    value = 1
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ValueError, match="nested too deeply"):
        codec.dumps(value)


def test_what_is_kept_takes_no_more_memory_than_its_length():
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = [codec.fitted(codec.dumps({"a": "x" * 900})) for _ in range(100)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept[0] == b'{"a":"' + b"x" * 900 + b'"}'
    assert (after - before) / 100 < 1100
