"""A real server's metrics against what its driver did and got back, with one worker and with two."""

import asyncio
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import httpx
import pytest
from prometheus_client import parser

from proxy.observe.metrics import NAMES
from tests import servers
from tests.backend import (
    CLOSE,
    PATIENCE,
    RESET,
    STREAM_HEAD,
    chunk,
    chunked,
    completion,
    json_reply,
    reply,
    sse,
    stream,
    talk,
)
from tests.callers import Opened, ok, unframed

pytestmark = pytest.mark.live

RESPONSES, CONVERSATIONS = "/v1/responses", "/v1/conversations"
UNCOUNTED = ("_sum", "_bucket")
"""What a driver cannot know: seconds."""
PROBES = ("/metrics", "/ready")
WEB = [{"type": "web_search"}, {"type": "image_generation"}]
LATE = [
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"role": "user", "content": "and?"},
    {"type": "function_call_output", "call_id": "c", "output": "o"},
]
TOO_LONG = {"error": {"message": "This model's maximum context length is 9 tokens.", "code": 400}}
LONG = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "1"}, {"role": "user", "content": "two"}]


def usage(taken, given, cached=0, thought=0):
    details = {"prompt_tokens_details": {"cached_tokens": cached}}
    return {"prompt_tokens": taken, "completion_tokens": given, "total_tokens": taken + given, **details} | {
        "completion_tokens_details": {"reasoning_tokens": thought}
    }


def plain(told=None, finish="stop"):
    whole = completion()
    whole["choices"][0]["finish_reason"] = finish
    return json_reply(whole | {"usage": told})


def streamed(told=None):
    *said, done = talk("Hel", "lo")
    return stream(*said, *([chunk({}) | {"choices": [], "usage": told}] if told else []), done)


HALF = STREAM_HEAD + chunked(sse(*talk("Hel")[:2]))


class Driver:
    """Sends requests and counts, under the names of the metrics, what it did and what it got back."""

    def __init__(self, url, backend):
        self.backend, self.counts, self.sent = backend, Counter(), 0
        self.upstream = httpx.URL(backend.url).netloc.decode()
        limits = httpx.Limits(max_keepalive_connections=0)  # each request may meet another worker
        self.http = httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits, trust_env=False, verify=False)

    def count(self, name, count=1, **labels):
        self.counts[f"statecar_{name}", *sorted(labels.items())] += count

    def answered(self, method, route, status):
        self.sent += 1
        self.count("requests_total", method=method, route=route, status=str(status))
        self.count("request_seconds_count", method=method, route=route)

    async def send(self, method, path, route, **rest):
        answer = await self.http.request(method, path, **rest)
        self.answered(method, route, answer.status_code)
        return answer

    def asked(self, *statuses, silent=False):
        """The upstream was asked, and ended so; ``silent``: without a byte of a body."""
        for status in statuses:
            self.count("upstream_requests_total", upstream=self.upstream, status=status)
            if status in ("200", "broken") and not silent:
                self.count("upstream_first_byte_seconds_count", upstream=self.upstream)

    def told(self, model, response, *, streamed, missing):
        """A turn was told as a response."""
        self.count("turns_total", model=model, status=response["status"])
        self.count("turn_seconds_count", model=model)
        for part in ("upstream", "store", "own"):
            self.count("turn_part_seconds_count", part=part)
        self.spent(model, response)
        if streamed:
            self.count("first_event_seconds_count", model=model)
        if missing and response["status"] != "failed":
            self.count("usage_missing_total", model=model)

    def spent(self, model, response):
        """The tokens of a turn or a run."""
        figures = response["usage"] or {}
        details = figures.get("input_tokens_details", {}), figures.get("output_tokens_details", {})
        flat = {**figures, **details[0], **details[1]}
        for kind in ("input", "cached", "output", "reasoning"):
            self.count(f"{kind}_tokens_total", flat.get(f"{kind}_tokens", 0), model=model)

    async def run(self, *script, calls=("200",), **body):
        """A background response, its events read to the end."""
        self.backend.script(*script)
        body = {"model": "a", "input": "Hi", "background": True, "stream": True} | body
        answer = await self.send("POST", RESPONSES, RESPONSES, json=body)
        self.asked(*calls)
        response = unframed(answer.content)[-1]["response"]
        self.count("runs_total", model=body["model"], status=response["status"])
        self.spent(body["model"], response)

    async def turn(self, *scripts, calls=("200",), answered=True, path=RESPONSES, missing=False, **body):
        """One turn, the upstream's answers scripted; ``calls``: how it was asked, ``answered``: whether it did."""
        for script in scripts:
            self.backend.script(*(script if isinstance(script, tuple) else (script,)))
        body = {"model": "a", "input": "Hi"} | body
        answer = await self.send("POST", path, path, json=body)
        self.asked(*calls)
        if answer.status_code != 200:
            self.count("turns_total", model=body["model"] if answered else "", status="refused")
            return {}
        is_stream = body.get("stream", False)
        response = unframed(answer.content, done=path == RESPONSES)[-1]["response"] if is_stream else answer.json()
        self.told(body["model"], response, streamed=is_stream, missing=missing)
        return response

    async def scraped(self):
        return tally(ok_text(await self.http.get("/metrics")))


