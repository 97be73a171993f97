"""Limits of tenants over two processes that share a store and are asked at once (ADR 0023)."""

import asyncio
import itertools
import os
import secrets
import signal

import httpx
import pytest

from proxy.state import fixed_secret, keys, tenant_id
from tests.backend import DONE, PATIENCE, STREAM_HEAD, Backend, chunked, completion, json_reply, sse, stream, talk
from tests.callers import Caller
from tests.live.conftest import Process
from tests.routes.test_background import eventually
from tests.sockets import opened

REQUESTS, TOKENS, AT_WORK, BYTES = 60, 8_000, 8, 80_000
EACH = 200  # tokens of an answer
SECRET = "0123456789abcdef"
OPTIONS = (
    "--upstream-kind=generic",
    f"--tenant-secret={SECRET}",
    f"--tenant-requests-per-minute={REQUESTS}",
    f"--tenant-tokens-per-minute={TOKENS}",
    f"--tenant-concurrent-turns={AT_WORK}",
    f"--tenant-stored-bytes={BYTES}",
)
USAGE = {"prompt_tokens": EACH - 2, "completion_tokens": 2, "total_tokens": EACH}
SMALL = completion() | {"usage": {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


class Pair:
    """Two processes, which a tenant's requests are sent to in turn."""

    def __init__(self, urls, admin):
        key = f"sk-{secrets.token_hex(12)}"
        self.callers = [Caller(url, key) for url in urls]
        self.turn = itertools.cycle(self.callers)
        self.tenant = tenant_id(fixed_secret(SECRET), f"Bearer {key}")
        self.admin, self.names = admin, keys.Quota(self.tenant)

    async def driven(self, count, *asks):
        """How many of so many requests, as many at a time as may be, were let in; and why others were not."""
        left, asks, found = iter(range(count)), itertools.cycle(asks), []

        async def drive():
            for _ in left:
                found.append(await next(asks)(next(self.turn)))

        await asyncio.gather(*(drive() for _ in range(AT_WORK)))
        return found.count(None), {why for why in found if why}

    def later(self, seconds):
        """So many seconds go by, for what is at work and what was asked."""
        for token, _ in self.admin.zrange(self.names.at_work, 0, -1, withscores=True):
            self.admin.zincrby(self.names.at_work, -seconds * 1000, token)
        for field, count in self.admin.hgetall(self.names.usage).items():
            if field in (b"p", b"l", b"m"):
                self.admin.hincrby(self.names.usage, field, -seconds)
            elif field[1:]:
                self.admin.hdel(self.names.usage, field)
                self.admin.hset(self.names.usage, b"%c%d" % (field[0], int(field[1:]) - seconds), count)


def refused(answer):
    """None for a request that was let in, else what stood in its way."""
    if answer.status_code == 200:
        return None
    assert answer.status_code == 429, answer.text
    error = answer.json()["error"]
    return error["code"], error["message"].partition(", limit")[0].partition(": ")[2].partition(" of ")[0]


async def unstored(caller):
    return refused(await caller.ask(store=False))


async def stored(caller):
    return refused(await caller.ask("x" * 1500))


async def streamed(caller):
    return refused(await caller.ask(stream=True, store=False))


async def passed_on(caller):
    return refused(await caller.http.post("/chat/completions", json=CHAT))


async def passed_on_streamed(caller):
    return refused(await caller.http.post("/chat/completions", json=CHAT | {"stream": True}))


async def over_a_websocket(caller):
    async with opened(str(caller.http.base_url).removesuffix("/v1/"), caller.key) as socket:
        events = await socket.ask(store=False)
    if events[-1]["type"] != "error":
        return None
    return refused(httpx.Response(events[-1]["status"], json=events[-1]))


@pytest.fixture
async def backend():
    async with Backend() as backend:
        yield backend


@pytest.fixture
async def pairs(backend, valkey, tmp_path):
    """Two processes; each call makes another tenant of them."""
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    options = [f"--store={valkey.url}", f"--upstream={backend.url}", *OPTIONS]
    processes, made = [Process(folder, *options) for folder in folders], []
    try:
        urls = [await asyncio.to_thread(process.url) for process in processes]
        with valkey.admin() as admin:

            def make():
                made.append(Pair(urls, admin))
                return made[-1]

            make.processes = processes
            yield make
    finally:
        for caller in itertools.chain(*(pair.callers for pair in made)):
            await caller.http.aclose()
        for process in processes:
            process.ask_to_end()
        assert {process.ended() for process in processes} <= {0, -signal.SIGKILL}


async def test_limits_hold_over_two_processes_also_when_one_is_killed(pairs, backend):
    await requests_hold(pairs(), backend)
    await tokens_hold(pairs(), backend, json_reply(completion() | {"usage": USAGE}), unstored, passed_on)
    told = stream(*talk("Hi")[:-1], {"choices": [], "usage": USAGE}, DONE)
    await tokens_hold(pairs(), backend, told, streamed, passed_on_streamed, over_a_websocket)
    await bytes_hold(pairs(), backend)
    await what_is_at_work_holds(pairs(), backend, pairs.processes[0].process.pid)


async def requests_hold(pair, backend):
    backend.default = (json_reply(SMALL),)
    told = {("rate_limit_exceeded", "requests per minute")}
    assert await pair.driven(REQUESTS + 25, unstored, passed_on) == (REQUESTS, told)
    pair.later(30)
    assert await pair.driven(10, unstored) == (0, told)
    pair.later(31)
    assert await pair.driven(10, unstored) == (10, set())  # the window slides


async def tokens_hold(pair, backend, script, *asks):
    backend.default = (script,)
    let_in, why = await pair.driven(TOKENS // EACH + 15, *asks)
    assert why == {("rate_limit_exceeded", "tokens per minute")}
    assert 0.95 * TOKENS <= let_in * EACH <= 1.05 * TOKENS


async def bytes_hold(pair, backend):
    backend.default = (json_reply(SMALL),)
    let_in, why = await pair.driven(55, stored)
    assert {code for code, _ in why} == {"insufficient_quota"}
    assert 0.95 * BYTES <= int(pair.admin.hget(pair.names.bytes, "*")) <= 1.05 * BYTES
    for caller in pair.callers:
        assert len((await caller.get("/responses", limit=100))["data"]) == let_in


async def what_is_at_work_holds(pair, backend, pid):
    go = asyncio.Event()
    backend.default = (STREAM_HEAD + chunked(sse(*talk("Hel")[:2])), go)
    asked = [asyncio.create_task(streamed(pair.callers[0]))]  # the process that will be killed has one at least
    try:
        await eventually(lambda: asyncio.sleep(0, pair.admin.zcard(pair.names.at_work)))
        asks = [passed_on_streamed, unstored, *[streamed, passed_on_streamed, unstored] * 7]
        asked += [asyncio.create_task(each(next(pair.turn))) for each in asks]
        async with asyncio.timeout(PATIENCE):
            for done in itertools.islice(asyncio.as_completed(asked), len(asked) - AT_WORK):
                assert await done == ("rate_limit_exceeded", "requests at work at once")
        assert pair.admin.zcard(pair.names.at_work) == AT_WORK
        os.kill(pid, signal.SIGKILL)
        assert await unstored(pair.callers[1])  # what it had is thought to be at work still
        pair.later(16)
        backend.default = (json_reply(SMALL),)
        assert await unstored(pair.callers[1]) is None
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
