"""Tools of MCP servers in one request: listed, called, answered from (wire §6.6, §7.10, §9.5, §10.11)."""

import asyncio
import json

import pytest

from tests.backend import CLOSE, DONE, STREAM_HEAD, chunk, chunked, completion, json_reply, sse, stream
from tests.callers import ok, refusal
from tests.golden.test_golden import golden, renamed
from tests.live import strict
from tests.mcp_servers import SEARCH, McpServer, Tool, broken
from tests.routes.hosted import FIND, at, called, docs, messages, offered, said, types
from tests.servers import free_port

FUNCTION = {"type": "function", "name": "mine", "parameters": {"type": "object", "properties": {}}}
FIGURES = {"prompt_tokens": 90, "completion_tokens": 8}, {"prompt_tokens": 110, "completion_tokens": 4}
"""What the rounds of the golden stream took; it tells their sum."""
TOO_LONG = json_reply({"error": {"message": "maximum context length", "code": "context_length_exceeded"}}, status=400)


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "plain"])
async def test_a_call_is_the_golden_one(serve, backend, streamed):
    async with at(serve) as (caller, server):
        backend.script(called(FIND, usage=FIGURES[0], model="mock-model"))
        backend.script(said("Found.", usage=FIGURES[1], model="mock-model"))
        fields = {"model": "mock-model", "tools": [docs(server)]}
        whole = json.loads(json.dumps(golden("mcp")).replace("http://127.0.0.1:9001/mcp", server.url))
        if streamed:
            events = await caller.events("Go on", **fields)
            last = strict.stream(events)
            assert renamed(events) == renamed(whole)
        else:
            last = await caller.create("Go on", **fields)
            assert renamed([last]) == renamed([whole[-1]["response"]])
        assert await caller.get(f"/responses/{last['id']}") == last
        assert server.calls == [("search", {"q": "x"})]
        assert offered(backend, 0) == offered(backend, 1) == ["docs__search"]
        assert messages(backend)[1:] == [("assistant", [FIND]), ("tool", "found")]


async def test_a_server_is_listed_once_in_a_lineage_and_again_for_another_choice_of_its_tools(serve, backend):
    async with at(serve, SEARCH, Tool("other", lambda _: "")) as (caller, server):
        conversation = await caller.conversation()
        for number in range(2):
            last = await caller.create(tools=[docs(server)], conversation=conversation)
            assert types(last["output"]) == [["mcp_list_tools"], []][number] + ["message"]
            assert offered(backend) == ["docs__search", "docs__other"]
        last = await caller.create(tools=[docs(server, allowed_tools=["other"])], conversation=conversation)
        assert [tool["name"] for tool in last["output"][0]["tools"]] == ["other"]
        assert offered(backend) == ["docs__other"]
        last = await caller.create(tools=[docs(server, allowed_tools=["other"])], conversation=conversation)
        assert types(last["output"]) == ["message"]
        assert offered(backend) == ["docs__other"]
        page = await caller.get(f"/conversations/{conversation}/items", limit=100)
        assert "x_upstream" not in json.dumps(page)
    assert server.listings == 2


