"""What clients send back of hosted tools when they keep the talk themselves (wire §7.10, §7.11)."""

import pytest

from tests.backend import DONE, chunk, stream
from tests.live import strict
from tests.mcp_servers import SEARCH, Tool
from tests.routes.hosted import FIND, at, called, docs, messages, offered, said, types

USER = {"role": "user", "content": "Look"}
NEXT = {"role": "user", "content": "And now?"}


def emptied(item):
    """As pydantic-ai sends what it takes to be known here."""
    match item["type"]:
        case "mcp_list_tools":
            return {"id": item["id"], "type": item["type"], "server_label": "docs", "tools": []}
        case "mcp_call":
            kept = {key: item[key] for key in ("id", "type", "server_label", "name")}
            return kept | {"arguments": '{"q": "x"}', "output": None, "error": None}  # written anew
    return item


def without_nulls(item):
    """As langchain does."""
    return {key: value for key, value in item.items() if value is not None}


def referred(item):
    """As the AI SDK does, for all but the listing, of which it says nothing."""
    return {"type": "item_reference", "id": item["id"]}


WAYS = [emptied, without_nulls, referred, dict]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_what_a_tool_gave_is_known_again(serve, backend, way):
    async with at(serve) as (caller, server):
        backend.script(called(FIND))
        backend.script(said("It is found."))
        first = await caller.create("Look", tools=[docs(server)])
        backend.script(said("Nothing new."))
        history = [USER, *map(way, first["output"]), NEXT]
        last = strict.stream(await caller.events(history, tools=[docs(server)]))
        assert types(last["output"]) == ["message"] and server.listings == 1
        assert offered(backend) == ["docs__search"]
        told = [("user", "Look"), ("assistant", [FIND]), ("tool", "found"), ("assistant", "It is found.")]
        assert messages(backend) == [*told, ("user", "And now?")]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_yes_to_a_request_that_a_client_sends_back_is_heeded(serve, backend, way):
    async with at(serve) as (caller, server):
        tool = docs(server, require_approval="always")
        backend.script(called(FIND))
        asked = await caller.create("Look", tools=[tool])
        answer = {"type": "mcp_approval_response", "approval_request_id": asked["output"][-1]["id"], "approve": True}
        backend.script(said("It is found."))
        last = await caller.create([USER, *map(way, asked["output"]), answer], tools=[tool])
        assert types(last["output"]) == ["mcp_call", "message"] and server.calls == [("search", {"q": "x"})]
        assert messages(backend) == [("user", "Look"), ("assistant", [FIND]), ("tool", "found")]


@pytest.mark.parametrize("approval", ["never", "always"])
async def test_gemini_gets_back_what_it_gave_with_calls_that_clients_carry(serve, backend, approval):
    async with at(serve, options=["--upstream-kind=gemini"]) as (caller, server):
        tool = docs(server, require_approval=approval)
        extras = {"extra_content": {"google": {"thought_signature": "s"}}}
        call = {"index": 0, "id": "c", "function": {"name": FIND[0], "arguments": FIND[1]}, **extras}
        backend.script(stream(chunk({"tool_calls": [call]}), chunk({}, "tool_calls"), DONE))
        *_, made, last = (await caller.create("Look", tools=[tool]))["output"]
        made = made if approval == "never" else last
        answer = {"type": "mcp_approval_response", "approval_request_id": made["id"], "approve": True}
        await caller.create([USER, made, *([answer] if made is last else [])], tools=[tool])
        (sent,) = backend.requests[-1].json["messages"][1]["tool_calls"]
        assert sent["extra_content"] == extras["extra_content"]


async def test_what_nobody_knows_is_listed_and_told_as_it_was_sent(serve, backend):
    async with at(serve, SEARCH, Tool("other", lambda _: "")) as (caller, server):
        foreign = {"type": "mcp_call", "id": "mcp_1", "server_label": "docs", "name": "search", "arguments": "{}"}
        listing = {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "docs", "tools": []}
        last = await caller.create([USER, listing, foreign, NEXT], tools=[docs(server)])
        assert types(last["output"]) == ["mcp_list_tools", "message"] and server.listings == 1
        assert offered(backend) == ["docs__search", "docs__other"]
        assert messages(backend)[1] == ("assistant", [("docs__search", "{}")])


async def test_a_foreign_item_is_nobodys(serve, backend):
    """Another tenant's id gives nothing away."""
    async with at(serve) as (caller, server), at(serve) as (other, _):
        backend.script(called(FIND))
        first = await caller.create("Look", tools=[docs(server)])
        call = next(item for item in first["output"] if item["type"] == "mcp_call")
        await other.create([USER, emptied(call), NEXT])
        assert "found" not in [text for _, text in messages(backend)]
