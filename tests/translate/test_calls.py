"""Tool calls put together from deltas, whatever the backend leaves out (wire §11.6)."""

import json
from pathlib import Path

import pytest

from proxy.translate.calls import Assembler, is_complete
from tests.translate.replies import chunk, entry, output_of, read, texts

VECTORS = json.loads(Path(__file__).with_name("tool_delta_vectors.json").read_text("utf-8"))
"""Deltas of real backends and the calls that are meant; each names where it was seen."""


def vectors():
    return [pytest.param(vector, id=f"{vector['name']}: {vector['source']}") for vector in VECTORS]


@pytest.mark.parametrize("vector", vectors())
def test_the_assembler_finds_the_calls_that_are_meant(vector):
    assembler = Assembler()
    for delta in vector["deltas"]:
        for one in delta or []:
            assembler.feed(one)
    found = [(call.name, call.text or "{}") for call in assembler.calls if call.name]
    assert found == [(call["name"], call["arguments"]) for call in vector["calls"]]
    given = [call.id for call in assembler.calls if call.name and call.id]
    assert given == [call["id"] for call in vector["calls"] if "minted" not in call["id"]]


@pytest.mark.parametrize("vector", vectors())
def test_a_stream_tells_the_calls_that_are_meant(vector):
    chunks = [chunk({"tool_calls": delta}) for delta in vector["deltas"]]
    response = read([*chunks, chunk(finish="tool_calls")]).response
    if not vector["calls"]:
        assert response["error"]["message"] == "The upstream sent tool calls without names."
        return
    found = [{"id": told.id, "name": told.name, "arguments": told.text} for told in output_of(response)]
    assert found == vector["calls"]


@pytest.mark.parametrize("vector", [vector for vector in VECTORS if vector["calls"]], ids=lambda v: v["name"])
def test_calls_after_text_are_the_same_calls(vector):
    chunks = [chunk({"tool_calls": delta}) for delta in vector["deltas"]]
    first, *rest = output_of(read([*texts("Let me see."), *chunks, chunk(finish="tool_calls")]).response)
    assert (first.type, first.text) == ("message", "Let me see.")
    assert [told.text for told in rest] == [call["arguments"] for call in vector["calls"]]


def test_a_name_that_comes_with_a_resend_opens_the_call():
    chunks = [
        chunk({"tool_calls": [entry(0, "call_a", arguments='{"x":1}')]}),
        chunk({"tool_calls": [entry(0, "call_a", "f", '{"x":1}')]}),
    ]
    (told,) = output_of(read([*chunks, chunk(finish="tool_calls")]).response)
    assert (told.id, told.name, told.text) == ("call_a", "f", '{"x":1}')


def test_what_is_no_text_in_a_call_is_taken_as_missing():
    odd = {"index": "0", "id": 7, "function": {"name": ["f"], "arguments": "{}"}}
    chunks = [chunk({"tool_calls": [odd, {"index": 0, "function": "f"}, entry(0, name="g", arguments='{"x":1}')]})]
    (told,) = output_of(read([*chunks, chunk(finish="tool_calls")]).response)
    assert (told.id, told.name, told.text) == ("call_minted1", "g", '{"x":1}')


def test_vendor_extras_are_stored_and_never_shown():
    call = entry(0, "call_a", "f", "{}") | {"extra_content": {"google": {"thought_signature": "s"}}}
    result = read([chunk({"tool_calls": [call]}), chunk(finish="tool_calls")])
    (shown,) = result.response["output"]
    (stored,) = result.stream.stored_output()
    assert "x_upstream" not in shown
    assert stored == {**shown, "x_upstream": {"extra_content": {"google": {"thought_signature": "s"}}}}


@pytest.mark.parametrize(
    ("text", "whole"),
    [("{}", True), ('{"a":{"b":"}"}}', True), (' {"a":1}\n', True), ("", False), ("[]", False), ('"}"', False)]
    + [('{"a":{"b":"}"}}'[:cut], False) for cut in range(15)],
)
def test_complete_means_one_whole_json_object(text, whole):
    assert is_complete(text) is whole
