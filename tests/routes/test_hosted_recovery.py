"""Runs with tools that run here, taken up by another process: no tool runs twice, nothing is lost (wire §10.5)."""

import asyncio
import json

import pytest

from tests.backend import DONE, chunk, json_reply, stream
from tests.callers import Caller, unframed
from tests.live import strict
from tests.mcp_servers import SEARCH, Tool
from tests.routes.hosted import FIND, at, called, docs, messages, said, types
from tests.routes.test_background import HALF, eventually, made, replay, seen
from tests.routes.test_hosted_ends import Slow
from tests.routes.test_recovery import KEY, abandon

FIRST, NEXT = ("--run-lease=90", "--grace=0", KEY, "--tenant=off"), ("--run-lease=0.5", KEY, "--tenant=off")
LEFT = "The server restarted while this call was running."


@pytest.fixture
def slow():
    return Slow()


@pytest.fixture
def options():
    return ()


@pytest.fixture
async def two(serve, own, backend, slow, options):
    """Begins a run at one process, lets that seem to have died, and gives what another has made of it."""

    class Two:
        async def begun(self, caller, streamed=True, **fields):
            self.streamed = streamed
            if not streamed:
                return (await made(caller, **fields))["id"]
            async with caller.opened(background=True, **fields) as opened:
                return (await opened.until("response.created"))["response"]["id"]

        async def taken_up(self, id_):
            url = await serve("--mcp-allow=127.0.0.1", *NEXT, *options, store=own.url)
            abandon(own, {"id": id_})
            async with Caller(url) as caller:
                last = await seen(caller, id_, "completed", "failed", "incomplete")
                if self.streamed:
                    events = unframed(await replay(caller, id_))
                    assert strict.stream(events) == last
            slow.go.set()  # the first one learns at last that it has lost the run
            await backend.drop_idle()
            return last

    return Two()


def first(serve, own, *tools, options=()):
    return at(serve, *tools, options=[*FIRST, *options], store=own.url)


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "plain"])
async def test_a_tool_that_was_running_is_told_as_failed_and_not_run_again(serve, own, backend, two, slow, streamed):
    async with first(serve, own, slow.tool) as (caller, server):
        backend.script(called(FIND, usage={"prompt_tokens": 10, "completion_tokens": 1}))
        backend.script(said("Sorry.", usage={"prompt_tokens": 20, "completion_tokens": 2}))
        id_ = await two.begun(caller, streamed, tools=[docs(server)])
        await server.called(1)
        last = await two.taken_up(id_)
        assert (last["status"], types(last["output"])) == ("completed", ["mcp_list_tools", "mcp_call", "message"])
        assert (last["output"][1]["status"], last["output"][1]["output"]) == ("failed", None)
        assert LEFT in json.dumps(last["output"][1]["error"]) and LEFT in messages(backend)[-1][1]
        assert last["usage"]["input_tokens"] == 30
    assert (len(server.calls), server.listings, len(backend.requests)) == (1, 1, 2)


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "plain"])
async def test_a_tool_that_has_run_is_not_run_again_and_the_next_round_is_asked_anew(
    serve, own, backend, two, streamed
):
    async with first(serve, own) as (caller, server):
        backend.script(called(FIND, usage={"prompt_tokens": 10, "completion_tokens": 1}))
        backend.script(asyncio.Event())
        backend.script(said("Found.", usage={"prompt_tokens": 20, "completion_tokens": 2}))
        id_ = await two.begun(caller, streamed, tools=[docs(server)])
        await backend.received(2)
        last = await two.taken_up(id_)
        assert (last["status"], last["output"][2]["content"][0]["text"]) == ("completed", "Found.")
        assert [last["usage"][key] for key in ("input_tokens", "output_tokens")] == [30, 3]
        assert backend.requests[2].json == backend.requests[1].json
    assert (len(server.calls), server.listings) == (1, 1)


async def test_what_came_of_a_call_is_kept_also_where_an_earlier_one_still_runs(serve, own, backend, two, slow):
    async with first(serve, own, slow.tool, Tool("quick", lambda _: "at once")) as (caller, server):
        backend.script(called(FIND, ("docs__quick", "{}")))
        id_ = await two.begun(caller, tools=[docs(server)])

        async def kept():
            with own.admin() as admin:
                return next((key for key in admin.keys("sc:*:j:*") if b"+item 2" in admin.hgetall(key)), None)

        await eventually(kept)
        last = await two.taken_up(id_)
        _, cut, quick, _ = last["output"]
        assert (cut["status"], quick["status"], quick["output"]) == ("failed", "completed", "at once")
        assert [text for role, text in messages(backend) if role == "tool"][1] == "at once"
    assert len(server.calls) == 2


