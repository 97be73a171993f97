"""Background responses in real processes that are killed, ended and cut off from their store."""

import asyncio
import json
import random
import signal

import pytest

from tests import servers
from tests.backend import DONE, STREAM_END, STREAM_HEAD, chunk, chunked, sse, talk
from tests.callers import Caller
from tests.live import strict
from tests.live.conftest import Process
from tests.translate import rules

pytestmark = pytest.mark.live

ENDED = ("completed", "incomplete", "failed", "cancelled")
HALF = STREAM_HEAD + chunked(sse(*talk("Hel")[:2]))
REST = chunked(sse(*talk("lo")[1:])) + STREAM_END


@pytest.fixture
def store(tmp_path_factory):
    """A store of one test, that keeps what it has when it is restarted."""
    found = servers.Server.on_port(servers.valkey_binary(), tmp_path_factory.mktemp("s"), "--appendonly", "yes")
    yield found
    found.stop()


@pytest.fixture
def launch(tmp_path_factory, store, backend):
    """Starts processes that share the test's store; each must end well, or have been killed."""
    started = []

    def start(*options):
        folder = tmp_path_factory.mktemp("statecar")
        fixed = (f"--upstream={backend.url}", "--upstream-kind=generic", f"--store={store.url}", "--run-lease=1")
        started.append(Process(folder, *fixed, *options))
        return started[-1]

    yield start
    for process in started:
        process.ask_to_end()
    codes = [process.ended() for process in started]
    assert set(codes) <= {0, -signal.SIGKILL}, [process.stderr for process in started]


def asked(backend):
    """How often the model was asked."""
    return sum(request.method == "POST" for request in backend.requests)


async def url_of(process):
    return await asyncio.to_thread(process.url)


async def ended(caller, id_):
    """The response once it has ended."""
    async with asyncio.timeout(servers.PATIENCE):
        while True:
            found = strict.response(await caller.get(f"/responses/{id_}"))
            if found["status"] in ENDED:
                return found
            await asyncio.sleep(0.02)


async def replay(caller, id_, after=-1, begun=None):
    """The events of a stream; ``begun`` is set when the first has come."""
    query, events = {"stream": "true"} | ({"starting_after": after} if after >= 0 else {}), []
    path = f"/responses/{id_}"
    async with caller.http.stream("GET", path, params=query, timeout=servers.PATIENCE) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                events.append(json.loads(line[6:]))
            if begun:
                begun.set()
    return events


async def reading(caller, id_):
    """A reader of a stream, which has had something of it."""
    begun = asyncio.Event()
    task = asyncio.create_task(replay(caller, id_, begun=begun))
    async with asyncio.timeout(servers.PATIENCE):
        await begun.wait()
    return task


def text_of(response):
    return "".join(item["content"][0]["text"] for item in response["output"])


async def begun(caller, backend, *script, **fields):
    """A run that has come as far as this script: its id, and for a stream the events until then."""
    count = len(backend.requests)
    backend.script(*script)
    said = HALF in script
    events = []
    if fields.get("stream"):
        async with caller.opened("Hi", background=True, **fields) as opened:
            wanted = "response.output_text.delta" if said else "response.in_progress"
            while not events or events[-1]["type"] != wanted:
                events.append(await opened.frame())
        id_ = events[0]["response"]["id"]
    else:
        id_ = (await caller.create(background=True, **fields))["id"]
    await backend.received(count + 1)
    return id_, events


async def lose(way, process):
    """The end of the process that makes the runs."""
    if way == "ended":
        process.ask_to_end()
        assert await asyncio.to_thread(process.ended) == 0
    else:
        process.process.kill()
        await asyncio.to_thread(process.process.wait)


def called_for(process):
    """The runs that a process has called an upstream for, as its log tells; each under the id of its request."""
    lines = [json.loads(line) for line in process.stderr.splitlines()]
    calls = [line for line in lines if line["message"] == "upstream call" and "response" in line]
    assert all(line["call"].startswith(line["request_id"]) for line in calls)
    return {line["response"] for line in calls}


@pytest.mark.parametrize("way", ["killed", "restarted", "ended"])
async def test_what_a_lost_process_was_making_is_ended_by_another(launch, backend, store, way):
    options = ("--seal-key=a key of our own", "--grace=1", "--log-format=json", "--log-level=debug")
    first = launch(*options)
    second = launch(*options) if way != "restarted" else None
    never = asyncio.Event()
    async with Caller(await url_of(first)) as caller:
        conversations = [await caller.conversation() for _ in range(2)]
        waiting, _ = await begun(caller, backend, never)
        mute, told = await begun(caller, backend, never, stream=True)
        plain, _ = await begun(caller, backend, HALF, never, conversation=conversations[0])
        talking, said = await begun(caller, backend, HALF, never, stream=True, conversation=conversations[1])
        worn, _ = await begun(caller, backend, never)
        with store.admin() as admin:
            admin.hset(f"sc:{{{worn[5:21]}}}:j:{worn[21:49]}", "n", 4)
        await lose(way, first)
    second = second or launch(*options)
    async with Caller(await url_of(second), caller.key) as other:
        for id_ in (waiting, plain):
            last = await ended(other, id_)
            assert (last["status"], text_of(last)) == ("completed", "Hi")
        events = await replay(other, mute)
        keys = [request.values("authorization") for request in backend.requests if request.method == "POST"]
        assert keys == [[f"Bearer {caller.key}"]] * 8
        rules.check(events)
        assert (events[-1]["response"]["status"], events[: len(told)]) == ("completed", told)
        events = await replay(other, talking)
        rules.check(events)
        assert events[: len(said)] == said
        assert events[len(said) :] == await replay(other, talking, len(said) - 1)
        last = await ended(other, talking)
        assert (last["status"], text_of(last), last["output"][0]["status"]) == ("failed", "Hel", "incomplete")
        assert "restarted" in last["error"]["message"]
        assert last["conversation"] == {"id": conversations[1]}
        assert (await ended(other, worn))["status"] == "failed"
        assert [await other.texts(id_) for id_ in conversations] == [["Hi", "Hi"], []]
        for id_ in conversations:
            await other.create("Next", conversation=id_)
    assert called_for(second) == {waiting, mute, plain}
    with store.admin() as admin:
        assert admin.zcard("sc:runs") == 0


