"""Web search with the official client and openai-agents: a real process, a search service on a real socket."""

import asyncio

import pytest
from agents import Agent, OpenAIResponsesModel, Runner, WebSearchTool, set_tracing_disabled

from tests.live.conftest import Client, Site, client_there
from tests.searxng import SearXNG, page

pytestmark = pytest.mark.live
client = client_there

ASKED = "Search the web for ovens"
SAID = "About a. [1] About b. [2]"
"""What the demo backend makes of the results."""


@pytest.fixture(scope="module")
async def searxng():
    async with SearXNG({"*": [page("a"), page("b")]}) as searxng:
        yield searxng


@pytest.fixture(scope="module")
async def site(start, valkey, searxng):
    options = ("--upstream=demo", f"--store={valkey.url}", f"--web-search=searxng+{searxng.url}")
    return await asyncio.to_thread(lambda: Site(start(*options)))


def cited(message):
    """(URL, what is marked in the text) of each citation."""
    part = message.content[0]
    return [(one.url, part.text[one.start_index : one.end_index]) for one in part.annotations]


async def test_the_official_client_searches_in_one_request(client, searxng):
    searxng.queries.clear()
    asked = {"tools": [{"type": "web_search"}], "include": ["web_search_call.action.sources"]}
    made = await client.create(ASKED, **asked)
    events, final = await client.helper(ASKED, **asked)
    for response in (made, final):
        call, message = response.output
        assert (call.type, call.status, call.action.query) == ("web_search_call", "completed", searxng.queries[0])
        assert [source.url for source in call.action.sources] == [page("a")["url"], page("b")["url"]]
        assert response.output_text == SAID
        assert cited(message) == [(page("a")["url"], "[1]"), (page("b")["url"], "[2]")]
    kinds = [event.type for event in events]
    assert kinds.count("response.output_text.annotation.added") == 2
    assert "response.web_search_call.searching" in kinds
    assert len(searxng.queries) == 2


async def test_an_agent_searches_and_goes_on(site):
    client = Client(site, is_async=True)
    set_tracing_disabled(True)
    model = OpenAIResponsesModel(model="demo", openai_client=client.sdk)
    agent = Agent(name="A", model=model, tools=[WebSearchTool(search_context_size="low")])
    first = await Runner.run(agent, ASKED)
    assert first.final_output == SAID
    assert [item.raw_item.type for item in first.new_items] == ["web_search_call", "message"]
    again = await Runner.run(agent, [*first.to_input_list(), {"role": "user", "content": ASKED}])
    assert again.final_output == SAID.replace("1", "3").replace("2", "4"), "items sent back are known again"
    streamed = Runner.run_streamed(agent, ASKED)
    async for _ in streamed.stream_events():
        pass
    assert streamed.final_output == SAID
    await client.close()
