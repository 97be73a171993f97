"""What is wanted, under the names that a tool's schema has for it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.hosted.arguments import Wanted, fitted
from proxy.hosted.search import Search

TEXT, INT, LIST = {"type": "string"}, {"type": "integer"}, {"type": "array", "items": {"type": "string"}}
Q, QS = {"query": "oslo"}, {"queries": ["oslo", "bergen"]}
TOOL = {
    "search_context_size": "low",
    "filters": {"allowed_domains": ["a.example"]},
    "user_location": {"type": "approximate", "country": "DE"},
}
WEB = Wanted.web(Search.read(TOOL, {"query": "oslo"}), TOOL)
STORES = {"vector_store_ids": ["vs_1"], "filters": {"type": "eq", "key": "k", "value": 1}}
FILES = Wanted.files(["oslo", "bergen"], 7, STORES)
CODE = Wanted.code("print(1)", {"container": "cntr_1"})


WORDS = ["properties", "required", "type", "enum", "anyOf", "minimum", "maximum", "query", "limit", "vector_store_ids"]


def schema(required=(), **properties):
    return {"type": "object", "properties": properties, "required": list(required)}


@pytest.mark.parametrize(
    ("wanted", "spec", "expected"),
    [
        (WEB, schema(query=TEXT), [Q]),
        (WEB, schema(q=TEXT, queries=LIST), [{"queries": ["oslo"]}]),
        (WEB, schema(query=LIST), [{"query": ["oslo"]}]),
        (WEB, schema(query={"anyOf": [TEXT, LIST]}), [Q]),
        (WEB, schema(["topic"], topic=TEXT, lang=TEXT), [{"topic": "oslo"}]),
        (WEB, schema(topic={"type": ["string", "null"]}, n=INT), [{"topic": "oslo"}]),
        (WEB, schema(a=TEXT, b=TEXT), []),
        (WEB, schema(["n"], n=INT), []),
        (WEB, {"type": "object"}, []),
        (WEB, schema(query=TEXT, k=INT, include_domains=LIST), [{**Q, "k": 5, "include_domains": ["a.example"]}]),
        (WEB, schema(query=TEXT, max_results={**INT, "minimum": 8}, domains=TEXT), [{**Q, "max_results": 8}]),
        (WEB, schema(query=TEXT, limit={"type": "number", "maximum": 3}), [{**Q, "limit": 3}]),
        (WEB, schema(query=TEXT, country_code=TEXT, country=TEXT), [{**Q, "country_code": "DE"}]),
        (WEB, schema(query=TEXT, country_code={"enum": ["US", "GB"]}), [Q]),
        (WEB, schema(query=TEXT, search_context_size={"enum": ["low"]}), [{**Q, "search_context_size": "low"}]),
        (WEB, schema(query=TEXT, user_location={"type": "object"}), [{**Q, "user_location": {"country": "DE"}}]),
        (WEB, schema(query=TEXT, odd=True), [Q]),
        (FILES, schema(query=TEXT), [Q, {"query": "bergen"}]),
        (FILES, schema(queries=LIST, top_k=INT), [{**QS, "top_k": 7}]),
        (FILES, schema(query=LIST, vector_store_ids=LIST), [{"query": QS["queries"], "vector_store_ids": ["vs_1"]}]),
        (FILES, schema(queries=LIST, vector_store_id=TEXT), [{**QS, "vector_store_id": "vs_1"}]),
        (FILES, schema(queries=LIST, filters={"type": "object"}), [{**QS, "filters": STORES["filters"]}]),
        (CODE, schema(code=TEXT, language=TEXT), [{"code": "print(1)", "language": "python"}]),
        (CODE, schema(source=TEXT, container_id=TEXT), [{"source": "print(1)", "container_id": "cntr_1"}]),
        (CODE, schema(code=TEXT, language={"enum": ["js"]}), [{"code": "print(1)"}]),
    ],
)  # fmt: skip
def test_a_tool_is_asked_in_the_words_of_its_schema(wanted, spec, expected):
    assert fitted(spec, wanted) == expected


JUNK = st.recursive(
    st.none() | st.integers() | st.sampled_from(["string", "array", "integer", "query"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(WORDS), JUNK, max_size=4), st.sampled_from([WEB, FILES, CODE]))
def test_a_schema_that_is_none_does_no_harm(spec, wanted):
    assert all(isinstance(arguments, dict) for arguments in fitted(spec, wanted))


def test_of_several_stores_none_is_the_one():
    several = Wanted.files(["oslo"], 7, {"vector_store_ids": ["a", "b"]})
    assert fitted(schema(query=TEXT, vector_store_id=TEXT), several) == [Q]
    auto = Wanted.code("1", {"container": {"type": "auto"}})
    assert fitted(schema(code=TEXT, container_id=TEXT), auto) == [{"code": "1"}]
