"""What holds for every stream, over replies nobody thought of: sane ones, and any JSON in any place."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import wire
from proxy.translate.dialects import Dialect
from proxy.translate.tools import ToolPlan, plan
from tests.translate import rules
from tests.translate.replies import USAGE, Told, calls, chunk, entry, output_of, plain, read

FINISH = ["stop", "tool_calls", "length", "content_filter", "", None, "error"]
CHARACTERS = st.characters(categories=["L", "N", "P", "Zs", "Cc", "Cs", "So"])
TEXTS = st.text(CHARACTERS, max_size=6).map(lambda text: json.loads(json.dumps(text)))
"""As JSON is read: two halves of a character that meet within a text are that character."""

ARGUMENTS = st.sampled_from(
    ["", "{", "{}", '{"a":', "1}", '"x"}', '{"a":1}', " ", "\ud83d", "\ude00", "no"]
    + ['{"input":"', '{"input":"a"}', "\\", "n", "\\ud83d", "\\ude00", '"', '{"commands":["ls"]}']
)
SPACE = {"type": "namespace", "name": "n", "description": "", "tools": [{"type": "custom", "name": "custom"}]}
TOOLS = [{"type": "custom", "name": "custom"}, SPACE, {"type": "shell"}, {"type": "apply_patch"}]
REQUEST = wire.create_response({"model": "m", "input": "x", "tools": TOOLS})
PLAN = plan(REQUEST, REQUEST["input"], Dialect())


def entries():
    return st.builds(
        entry,
        st.sampled_from([None, 0, 0, 1, 2]),
        st.sampled_from([None, "", "call_a", "call_b", "call_c"]),
        st.sampled_from([None, "", "f", "g", "custom", "shell", "apply_patch", "n__custom"]),
        ARGUMENTS | st.none(),
    ) | st.builds(
        lambda at, id_, custom: {"index": at, "id": id_, "type": "custom", "custom": custom},
        st.sampled_from([None, 0, 1]),
        st.sampled_from([None, "call_a", "call_d"]),
        st.fixed_dictionaries({}, optional={"name": st.sampled_from(["custom", "f"]), "input": ARGUMENTS}),
    )


DELTAS = st.fixed_dictionaries(
    {},
    optional={
        "content": TEXTS | st.none(),
        "reasoning_content": TEXTS | st.none(),
        "refusal": st.sampled_from(["", "No", "\n", None]),
        "annotations": st.just([{"type": "url_citation", "url_citation": {"url": "u"}}]),
        "tool_calls": st.lists(entries(), max_size=3) | st.none(),
        "reasoning_details": st.lists(
            st.fixed_dictionaries({"text": TEXTS, "index": st.sampled_from([0, 1, None])}), max_size=2
        ),
    },
)
CHUNKS = st.lists(
    st.builds(chunk, DELTAS)
    | st.builds(chunk, DELTAS, st.sampled_from(FINISH), usage=st.just(USAGE) | st.none())
    | st.builds(lambda arguments: calls(entry(0, arguments=arguments)), ARGUMENTS)
    | st.just({"error": {"message": "dead", "code": 503}}),
    max_size=12,
)
OPTIONS = st.fixed_dictionaries(
    {
        "think_tags": st.booleans(),
        "tools": st.sampled_from([None, PLAN, ToolPlan(allowed=frozenset({"f"}))]),
        "done": st.booleans(),
    }
)
REQUESTS = st.sampled_from([{}, {"reasoning": {"summary": "auto"}}])


@settings(max_examples=100, deadline=None)
@given(CHUNKS, OPTIONS, REQUESTS)
def test_every_stream_keeps_every_rule(chunks, options, request_):
    """``read`` checks numbers, indexes, added and done, deltas and texts, every event by the SDK's strict model."""
    read(chunks, request_, **options)


