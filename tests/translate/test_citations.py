"""Citations in an answer, and the numbers they go by: the same ones wherever the text is cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.translate.citations import Citations, Sources
from tests.translate.test_text import splits

A, B, WIKI = "https://a.example/x", "https://b.example/", "https://en.wiki.example/wiki/Foo_(bar)"
FOUND = [
    {"url": A, "title": "Page A", "text": "About a."},
    {"url": B, "title": "", "text": ""},
    {"url": WIKI, "title": "Foo", "text": "About foo."},
    {"file_id": "file-1", "filename": "notes.md", "score": 0.5, "text": "A note."},
]


def sources():
    known = Sources()
    known.add(FOUND)
    return known


def cited(pieces):
    """The annotations of a text in pieces, each at once when it is complete."""
    citations = Citations(sources())
    return [annotation for piece in pieces for annotation in citations.feed(piece)] + citations.flush()


def told(text, pieces=None):
    """What the annotations of a text stand on, and what they name."""
    return [
        (text[a["start_index"] : a["end_index"]], a["url"])
        if a["type"] == "url_citation"
        else (a["index"], a["file_id"])
        for a in cited(pieces or [text])
    ]


CASES = [
    ("Nothing.", []),
    ("So it is [1].", [("[1]", A)]),
    ("So it is[1][2].", [("[1]", A), ("[2]", B)]),
    ("So it is [1, 3,2].", [("[1, 3,2]", A), ("[1, 3,2]", WIKI), ("[1, 3,2]", B)]),
    ("So it is 【2†L4-L9】 and【1】。", [("【2†L4-L9】", B), ("【1】", A)]),
    ("It is [4] in the notes.", [(6, "file-1")]),
    ("No [0], [5], [99999], [1.5], [a], [ 1 ] or [].", []),
    ("[ [1]", [("[1]", A)]),
    ("`a = [1]` is a list, but [1] is a source.", [("[1]", A)]),
    ("``a ` [1]`` [2]", [("[2]", B)]),
    ("a ` b [1]\nc [2]", [("[2]", B)]),
    ("```py\nx = [1]\ny = '`' [2]\n```\n[2]", [("[2]", B)]),
    ("````\n```\n[1]\n````[2]", [("[2]", B)]),
    ("```\n[1]\n`````\n[2]", [("[2]", B)]),
    ("`" * 8 + " [1] " + "`" * 8 + " [2]", [("[2]", B)]),
    (f"[x\ny]({A})", [(A, A)]),
    (f"See {A}.", [(A, A)]),
    (f"See {A}/, or <{B}>!", [(f"{A}/", A), (B, B)]),
    ("See http://a.example/x#part", [("http://a.example/x#part", A)]),
    (f"See {A}y and {A}/z", []),
    (f"See ({WIKI}).", [(WIKI, WIKI)]),
    (f"[Foo]({WIKI})", [(f"[Foo]({WIKI})", WIKI)]),
    (f"So it is ([the page]({A})).", [(f"[the page]({A})", A)]),
    (f'[a]({A} "title")', [(A, A)]),
    (f"[1]({A})", [("[1]", A)]),
    (f"[1]({B})", [("[1]", A), (f"[1]({B})", B)]),
    (f"[x]\n({A})", [(A, A)]),
    (f"详见{A}。另见[1]", [(A, A), ("[1]", A)]),
    ("😀 [1]", [("[1]", A)]),
    (f"`{A}`", []),
    ("`" * 9 + "[1]", []),
    ("https://" + "a" * 2100 + "[1]", [("[1]", A)]),
]


@pytest.mark.parametrize(("text", "expected"), CASES, ids=lambda value: str(value)[:40])
def test_sources_are_cited_by_number_and_by_url(text, expected):
    assert told(text) == expected
    assert told(text, list(text)) == expected


@pytest.mark.parametrize(("text", "expected"), [case for case in CASES if len(case[0]) < 50], ids=lambda v: str(v)[:40])
def test_citations_are_the_same_at_every_cut(text, expected):
    for pieces in splits(text):
        assert told(text, pieces) == expected


PIECES = [
    "[",
    "]",
    "1",
    "2",
    ",",
    " ",
    "(",
    ")",
    "`",
    "```",
    "\n",
    "【",
    "†",
    "】",
    "http",
    "s://a.example/x",
    A,
    "h",
    "é",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=16), st.data())
def test_any_cut_of_any_text_gives_the_same_citations(pieces, data):
    text = "".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    cut = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert cited(cut) == cited([text])
    assert cited(pieces) == cited([text])


def test_a_number_is_cited_with_the_piece_that_completes_it():
    citations = Citations(sources())
    assert citations.feed("So it is [") == []
    assert citations.feed("1") == []
    expected = {"type": "url_citation", "url": A, "title": "Page A", "start_index": 9, "end_index": 12}
    assert citations.feed("]") == [expected]
    assert citations.feed(" and [2]")[0]["title"] == B, "a page without a title goes by its URL"
    assert citations.feed(f" and {A}") == []
    assert [a["start_index"] for a in citations.feed(" end")] == [25]
    assert citations.feed("[4]") == [
        {"type": "file_citation", "file_id": "file-1", "filename": "notes.md", "index": 48}
    ]
    assert citations.flush() == []


def test_numbers_run_on_over_searches_and_turns():
    first = Sources()
    assert not first
    text, known = first.add(FOUND[:2])
    assert text == f"[1] Page A\n{A}\nAbout a.\n\n[2] {B}\n{B}"
    assert known == [{"number": 1, "url": A, "title": "Page A"}, {"number": 2, "url": B}]
    text, more = first.add(FOUND[3:])
    assert text == "[3] notes.md\nA note."
    assert more == [{"number": 3, "file_id": "file-1", "filename": "notes.md"}]
    assert first.add([]) == ("", [])

    later = Sources()
    later.learn(more)
    later.learn(known[:1])
    assert later.numbered(1) == known[0] and later.numbered(3) == more[0] and later.numbered(2) is None
    assert later.add(FOUND[2:3])[0].startswith("[4] Foo\n")


def test_long_texts_are_read_in_time():
    """Each piece is looked at about once, also where nothing ends: no run of any character is held as a whole."""
    for char in ("`", "[", "h", "【", "1", "a", "]"):
        citations = Citations(sources())
        for _ in range(2000):
            citations.feed(char * 50)
            assert len(citations._text) < 2100
