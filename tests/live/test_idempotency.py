"""Idempotency keys over processes that are killed or told to end."""

import asyncio

import pytest

from tests.callers import Caller
from tests.live import strict
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
