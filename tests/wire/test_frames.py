"""The frames of clients (wire §13.2)."""

import pytest

from proxy import wire
from tests.wire.refusals import refusal


@pytest.mark.parametrize("type_", ["response.create", "response.steer"])
def test_a_frame_of_a_known_type_is_taken_as_it_is(type_):
    assert wire.frame({"type": type_, "x": None}) == {"type": type_, "x": None}


@pytest.mark.parametrize(
    ("value", "code", "param"),
    [
        ([], "invalid_type", None),
        ("x", "invalid_type", None),
        (None, "invalid_type", None),
        ({}, "missing_required_parameter", "type"),
        ({"type": None}, "missing_required_parameter", "type"),
        ({"type": 1}, "invalid_type", "type"),
        ({"type": "session.update"}, "invalid_value", "type"),
    ],
)
def test_any_other_frame_is_refused(value, code, param):
    assert refusal(wire.frame, value)[:2] == (code, param)


SAID = {"type": "response.create", "model": "m", "input": "Hi"}


@pytest.mark.parametrize(
    "more", [{}, {"stream": False, "stream_options": 7}, {"stream": None, "background": False}, {"generate": None}]
)
def test_what_a_frame_says_of_streams_is_ignored(more):
    request, generates = wire.create_frame({**SAID, **more})
    assert (request["stream"], generates) == (True, True)
    assert not {"type", "generate", "stream_options"} & request.keys()
    assert request["input"][0]["content"] == [{"type": "input_text", "text": "Hi"}]


def test_a_frame_may_want_no_output():
    assert wire.create_frame({**SAID, "generate": False})[1] is False


@pytest.mark.parametrize(
    ("more", "code", "param"),
    [
        ({"background": True}, "unsupported_parameter", "background"),
        ({"generate": "no"}, "invalid_type", "generate"),
        ({"model": None}, "missing_required_parameter", "model"),
        ({"stream_id": 1}, "invalid_type", "stream_id"),
        ({"input": 1}, "invalid_type", "input"),
    ],
)
def test_a_request_that_is_wrong_is_refused_as_over_http(more, code, param):
    assert refusal(wire.create_frame, {**SAID, **more})[:2] == (code, param)
