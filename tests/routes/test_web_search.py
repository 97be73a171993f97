"""Bound tools in one request: searched, answered from, cited, remembered (wire §6.2, §6.4, §7.10, §9.5, §10.9)."""

import json
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.backend import DONE, chunk, stream
from tests.callers import Caller, ok, refusal
from tests.golden.test_golden import golden, renamed
from tests.live import strict
from tests.mcp_servers import McpServer, Tool, broken
from tests.routes.hosted import called, messages, offered, said, types
from tests.searxng import SearXNG, page

SEARCH = {"type": "web_search"}
SOURCES = ["web_search_call.action.sources"]
A, B, C = (page(name)["url"] for name in "abc")
SHOWN = {name: f"Page {name}\nhttps://{name}.example/page\nAbout {name}." for name in "abc"}


@asynccontextmanager
async def searching(serve, *options, **results):
    """(a caller of a server that searches there, a SearXNG with these results)."""
    async with AsyncExitStack() as stack:
        searxng = await stack.enter_async_context(SearXNG(results))
        url = await serve(f"--web-search=searxng+{searxng.url}", *options)
        yield await stack.enter_async_context(Caller(url)), searxng


@asynccontextmanager
async def bound(serve, type_, run, schema):
    """(a caller of a server with a type bound to this tool, the MCP server that has it)."""
    async with McpServer(Tool("run", run, schema={"type": "object", "properties": schema})) as server:
        url = await serve(f"--connector=lib={server.url}", f"--{type_.replace('_', '-')}=mcp:lib/run")
        async with Caller(url) as caller:
            yield caller, server


def search(query):
    return "web_search", {"query": query}


def citation(url, start, end):
    return {"type": "url_citation", "url": url, "title": f"Page {url[8]}", "start_index": start, "end_index": end}


def annotations(response):
    return [
        annotation
        for item in response["output"]
        if item["type"] == "message"
        for annotation in item["content"][0]["annotations"]
    ]


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "plain"])
async def test_a_search_is_the_golden_one(serve, backend, streamed):
    figures = {"prompt_tokens": 140, "completion_tokens": 3}, {"prompt_tokens": 160, "completion_tokens": 2}
    async with searching(serve, news=[page("a")]) as (caller, searxng):
        backend.script(called(search("news"), usage=figures[0], model="mock-model"))
        backend.script(said("All quiet.", usage=figures[1], model="mock-model"))
        fields = {"model": "mock-model", "tools": [{"type": "web_search", "search_context_size": "medium"}]}
        if streamed:
            events = await caller.events("Go on", **fields)
            strict.stream(events)
            assert renamed(events) == renamed(golden("web_search"))
            last = events[-1]["response"]
        else:
            last = await caller.create("Go on", **fields)
            assert renamed([last]) == renamed([golden("web_search")[-1]["response"]])
        assert await caller.get(f"/responses/{last['id']}") == last
        assert searxng.queries == ["news"]
        assert offered(backend, 0) == offered(backend, 1) == ["web_search"]
        assert messages(backend)[1:] == [
            ("assistant", [("web_search", '{"query":"news"}')]),
            ("tool", f"[1] {SHOWN['a']}"),
        ]