async def test_calls_of_a_round_run_side_by_side_and_the_client_calls_end_the_turn(serve, backend):
    both = asyncio.Barrier(2)

    async def meet(_):
        await both.wait()
        return "met"

    async with at(serve, Tool("a", meet), Tool("b", meet)) as (caller, server):
        backend.script(called(("docs__a", "{}"), ("mine", "{}"), ("docs__b", "{}")))
        tools = [docs(server), FUNCTION]
        events = await caller.events(tools=tools)
        last = strict.stream(events)
        assert types(last["output"]) == ["mcp_list_tools", "mcp_call", "function_call", "mcp_call"]
        assert [item["output"] for item in last["output"] if item["type"] == "mcp_call"] == ["met", "met"]
        assert (last["status"], len(backend.requests)) == ("completed", 1)
        output = {"type": "function_call_output", "call_id": last["output"][2]["call_id"], "output": "mine too"}
        last = await caller.create([output], tools=tools, previous_response_id=last["id"])
        assert types(last["output"]) == ["message"]
        said_ = messages(backend)[1:]
        assert sorted(call for role, calls in said_ if role == "assistant" for call in calls) == [
            ("docs__a", "{}"),
            ("docs__b", "{}"),
            ("mine", "{}"),
        ]
        assert sorted(text for role, text in said_ if role == "tool") == ["met", "met", "mine too"]


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "plain"])
async def test_a_call_that_needs_leave_waits_for_it_and_is_made_in_a_later_turn(serve, backend, streamed):
    async with at(serve) as (caller, server):
        tool = docs(server, require_approval="always")
        backend.script(called(FIND))
        if streamed:
            first = strict.stream(await caller.events("Look", tools=[tool]))
        else:
            first = strict.response(await caller.create("Look", tools=[tool]))
        assert types(first["output"]) == ["mcp_list_tools", "mcp_approval_request"]
        assert (server.calls, len(backend.requests)) == ([], 1)
        request = first["output"][1]
        assert (request["name"], request["arguments"]) == ("search", '{"q":"x"}')
        fields = {"tools": [tool], "previous_response_id": first["id"]}
        answer = {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": True}
        if streamed:
            last = strict.stream(await caller.events([answer], **fields))
        else:
            last = strict.response(await caller.create([answer], **fields))
        assert types(last["output"]) == ["mcp_call", "message"]
        assert last["output"][0]["approval_request_id"] == request["id"]
        assert server.calls == [("search", {"q": "x"})]
        assert messages(backend) == [("user", "Look"), ("assistant", [FIND]), ("tool", "found")]
        again = await caller.create([answer], **fields | {"previous_response_id": last["id"]})
        assert types(again["output"]) == ["message"]
        assert (len(server.calls), server.listings) == (1, 1)


async def test_a_call_that_is_denied_is_not_made_and_the_model_reads_why(serve, backend):
    async with at(serve) as (caller, server):
        tool = docs(server, require_approval="always")
        backend.script(called(FIND))
        first = await caller.create("Look", tools=[tool])
        answer = {"type": "mcp_approval_response", "approval_request_id": first["output"][1]["id"], "approve": False}
        last = await caller.create([answer | {"reason": "Too dear."}], tools=[tool], previous_response_id=first["id"])
        assert types(last["output"]) == ["message"]
        role, text = messages(backend)[-1]
        assert role == "tool" and "did not approve" in text and "Too dear." in text
    assert not server.calls


async def test_an_answer_to_no_request_and_leave_for_no_server_are_refused(serve, backend):
    async with at(serve) as (caller, server):
        tool = docs(server, require_approval="always")
        backend.script(called(FIND))
        first = await caller.create("Look", tools=[tool])
        answer = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
        known = answer | {"approval_request_id": first["output"][1]["id"]}
        for item, fields, param in (
            (answer, {"tools": [tool], "previous_response_id": first["id"]}, "input"),
            (known, {"tools": [tool]}, "input"),
            (known, {"previous_response_id": first["id"]}, "tools"),
            (known, {"previous_response_id": first["id"], "background": True}, "tools"),
        ):
            assert refusal(await caller.ask([item], **fields)) == (400, None, param)
    assert not server.calls and len(backend.requests) == 1


@pytest.mark.parametrize(
    "fields", [{}, {"stream": True}, {"background": True}], ids=["plain", "streamed", "background"]
)
async def test_a_server_that_may_not_be_asked_is_refused_at_once(serve, backend, fields):
    async with at(serve) as (caller, _):
        for tool in (
            {"type": "mcp", "server_label": "far", "server_url": "https://mcp.example/mcp"},
            {"type": "mcp", "server_label": "far", "connector_id": "unknown"},
        ):
            status, _, param = refusal(await caller.ask(tools=[tool], **fields))
            assert (status, param.partition(".")[0]) == (400, "tools[0]")
    assert not backend.requests


async def test_a_server_that_is_down_is_told_and_the_turn_goes_on_unless_it_was_chosen(serve, backend):
    async with at(serve) as (caller, server):
        down = McpServer()
        async with down:
            pass
        tools = [docs(server), docs(down, server_label="down")]
        last = strict.stream(await caller.events(tools=tools))
        assert types(last["output"]) == ["mcp_list_tools", "mcp_list_tools", "message"]
        assert [bool(item.get("error")) for item in last["output"]] == [False, True, False]
        assert offered(backend) == ["docs__search"]
        for fields in ({}, {"stream": True}):
            choice = {"type": "mcp", "server_label": "down"}
            assert refusal(await caller.ask(tools=tools, tool_choice=choice, **fields)) == (424, "http_error", "tools")
            forced = {"tools": tools[1:], "tool_choice": "required"}
            assert refusal(await caller.ask(**forced, **fields)) == (424, "http_error", "tools")
        assert len(backend.requests) == 1
        last = await caller.create(tools=tools, previous_response_id=last["id"])
        assert types(last["output"]) == ["mcp_list_tools", "message"]


async def test_a_choice_of_a_server_that_offers_nothing_is_refused(serve, backend):
    async with at(serve) as (caller, server):
        tools = [docs(server, allowed_tools=["another"])]
        for choice in ("required", {"type": "mcp", "server_label": "docs"}):
            assert refusal(await caller.ask(tools=tools, tool_choice=choice)) == (400, None, "tool_choice")
    assert not backend.requests


@pytest.mark.parametrize("approval", ["always", "never"])
@pytest.mark.parametrize(
    "way", ["unknown", "not allowed", "not allowed any more", "listed by the client", "gone", "down"]
)
async def test_a_call_of_a_tool_that_is_not_offered_is_told_as_failed_and_not_made(serve, backend, approval, way):
    async with at(serve, SEARCH, Tool("other", lambda _: "")) as (caller, server):
        tool, fields, name = docs(server, require_approval=approval), {}, "search"
        if way == "unknown":
            name = "nothing"
        elif way == "not allowed":
            tool["allowed_tools"] = ["other"]
        elif way == "not allowed any more":
            before = await caller.create(tools=[tool])
            tool["allowed_tools"], fields["previous_response_id"] = ["other"], before["id"]
        elif way == "listed by the client":
            listing = (await caller.create(tools=[tool], store=False))["output"][0]
            fields, tool["allowed_tools"] = {"store": False}, ["other"]
            fields["input"] = [listing | {"id": "mcpl_1"}, {"role": "user", "content": "Hi"}]
        elif way == "gone":
            server.tools.pop("search")
        else:
            tool["server_url"] = f"http://127.0.0.1:{free_port()}/mcp"
        backend.script(called((f"docs__{name}", '{"q":"x"}')))
        last = strict.stream(await caller.events(**{"tools": [tool], **fields}))
        call = last["output"][-2]
        assert (last["status"], call["type"], call["name"]) == ("completed", "mcp_call", name)
        assert call["status"] == "failed" and f"no tool '{name}'" in json.dumps(call["error"])
        assert f"no tool '{name}'" in messages(backend)[-1][1]
    assert not server.calls


async def test_a_call_that_fails_is_a_failed_item_and_the_model_goes_on(serve, backend):
    async with at(serve, SEARCH, Tool("full", lambda _: broken())) as (caller, server):
        backend.script(called(("docs__full", "{}"), ("docs__search", '{"q":'), ("docs__search", "[1]")))
        last = strict.stream(await caller.events(tools=[docs(server)]))
        _, full, cut, no_object, message = last["output"]
        assert full["error"]["type"] == "mcp_tool_execution_error"
        assert cut["error"] == no_object["error"] and "no JSON object" in json.dumps(cut["error"])
        assert [item["status"] for item in (full, cut, no_object, message)] == ["failed"] * 3 + ["completed"]
        assert "The disk is full." in messages(backend)[2][1]
    assert server.calls == [("full", {})]


@pytest.mark.parametrize(
    ("fields", "forced", "free"),
    [
        ({"tool_choice": "required"}, "required", "auto"),
        ({"tool_choice": {"type": "mcp", "server_label": "docs", "name": "search"}}, "docs__search", "auto"),
        ({"tool_choice": "none"}, None, None),
    ],
    ids=["required", "named", "none"],
)
async def test_a_choice_forces_no_call_twice(serve, backend, fields, forced, free):
    async with at(serve) as (caller, server):
        if forced:
            backend.script(called(FIND))
        last = await caller.create(tools=[docs(server)], **fields)
        assert last["status"] == "completed"
        sent = [request.json.get("tool_choice") for request in backend.requests]
        named = [one["function"]["name"] if isinstance(one, dict) else one for one in sent]
        assert named == ([forced, free] if forced else [None])


async def test_no_more_calls_are_made_than_the_request_allows(serve, backend):
    async with at(serve) as (caller, server):
        backend.script(called(FIND, FIND, FIND))
        backend.script(called(FIND, text="I could go on."))
        last = strict.stream(await caller.events(tools=[docs(server), FUNCTION], max_tool_calls=2))
        assert types(last["output"]) == ["mcp_list_tools", "mcp_call", "mcp_call", "message"]
        assert (last["status"], last["max_tool_calls"]) == ("completed", 2)
        assert offered(backend, 1) == ["mine"]
    assert len(server.calls) == 2


async def test_the_last_round_is_asked_without_tools_that_run_here(serve, backend):
    async with at(serve, options=["--max-tool-rounds=3"]) as (caller, server):
        for _ in range(2):
            backend.script(called(FIND, usage={"prompt_tokens": 10, "completion_tokens": 1}))
        backend.script(said("Enough.", usage={"prompt_tokens": 10, "completion_tokens": 1}))
        last = strict.stream(await caller.events(tools=[docs(server)]))
        assert types(last["output"]) == ["mcp_list_tools", "mcp_call", "mcp_call", "message"]
        assert (last["usage"]["input_tokens"], last["usage"]["output_tokens"]) == (30, 3)
        assert [bool(offered(backend, at)) for at in range(3)] == [True, True, False]


async def test_a_last_round_without_tools_that_is_refused_is_asked_with_them(serve, backend):
    async with at(serve, options=["--max-tool-rounds=2"]) as (caller, server):
        backend.script(called(FIND))
        message = "The toolConfig field must be defined when using toolUse and toolResult content blocks."
        backend.script(json_reply({"error": {"message": message}}, status=400))
        last = await caller.create(tools=[docs(server)])
        assert types(last["output"]) == ["mcp_list_tools", "mcp_call", "message"]
        assert offered(backend) == ["docs__search"] and backend.requests[-1].json["tool_choice"] == "none"


async def test_a_reply_that_was_cut_off_runs_nothing(serve, backend):
    async with at(serve) as (caller, server):
        backend.script(called(FIND, finish="length"))
        last = strict.stream(await caller.events(tools=[docs(server)]))
        assert (last["status"], last["output"][-1]["status"]) == ("incomplete", "incomplete")
        backend.script(called(FIND)[:-80], CLOSE)
        failed = await caller.create(tools=[docs(server)])
        assert failed["status"] == "failed"
    assert not server.calls and len(backend.requests) == 2


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (stream(DONE), "returned no choices"),
        (STREAM_HEAD, "closed the stream before it finished"),
        (STREAM_HEAD + chunked(sse(chunk({"content": "Hel"}))), "closed the stream before it finished"),
        (json_reply({"error": {"message": "boom"}}, status=500), "boom"),
        (stream({"error": {"message": "boom", "code": 500}}), "boom"),
    ],
    ids=["nothing", "cut at once", "cut", "refused", "error"],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_later_round_that_fails_fails_the_response_and_can_be_gone_on_from(
    serve, backend, second, why, streamed
):
    async with at(serve) as (caller, server):
        backend.script(called(FIND))
        backend.script(second, CLOSE)
        tools = [docs(server)]
        last = strict.stream(await caller.events(tools=tools)) if streamed else await caller.create(tools=tools)
        assert last["status"] == "failed" and why in last["error"]["message"]
        assert types(last["output"])[:2] == ["mcp_list_tools", "mcp_call"]
        assert last["output"][1]["status"] == "completed"
        after = await caller.create("Next", tools=tools, previous_response_id=last["id"])
        assert types(after["output"]) == ["message"]
        assert [role for role, _ in messages(backend)][:3] == ["user", "assistant", "tool"]
    assert len(server.calls) == 1


