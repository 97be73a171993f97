"""Nothing is lost or doubled under load: two processes on one store, many writers at once."""

import asyncio
import json
import random
from contextlib import asynccontextmanager

import httpx
import pytest

from tests.backend import json_reply

pytestmark = pytest.mark.live

TURNS, CLIENTS, BATCHES = 250, 8, 100


@asynccontextmanager
async def counting_backend():
    """A backend whose answer is how many messages it was sent: what it was not sent, it cannot count."""

    async def serve(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0
                )
                asked = json.loads(await reader.readexactly(length) or b"{}")
                count = str(len(asked.get("messages", ())))
                chunk = {"choices": [{"index": 0, "delta": {"content": count}, "finish_reason": "stop"}]}
                body = b"data: %b\n\ndata: [DONE]\n\n" % json.dumps(chunk).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n%b"
                    % (len(body), body)
                    if asked
                    else json_reply({"data": []})
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


@pytest.fixture
async def pair(start, valkey):
    """The URLs of two statecar processes that share a store."""
    async with counting_backend() as upstream:
        processes = [start(f"--upstream={upstream}", f"--store={valkey.url}", "--no-access-log") for _ in range(2)]
        yield [await asyncio.to_thread(process.url) for process in processes]
        for process in processes:
            process.ask_to_end()
        for process in processes:
            await asyncio.to_thread(process.ended)


async def turn(port, previous):
    """One streamed turn; returns at the ``}`` of response.completed, before ``[DONE]`` is read."""
    body = json.dumps({"model": "m", "input": "x", "stream": True, "previous_response_id": previous}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    writer.write(b"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    try:
        await reader.readuntil(b"event: response.completed\ndata: ")
        data = await reader.readuntil(b"}\n")
    finally:
        writer.close()
    return json.loads(data)["response"]


async def test_hundreds_of_turns_each_begun_at_the_last_byte_of_the_one_before_lose_nothing(pair):
    ports, rng, previous = [int(url.rpartition(":")[2]) for url in pair], random.Random(7), None
    for number in range(TURNS):
        response = await turn(rng.choice(ports), previous)
        assert response["output"][0]["content"][0]["text"] == str(2 * number + 1)
        previous = response["id"]
    async with httpx.AsyncClient(base_url=pair[0], timeout=60) as http:
        page = (await http.get(f"/v1/responses/{previous}/input_items", params={"limit": 100})).json()
    assert [item["role"] for item in page["data"]] == ["user", "assistant"] * 50
    assert [item["content"][0]["text"] for item in page["data"][1::2]] == [
        str(n) for n in range(2 * TURNS - 3, 2 * TURNS - 103, -2)
    ]


async def test_every_acknowledged_item_stands_once_and_each_batch_together(pair):
    limits = httpx.Limits(max_connections=CLIENTS)
    async with (
        httpx.AsyncClient(base_url=pair[0], timeout=60, limits=limits) as one,
        httpx.AsyncClient(base_url=pair[1], timeout=60, limits=limits) as other,
    ):
        id_ = (await one.post("/v1/conversations", json={})).json()["id"]
        items = f"/v1/conversations/{id_}/items"
        batches, turns, deleted, writing = [], [], set(), True

        async def write(client):
            rng = random.Random(client)
            for number in range(BATCHES):
                texts = [f"{client}.{number}.{n}" for n in range(rng.randint(1, 20))]
                sent = {"items": [{"role": "user", "content": text} for text in texts]}
                answer = await rng.choice((one, other)).post(items, json=sent)
                assert answer.status_code == 200, answer.text
                batches.append([item["id"] for item in answer.json()["data"]])

        async def talk():
            while writing:
                answer = await other.post("/v1/responses", json={"model": "m", "input": "x", "conversation": id_})
                assert answer.status_code == 200, answer.text
                turns.append(answer.json())
                await asyncio.sleep(0.3)

        async def delete():
            rng = random.Random(1)
            while writing:
                if batches and (victim := rng.choice(rng.choice(batches))) not in deleted:
                    answer = await one.delete(f"{items}/{victim}")
                    assert answer.status_code == 200, answer.text
                    deleted.add(victim)
                await asyncio.sleep(0.02)

        beside = [asyncio.create_task(talk()), asyncio.create_task(delete())]
        await asyncio.gather(*map(write, range(CLIENTS)))
        writing = False
        await asyncio.gather(*beside)

        there = await paged(one, items, "asc")
        assert there == (await paged(other, items, "desc"))[::-1]
        place = {item: at for at, item in enumerate(there)}
        assert len(place) == len(there)
        outputs = [turn["output"][0]["id"] for turn in turns]
        acknowledged = {item for batch in batches for item in batch} - deleted
        assert place.keys() >= acknowledged and place.keys() >= set(outputs)
        assert len(there) == len(acknowledged) + 2 * len(turns)
        assert turns and deleted
        assert all(in_a_row([place[item] for item in batch if item not in deleted]) for batch in batches)


def in_a_row(places):
    return places == list(range(places[0], places[0] + len(places))) if places else True


async def paged(http, items, order):
    found, after = [], {}
    while True:
        page = (await http.get(items, params={"limit": 100, "order": order, **after})).json()
        found += [item["id"] for item in page["data"]]
        if not page["has_more"]:
            return found
        after = {"after": page["last_id"]}
