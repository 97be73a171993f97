"""Calls of tools that run here: written out, run, answered, over several upstream calls (wire §6.2, §9.5, §10.11)."""

import copy
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy import wire
from proxy.errors import StatecarError
from proxy.translate.dialects import Dialect
from proxy.translate.hosted_calls import McpApprovalRequest, McpCall, McpListTools
from proxy.translate.hosting import Hosting, Outcome
from proxy.translate.tools import plan
from tests.translate import rules
from tests.translate.replies import NOW, USAGE, brief, calls, chunk, entry, open_stream, plain, texts
from tests.translate.test_stream_properties import ARGUMENTS, pieces

DOCS = {"type": "mcp", "server_label": "docs", "server_url": "https://docs.example/mcp", "require_approval": "never"}
ASKS = DOCS | {"server_label": "asks", "require_approval": "always"}
TYPED = [{"type": "web_search"}, {"type": "file_search", "vector_store_ids": []}, {"type": "code_interpreter"}]
F = {"type": "function", "name": "f"}
TOOLS = [F, DOCS, ASKS, *TYPED]
LISTED = [{"name": "search", "description": "Search", "input_schema": {"type": "object"}, "annotations": None}]
HERE = Hosting(frozenset({"web_search", "file_search", "code_interpreter"}), {"docs": LISTED, "asks": LISTED}, mcp=True)
REQUEST = wire.create_response({"model": "m", "input": "x", "tools": TOOLS})
PLAN = plan(REQUEST, REQUEST["input"], Dialect(), HERE)
CALLED, STOP, CUT = chunk(finish="tool_calls"), chunk(finish="stop"), chunk(finish="length")
FOUND = Outcome("found")
PAGES = [
    {"url": "https://a.example/", "title": "A", "text": "a"},
    {"url": "https://b.example/", "title": "B", "text": "b"},
]
FILES = [{"file_id": "file_1", "filename": "a.md", "score": 0.5, "text": "a", "attributes": {}}]
LOGS = Outcome("4", outputs=[{"type": "logs", "logs": "4"}])
ERROR = {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": "no such page"}]}
GONE = StatecarError("gone")


def turn(*rounds, outcomes=None, left=None, include=(), order=None, ends=True):
    """All events of a response, as a turn makes them: each round's chunks, then its hosted calls run.

    ``outcomes``: by the names of tools. ``order``: in which of its calls a round's outcomes come.
    """
    stream = open_stream(tools=PLAN, include=include)
    stream.hosted_left = left
    events = stream.start()
    for chunks in rounds:
        for one in chunks:
            events += stream.feed(one)
        closing, _ = stream.end_round(done=True)
        events += closing
        events += run(stream, outcomes or {}, order)
    events += [*stream.finish(NOW, done=True), stream.end()]
    rules.check(events)
    return stream, events


def run(stream, outcomes, order=None):
    waiting = stream.hosted_calls
    events = [event for call in waiting for event in stream.begin_call(call)]
    for at in (order or range(len(waiting))) if waiting else ():
        call = waiting[at]
        failed = Outcome(error={"type": "http_error", "code": 400, "message": "broken"})
        events += stream.answer(call, failed if call.broken else outcomes.get(call.origin.name, FOUND))
    assert stream.hosted_calls == []
    return events


def told(events):
    return [brief(event) for event in events]


def asked(name, arguments, at=0, id=None):
    return entry(at, id or f"call_{at}", name, arguments)


# -- MCP


MCP_STORY = [
    "0 output_item.added mcp_call",
    "0 mcp_call.in_progress",
    '0 mcp_call_arguments.delta {"q":"x"}',
    '0 mcp_call_arguments.done {"q":"x"}',
    "0 mcp_call.completed",
    "0 output_item.done mcp_call",
]


def test_a_call_of_a_server_is_told_from_its_arguments_to_its_output():
    stream, events = turn([calls(asked("docs__search", '{"q":"x"}')), CALLED], [*texts("Found."), STOP])
    assert told(events)[2:8] == MCP_STORY
    call, message = events[-1]["response"]["output"]
    assert call == {
        "id": "mcp_call_1",
        "type": "mcp_call",
        "status": "completed",
        "server_label": "docs",
        "name": "search",
        "arguments": '{"q":"x"}',
        "approval_request_id": None,
        "error": None,
        "output": "found",
    }
    assert message["content"][0]["text"] == "Found."
    assert stream.stored_output()[0] == call


def test_a_call_that_failed_says_why_and_the_response_goes_on():
    outcomes = {"search": Outcome("ignored", error=ERROR)}
    _, events = turn([calls(asked("docs__search", "{}")), CALLED], [*texts("Sorry."), STOP], outcomes=outcomes)
    call, _ = events[-1]["response"]["output"]
    assert (call["status"], call["error"], call["output"]) == ("failed", ERROR, None)
    assert told(events)[6:8] == ["0 mcp_call.failed", "0 output_item.done mcp_call"]


@pytest.mark.parametrize(("arguments", "told_as"), [("", "{}"), ("{}", "{}"), ('{"a"', '{"a"'), ("no", "no")])
def test_arguments_are_told_as_they_came(arguments, told_as):
    _, events = turn([calls(asked("docs__search", arguments)), CALLED], [*texts("x"), STOP])
    call = events[-1]["response"]["output"][0]
    assert (call["arguments"], call["status"]) == (told_as, "completed" if told_as == "{}" else "failed")


def test_calls_side_by_side_are_done_in_their_order():
    both = calls(asked("docs__search", "{}"), asked("docs__search", '{"b":1}', 1))
    _, events = turn([both, CALLED], [*texts("x"), STOP], order=[1, 0])
    ends = [line for line in told(events) if line.endswith(("mcp_call.completed", "done mcp_call"))]
    assert ends == [
        "1 mcp_call.completed",
        "0 mcp_call.completed",
        "0 output_item.done mcp_call",
        "1 output_item.done mcp_call",
    ]


def test_a_call_of_the_clients_own_tool_may_stand_beside_one_that_runs_here():
    stream, events = turn([calls(asked("docs__search", "{}"), asked("f", "{}", 1)), CALLED])
    assert [(item["type"], item["status"]) for item in events[-1]["response"]["output"]] == [
        ("mcp_call", "completed"),
        ("function_call", "completed"),
    ]
    assert events[-1]["response"]["status"] == "completed"


def test_the_usage_of_all_rounds_is_summed():
    rounds = [[calls(asked("docs__search", "{}")), chunk(finish="tool_calls", usage=USAGE)]]
    _, events = turn(*rounds, [*texts("x"), chunk(finish="stop", usage=USAGE)])
    assert events[-1]["response"]["usage"]["total_tokens"] == 2 * USAGE["total_tokens"]


def test_a_listing_is_told_whole_when_the_response_begins():
    stream = open_stream()
    assert stream.host(McpListTools(0, "mcpl_1", "docs", LISTED)) == []
    assert stream.host(McpListTools(1, "mcpl_2", "down", [], "unreachable")) == []
    events = [*stream.start(), *stream.feed(chunk({"content": "Hi"}, "stop")), *stream.finish(NOW, done=True)]
    events.append(stream.end())
    rules.check(events)
    assert told(events)[2:10] == [
        "0 output_item.added mcp_list_tools",
        "0 mcp_list_tools.in_progress",
        "0 mcp_list_tools.completed",
        "0 output_item.done mcp_list_tools",
        "1 output_item.added mcp_list_tools",
        "1 mcp_list_tools.in_progress",
        "1 mcp_list_tools.failed",
        "1 output_item.done mcp_list_tools",
    ]
    good, bad, _ = events[-1]["response"]["output"]
    assert good == {"id": "mcpl_1", "type": "mcp_list_tools", "server_label": "docs", "tools": LISTED}
    assert bad == {
        "id": "mcpl_2",
        "type": "mcp_list_tools",
        "server_label": "down",
        "tools": [],
        "error": "unreachable",
    }


# -- approvals


def test_a_call_that_needs_leave_is_told_whole_and_not_made():
    stream, events = turn([calls(asked("asks__search", '{"q":')), calls(entry(0, arguments='"x"}')), CALLED])
    assert told(events)[2:-1] == ["0 output_item.added mcp_approval_request", "0 output_item.done mcp_approval_request"]
    (request,) = events[-1]["response"]["output"]
    assert request == {
        "id": "mcp_approval_request_1",
        "type": "mcp_approval_request",
        "server_label": "asks",
        "name": "search",
        "arguments": '{"q":"x"}',
    }
    assert events[2]["item"] == request
    assert isinstance(stream.items[0], McpApprovalRequest)


def test_an_approved_call_is_told_like_any_other():
    request = {
        "id": "mcpr_1",
        "type": "mcp_approval_request",
        "server_label": "docs",
        "name": "search",
        "arguments": '{"q":"x"}',
    }
    stream = open_stream(tools=PLAN)
    events = [*stream.start(), *stream.host(McpCall.approved(0, "mcp_1", request))]
    events += [*run(stream, {}), *stream.feed(chunk({"content": "Hi"}, "stop")), *stream.finish(NOW, done=True)]
    events.append(stream.end())
    rules.check(events)
    assert told(events)[2:8] == MCP_STORY
    call = events[-1]["response"]["output"][0]
    assert (call["approval_request_id"], call["output"]) == ("mcpr_1", "found")


# -- typed calls


def searched(query="news", at=0):
    return asked("web_search", f'{{"query":"{query}"}}', at)


def test_a_web_search_names_its_query_first_and_its_sources_when_asked():
    outcomes = {"web_search": Outcome(found=PAGES)}
    rounds = [calls(searched()), CALLED], [*texts("All quiet."), STOP]
    stream, events = turn(*rounds, outcomes=outcomes)
    action = {"type": "search", "query": "news", "queries": ["news"]}
    assert told(events)[2:7] == [
        "0 output_item.added web_search_call",
        "0 web_search_call.in_progress",
        "0 web_search_call.searching",
        "0 web_search_call.completed",
        "0 output_item.done web_search_call",
    ]
    assert events[2]["item"] == {
        "id": "web_search_call_1",
        "type": "web_search_call",
        "status": "in_progress",
        "action": action,
    }
    assert events[6]["item"] == events[2]["item"] | {"status": "completed"}
    kept = stream.stored_output()[0]["x_upstream"]
    assert kept["output"] == "[1] A\nhttps://a.example/\na\n\n[2] B\nhttps://b.example/\nb"
    assert [page["number"] for page in kept["found"]] == [1, 2]
    _, events = turn(*rounds, outcomes=outcomes, include=["web_search_call.action.sources"])
    sources = [{"type": "url", "url": page["url"]} for page in PAGES]
    assert events[6]["item"]["action"] == action | {"sources": sources}


def test_what_was_found_is_cited_and_numbers_run_on():
    outcomes = {"web_search": Outcome(found=PAGES)}
    rounds = [calls(searched("a"), searched("b", 1)), CALLED], [*texts("So [", "2], and", " [3", "]."), STOP]
    _, events = turn(*rounds, outcomes=outcomes)
    (part,) = events[-1]["response"]["output"][2]["content"]
    assert [(one["url"], one["start_index"], one["end_index"]) for one in part["annotations"]] == [
        ("https://b.example/", 3, 6),
        ("https://a.example/", 12, 15),
    ]
    lines = told(events)
    assert lines[lines.index("2 output_text.delta 2], and") + 1] == "2 output_text.annotation.added"


def test_a_source_that_ends_the_text_is_cited():
    rounds = [calls(searched()), CALLED], [*texts("See https://a.exam", "ple/"), STOP]
    _, events = turn(*rounds, outcomes={"web_search": Outcome(found=PAGES)})
    lines = told(events)
    at = lines.index("1 output_text.annotation.added")
    assert lines[at - 1 : at + 2 : 2] == ["1 output_text.delta ple/", "1 output_text.done See https://a.example/"]


def test_what_earlier_turns_found_is_cited_too():
    before, _ = turn([calls(searched()), CALLED], [*texts("x"), STOP], outcomes={"web_search": Outcome(found=PAGES)})
    stream = open_stream(tools=PLAN)
    stream.learn(before.stored_output())
    events = [*stream.start(), *stream.feed(chunk({"content": "[1] again"}, "stop")), *stream.finish(NOW, done=True)]
    assert [one["title"] for one in events[-1]["item"]["content"][0]["annotations"]] == ["A"]


def test_a_file_search_shows_its_results_when_asked():
    outcomes = {"file_search": Outcome(found=FILES)}
    rounds = [calls(asked("file_search", '{"queries":["a","b"]}')), CALLED], [*texts("x [1]"), STOP]
    for include, results in (((), None), (["file_search_call.results"], FILES)):
        _, events = turn(*rounds, outcomes=outcomes, include=include)
        assert [line.split()[1] for line in told(events)[2:7]] == [
            "output_item.added",
            "file_search_call.in_progress",
            "file_search_call.searching",
            "file_search_call.completed",
            "output_item.done",
        ]
        assert (events[2]["item"]["queries"], events[2]["item"]["results"]) == (["a", "b"], None)
        assert events[6]["item"]["results"] == results
        (annotation,) = events[-1]["response"]["output"][1]["content"][0]["annotations"]
        assert (annotation["type"], annotation["file_id"], annotation["index"]) == ("file_citation", "file_1", 2)


@pytest.mark.parametrize(
    ("name", "arguments", "run"),
    [
        ("web_search", '{"query":"a","lang":"en"}', {"query": "a"}),
        ("web_search", '{"query":["a","b"]}', {"query": "a"}),
        ("web_search", '{"queries":["a"]}', {"query": "a"}),
        ("web_search", '{"q":"a"}', {"query": "a"}),
        ("web_search", '{"query":5}', {"query": ""}),
        ("web_search", "[]", {"query": ""}),
        ("file_search", '{"queries":["a","b"]}', {"queries": ["a", "b"]}),
        ("file_search", '{"queries":"a"}', {"queries": ["a"]}),
        ("file_search", '{"query":"a","queries":[]}', {"queries": ["a"]}),
        ("file_search", '{"queries":[5]}', {"queries": []}),
    ],
)
def test_what_is_searched_for_is_what_the_item_tells(name, arguments, run):
    stream = open_stream(tools=PLAN)
    for one in calls(asked(name, arguments)), CALLED:
        stream.feed(one)
    stream.end_round(done=True)
    (call,) = stream.hosted_calls
    assert call.asked() == run
    told_ = call.item.get("action", call.item)
    assert {key: told_[key] for key in run} == run


def test_code_is_told_while_it_is_written_and_its_outputs_when_asked():
    outcomes = {"code_interpreter": LOGS}
    written = [calls(asked("code_interpreter", '{"code":"pri')), calls(entry(0, arguments='nt(2+2)"}')), CALLED]
    for include, outputs in (((), None), (["code_interpreter_call.outputs"], LOGS.outputs)):
        stream, events = turn(written, [*texts("4"), STOP], outcomes=outcomes, include=include)
        assert told(events)[2:10] == [
            "0 output_item.added code_interpreter_call",
            "0 code_interpreter_call.in_progress",
            "0 code_interpreter_call_code.delta pri",
            "0 code_interpreter_call_code.delta nt(2+2)",
            "0 code_interpreter_call_code.done",
            "0 code_interpreter_call.interpreting",
            "0 code_interpreter_call.completed",
            "0 output_item.done code_interpreter_call",
        ]
        item = events[9]["item"]
        assert (item["code"], item["outputs"], item["container_id"]) == ("print(2+2)", outputs, "auto")
        assert stream.stored_output()[0]["x_upstream"]["output"] == "4"


def test_code_is_read_wherever_it_stands_in_its_arguments():
    for arguments in ('{"code":"a"}', '{"lang":"python","code":"a"}', '{ "code" : "a" }'):
        _, events = turn([calls(asked("code_interpreter", arguments)), CALLED], [*texts("x"), STOP])
        assert events[-1]["response"]["output"][0]["code"] == "a"


@pytest.mark.parametrize("name", ["web_search", "file_search", "code_interpreter"])
def test_a_typed_call_that_fails_says_so_and_the_model_reads_why(name):
    outcomes = {name: Outcome(error=ERROR)}
    stream, events = turn([calls(asked(name, "{}")), CALLED], [*texts("x"), STOP], outcomes=outcomes)
    assert events[-1]["response"]["output"][0]["status"] == "failed"
    assert not any(line.endswith("call.completed") for line in told(events))
    assert stream.stored_output()[0]["x_upstream"]["output"] == "no such page"


def test_a_later_call_waits_for_one_whose_query_is_still_being_written():
    chunks = [
        calls(asked("web_search", '{"query":')),
        calls(asked("docs__search", '{"q"', 1)),
        calls(entry(1, arguments=":1}")),
        calls(entry(0, arguments='"a"}')),
        CALLED,
    ]
    _, events = turn(chunks, [*texts("x"), STOP])
    assert told(events)[2:6] == [
        "0 output_item.added web_search_call",
        "0 web_search_call.in_progress",
        "1 output_item.added mcp_call",
        "1 mcp_call.in_progress",
    ]


# -- limits and ends


def test_calls_beyond_the_limit_are_ignored():
    """Wire §10.11."""
    both = calls(asked("docs__search", "{}"), asked("docs__search", '{"b":1}', 1), asked("f", "{}", 2))
    stream, events = turn([both, CALLED], left=1)
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["mcp_call", "function_call"]
    assert stream.hosted_left == 0
    stream, events = turn([calls(asked("docs__search", "{}")), CALLED], left=0)
    (message,) = events[-1]["response"]["output"]
    assert (message["type"], message["content"][0]["text"]) == ("message", "")


@pytest.mark.parametrize("name", ["docs__search", "web_search", "file_search", "code_interpreter", "asks__search"])
@pytest.mark.parametrize("arguments", ["", '{"query":"a', '{"code":"a"}'])
def test_a_call_of_a_reply_that_was_cut_off_never_runs(name, arguments):
    for others in ([], [asked("f", '{"a"', 1)], [asked("docs__search", "{}", 1)]):
        stream = open_stream(tools=PLAN)
        events = [*stream.start(), *stream.feed(calls(asked(name, arguments), *others)), *stream.feed(CUT)]
        assert (stream.end_round(done=True), stream.hosted_calls) == (([], []), [])
        events += stream.finish(NOW, done=True)
        events.append(stream.end())
        rules.check(events)
        statuses = [item.get("status", "incomplete") for item in events[-1]["response"]["output"]]
        assert set(statuses) == {"incomplete"} and events[-1]["response"]["status"] == "incomplete"


@pytest.mark.parametrize("error", [GONE, None])
@pytest.mark.parametrize("answered", [0, 1])
def test_calls_without_an_outcome_are_incomplete_when_the_response_fails(error, answered):
    stream = open_stream(tools=PLAN)
    names = ["docs__search", "web_search", "code_interpreter"]
    events = [*stream.start(), *stream.feed(calls(*(asked(name, "{}", at) for at, name in enumerate(names))))]
    events += [*stream.feed(CALLED), *stream.end_round(done=True)[0]]
    for call in stream.hosted_calls[:answered]:
        events += [*stream.begin_call(call), *stream.answer(call, FOUND)]
    stream.fail(error)
    events.append(stream.end())
    rules.check(events)
    statuses = [item["status"] for item in events[-1]["response"]["output"]]
    assert statuses == ["completed"] * answered + ["incomplete"] * (3 - answered)


def test_a_call_that_nobody_was_told_of_is_forgotten_with_all_that_waited_for_it():
    stream = open_stream(tools=PLAN)
    events = stream.start()
    events += stream.feed(calls(asked("web_search", '{"query":'), asked("f", "{}", 1)))
    stream.fail(GONE)
    events.append(stream.end())
    rules.check(events)
    assert events[-1]["response"]["output"] == []


def test_a_reply_that_broke_off_runs_nothing():
    stream = open_stream(tools=PLAN)
    stream.start()
    stream.feed(calls(asked("docs__search", "{}")))
    with pytest.raises(StatecarError, match="closed the stream"):
        stream.end_round(done=False)


# -- whatever the model writes


NAMES = ["f", "docs__search", "asks__search", "web_search", "file_search", "code_interpreter", "search", None]
GIVEN = ARGUMENTS | st.sampled_from(['{"query":"a"}', '{"code":"a', 'b"}', '{"queries":["a"]}', '{"query":["a"]}'])


def entries():
    names, ids = st.sampled_from(NAMES), st.sampled_from([None, "call_a", "call_b"])
    return st.builds(entry, st.sampled_from([None, 0, 1, 2]), ids, names, GIVEN)


CHUNKS = st.lists(
    st.builds(lambda given: calls(*given), st.lists(entries(), min_size=1, max_size=3))
    | st.builds(lambda text: chunk({"content": text}), st.sampled_from(["a", " [1]", "\n", "\ud83d"]))
    | st.just(chunk({"reasoning_content": "Hm"})),
    max_size=8,
)


@settings(max_examples=50, deadline=None)
@given(CHUNKS, CHUNKS, st.sampled_from([None, 0, 1]), st.booleans(), st.sampled_from([STOP, CUT]), st.booleans())
def test_every_turn_of_several_rounds_keeps_every_rule(first, second, left, backwards, end, cut):
    stream = open_stream(tools=PLAN)
    stream.hosted_left = left
    events = stream.start()
    try:
        for chunks, finish in ((first, CALLED), (second, end)):
            for one in [*chunks, finish]:
                events += stream.feed(one)
            events += stream.end_round(done=True)[0]
            if cut:
                raise GONE
            waiting = range(len(stream.hosted_calls))
            found = {"web_search": Outcome(found=PAGES)}
            events += run(stream, found, list(reversed(waiting)) if backwards else None)
            if chunks is first:
                stream.again()
        events += stream.finish(NOW, done=True)
    except StatecarError as exc:
        stream.fail(exc)
    events.append(stream.end())
    rules.check(events)


@st.composite
def replies(draw):
    """A plain reply with calls that run here, and one of the ways to stream it, its calls interleaved or not."""
    numbers = count()
    whole, streamed = [], []
    given = st.tuples(st.sampled_from(NAMES[:-1]), st.sampled_from(['{"query":"a"}', '{"code":"a\\nb"}', "{}"]))
    for name, arguments in draw(st.lists(given, min_size=1, max_size=3)):
        at = next(numbers)
        whole.append(asked(name, arguments, at))
        first, *rest = pieces(draw, arguments)
        streamed.append([calls(asked(name, first, at)), *(calls(entry(at, arguments=piece)) for piece in rest)])
    if not draw(st.booleans()):
        return whole, [one for chunks in streamed for one in chunks]
    heads, tails = [chunks[0] for chunks in streamed], [chunks[1:] for chunks in streamed]
    return whole, [*heads, *(one for chunks in draw(st.permutations(tails)) for one in chunks)]


@settings(max_examples=50, deadline=None)
@given(replies())
def test_any_way_to_stream_calls_gives_what_the_plain_reply_gives(reply):
    whole, streamed = reply
    answer = [*texts("So [1]"), STOP]
    outcomes = {"web_search": Outcome(found=PAGES)}
    _, one = turn([plain({"tool_calls": copy.deepcopy(whole)}, "tool_calls")], answer, outcomes=outcomes)
    _, other = turn([*streamed, CALLED], answer, outcomes=outcomes)
    assert one[-1]["response"] == other[-1]["response"]