async def test_sources_and_citations_come_with_the_answer(serve, backend):
    text = ["Cold [", "1], wet[2] (", B, ") and so on, 😀 [2].", " Not `x = [1]`, not [3]."]
    whole = "".join(text)
    cited = [
        citation(A, 5, 8),
        citation(B, 13, 16),
        citation(B, 18, 18 + len(B)),
        citation(B, whole.rindex(" [2]") + 1, whole.rindex(" [2]") + 4),
    ]
    async with searching(serve, oslo=[page("a"), page("b")]) as (caller, _):
        backend.script(called(search("oslo")))
        backend.script(stream(*(chunk({"content": piece}) for piece in text), chunk({}, "stop"), DONE))
        events = await caller.events("Weather?", tools=[SEARCH], include=SOURCES)
        strict.stream(events)
        told = [event for event in events if event["type"] == "response.output_text.annotation.added"]
        assert [event["annotation"] for event in told] == cited
        assert [event["annotation_index"] for event in told] == [0, 1, 2, 3]
        kinds = [event["type"].rpartition("response.")[2] for event in events if "content_index" in event]
        assert kinds[1:5] == ["output_text.delta"] * 2 + ["output_text.annotation.added"] * 2, (
            "each right after its marker"
        )
        response = events[-1]["response"]
        call, message = response["output"]
        assert call["status"] == "completed"
        assert call["action"] == {
            "type": "search",
            "query": "oslo",
            "queries": ["oslo"],
            "sources": [{"type": "url", "url": A}, {"type": "url", "url": B}],
        }
        assert message["content"][0]["text"] == whole
        assert annotations(response) == cited
        assert await caller.get(f"/responses/{response['id']}") == response

        backend.script(called(search("oslo")))
        backend.script(said(whole))
        plain = await caller.create("Weather?", tools=[SEARCH])
        assert "sources" not in plain["output"][0]["action"]
        assert annotations(plain) == cited


async def test_numbers_run_on_over_the_searches_of_a_response(serve, backend):
    async with searching(serve, one=[page("a")], two=[page("b")], three=[page("c")]) as (caller, searxng):
        backend.script(called(search("one"), search("two"), text="Let me look."))
        backend.script(called(search("three")))
        backend.script(said("So [1], [2] and [3]."))
        events = await caller.events("Go on", tools=[SEARCH])
        strict.stream(events)
        response = events[-1]["response"]
        assert types(response["output"]) == ["message", *["web_search_call"] * 3, "message"]
        assert sorted(searxng.queries[:2]) == ["one", "two"] and searxng.queries[2] == "three"
        assert {text for role, text in messages(backend) if role == "tool"} >= {f"[3] {SHOWN['c']}"}
        shown = "\n".join(text for role, text in messages(backend) if role == "tool")
        numbers = {line[1]: line[9] for line in shown.splitlines() if line.startswith("[")}
        assert sorted(numbers) == ["1", "2", "3"]
        assert [a["url"] for a in annotations(response)] == [page(numbers[n])["url"] for n in "123"]


@pytest.mark.parametrize("by", ["previous_response_id", "conversation"])
async def test_the_next_turn_knows_what_was_found(serve, backend, by):
    async with searching(serve, one=[page("a")], two=[page("b")]) as (caller, _):
        lineage = {"conversation": await caller.conversation()} if by == "conversation" else {}
        backend.script(called(search("one")))
        backend.script(said("It is a [1]."))
        first = await caller.create("Go on", tools=[SEARCH], **lineage)
        lineage = lineage or {"previous_response_id": first["id"]}

        backend.script(called(search("two")))
        backend.script(said("It is a [1] or b [2]."))
        second = await caller.create("And now?", tools=[SEARCH], **lineage)
        assert [a["url"] for a in annotations(second)] == [A, B]
        assert messages(backend) == [
            ("user", "Go on"),
            ("assistant", [("web_search", '{"query":"one"}')]),
            ("tool", f"[1] {SHOWN['a']}"),
            ("assistant", "It is a [1]."),
            ("user", "And now?"),
            ("assistant", [("web_search", '{"query":"two"}')]),
            ("tool", f"[2] {SHOWN['b']}"),
        ]
        lineage = lineage if by == "conversation" else {"previous_response_id": second["id"]}
        backend.script(said("As said [2]."))
        third = await caller.create("Sure?", **lineage)
        assert [a["url"] for a in annotations(third)] == [B], "also without the tool"

        listed = [
            *(await caller.get(f"/responses/{third['id']}/input_items"))["data"],
            *(
                (await caller.get(f"/conversations/{lineage['conversation']}/items", limit=50))["data"]
                if by == "conversation"
                else []
            ),
            *first["output"],
        ]
        assert types(listed).count("web_search_call") >= 3
        assert "About a." not in json.dumps(listed) and "x_upstream" not in json.dumps(listed)