async def test_an_approved_call_that_was_running_is_not_made_again(serve, own, backend, two, slow):
    async with first(serve, own, slow.tool) as (caller, server):
        tools = [docs(server, require_approval="always")]
        backend.script(called(FIND))
        asked = await caller.create(tools=tools)
        answer = {"type": "mcp_approval_response", "approval_request_id": asked["output"][1]["id"], "approve": True}
        async with caller.opened([answer], background=True, tools=tools, previous_response_id=asked["id"]) as opened:
            id_ = (await opened.until("response.created"))["response"]["id"]
        two.streamed = True
        await server.called(1)
        last = await two.taken_up(id_)
        assert types(last["output"]) == ["mcp_call", "message"]
        assert (last["status"], last["output"][0]["status"]) == ("completed", "failed")
    assert len(server.calls) == 1


async def test_a_reply_that_was_cut_in_a_call_is_ended_and_asked_anew(serve, own, backend, two):
    async with first(serve, own, SEARCH) as (caller, server):
        backend.script(called(FIND).partition(b'"finish_reason": "tool_calls"')[0], asyncio.Event())
        id_ = await two.begun(caller, tools=[docs(server)])
        await eventually(lambda: told(caller, id_, "mcp_call"))
        last = await two.taken_up(id_)
        assert types(last["output"]) == ["mcp_list_tools", "mcp_call", "message"]
        assert (last["status"], last["output"][1]["status"]) == ("completed", "failed")
    assert not server.calls


async def told(caller, id_, type_):
    """Whether an item of this type has been told of a run."""
    return type_ in types((await caller.get(f"/responses/{id_}"))["output"])


@pytest.mark.parametrize("options", [("--upstream-kind=vllm",), ()], ids=["goes on", "cannot"])
async def test_the_text_of_a_later_round_goes_on_where_the_backend_can(serve, own, backend, two, options):
    async with first(serve, own, options=options) as (caller, server):
        backend.script(called(FIND))
        backend.script(HALF, asyncio.Event())
        for count in (10, 11):
            backend.script(json_reply({"count": count}))
        backend.script(stream(chunk({"content": "lo"}), chunk({}, "stop"), DONE))
        id_ = await two.begun(caller, tools=[docs(server)])
        await eventually(lambda: told(caller, id_, "message"))
        last = await two.taken_up(id_)
        text = last["output"][2]["content"][0]["text"]
        if options:
            assert (last["status"], text) == ("completed", "Hello")
            *before, begun = [request for request in backend.requests if "/chat/" in request.target][-1].json[
                "messages"
            ]
            assert [message["role"] for message in before] == ["user", "assistant", "tool"]
            assert begun["content"] == "Hel"
        else:
            assert (last["status"], text) == ("failed", "Hel")
    assert len(server.calls) == 1


@pytest.mark.parametrize("options", [(f"--seal-key={'k' * 32}",), ()], ids=["sealed", "not kept"])
async def test_what_a_server_must_be_sent_is_there_only_where_it_could_be_sealed(
    serve, own, backend, two, slow, options
):
    async with first(serve, own, slow.tool, options=options) as (caller, server):
        backend.script(called(FIND))
        backend.script(called(FIND))
        tool = docs(server, authorization="secret-of-one")
        id_ = await two.begun(caller, tools=[tool])
        await server.called(1)
        slow.go.set() if options else None
        last = await two.taken_up(id_)
        if options:
            assert last["status"] == "completed"
            assert {headers.get("authorization") for _, headers in server.requests} == {"Bearer secret-of-one"}
        else:
            assert (last["status"], last["output"][-1]["status"]) == ("failed", "incomplete")


MINE = {"type": "function", "name": "mine", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "plain"])
@pytest.mark.parametrize("other", ["mine", "docs__ask"], ids=["call", "request"])
async def test_what_lacks_only_its_end_gets_it(serve, own, backend, two, slow, other, streamed):
    async with first(serve, own, slow.tool, Tool("ask", str)) as (caller, server):
        backend.script(called(FIND, (other, "{}"), usage={"prompt_tokens": 10, "completion_tokens": 1}))
        tools = [docs(server, require_approval={"never": {"tool_names": ["search"]}}), MINE]
        id_ = await two.begun(caller, streamed, tools=tools)
        await server.called(1)
        last = await two.taken_up(id_)
        _, cut, call = last["output"]
        assert (last["status"], cut["status"], last["usage"]["input_tokens"]) == ("completed", "failed", 10)
        assert call["type"] == ("function_call" if other == "mine" else "mcp_approval_request")
    assert (len(server.calls), server.listings, len(backend.requests)) == (1, 1, 1)
