"""``/metrics`` as it is served, and what a turn's time is told to have gone to."""

import asyncio
import gzip
import logging
import threading
import time

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from proxy.observe import Metrics
from proxy.state.client import Client
from proxy.waits import Waiting
from tests import servers
from tests.backend import STREAM_HEAD, chunked, json_reply, sse, stream, talk
from tests.callers import Caller, ok, refusal


async def test_it_is_served_in_the_format_and_encoding_that_is_asked_for(serve):
    async with Caller(await serve("--api-key=secret"), key="wrong", prefix="") as scraper:
        plain = await scraper.http.get("/metrics", headers={"accept": "*/*", "accept-encoding": "identity"})
        assert plain.status_code == 200
        assert plain.headers["content-type"].startswith("text/plain; version=")
        assert "statecar_build_info" in {family.name for family in parser.text_string_to_metric_families(plain.text)}
        accept = {"accept": "application/openmetrics-text;version=1.0.0", "accept-encoding": "identity"}
        opened = await scraper.http.get("/metrics", headers=accept)
        assert opened.headers["content-type"].startswith("application/openmetrics-text")
        assert list(openmetrics_parser.text_string_to_metric_families(opened.text))
        async with scraper.http.stream("GET", "/metrics", headers={"accept-encoding": "gzip"}) as packed:
            assert packed.headers["content-encoding"] == "gzip"
            body = b"".join([part async for part in packed.aiter_raw()])
        assert b"statecar_build_info" in gzip.decompress(body)
        head = await scraper.http.head("/metrics")
        assert (head.status_code, head.content) == (200, b"")
        assert refusal(await scraper.http.post("/metrics")) == (405, "method_not_supported", None)


async def test_scrapes_are_answered_one_after_the_other(serve, monkeypatch):
    """Each holds the interpreter for a while: streams are to go on beside many."""
    alone, was_alone = threading.Lock(), []
    expose = Metrics.exposition

    def exposition(*given):
        is_alone = alone.acquire(blocking=False)
        was_alone.append(is_alone)
        time.sleep(0.02)
        if is_alone:
            alone.release()
        return expose(*given)

    monkeypatch.setattr(Metrics, "exposition", exposition)
    async with Caller(await serve(), prefix="") as scraper:
        answers = await asyncio.gather(*(scraper.http.get("/metrics") for _ in range(4)))
    assert {answer.status_code for answer in answers} == {200}
    assert was_alone == [True] * 4


async def test_a_scrape_is_a_probe_in_the_access_log(serve, caplog):
    caplog.set_level(logging.DEBUG, "statecar.access")
    async with Caller(await serve(), prefix="") as scraper:
        await scraper.http.get("/metrics")
    assert [record.levelno for record in caplog.records if record.name == "statecar.access"] == [logging.DEBUG]


@pytest.mark.parametrize("options", [("--no-metrics",), ("--own-prefix=/statecar",)])
async def test_the_upstreams_own_are_reached_where_ours_are_off_or_elsewhere(serve, backend, options):
    backend.default = (json_reply({"theirs": True}),)
    async with Caller(await serve(*options), prefix="") as scraper:
        assert ok(await scraper.http.get("/metrics")) == {"theirs": True}
        answer = await scraper.http.get("/statecar/metrics")
        assert ("statecar_build_info" in answer.text) == (options != ("--no-metrics",))


# -- what a turn's time went to


@pytest.fixture
def turns(caplog):
    """The access log's lines of turns, as fields."""
    caplog.set_level(logging.INFO, "statecar.access")

    def found():
        told = [record.fields for record in caplog.records if record.name == "statecar.access"]
        return [fields for fields in told if "own_ms" in fields]

    return found


PAUSE = 0.25
LONG = PAUSE * 1000 * 0.9
"""Milliseconds that a wait must show as: a timer may fire a little early."""