async def test_a_failed_search_is_a_failed_item_and_the_model_goes_on(serve, backend):
    async with searching(serve) as (caller, searxng):
        searxng.down = 500
        backend.script(called(search("news")))
        backend.script(said("I could not look."))
        events = await caller.events("Go on", tools=[SEARCH], include=SOURCES)
        strict.stream(events)
        response = events[-1]["response"]
        assert response["status"] == "completed"
        assert [item["status"] for item in response["output"]] == ["failed", "completed"]
        assert messages(backend)[-1] == ("tool", "The web search failed: SearXNG answered 500.")
        assert "response.web_search_call.completed" not in types(events)

        searxng.down = 0
        backend.script(called(("web_search", "{broken")))
        backend.script(called(("web_search", {"about": "news"})))
        backend.script(said("Well."))
        response = await caller.create("Go on", tools=[SEARCH])
        assert [item["status"] for item in response["output"]] == ["failed", "failed", "completed"]
        assert len(searxng.queries) == 1


async def test_a_search_that_finds_nothing_is_completed(serve, backend):
    async with searching(serve) as (caller, _):
        backend.script(called(search("news")))
        backend.script(said("Nothing [1]."))
        response = await caller.create("Go on", tools=[SEARCH], include=SOURCES)
        assert response["output"][0]["status"] == "completed"
        assert response["output"][0]["action"]["sources"] == [] and annotations(response) == []
        assert messages(backend)[-1] == ("tool", "No results.")


async def test_filters_and_size_hold_in_the_whole(serve, backend):
    tool = {"type": "web_search_preview", "search_context_size": "low", "filters": {"allowed_domains": ["b.example"]}}
    found = {"news site:b.example": [page("a"), page("b", content="x" * 500)]}
    async with searching(serve, **found) as (caller, _):
        backend.script(called(search("news")))
        backend.script(said("Ok."))
        response = await caller.create(
            "Go on", tools=[tool], include=SOURCES, tool_choice={"type": "web_search_preview"}
        )
        assert response["output"][0]["action"]["sources"] == [{"type": "url", "url": B}]
        assert messages(backend)[-1][1] == f"[1] Page b\n{B}\n{'x' * 399}…"
        choices = [request.json.get("tool_choice") for request in backend.requests]
        assert choices[0] == {"type": "function", "function": {"name": "web_search"}}
        assert choices[1] in (None, "auto"), "what was forced once is not forced again"


async def test_functions_and_searches_in_one_round(serve, backend):
    function = {"type": "function", "name": "mine", "parameters": {"type": "object", "properties": {}}}
    async with searching(serve, news=[page("a")]) as (caller, searxng):
        backend.script(called(search("news"), ("mine", {})))
        first = await caller.create("Go on", tools=[SEARCH, function])
        assert types(first["output"]) == ["web_search_call", "function_call"]
        assert searxng.queries == ["news"] and len(backend.requests) == 1
        backend.script(said("So [1]."))
        output = {"type": "function_call_output", "call_id": first["output"][1]["call_id"], "output": "5"}
        second = await caller.create([output], previous_response_id=first["id"], tools=[SEARCH, function])
        assert [a["url"] for a in annotations(second)] == [A]
        assert ("tool", f"[1] {SHOWN['a']}") in messages(backend)


async def test_what_is_not_bound_and_searches_without_the_web_are_as_ever(serve, backend):
    async with searching(serve) as (caller, searxng):
        answer = await caller.ask("Go on", tools=[{"type": "file_search", "vector_store_ids": ["vs_1"]}])
        assert refusal(answer) == (400, "unsupported_parameter", "tools[0].type")
        assert not backend.requests
        offline = {"type": "web_search", "external_web_access": False, "search_content_types": ["text"]}
        answer = await caller.ask("Go on", tools=[offline])
        assert ok(answer)["tools"] == [offline], "as Codex sends it"
        assert answer.headers["statecar-dropped-tools"] == "web_search"
        assert offered(backend) == [] and searxng.queries == []


PASSAGES = [
    {"file_id": "file-1", "filename": "a.md", "score": 0.5, "text": "The key is under the pot.", "attributes": {"n": 1}}
]
QUERIES = {"queries": {"type": "array", "items": {"type": "string"}}, "vector_store_ids": {"type": "array"}}


