"""Background responses and idempotency keys as the official clients ask for them, on every kind of server."""

import asyncio
import secrets

import pytest

from tests.backend import PATIENCE
from tests.live.conftest import whole
from tests.live.test_background import ENDED

pytestmark = pytest.mark.live


async def test_the_client_polls_streams_and_cancels(client):
    queued = await client.create("Hello", background=True)
    assert queued.status == "queued"
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await client.responses.retrieve(queued.id)
            if found.status in ENDED:
                break
    assert found.status == "completed" and found.output_text
    again = await client.responses.cancel(queued.id)
    assert whole(again) == whole(found)


async def test_the_client_goes_on_with_a_stream_where_it_stopped(client):
    events = await client.events("Hello", background=True)
    assert [event.type for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    id_ = events[0].response.id
    for after in (0, 3, len(events) - 2):
        stream = await client.responses.retrieve(id_, stream=True, starting_after=after)
        rest = [event async for event in stream] if client.is_async else await asyncio.to_thread(list, stream)
        assert [whole(event) for event in rest] == [whole(event) for event in events[after + 1 :]]


async def test_the_client_gets_the_same_response_for_the_same_key(client):
    made = [await client.create("Hello", extra_headers={"Idempotency-Key": key}) for key in ("a", "a", "b")]
    first, again, another = map(whole, made)
    assert first == again
    assert another["id"] != first["id"]
    headers = {"Idempotency-Key": secrets.token_hex(8)}
    told = [[whole(event) for event in await client.events("Hello", extra_headers=headers)] for _ in range(2)]
    assert told[0] == told[1]
