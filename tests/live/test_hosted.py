"""Hosted tools with the official clients before two processes that take turns, a real MCP server beside them."""

import asyncio
import json
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import openai
import pytest

from tests import mcp_servers, servers
from tests.live import strict
from tests.live.conftest import Client, Site, client_there, whole
from tests.mcp_servers import McpServer, Tool

pytestmark = pytest.mark.live
client = client_there

README = Path(__file__).parents[2] / "README.md"
ASKED = "Search for ovens"
TOLD = 'Write "Lamps burn."'


def text(name):
    return {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}


SEARCH = Tool("search", lambda given: f"On {given['query']}: hot.", "Search", text("query"), read_only=True)
WRITE = Tool("write", lambda given: f"Kept: {given['text']}", "Keep a text", text("text"))


@pytest.fixture(scope="module")
async def docs():
    async with McpServer(SEARCH, WRITE) as server:
        yield server


@pytest.fixture
def tool(docs):
    """The tool's declaration: what reads needs no approval, all else does."""
    docs.calls.clear()
    never = {"never": {"tool_names": ["search"]}}
    return {"type": "mcp", "server_label": "docs", "server_url": docs.url, "require_approval": never}


@pytest.fixture(scope="module")
def options(docs, valkey):
    return "--upstream=demo", f"--store={valkey.url}", f"--mcp-allow={docs.url.split('/')[2]}"


@pytest.fixture(scope="module")
async def site(start, options):
    """Two processes: each request meets another than the one before."""
    return await asyncio.to_thread(lambda: Site(start(*options), start(*options)))


def kinds(response):
    return [item.type for item in response.output]


def told(request, approve=True, **more):
    return [{"type": "mcp_approval_response", "approval_request_id": request.id, "approve": approve, **more}]


async def test_a_tool_runs_and_the_model_answers_with_what_it_gave(client, tool, docs):
    made = await client.create(ASKED, tools=[tool])
    assert kinds(made) == ["mcp_list_tools", "mcp_call", "message"]
    listed, call, _ = made.output
    assert [(one.name, one.annotations) for one in listed.tools] == [
        ("search", {"readOnlyHint": True}),
        ("write", None),
    ]
    assert (call.server_label, call.name, call.output, call.error) == ("docs", "search", f"On {ASKED}: hot.", None)
    assert call.output in made.output_text and json.loads(call.arguments) == {"query": ASKED}
    assert docs.calls == [("search", {"query": ASKED})]

    listings = docs.listings
    events, final = await client.helper(ASKED, tools=[tool], previous_response_id=made.id)
    assert kinds(final) == ["mcp_call", "message"] and docs.listings == listings  # listed in the lineage before
    strict.stream([whole(event) for event in await client.events(ASKED, tools=[tool])])
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert final.output_text == said


@pytest.mark.parametrize("approve", [True, False])
async def test_what_needs_a_yes_runs_on_another_process_and_not_before(client, tool, docs, approve):
    asked = await client.create(TOLD, tools=[tool])
    assert kinds(asked) == ["mcp_list_tools", "mcp_approval_request"] and asked.status == "completed"
    request = asked.output[1]
    assert (request.name, request.server_label, docs.calls) == ("write", "docs", [])
    answer = told(request, approve, reason="Too bright.")
    made = await client.create(answer, tools=[tool], previous_response_id=asked.id)
    if approve:
        call = made.output[0]
        assert kinds(made) == ["mcp_call", "message"] and call.approval_request_id == request.id
        assert docs.calls == [("write", {"text": "Lamps burn."})] and "Kept: Lamps burn." in made.output_text
    else:
        assert kinds(made) == ["message"] and not docs.calls and "Too bright." in made.output_text


async def test_a_conversation_keeps_what_waits_for_a_yes(client, tool, docs):
    talk = await client.conversations.create()
    await client.helper(TOLD, tools=[tool], conversation=talk.id)
    rows = await client.pages(await client.conversations.items.list(talk.id))
    request = next(row for row in rows if row.type == "mcp_approval_request")
    _, made = await client.helper(told(request), tools=[tool], conversation=talk.id)
    assert kinds(made) == ["mcp_call", "message"] and len(docs.calls) == 1
    rows = await client.pages(await client.conversations.items.list(talk.id, order="asc"))
    types = ["message", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "mcp_call", "message"]
    assert [row.type for row in rows] == types


async def test_a_background_response_calls_tools(client, tool):
    made = await client.create(ASKED, tools=[tool], background=True)
    async with asyncio.timeout(servers.PATIENCE):
        while made.status in ("queued", "in_progress"):
            made = await client.responses.retrieve(made.id)
    assert kinds(made) == ["mcp_list_tools", "mcp_call", "message"]
    events = await client.events(ASKED, tools=[tool], background=True)
    again = await client.responses.retrieve(events[0].response.id, stream=True)
    again = [event async for event in again] if client.is_async else await asyncio.to_thread(list, again)
    assert again == events and kinds(events[-1].response) == kinds(made)


async def test_a_yes_is_heeded_after_a_restart(start, options, tool, docs, site):
    before = await asyncio.to_thread(Site, process := start(*options))
    first, later = Client(before, is_async=True), Client(site, is_async=True)
    later.sdk.api_key = first.sdk.api_key
    asked = await first.create(TOLD, tools=[tool], background=True, stream=True)
    request = [event async for event in asked][-1].response.output[1]
    process.ask_to_end()
    assert await asyncio.to_thread(process.ended) == 0
    reference = {"type": "item_reference", "id": request.id}  # as the AI SDK sends it, and no previous_response_id
    made = await later.create([{"role": "user", "content": TOLD}, reference, *told(request)], tools=[tool])
    assert kinds(made)[-2:] == ["mcp_call", "message"] and docs.calls == [("write", {"text": "Lamps burn."})]
    for one in (first, later):
        await one.close()


def test_the_example_of_the_readme_prints_what_it_says(start):
    section = re.search(r"## Hosted tools\n(.*?)\n## ", README.read_text("utf-8"), re.DOTALL)[1]
    (command,) = re.findall(r"^\.venv/bin/statecar serve (.+)$", section, re.MULTILINE)
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    assert f"python {mcp_servers.EXAMPLE.relative_to(README.parent)} &" in section
    with mcp_servers.sample() as url:
        here = url.split("/")[2]
        process = start("--store=memory://", *command.replace("127.0.0.1:8090", here).split())
        told = StringIO()
        with openai.OpenAI(base_url=f"{process.url()}/v1", api_key="none") as client, redirect_stdout(told):
            exec(example.replace("127.0.0.1:8090", here), {"client": client})
    assert told.getvalue().splitlines() == re.findall(r"^print.*?  # (.*)$", example, re.MULTILINE)