async def test_a_later_round_that_is_too_long_is_made_shorter(serve, backend):
    async with at(serve) as (caller, server):
        first = await caller.create("An old question")
        backend.script(called(FIND))
        backend.script(TOO_LONG)
        backend.script(said("Found."))
        fields = {"tools": [docs(server)], "previous_response_id": first["id"], "truncation": "auto"}
        last = strict.stream(await caller.events("Look", **fields))
        assert types(last["output"]) == ["mcp_list_tools", "mcp_call", "message"]
        assert messages(backend) == [("user", "Look"), ("assistant", [FIND]), ("tool", "found")]
        assert ("user", "An old question") in messages(backend, 2)
        backend.script(called(FIND))
        backend.script(TOO_LONG)
        last = await caller.create("Look", tools=[docs(server)])
        assert (last["status"], types(last["output"])) == ("failed", ["mcp_list_tools", "mcp_call"])


async def test_what_is_not_stored_is_not_kept_and_goes_on_from_what_the_client_sends(serve, backend):
    async with at(serve) as (caller, server):
        backend.script(called(FIND))
        last = await caller.create("Look", tools=[docs(server)], store=False)
        await caller.create([{"role": "user", "content": "Look"}, *last["output"], {"role": "user", "content": "More"}])
        assert messages(backend)[:3] == [("user", "Look"), ("assistant", [FIND]), ("tool", "found")]
        backend.script(said("Yes."))
        items = [*last["output"], {"role": "user", "content": "More"}]
        last = await caller.create(items, tools=[docs(server)], store=False)
        assert types(last["output"]) == ["message"]
    assert server.listings == 1


