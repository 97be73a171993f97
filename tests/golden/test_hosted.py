"""Golden streams of hosted tools: a call that waits for leave, and that the official client reads them all."""

import json

import httpx2
import openai
import pytest

from tests.golden.test_golden import FOLDER, golden, renamed
from tests.live import strict
from tests.routes.hosted import FIND, at, called, docs, said

HOSTED = ["mcp", "mcp_approval", "mcp_approved", "web_search"]
FIGURES = {"prompt_tokens": 90, "completion_tokens": 8}, {"prompt_tokens": 110, "completion_tokens": 4}


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "plain"])
async def test_a_call_that_waits_for_leave_is_the_golden_one(serve, backend, streamed):
    async with at(serve) as (caller, server):

        async def turn(given, name, **fields):
            fields |= {"model": "mock-model", "tools": [docs(server, require_approval="always")]}
            if not streamed:
                last = await caller.create(given, **fields)
                assert alike([last], [expected(name)[-1]["response"]])
                return last
            events = await caller.events(given, **fields)
            assert alike(events, expected(name))
            return events[-1]["response"]

        def expected(name):
            text = json.dumps(golden(name)).replace("http://127.0.0.1:9001/mcp", server.url)
            return json.loads(text)

        backend.script(called(FIND, usage=FIGURES[0], model="mock-model"))
        asked = await turn("Go on", "mcp_approval")
        backend.script(said("Found.", usage=FIGURES[1], model="mock-model"))
        id_ = asked["output"][1]["id"]
        answer = {"type": "mcp_approval_response", "approval_request_id": id_, "approve": True}
        last = await turn([answer], "mcp_approved", previous_response_id=asked["id"])
        assert last["output"][0]["approval_request_id"] == id_


def alike(told, expected):
    """Whether they are the same but for ids and times."""
    return renamed(told) == renamed(expected)


@pytest.mark.parametrize("name", HOSTED)
def test_the_official_client_reads_it(name):
    body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in golden(name))
    head = {"content-type": "text/event-stream"}
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, text=body, headers=head))
    http = httpx2.Client(transport=transport)
    with openai.OpenAI(api_key="none", base_url="http://x/v1", http_client=http) as client:
        with client.responses.stream(model="m", input="Go on") as stream:
            events = list(stream)
            final = stream.get_final_response()
    assert [event.type for event in events] == [event["type"] for event in golden(name)]
    assert [item.id for item in final.output] == [item["id"] for item in golden(name)[-1]["response"]["output"]]


@pytest.mark.parametrize("name", HOSTED)
def test_it_keeps_to_every_description_and_no_event_may_be_missing(name):
    events = golden(name)
    strict.stream(events)
    for place in range(2, len(events)):
        rest = [*events[:place], *events[place + 1 :]]
        with pytest.raises((AssertionError, IndexError, KeyError)):
            strict.stream([{**event, "sequence_number": at} for at, event in enumerate(rest)])


def test_every_golden_stream_of_hosted_tools_is_here():
    assert {path.stem for path in FOLDER.glob("*.jsonl") if "mcp" in path.stem or "search" in path.stem} == set(HOSTED)
