"""Text that arrives in pieces comes out the same wherever it was cut."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.translate.text import Halves, InputString, ThinkTags


def splits(text, parts=3):
    """Every way to cut a text into so many pieces, empty ones too."""
    for cuts in itertools.combinations_with_replacement(range(len(text) + 1), parts - 1):
        yield [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]


def units(text):
    """The text as JSON may cut it: each half of a character beyond 16 bits is a piece that can stand alone."""
    data = text.encode("utf-16-le", "surrogatepass")
    return [data[at : at + 2].decode("utf-16-le", "surrogatepass") for at in range(0, len(data), 2)]


@pytest.mark.parametrize(
    "text", ["", "a", "😀", "a😀b", "😀😀", "\ud83d", "\ude00", "a\ud83db", "\ude00\ud83d", "\ud83d😀"]
)
def test_halves_find_each_other_at_every_cut(text):
    for pieces in splits(units(text), 4):
        halves = Halves()
        out = [halves.feed("".join(piece)) for piece in pieces]
        for first, second in itertools.pairwise([*filter(None, out), " "]):
            assert not ("\ud800" <= first[-1] <= "\udbff" and "\udc00" <= second[0] <= "\udfff"), "a pair was cut"
        assert "".join([*out, halves.flush()]).encode("utf-16", "surrogatepass") == text.encode(
            "utf-16", "surrogatepass"
        )
        assert halves.flush() == ""


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(categories=["L", "So", "Cs"]), max_size=8))
def test_halves_change_no_text_that_comes_unit_by_unit(text):
    halves = Halves()
    out = "".join([*map(halves.feed, units(text)), halves.flush()])
    assert out == text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def thinking(pieces):
    """(reasoning, text) of an answer in pieces."""
    tags = ThinkTags()
    reasoning, text = "", ""
    for piece in pieces:
        thought, said = tags.feed(piece)
        reasoning, text = reasoning + thought, text + said
    rest = tags.flush()
    return (reasoning + rest, text) if tags.thinking else (reasoning, text + rest)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<think>Hm</think>Hi", ("Hm", "Hi")),
        (" \n<think>Hm</think>\n\nHi", ("Hm", "\n\nHi")),
        ("<think></think>Hi", ("", "Hi")),
        ("<think>a < b</b></thin</think>x", ("a < b</b></thin", "x")),
        ("<think>a</think></think>", ("a", "</think>")),
        ("<think>a</think><think>b</think>", ("a", "<think>b</think>")),
        ("<think>Hm", ("Hm", "")),
        ("<think>Hm</thin", ("Hm</thin", "")),
        ("<thin", ("", "<thin")),
        ("<thing>x", ("", "<thing>x")),
        ("Hi <think>x</think>", ("", "Hi <think>x</think>")),
        (" \n", ("", " \n")),
        (" Hi", ("", " Hi")),
        ("", ("", "")),
    ],
)
def test_think_tags_are_split_off_at_every_cut(answer, expected):
    for pieces in splits(answer):
        assert thinking(pieces) == expected
    assert thinking(answer) == expected


def test_text_is_held_back_no_longer_than_it_may_be_a_tag():
    tags = ThinkTags()
    assert [tags.feed(piece) for piece in ("<thi", "nk>a", "b</", "c", "</think>", "x", "</think>")] == [
        ("", ""),
        ("a", ""),
        ("b", ""),
        ("</c", ""),
        ("", ""),
        ("", "x"),
        ("", "</think>"),
    ]


# -- the text within arguments


READS = [
    ('{"input":"select 1;"}', "select 1;"),
    (' { "input" :\n"a" } ', "a"),
    (r'{"input":"\"q\" \\ \/ \b\f\n\r\t"}', '"q" \\ / \b\f\n\r\t'),
    (r'{"input":"\u00fc \ud83d\ude00 \u20AC"}', "ü 😀 €"),
    ('{"input":"ü😀"}', "ü😀"),
    (r'{"input":"\ud83d"}', "\ud83d"),
    (r'{"input":"\ud83dx\ude00"}', "\ud83dx\ude00"),
    ('{"input":""}', ""),
    ('{"input":"a","more":1}', "a"),
    ('{"more":[1],"input":"a\\n"}', "a\n"),
    (r'{"inp\u0075t":"a"}', "a"),
    ("", ""),
    ("{}", "{}"),
    ("select 1;", "select 1;"),
    ('"select 1;"', '"select 1;"'),
    ('{"query":"a"}', '{"query":"a"}'),
    ('{"input":7}', '{"input":7}'),
    ('{"input":{"input":"a"}}', '{"input":{"input":"a"}}'),
    ('{"in put":"a"}', '{"in put":"a"}'),
    ('["input","a"]', '["input","a"]'),
    ('{"input":"a\nb\tc"}', "a\nb\tc"),
    (r'{"input":"\d+ \x41 \u12 \uzzzz"}', r"\d+ \x41 \u12 \uzzzz"),
    ('{"input":"say "hi" to "all"" }', 'say "hi" to "all"'),
    ('{"input":"a"  \t b"  }', 'a"  \t b'),
]
"""Arguments of a function that stands for a custom tool, and the input that they hold (wire §7.7)."""


def input_of(*pieces):
    reader, halves = InputString(), Halves()
    told = [halves.feed(reader.feed(piece)) for piece in pieces]
    return "".join([*told, reader.flush(), halves.flush()])


@pytest.mark.parametrize(("arguments", "text"), READS)
def test_the_input_within_arguments_is_the_same_at_every_cut(arguments, text):
    for pieces in splits(arguments):
        assert input_of(*pieces) == text
    assert input_of(*arguments) == text


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(), max_size=30), st.booleans(), st.data())
def test_any_input_that_is_written_as_json_is_read_back(text, ascii_, data):
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_)
    cut = data.draw(st.integers(0, len(arguments)))
    assert input_of(arguments[:cut], arguments[cut:]) == text


def test_blanks_without_end_after_the_input_are_not_read_anew_at_each():
    assert input_of('{"input":"a"', *" " * 100_000, "}") == "a"


def test_bare_quotes_by_the_thousand_are_read_in_one_go():
    text = 'a "b" ' * 5000 + "c"
    assert input_of('{"input":"' + text + '"}') == text