class Pause(asyncio.Event):
    """A step of the upstream's that takes its time, from when it is come to."""

    async def wait(self):
        await asyncio.sleep(PAUSE)


@pytest.fixture
def when_waiting(monkeypatch):
    """Does something a pause after a task has begun to wait for this: however late that is on a busy machine."""
    enter, due = Waiting.__enter__, {}

    def entered(self):
        if act := due.pop(self._on, None):
            asyncio.get_running_loop().call_later(PAUSE, act)
        enter(self)

    monkeypatch.setattr(Waiting, "__enter__", entered)
    return due.__setitem__


def whole(fields):
    """A turn's parts, none of them counted twice."""
    parts = fields["upstream_ms"], fields["store_ms"], fields["own_ms"]
    assert min(parts) >= 0 and sum(parts) <= fields["ms"] + 0.2  # rounded
    return parts


@pytest.mark.parametrize("streamed", [False, True])
async def test_waits_for_the_upstream_are_told_as_such(caller, backend, turns, streamed):
    head, *rest = talk("Hel", "lo")
    end = b"".join(chunked(sse(one)) for one in rest) + b"0\r\n\r\n"
    backend.script(Pause(), STREAM_HEAD + chunked(sse(head)), Pause(), end)
    await caller.ask("Hi", stream=streamed)
    upstream, _, _ = whole(turns()[-1])
    assert upstream >= 1.5 * LONG  # of the second pause a part may go to what came before it


async def test_waits_for_the_store_are_told_as_such(calling, backend, turns, tmp_path_factory, monkeypatch):
    script = Client.script

    async def asked(self, called, *args, **rest):
        if called.name == "history":
            asyncio.get_running_loop().call_later(PAUSE, store.resume)
        return await script(self, called, *args, **rest)

    store = servers.Server.on_socket(servers.valkey_binary(), tmp_path_factory.mktemp("s"))
    try:
        caller = await calling(store=store.url)
        backend.default = (stream(*talk("Hi")),)
        first = ok(await caller.ask("Hi"))
        monkeypatch.setattr(Client, "script", asked)
        store.pause()
        ok(await caller.ask("Hi", previous_response_id=first["id"]))
    finally:
        store.resume()
        store.stop()
    _, kept, _ = whole(turns()[-1])
    assert kept >= LONG


async def test_waits_for_a_conversation_are_nobodys_work(calling, backend, turns, when_waiting):
    caller = await calling("--conversation-lock-wait=20")
    made = ok(await caller.http.post("/conversations", json={}))["id"]
    held = asyncio.Event()
    backend.script(held, stream(*talk("Hi")))
    first = asyncio.create_task(caller.ask("Hi", conversation=made))
    await backend.received(1)
    backend.script(stream(*talk("Hi")))
    when_waiting("store", held.set)
    second = asyncio.create_task(caller.ask("Hi", conversation=made))
    ok(await first), ok(await second)
    _, kept, own = whole(turns()[-1])
    assert kept >= LONG and kept > own


async def test_waits_for_the_upstreams_kind_are_told_as_such(calling, backend, turns, when_waiting):
    asked = asyncio.Event()
    when_waiting("upstream", asked.set)
    backend.script(asked, json_reply({"data": []}))
    backend.default = (stream(*talk("Hi")),)
    caller = await calling("--upstream-kind=auto")
    ok(await caller.ask("Hi"))
    upstream, _, own = whole(turns()[-1])
    assert upstream >= LONG and upstream > own


async def test_waits_for_the_client_are_nobodys_work(caller, backend, turns, when_waiting):
    go = asyncio.Event()
    when_waiting("client", go.set)
    backend.script(stream(*talk("Hi")))
    body = b'{"model": "m", "input": "Hi"}'

    async def slowly():
        yield body[:10]
        await go.wait()
        yield body[10:]

    ok(await caller.http.post("/responses", content=slowly()))
    fields = turns()[-1]
    assert sum(whole(fields)) <= fields["ms"] - LONG
