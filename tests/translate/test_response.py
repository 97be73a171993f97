"""The Response object: every field at once, the echo of the request, usage, and its short form (wire §5)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import codec, wire
from proxy.translate.items import public
from proxy.translate.response import restore, shorten, skeleton, snapshot, usage

DEFAULTS = {
    "id": "resp_1",
    "object": "response",
    "created_at": 5,
    "status": "in_progress",
    "background": False,
    "completed_at": None,
    "error": None,
    "frequency_penalty": 0.0,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "model": "m",
    "output": [],
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "auto",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "usage": None,
}
"""Every starred field of wire §5.1 and nothing else."""


def made(**fields):
    return skeleton(wire.create_response({"model": "m", "input": "Hi", **fields}), "resp_1", 5)


def strictly(value):
    """A value whose 1, 1.0 and True differ."""
    return codec.dumps(value), repr(sorted(value.items()) if isinstance(value, dict) else value)


def test_a_response_has_every_field_from_the_beginning():
    assert made().keys() == DEFAULTS.keys()
    assert strictly(dict(sorted(made().items()))) == strictly(dict(sorted(DEFAULTS.items())))


@pytest.mark.parametrize("key", sorted(DEFAULTS.keys() - {"id", "object", "created_at", "status", "model", "output"}))
def test_null_is_the_default(key):
    assert made(**{key: None}) == DEFAULTS


@pytest.mark.parametrize(
    ("fields", "echo"),
    [
        ({"instructions": "I"}, None),
        ({"max_output_tokens": 5}, None),
        ({"max_tool_calls": 2}, None),
        ({"metadata": {"a": "b"}}, None),
        ({"parallel_tool_calls": False}, None),
        ({"previous_response_id": "resp_0"}, None),
        ({"prompt_cache_key": "k"}, None),
        ({"safety_identifier": "s"}, None),
        ({"service_tier": "flex"}, None),
        ({"store": False}, None),
        ({"temperature": 0}, None),
        ({"temperature": 1}, None),
        ({"top_p": 0.5}, None),
        ({"top_logprobs": 3}, None),
        ({"presence_penalty": 1.5, "frequency_penalty": -1}, None),
        ({"truncation": "auto"}, None),
        ({"tool_choice": "none"}, None),
        ({"user": "u"}, None),
        ({"prompt_cache_retention": "24h"}, None),
        ({"prompt_cache_options": {"mode": "implicit"}}, None),
        ({"conversation": "conv_1"}, {"conversation": {"id": "conv_1"}}),
        ({"conversation": {"id": "conv_1"}}, None),
        ({"reasoning": {"effort": "low"}}, {"reasoning": {"effort": "low", "summary": None}}),
        ({"reasoning": {}}, {}),
        ({"reasoning": {"summary": "auto"}}, {"reasoning": {"effort": None, "summary": "auto"}}),
        ({"reasoning": {"generate_summary": "auto"}}, {"reasoning": {"effort": None, "summary": "auto"}}),
        (
            {"reasoning": {"effort": "max", "context": "all"}},
            {"reasoning": {"effort": "max", "context": "all", "summary": None}},
        ),
        ({"text": {}}, {}),
        (
            {"text": {"format": {"type": "json_object"}}},
            {"text": {"format": {"type": "json_object"}, "verbosity": "medium"}},
        ),
        ({"text": {"verbosity": "low"}}, {"text": {"format": {"type": "text"}, "verbosity": "low"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}},
            {
                "text": {
                    "format": {
                        "type": "json_schema",
                        "name": "n",
                        "schema": {"type": "object"},
                        "description": None,
                        "strict": False,
                    },
                    "verbosity": "medium",
                }
            },
        ),
        (
            {"tools": [{"type": "function", "name": "f"}, {"type": "web_search"}]},
            {
                "tools": [
                    {"type": "function", "name": "f", "description": None, "parameters": None, "strict": None},
                    {"type": "web_search"},
                ]
            },
        ),
    ],
)
def test_the_request_is_echoed(fields, echo):
    """``echo`` None: verbatim."""
    assert made(**fields) == {**DEFAULTS, **(fields if echo is None else echo)}


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": True, "include": ["reasoning.encrypted_content"]},
        {"top_k": 5, "seed": 1, "anything": {"new": True}},
        {"stream_options": {"include_obfuscation": True}, "context_management": [{"type": "compaction"}]},
    ],
)
def test_what_is_never_echoed(fields):
    assert made(**fields) == DEFAULTS


def test_a_snapshot_does_not_follow():
    response = made()
    left = snapshot(response, status="queued")
    response["status"], response["output"] = "completed", [1]
    assert (left["status"], left["output"]) == ("queued", [])


@pytest.mark.parametrize(
    ("chat", "figures"),
    [
        ({}, (0, 0, 0, 0, 0, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}, (9, 0, 0, 3, 0, 12)),
        ({"prompt_tokens": 9, "completion_tokens": 3}, (9, 0, 0, 3, 0, 12)),
        ({"prompt_tokens": 9, "total_tokens": 9}, (9, 0, 0, 0, 0, 9)),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 3,
                "total_tokens": 12,
                "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 1},
            },
            (9, 4, 2, 3, 1, 12),
        ),
        (  # DeepSeek
            {"prompt_tokens": 9, "completion_tokens": 3, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 5},
            (9, 4, 0, 3, 0, 12),
        ),
        ({"prompt_tokens": 9, "completion_tokens": 3, "reasoning_tokens": 2}, (9, 0, 0, 3, 2, 12)),  # SGLang
        (
            {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": None, "total_tokens": None},
            (9, 0, 0, 3, 0, 12),
        ),
        ({"prompt_tokens": 9.0, "completion_tokens": "3", "prompt_tokens_details": []}, (9, 0, 0, 0, 0, 9)),
    ],
)
def test_usage_has_all_keys_whatever_the_upstream_counts(chat, figures):
    told = usage(chat)
    assert told == {
        "input_tokens": figures[0],
        "input_tokens_details": {"cached_tokens": figures[1], "cache_write_tokens": figures[2]},
        "output_tokens": figures[3],
        "output_tokens_details": {"reasoning_tokens": figures[4]},
        "total_tokens": figures[5],
    }
    assert "." not in codec.dumps(told).decode()


def test_the_rounds_of_a_response_are_added_up():
    one = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
    two = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25, "reasoning_tokens": 1}
    told = usage(one, two)
    assert (told["input_tokens"], told["output_tokens"], told["total_tokens"]) == (29, 8, 37)
    assert told["input_tokens_details"]["cached_tokens"] == 4
    assert told["output_tokens_details"]["reasoning_tokens"] == 1
    assert usage() == usage({})


# -- the short form


TEXT = st.text(max_size=3)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "instructions": TEXT,
        "max_output_tokens": st.integers(1, 3),
        "metadata": st.dictionaries(TEXT, TEXT, max_size=2),
        "parallel_tool_calls": st.booleans(),
        "temperature": st.sampled_from([0, 1, 1.0, 0.5]),
        "top_p": st.sampled_from([0, 1, 1.0, 0.5]),
        "presence_penalty": st.sampled_from([0, 0.0, 1]),
        "frequency_penalty": st.sampled_from([0, 0.0, 1]),
        "top_logprobs": st.integers(0, 2),
        "store": st.booleans(),
        "truncation": st.sampled_from(["auto", "disabled"]),
        "tool_choice": st.just("auto"),
        "text": st.sampled_from([{}, {"verbosity": "low"}, {"format": {"type": "json_object"}}]),
        "reasoning": st.sampled_from([{}, {"effort": "low"}, {"summary": "auto"}, {"effort": "high", "x": 1}]),
        "tools": st.sampled_from([[], [{"type": "function", "name": "f"}]]),
        "service_tier": st.sampled_from(["auto", "default", "flex"]),
        "user": TEXT,
        "conversation": st.just("conv_1"),
    },
)
ENDS = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["completed", "failed", "incomplete"]),
        "service_tier": st.sampled_from(["default", "flex", "auto"]),
        "completed_at": st.none() | st.integers(0, 9),
        "error": st.none() | st.just({"code": "server_error", "message": "x"}),
        "incomplete_details": st.none() | st.just({"reason": "max_output_tokens"}),
        "usage": st.none()
        | st.builds(
            lambda a, b, c: usage({"prompt_tokens": a, "completion_tokens": b, "prompt_cache_hit_tokens": c}),
            *[st.integers(0, 99)] * 3,
        ),
        "output": st.just([]) | st.just([{"id": "msg_1", "type": "message"}]),
    }
)


@settings(max_examples=150, deadline=None)
@given(REQUESTS, ENDS)
def test_a_response_that_was_kept_is_the_same_response(request_, end):
    response = {**made(**request_), **end}
    kept = codec.loads(codec.dumps(shorten(response)))
    again = restore(
        kept,
        **{key: response[key] for key in ("id", "created_at", "status", "model", "output")},
        conversation=response.get("conversation", {}).get("id"),
    )
    assert strictly(again) == strictly({key: response[key] for key in again})
    assert again.keys() == response.keys()


def test_defaults_are_not_kept():
    assert shorten({**made(), "service_tier": "default", "status": "completed", "completed_at": 7}) == {
        "completed_at": 7
    }
    assert shorten({**made(), "service_tier": "default", "usage": usage({})}) == {"usage": [0] * 6}


def test_what_only_the_upstream_must_get_back_is_not_shown():
    item = {"id": "fc_1", "type": "function_call", "x_upstream": {"a": 1}}
    assert public(item) == {"id": "fc_1", "type": "function_call"}
    assert item["x_upstream"] == {"a": 1}
    shown = restore({}, id="r", created_at=1, status="completed", model="m", output=[item], conversation=None)
    assert shown["output"] == [{"id": "fc_1", "type": "function_call"}]
