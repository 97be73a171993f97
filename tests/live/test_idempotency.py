"""Idempotency keys over processes that are killed or told to end, and as the official clients send them."""

import asyncio
import secrets

import pytest

from tests.callers import Caller
from tests.live import strict
from tests.live.conftest import whole
from tests.live.test_background import HALF, launch, lose, store, text_of, url_of
from tests.live.test_detach import asked, runs
from tests.routes.test_background import eventually

pytestmark = pytest.mark.live
__all__ = ["launch", "store"]  # fixtures


@pytest.mark.parametrize("way", ["killed", "ended"])
async def test_what_a_lost_process_was_about_to_make_or_making_is_had_by_its_key(launch, backend, store, way):
    options = ("--upstream-api-key=ours", "--grace=1", "--drain-delay=0")
    first, second, never = launch(*options), launch(*options), asyncio.Event()
    async with Caller(await url_of(first)) as caller, Caller(await url_of(second), caller.key) as other:
        asking = []
        for key, script in (("silent", (never,)), ("talking", (HALF, never))):
            count = len(backend.requests)
            backend.script(*script)
            caller.http.headers["idempotency-key"] = key
            asking.append(asyncio.create_task(asked(caller)))
            await backend.received(count + 1)
        with store.admin() as admin:
            await eventually(lambda: runs(admin, 1))
        await lose(way, first)
        for answer in await asyncio.gather(*asking):
            assert answer is None if way == "killed" else answer.status_code == 503
        for key, replayed in (("silent", None), ("talking", "true")):
            other.http.headers["idempotency-key"] = key
            answer = await asked(other)
            last = strict.response(answer.json())
            assert (last["status"], text_of(last), answer.headers.get("idempotent-replayed")) == (
                "completed",
                "Hi",
                replayed,
            )
        assert sum(request.method == "POST" for request in backend.requests) == 4
    with store.admin() as admin:
        assert admin.zcard("sc:runs") == 0
        assert len(admin.keys("sc:{t:*}:h:*")) == 0


async def test_the_client_gets_the_same_response_for_the_same_key(client):
    made = [await client.create("Hello", extra_headers={"Idempotency-Key": key}) for key in ("a", "a", "b")]
    first, again, another = map(whole, made)
    assert first == again
    assert another["id"] != first["id"]
    headers = {"Idempotency-Key": secrets.token_hex(8)}
    told = [[whole(event) for event in await client.events("Hello", extra_headers=headers)] for _ in range(2)]
    assert told[0] == told[1]