def ok_text(answer):
    assert answer.status_code == 200, answer.text
    return answer.text


def tally(text):
    """Every sample that counts, by name and labels, without the scrapes and the probes from before the start."""
    found = Counter()
    for family in parser.text_string_to_metric_families(text):
        for one in family.samples:
            if not one.name.endswith(UNCOUNTED) and one.labels.get("route") not in PROBES:
                found[one.name, *sorted(one.labels.items())] = one.value
    return found


def of_requests(found):
    return sum(value for key, value in found.items() if key[0] == "statecar_requests_total")


async def settled(driver, before):
    """What was counted since, as soon as the last request is: its answer comes before that."""
    async with asyncio.timeout(PATIENCE):
        while of_requests(now := await driver.scraped()) - of_requests(before) < driver.sent:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return now


@pytest.fixture
def own_store(tmp_path_factory):
    server = servers.Server.on_socket(servers.valkey_binary(), tmp_path_factory.mktemp("s"))
    yield server
    server.stop()


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
async def driver(request, start, own_store, backend):
    options = ("--upstream-kind=generic", f"--store={own_store.url}", "--tenant-secret=a fixed one")
    process = start(f"--upstream={backend.url}", f"--workers={request.param}", *options)
    driver = Driver(await asyncio.to_thread(process.url), backend)
    yield driver
    await driver.http.aclose()


async def test_a_hundred_requests_of_all_kinds_are_counted_as_the_driver_counts_them(driver, own_store):
    before = await driver.scraped()
    await turns(driver)
    await driver.run(streamed(usage(9, 4, 3, 2)))
    await driver.run(HALF, CLOSE, calls=("broken",))
    await stored(driver)
    await passed_on(driver)
    await mistaken(driver)
    await leaving(driver)
    while driver.sent < 97:
        await driver.turn(streamed(usage(driver.sent, 2)), stream=True, model="b")
    await failing(driver, own_store)
    assert driver.sent == 100
    after = await settled(driver, before)
    counted = {key: value - before[key] for key, value in after.items() if "_store_" not in key[0]}
    assert {key: value for key, value in counted.items() if value} == {k: v for k, v in driver.counts.items() if v}
    assert after["statecar_store_errors_total", ("operation", "save")] == 1
    assert after["statecar_store_seconds_count", ("operation", "save")] == saved(driver.counts) + 1
    assert (after["statecar_open_requests",], after["statecar_open_streams",]) == (0, 0)
    named = {re.sub(r"_(count|sum|bucket)$", "", key[0]) for key in after}
    elsewhere = {"statecar_stateless_turns_total", "statecar_tool_calls_total", "statecar_tool_seconds"}
    elsewhere |= {"statecar_limited_requests_total", *(name for name, of in NAMES.items() if "group" in of.labels)}
    assert named == NAMES.keys() - elsewhere  # told by servers of other options


def saved(counts):
    """Turns that were told as a response, and runs, are stored, all but the one whose saving fails."""
    told, names = ("completed", "incomplete", "failed"), ("statecar_turns_total", "statecar_runs_total")
    turns = [value for key, value in counts.items() if key[0] in names and dict(key[1:])["status"] in told]
    return sum(turns) - 1


# -- what the driver does


