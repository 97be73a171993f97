"""Results in what MCP tools answer: their JSON, JSON as text, and the texts of search servers that are about."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.hosted.answers import files_in, logs_in, pages_in

A, B = "https://a.example/x", "https://b.example/y"
ROWS = [{"title": "Page A", "url": A, "content": "About a."}, {"title": "Page B", "url": B, "content": "About b."}]
PAGES = [{"url": A, "title": "Page A", "text": "About a."}, {"url": B, "title": "Page B", "text": "About b."}]
AS_JSON = [
    {"results": ROWS},
    {"result": ROWS},
    {"data": {"web": {"results": ROWS}}},
    ROWS,
    {"query": "q", "organic": [{"name": r["title"], "link": r["url"], "snippet": r["content"]} for r in ROWS]},
    {"results": [{"title": r["title"], "href": r["url"], "body": r["content"], "rank": 1} for r in ROWS]},
    {"results": [*ROWS, {"title": "no url"}, {"url": "ftp://x"}, 5]},
]


@pytest.mark.parametrize("value", AS_JSON, ids=range(len(AS_JSON)))
def test_pages_are_found_in_json_however_it_came(value):
    assert pages_in("", value) == PAGES
    assert pages_in(json.dumps(value), None) == PAGES
    assert pages_in(json.dumps(value, indent=2), None) == PAGES
    assert pages_in("whatever", {"result": "whatever"}) == []


def test_pages_are_found_in_one_json_text_each():
    assert pages_in("\n".join(json.dumps(row) for row in ROWS), None) == PAGES
    assert pages_in("\n".join(json.dumps(row, indent=1) for row in ROWS), None) == PAGES
    assert pages_in(json.dumps(ROWS[0]), None) == PAGES[:1]


IN_WORDS = [
    f"Title: Page A\nURL: {A}\nContent: About a.\n\nTitle: Page B\nURL: {B}\nContent: About b.",
    f"Results:\n\nTitle: Page A\nURL: {A}\nDescription: About a.\n\n---\n\nTitle: Page B\nLink: {B}\nText: About b.\n",
    f"Found 2 results:\n\n1. Page A\n   URL: {A}\n   Summary: About a.\n\n2. Page B\n   URL: {B}\n   Summary: About b.",
    f"1. [Page A]({A}) - About a.\n\n2. [Page B]({B}) - About b.",
    f"- **[Page A]({A})**\n  About a.\n\n- **[Page B]({B} 'hint')**\n  About b.",
    f"## Page A\n<{A}>\nAbout a.\n\n## Page B\n<{B}>\n\nAbout b.",
    f"**Title:** Page A\n**URL:** {A}\n**Text:** About a.\n---\n**Title:** Page B\n**URL:** {B}\n**Text:** About b.",
]


@pytest.mark.parametrize("text", IN_WORDS, ids=range(len(IN_WORDS)))
def test_pages_are_found_in_words(text):
    assert pages_in(text, None) == PAGES
    assert pages_in(text, {"result": text}) == PAGES, "what servers make of a function that gives a text"


def test_the_title_of_a_link_begins_at_its_own_bracket():
    assert pages_in(f"[see [Page A]({A})\nAbout a.", None)[0]["title"] == "Page A"


@pytest.mark.parametrize("text", ["", "Nothing was found.", "See example.com", "{broken", "[1, 2", "null", "{}", "[]"])
def test_where_no_url_is_told_there_is_no_page(text):
    assert pages_in(text, None) == []


def test_prose_with_a_url_has_no_title():
    text = f"The capital, as {A} has it, is Oslo. " + "It is cold there. " * 20
    (page,) = pages_in(text, None)
    assert page["url"] == A and page["title"] == "" and page["text"].startswith("The capital, as  has it")


FILE = {"file_id": "file-1", "filename": "a.md", "score": 0.9, "text": "Passage.", "attributes": {"lang": "en"}}
FILES = [
    {"data": [{**FILE, "content": [{"type": "text", "text": "Passage."}], "text": None}]},
    {"results": [FILE]},
    [
        {
            "id": "file-1",
            "path": "docs/a.md",
            "similarity": 0.9,
            "chunk": "Passage.",
            "metadata": {"lang": "en", "x": [1]},
        }
    ],
    {
        "documents": [
            {"page_content": "Passage.", "id": "file-1", "name": "a.md", "score": 0.9, "metadata": {"lang": "en"}}
        ]
    },
]


@pytest.mark.parametrize("value", FILES, ids=range(len(FILES)))
def test_passages_are_found_in_json(value):
    assert files_in("", value) == [FILE]
    assert files_in(json.dumps(value), None) == [FILE]


def test_passages_may_lack_all_but_their_text():
    bare = {"file_id": "document", "filename": "document", "score": None, "text": "Passage.", "attributes": {}}
    assert files_in("", [{"text": "Passage.", "score": True}, {"text": ""}]) == [bare]
    source = {"text": "Passage.", "metadata": {"source": "/srv/docs/a.md"}}
    assert files_in("", [source]) == [
        bare | {"file_id": "/srv/docs/a.md", "filename": "a.md", "attributes": {"source": "/srv/docs/a.md"}}
    ]
    assert files_in("Plain words.", {"result": "Plain words."}) == []


@pytest.mark.parametrize(
    ("text", "structured", "logs"),
    [
        ("4\n", None, "4\n"),
        ("4\n", {"result": "4\n"}, "4\n"),
        ("", {"stdout": "4\n", "stderr": "oh\n", "result": None}, "4\noh"),
        ('{"stdout": "4\\n", "result": [1]}', None, "4\n[1]"),
        ("", {"stdout": ""}, ""),
        ("5", None, "5"),
    ],
)
def test_logs_are_streams_and_result_or_the_text(text, structured, logs):
    assert logs_in(text, structured) == logs


@pytest.mark.parametrize(
    "text",
    [
        "[" * 400_000,
        "[]" * 200_000,
        "1 " * 400_000,
        "[a](https://" + "x" * 400_000,
        "[a](https://x " * 30_000,
        "\n \t" * 200_000,
    ],
    ids=lambda text: text[:12],
)
def test_a_long_answer_is_read_in_time_that_grows_with_it(text):
    pages_in(text, None), files_in(text, None), logs_in(text, None)


KEYS = ["results", "data", "url", "title", "content", "text", "file_id", "score", "metadata", "stdout", "result", "x"]
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "a", A, "ftp://x", "[a](https://b)"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(ANYTHING, st.booleans())
def test_an_answer_of_any_shape_is_read(value, as_text):
    text, structured = (json.dumps(value), None) if as_text else ("", value)
    assert all(isinstance(page[key], str) for page in pages_in(text, structured) for key in ("url", "title", "text"))
    assert all(isinstance(file["text"], str) and file["filename"] for file in files_in(text, structured))
    assert isinstance(logs_in(text, structured), str)
