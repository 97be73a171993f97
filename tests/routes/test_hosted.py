"""Tools of MCP servers in one request: listed, called, answered from (wire §6.6, §7.10, §9.5, §10.11)."""

import json

import pytest

from tests.golden.test_golden import golden, renamed
from tests.live import strict
from tests.routes.hosted import at, called, docs, messages, offered, said

FIND = ("docs__search", '{"q":"x"}')
FUNCTION = {"type": "function", "name": "mine", "parameters": {"type": "object", "properties": {}}}


FIGURES = {"prompt_tokens": 90, "completion_tokens": 8}, {"prompt_tokens": 110, "completion_tokens": 4}
"""What the rounds of the golden stream took; it tells their sum."""


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "plain"])
async def test_a_call_is_the_golden_one(serve, backend, streamed):
    async with at(serve) as (caller, server):
        backend.script(called(FIND, usage=FIGURES[0], model="mock-model"))
        backend.script(said("Found.", usage=FIGURES[1], model="mock-model"))
        fields = {"model": "mock-model", "tools": [docs(server)]}
        whole = json.loads(json.dumps(golden("mcp")).replace("http://127.0.0.1:9001/mcp", server.url))
        if streamed:
            events = await caller.events("Go on", **fields)
            strict.stream(events)
            assert renamed(events) == renamed(whole)
            last = events[-1]["response"]
        else:
            last = await caller.create("Go on", **fields)
            assert renamed([last]) == renamed([whole[-1]["response"]])
        assert await caller.get(f"/responses/{last['id']}") == last
        assert server.calls == [("search", {"q": "x"})]
        assert offered(backend, 0) == offered(backend, 1) == ["docs__search"]
        assert messages(backend)[1:] == [("assistant", [FIND]), ("tool", "found")]