async def turns(driver):
    for n in range(8):
        await driver.turn(plain(usage(10 + n, 3, cached=n, thought=1)))
        await driver.turn(streamed(usage(7, n, thought=n // 2)), stream=True)
    await driver.turn(plain(usage(1, 1)), path="/v1/openai/v1/responses")
    await driver.turn(streamed(usage(1, 1)), path="/v1/openai/v1/responses", stream=True)
    for is_stream in (False, True):
        answer = streamed() if is_stream else plain()
        await driver.turn(answer, stream=is_stream, missing=True)
        await driver.turn(answer, stream=is_stream, missing=True, tools=WEB)
        for type_ in ("web_search", "image_generation"):
            driver.count("dropped_tools_total", type=type_)
        await driver.turn(answer, stream=is_stream, missing=True, input=LATE)
        driver.count("repaired_orders_total")
    await driver.turn(plain(usage(5, 5), finish="length"))
    await driver.turn(
        json_reply(TOO_LONG, status=400), plain(usage(5, 1)), calls=("400", "200"), input=LONG, truncation="auto"
    )
    driver.count("truncated_turns_total")
    await driver.turn(streamed(usage(5, 9)), input=[*LONG, {"type": "compaction_trigger"}])
    driver.count("compacted_turns_total")
    await driver.turn((HALF, RESET), calls=("broken",), stream=True, missing=True)
    await driver.turn(
        (reply(b"{", length=False, headers=("content-type: application/json", "content-length: 9")), CLOSE),
        calls=("broken",),
    )


async def stored(driver):
    """Chains, conversations, and what is stored of them."""
    first = await driver.turn(plain(usage(1, 1)))
    second = await driver.turn(plain(usage(1, 1)), previous_response_id=first["id"])
    await driver.turn(streamed(usage(1, 1)), previous_response_id=second["id"], stream=True)
    one = f"{RESPONSES}/{{response_id}}"
    at = f"{RESPONSES}/{second['id']}"
    for method, path, route in (
        ("GET", RESPONSES, RESPONSES),
        ("GET", at, one),
        ("HEAD", at, one),
        ("GET", f"{at}/input_items", f"{one}/input_items"),
        ("DELETE", at, one),
    ):
        assert (await driver.send(method, path, route)).status_code == 200
    made = ok(await driver.send("POST", CONVERSATIONS, CONVERSATIONS, json={}))["id"]
    await driver.turn(plain(usage(1, 1)), conversation=made)
    await driver.turn(streamed(usage(1, 1)), conversation=made, stream=True)
    one, at = f"{CONVERSATIONS}/{{conversation_id}}", f"{CONVERSATIONS}/{made}"
    rows = ok(await driver.send("GET", f"{at}/items", f"{one}/items"))["data"]
    await driver.send("GET", f"{at}/items/{rows[0]['id']}", f"{one}/items/{{item_id}}")
    await driver.send("DELETE", at, one)


async def passed_on(driver):
    """What goes to the upstream, and what is about the server itself."""
    chat = {"model": "a", "messages": [], "stream": True}
    for method, path, script, status, silent in (
        ("GET", "/v1/models", json_reply({"data": []}), "200", False),
        ("POST", "/v1/chat/completions", streamed(), "200", False),
        ("GET", "/v1/nothing", json_reply({"error": "no"}, status=404), "404", False),
        ("OPTIONS", RESPONSES, reply(status=204, length=False), "204", True),
        ("GET", "/v1/models", b"nonsense\r\n\r\n", "broken", True),
    ):
        driver.backend.script(script)
        await driver.send(method, path, "passed on", **({"json": chat} if method == "POST" else {}))
        driver.asked(status, silent=silent)
        if status == "404":
            driver.count("upstream_first_byte_seconds_count", upstream=driver.upstream)
    for method, path in (("GET", "/health"), ("HEAD", "/health"), ("GET", "/openapi.json"), ("POST", "/health")):
        await driver.send(method, path, path)


async def mistaken(driver):
    """What is refused, by the upstream, by us, and before there is a turn."""
    for status in (400, 429):
        refused = json_reply({"error": {"message": "no"}}, status=status)
        await driver.turn(refused, calls=(str(status),), answered=False)
        await driver.turn(refused, calls=(str(status),), answered=False, stream=True)
    unknown = "resp_" + "0" * 48
    await driver.turn(calls=(), answered=False, previous_response_id=unknown)
    await driver.turn(calls=(), answered=False, input=[{"type": "function_call_output", "call_id": "c", "output": ""}])
    one = f"{RESPONSES}/{{response_id}}"
    for method, path, route, status in (
        ("GET", f"{RESPONSES}/{unknown}", one, 404),
        ("GET", f"{RESPONSES}/secret", one, 404),
        ("GET", f"{RESPONSES}/a/b/c", "unknown", 404),
        ("PUT", RESPONSES, RESPONSES, 405),
        ("PROPFIND", RESPONSES, RESPONSES, 405),
        ("POST", RESPONSES, RESPONSES, 400),
        ("POST", f"{RESPONSES}/input_tokens", f"{RESPONSES}/input_tokens", 400),
    ):
        answer = await driver.http.request(method, path, content=b"{" if method == "POST" else None)
        assert answer.status_code == status
        driver.answered("other" if method == "PROPFIND" else method, route, status)


async def leaving(driver):
    """Clients that hang up before their answer, and in the middle of it."""
    body = {"model": "a", "input": "Hi"}
    for is_stream in (False, True):
        driver.backend.script(asyncio.Event())
        count = len(driver.backend.requests)
        asking = asyncio.create_task(driver.http.post(RESPONSES, json={**body, "stream": is_stream}))
        request = await driver.backend.received(count + 1)
        asking.cancel()
        await request.gone.wait()
        driver.answered("POST", RESPONSES, 499)
        driver.count("turns_total", model="", status="left")
        driver.asked("499")
    driver.backend.script(HALF, asyncio.Event())
    async with driver.http.stream("POST", RESPONSES, json={**body, "stream": True}) as answer:
        opened = Opened(answer)
        await opened.until("response.output_text.delta")
        await as_many_as_open(driver, lambda: 1)
    await driver.backend.requests[-1].gone.wait()
    driver.answered("POST", RESPONSES, 200)
    driver.count("turns_total", model="a", status="left")
    driver.count("first_event_seconds_count", model="a")
    driver.asked("200")


async def failing(driver, store):
    """A store that is gone when a turn is to be saved, and when one begins."""
    first = await driver.turn(plain(usage(1, 1)))
    go_on = asyncio.Event()
    end = b"".join(chunked(sse(payload)) for payload in talk("Hel")[2:])
    driver.backend.script(HALF, go_on, end + b"0\r\n\r\n")
    body = {"model": "a", "input": "Hi", "stream": True}
    async with driver.http.stream("POST", RESPONSES, json=body) as answer:
        opened = Opened(answer)
        await opened.until("response.created")
        await asyncio.to_thread(store.stop)
        go_on.set()
        *_, failed, _ = await opened.rest()
    driver.answered("POST", RESPONSES, 200)
    driver.asked("200")
    driver.told("a", failed["response"], streamed=True, missing=True)
    assert failed["response"]["status"] == "failed"
    driver.count("save_failures_total")
    await driver.turn(calls=(), answered=False, previous_response_id=first["id"])


# -- workers that die


def workers(pid):
    """The process ids of a server's workers that live."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            command = Path(f"/proc/{child}/cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "spawn_main" in command and "resource_tracker" not in command:
            found.append(int(child))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_killed_workers_counts_stay_and_its_streams_do_not(start, valkey, backend, monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        process = start(f"--upstream={backend.url}", "--upstream-kind=generic", f"--store={valkey.url}", "--workers=2")
        driver = Driver(await asyncio.to_thread(process.url), backend)
        for _ in range(8):
            await driver.turn(plain(usage(1, 1)))
        known = await settled(driver, Counter())
        streams = [asyncio.create_task(held(driver)) for _ in range(8)]
        await as_many_as_open(driver, lambda: 8)
        pid = process.process.pid
        for victim in workers(pid):
            os.kill(victim, signal.SIGKILL)
            await asyncio.to_thread(servers.until, lambda: victim not in (now := workers(pid)) and len(now) == 2)  # noqa: B023
            now = await as_many_as_open(driver, lambda: sum(not stream.done() for stream in streams))
            assert all(now[key] >= value for key, value in known.items() if "_open_" not in key[0])
            known = now
        assert now["statecar_open_streams",] == 0
        assert {type(end) for end in await asyncio.gather(*streams, return_exceptions=True)} == {
            httpx.RemoteProtocolError
        }
        (metrics,) = Path(directory).glob("statecar-*/metrics")
        assert len(list(metrics.glob("slot-*"))) <= 3
        await driver.http.aclose()
        process.ask_to_end()
        assert process.ended() == 0
        assert os.listdir(directory) == []


async def held(driver):
    """A stream that never ends by itself."""
    driver.backend.script(HALF, asyncio.Event())
    body = {"model": "a", "input": "Hi", "stream": True}
    async with driver.http.stream("POST", RESPONSES, json=body) as answer:
        await Opened(answer).rest()


async def as_many_as_open(driver, wanted):
    """What is counted, as soon as so many streams are open; a worker that dies hangs up meanwhile."""
    async with asyncio.timeout(servers.PATIENCE):
        while True:
            try:
                if (now := await driver.scraped())["statecar_open_streams",] == wanted():
                    return now
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)
