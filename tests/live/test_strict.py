"""The checks of ``strict`` can fail: a valid answer with one thing wrong is found out."""

import copy

import pytest

from tests.backend import stream, talk
from tests.callers import unframed
from tests.live import strict
from tests.live.conftest import calling

pytestmark = pytest.mark.live


@pytest.fixture
async def talked(scripted, backend):
    """The events of a stream that says two words."""
    backend.script(stream(*talk("Hel", "lo")))
    async with calling(scripted) as caller:
        events = unframed((await caller.ask(stream=True)).content)
    assert strict.stream(events)["status"] == "completed"
    return events


def response_faults(response):
    yield from ({k: v for k, v in response.items() if k != key} for key in strict.OPEN_RESPONSES)
    yield from (response | {key: [1.5]} for key in strict.OPEN_RESPONSES if key not in ("output", "tools"))
    yield response | {"created_at": float(response["created_at"])}
    yield response | {"completed_at": None}
    yield response | {"reasoning": {}}
    yield response | {"status": "done"}
    yield response | {"output": [{**response["output"][0], "content": "Hello"}]}
    yield response | {"output": [{**response["output"][0], "role": None}]}
    yield response | {"usage": None}
    yield response | {"usage": {**response["usage"], "total_tokens": 99}}


async def test_a_response_with_one_thing_wrong_is_found_out(talked):
    response = talked[-1]["response"]
    strict.response(response)
    for broken in response_faults(response):
        with pytest.raises((AssertionError, TypeError, KeyError)):
            strict.response(broken)


def stream_faults(events):
    for place in range(len(events)):
        yield [one for at, one in enumerate(events) if at != place]
        yield [*events[: place + 1], *events[place:]]
    renumbered = copy.deepcopy(events)
    deltas = [one for one in renumbered if "delta" in one]
    deltas[0]["delta"] = "Hal"
    yield renumbered
    for key in ("item_id", "output_index", "content_index", "logprobs"):
        broken = copy.deepcopy(events)
        for one in broken:
            if "delta" in one:
                one[key] = None
        yield broken


async def test_a_stream_with_one_thing_wrong_is_found_out(talked):
    for broken in stream_faults(talked):
        with pytest.raises((AssertionError, TypeError, IndexError, KeyError)):
            strict.stream(broken)
    for missing in range(len(talked)):  # the same, with the numbers put right
        broken = copy.deepcopy([one for at, one in enumerate(talked) if at != missing])
        for number, one in enumerate(broken):
            one["sequence_number"] = number
        with pytest.raises((AssertionError, IndexError, KeyError)):
            strict.stream(broken)


@pytest.mark.skipif(not strict.OPENAPI.exists(), reason="OpenAI's API description is not at hand")
async def test_openais_description_is_consulted(talked):
    response = talked[-1]["response"]
    strict.response(response)
    with pytest.raises(AssertionError, match="openapi"):
        strict.response(response | {"top_logprobs": 21})  # the client's models have no bounds