async def test_a_file_search_gives_results_to_who_asks_and_citations(serve, backend):
    tool = {"type": "file_search", "vector_store_ids": ["vs_1"]}
    async with bound(serve, "file_search", lambda _: json.dumps(PASSAGES), QUERIES) as (caller, server):
        for include in (["file_search_call.results"], []):
            backend.script(called(("file_search", {"queries": ["key", "pot"]})))
            backend.script(said("Under the pot [1]."))
            events = await caller.events("Where?", tools=[tool], include=include)
            strict.stream(events)
            call, message = events[-1]["response"]["output"]
            assert (call["type"], call["status"], call["queries"]) == ("file_search_call", "completed", ["key", "pot"])
            assert call["results"] == (PASSAGES if include else None)
            cited = {"type": "file_citation", "file_id": "file-1", "filename": "a.md", "index": 14}
            assert message["content"][0]["annotations"] == [cited]
            assert messages(backend)[-1] == ("tool", "[1] a.md\nThe key is under the pot.")
        names = [f"response.file_search_call.{name}" for name in ("in_progress", "searching", "completed")]
        assert [kind for kind in types(events) if kind in names] == names
        assert server.calls[0] == ("run", {"queries": ["key", "pot"], "vector_store_ids": ["vs_1"]})


async def test_code_is_run_and_its_outputs_given_to_who_asks(serve, backend):
    tool = {"type": "code_interpreter", "container": {"type": "auto"}}
    code = {"code": {"type": "string"}}
    async with bound(serve, "code_interpreter", lambda a: str(eval(a["code"])), code) as (caller, server):
        for include in (["code_interpreter_call.outputs"], []):
            backend.script(called(("code_interpreter", {"code": "6 * 7"})))
            backend.script(said("It is 42."))
            events = await caller.events("6 * 7?", tools=[tool], include=include)
            strict.stream(events)
            call = events[-1]["response"]["output"][0]
            assert (call["type"], call["status"], call["code"]) == ("code_interpreter_call", "completed", "6 * 7")
            assert call["outputs"] == ([{"type": "logs", "logs": "42"}] if include else None)
            assert isinstance(call["container_id"], str)
            assert messages(backend)[-1] == ("tool", "42")
        deltas = [e["delta"] for e in events if e["type"] == "response.code_interpreter_call_code.delta"]
        assert "".join(deltas) == "6 * 7"
    async with bound(serve, "code_interpreter", lambda _: broken("NameError"), code) as (caller, _):
        backend.script(called(("code_interpreter", {"code": "x"})))
        backend.script(said("It is not."))
        response = await caller.create("x?", tools=[tool])
        assert [item["status"] for item in response["output"]] == ["failed", "completed"]
        assert messages(backend)[-1] == ("tool", "The tool failed: NameError")


async def test_a_background_response_searches_and_its_result_is_the_same(serve, backend):
    async with searching(serve, news=[page("a")]) as (caller, _):
        backend.script(called(search("news")))
        backend.script(said("So [1]."))
        events = await caller.events("Go on", tools=[SEARCH], include=SOURCES, background=True)
        strict.stream(events)
        response = events[-1]["response"]
        assert response["status"] == "completed" and [a["url"] for a in annotations(response)] == [A]
        assert await caller.get(f"/responses/{response['id']}") == response
        backend.script(said("As said [1]."))
        later = await caller.create("Sure?", previous_response_id=response["id"])
        assert [a["url"] for a in annotations(later)] == [A]
        assert messages(backend)[2] == ("tool", f"[1] {SHOWN['a']}")


async def test_tools_may_come_as_an_item_and_stay_for_later_turns(serve, backend):
    item = {"type": "additional_tools", "tools": [SEARCH]}
    async with searching(serve, oslo=[page("a")]) as (caller, searxng):
        last = {}
        for given in [item, {"role": "user", "content": "Weather?"}], "And now?":
            backend.script(called(search("oslo")))
            backend.script(said("Wet."))
            last = await caller.create(given, previous_response_id=last.get("id"))
            assert [one["type"] for one in last["output"]] == ["web_search_call", "message"]
        assert searxng.queries == ["oslo", "oslo"]