async def test_the_rounds_share_one_limit_of_tokens(serve, backend):
    async with at(serve) as (caller, server):
        for _ in range(2):
            backend.script(called(FIND, usage={"prompt_tokens": 10, "completion_tokens": 30}))
        last = strict.stream(await caller.events(tools=[docs(server)], max_output_tokens=50))
        assert [request.json["max_tokens"] for request in backend.requests] == [50, 20]
        assert (last["status"], last["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
        assert types(last["output"]) == ["mcp_list_tools", "mcp_call", "mcp_call", "message"]


@pytest.mark.parametrize("kind", ["vllm", "generic"])
async def test_what_tools_take_of_the_context_is_counted_with_it(serve, backend, kind):
    async with at(serve, options=("--count-by-generation", f"--upstream-kind={kind}")) as (caller, server):
        fields = {"model": "m", "input": "Hi", "tools": [docs(server)]}
        counts = {"count": 50} if kind == "vllm" else completion() | {"usage": {"prompt_tokens": 50}}
        backend.script(json_reply(counts))
        answer = await caller.http.post("/responses/input_tokens", json=fields)
        assert ok(answer)["input_tokens"] == 50 and offered(backend) == ["docs__search"]
        await server.die()
        backend.script(json_reply(counts))
        assert ok(await caller.http.post("/responses/input_tokens", json=fields))["input_tokens"] == 50
        assert offered(backend) == []
        fields["tools"] = [docs(server, server_url="http://10.0.0.1/")]
        refused = refusal(await caller.http.post("/responses/input_tokens", json=fields))
        assert refused[0] == 400 and "tools[0].server_url" in refused


async def test_a_context_with_tools_that_run_here_is_compacted_when_it_is_due(serve, backend):
    async with at(serve, options=("--upstream-kind=vllm",)) as (caller, server):
        first = await caller.create("Hi", tools=[docs(server)])
        backend.script(json_reply({"count": 50}))
        backend.script(said("A greeting."))
        backend.script(called(FIND))
        compacted = [{"type": "compaction", "compact_threshold": 10}]
        fields = {"tools": [docs(server)], "context_management": compacted, "previous_response_id": first["id"]}
        last = strict.stream(await caller.events("Look", **fields))
        assert types(last["output"]) == ["compaction", "mcp_call", "message"]
        counted = backend.requests[1].json
        assert [tool["function"]["name"] for tool in counted["tools"]] == ["docs__search"]


async def test_servers_cannot_come_as_an_item(serve):
    async with at(serve) as (caller, server):
        given = [{"type": "additional_tools", "tools": [docs(server)]}, {"role": "user", "content": "x"}]
        answer = await caller.ask(given)
        assert refusal(answer) == (400, "unsupported_parameter", "input[0].tools[0].type")
        assert "can only be declared in 'tools' itself" in answer.json()["error"]["message"]