TOKEN = {"token": "a", "logprob": -1.0, "bytes": [97], "top_logprobs": [{"token": "b", "logprob": -2.0, "bytes": [98]}]}
CUSTOM = {"index": 2, "id": "call_c", "type": "custom", "custom": {"name": "custom", "input": "a"}}
RICH = [
    {
        **chunk(usage={**USAGE, "prompt_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 1}}),
        "service_tier": "default",
        "choices": [
            {
                "index": 0,
                "delta": {
                    "role": "assistant",
                    "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "x"}]}],
                    "reasoning_details": [{"text": "x", "index": 0}, {"summary": "y", "index": 1}],
                    "refusal": "No",
                    "annotations": [
                        {
                            "type": "url_citation",
                            "url_citation": {"url": "u", "title": "t", "start_index": 0, "end_index": 1},
                        }
                    ],
                    "tool_calls": [entry(0, "call_a", "f", "{}"), entry(1, "call_b", "g", '{"a"'), CUSTOM],
                    "function_call": {"name": "h", "arguments": "{}"},
                    "audio": {"transcript": "x"},
                },
                "finish_reason": None,
            }
        ],
    },
    {
        **chunk(),
        "choices": [
            {
                "index": 0,
                "delta": {"content": "Hi", "reasoning": "x", "tool_calls": [entry(1, arguments=":1}")]},
                "logprobs": {"content": [TOKEN], "refusal": None},
                "finish_reason": "stop",
            }
        ],
    },
]
ODD = [None, True, 7, -1.5, "x", [None], [["x"]], {"a": 1}, "²"]


def paths(value, *path):
    """The place of everything within a value."""
    if path:
        yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(inner, *path, key)


@pytest.mark.parametrize("path", list(paths(RICH)), ids=lambda path: ".".join(map(str, path)))
def test_nothing_in_the_wrong_place_breaks_a_stream(path):
    """Each thing that a chunk may hold, replaced by anything else."""
    for odd in ODD:
        chunks = copy.deepcopy(RICH)
        inner = chunks
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = odd
        request = {"reasoning": {"summary": "auto"}} if "reasoning_details" in path else {}
        read([one for one in chunks if isinstance(one, dict)], request, think_tags=True)


def pieces(draw, text):
    """The text cut anywhere, also into nothing."""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@st.composite
def replies(draw):
    """A plain reply's message and one of the ways to stream it."""
    seen = st.text(min_size=1, max_size=20).filter(lambda text: text.strip())
    free = st.dictionaries(st.text(max_size=3), st.text(max_size=5), max_size=2)
    inputs = st.fixed_dictionaries({"input": st.text(CHARACTERS, max_size=8)})
    arguments = st.tuples(st.sampled_from(["f", "custom", "n__custom", "shell"]), (free | inputs).map(json.dumps))
    message = {"reasoning_content": draw(seen | st.none()), "content": draw(seen | st.none()), "tool_calls": []}
    chunks = []
    for key in ("reasoning_content", "content"):
        chunks += [chunk({key: piece}) for piece in pieces(draw, message[key] or "")]
    for index, (name, text) in enumerate(draw(st.lists(arguments, max_size=3))):
        whole = entry(index, f"call_{index}", name, text)
        message["tool_calls"].append(whole)
        first, *rest = pieces(draw, text)
        chunks.append(calls({**whole, "function": {"name": name, "arguments": first}}))
        chunks += [calls(entry(index, arguments=piece)) for piece in rest]
    return message, chunks


@settings(max_examples=50, deadline=None)
@given(replies(), st.sampled_from(["stop", "length"]))
def test_any_way_to_stream_a_reply_gives_what_the_plain_reply_gives(reply, finish):
    message, chunks = reply
    streamed = read([*chunks, chunk(finish=finish, usage=USAGE)], tools=PLAN)
    assert streamed.response == read([plain(message, finish, usage=USAGE)], tools=PLAN).response
    assert [of_item(item) for item in streamed.response["output"]] == ([*expected(message)] or [""])


def of_item(item):
    """The text of an item; of a call that the client runs, None."""
    if "content" in item:
        return item["content"][0]["text"]
    return item.get("arguments", item.get("input"))


def expected(message):
    for key in ("reasoning_content", "content"):
        if message[key]:
            yield message[key]
    for call in message["tool_calls"]:
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        given = json.loads(arguments)
        yield {"f": arguments, "shell": None}.get(name, given.get("input", arguments))


def test_a_broken_stream_is_noticed():
    """Of the rules themselves: what they forbid, they find."""
    result = read([chunk({"content": "Hi"}), chunk(finish="stop")])
    assert output_of(result.response) == [Told("message", ("Hi",))]
    for fault in range(len(result.events)):
        broken = [event for at, event in enumerate(result.events) if at != fault]
        renumbered = [{**event, "sequence_number": at} for at, event in enumerate(broken)]
        for events in (broken, renumbered):
            with pytest.raises((AssertionError, KeyError, IndexError)):
                rules.check(events)