def dripping(chance, seconds):
    """A stream that says a word now and then for so long."""
    gates = [asyncio.Event() for _ in range(8)]
    for gate in gates:
        asyncio.get_running_loop().call_later(chance.uniform(0, seconds), gate.set)
    words = [step for gate in gates for step in (gate, chunked(sse(chunk({"content": "word "}))))]
    return (gates[0], STREAM_HEAD, *words, chunked(sse(chunk({}, "stop"), DONE)) + STREAM_END)


async def test_a_kill_at_any_moment_leaves_whole_streams_and_no_run(launch, backend, store):
    chance = random.Random(7)
    first, second = launch("--tenant=off", "--upstream-api-key=ours"), launch("--tenant=off", "--grace=1")
    async with Caller(await url_of(first)) as caller, Caller(await url_of(second)) as other:
        created = []
        for _ in range(8):
            backend.script(*dripping(chance, 0.4))
            created.append((await caller.create(background=True))["id"])
            backend.script(*dripping(chance, 0.4))
            async with caller.opened("Hi", background=True) as opened:
                created.append((await opened.frame())["response"]["id"])
            await asyncio.sleep(0.05)
        first.process.kill()
        await asyncio.to_thread(first.process.wait)
        ends = set()
        for at, id_ in enumerate(created):
            last = await ended(other, id_)
            ends.add((last["status"], text_of(last)))
            if at % 2:
                events = await replay(other, id_)
                rules.check(events)
                assert events[-1]["response"] == last
        assert {status for status, _ in ends} <= {"completed", "failed"}
    with store.admin() as admin:
        servers.until(lambda: not admin.zcard("sc:runs"))


@pytest.mark.parametrize(
    ("options", "status"), [((), "failed"), (("--upstream-api-key=ours",), "completed")], ids=["callers", "ours"]
)
async def test_a_callers_key_that_is_not_kept_ends_what_needs_it(launch, backend, options, status):
    first, second = launch(*options), launch(*options)
    async with Caller(await url_of(first)) as caller:
        id_, _ = await begun(caller, backend, asyncio.Event())
        await lose("killed", first)
    async with Caller(await url_of(second), caller.key) as other:
        assert (await ended(other, id_))["status"] == status
    assert (f"a key that response {id_} needs" in second.stderr) == (status == "failed")


async def test_what_is_made_when_its_process_is_asked_to_end_gets_the_grace(launch, backend):
    process, go = launch("--grace=20"), asyncio.Event()
    async with Caller(await url_of(process)) as caller:
        id_, _ = await begun(caller, backend, HALF, go, REST)
        reader = await reading(caller, (await begun(caller, backend, HALF, go, REST, stream=True))[0])
        process.ask_to_end()
        await asyncio.sleep(0.2)
        go.set()
        rules.check(await reader)
        assert await asyncio.to_thread(process.ended) == 0
    async with Caller(await url_of(launch()), caller.key) as other:
        last = await ended(other, id_)
        assert (last["status"], text_of(last)) == ("completed", "Hello")
    assert asked(backend) == 2


@pytest.mark.parametrize("fault", ["paused", "restarted"])
async def test_a_run_outlives_the_absence_of_its_store(launch, backend, store, fault):
    first, second = launch(), launch()
    go, rest = asyncio.Event(), asyncio.Event()
    async with Caller(await url_of(first)) as caller, Caller(await url_of(second), caller.key) as other:
        plain, _ = await begun(caller, backend, HALF, go, REST)
        streamed, _ = await begun(
            caller, backend, HALF, go, chunked(sse(chunk({"content": "lo"}))), rest, REST, stream=True
        )
        readers = [await reading(one, streamed) for one in (caller, other)]
        store.pause() if fault == "paused" else store.stop()
        go.set()
        await asyncio.sleep(3)  # longer than a lease
        store.resume() if fault == "paused" else await asyncio.to_thread(store.start)
        rest.set()
        one, two = await asyncio.gather(*readers)
        rules.check(one)
        assert one == two
        assert (one[-1]["response"]["status"], text_of(one[-1]["response"])) == ("completed", "Hellolo")
        last = await ended(other, plain)
        assert (last["status"], text_of(last)) == ("completed", "Hello")
    assert asked(backend) == 2
