"""Groups of upstreams through the whole proxy: who is asked for which model, and who else where that one cannot."""

import asyncio

import pytest

from tests.backend import (
    CLOSE,
    PATIENCE,
    RESET,
    STREAM_END,
    STREAM_HEAD,
    Backend,
    chunk,
    chunked,
    completion,
    json_reply,
    sse,
    stream,
    talk,
)
from tests.callers import error_of, ok, refusal
from tests.routes.hosted import FIND, at, called, docs, messages, said
from tests.routes.test_background import eventually, made
from tests.servers import free_port
from tests.sockets import opened

QUIET = "--upstream-health-interval=0"
"""Checks would be answered by scripts that are meant for turns."""
HANGS = asyncio.Event
ONCE = chunked(sse(chunk({"role": "assistant", "content": ""})))


@pytest.fixture
async def backends():
    """Three of them."""
    async with Backend() as a, Backend() as b, Backend() as c:
        yield a, b, c


@pytest.fixture
def in_front(backends, calling):
    """A caller of a server in front of one group of them all, or of those given."""

    async def start(*options, among=(), **group):
        group = {"replicas": [each.url for each in among or backends], **group}
        return await calling(QUIET, *options, upstreams=[group])

    return start


def chats(backend):
    return [request.json for request in backend.requests if request.target.endswith("/chat/completions")]


def counts(backends):
    return [len(chats(each)) for each in backends]


async def begun(caller, backends, **fields):
    """(the first response of a chain, the backend that gave it)."""
    before = counts(backends)
    first = await caller.create(**fields)
    (at,) = [each for each, now, then in zip(backends, counts(backends), before, strict=True) if now > then]
    return first["id"], at


async def ended(caller, id_):
    return (await caller.get(f"/responses/{id_}"))["status"] == "completed"


def dead():
    return f"http://127.0.0.1:{free_port()}/v1"


async def test_the_model_decides_which_group_is_asked_and_by_which_name(backends, calling):
    a, b, c = backends
    caller = await calling(
        upstreams=[
            {"models": ["qwen*"], "aliases": {"gpt-4o": "qwen3-32b"}, "replicas": [a.url]},
            {"name": "llamas", "models": ["llama-?"], "replicas": [b.url]},
            {"name": "rest", "models": ["tiny", "small-*"], "replicas": [c.url]},
        ]
    )
    for model in ("qwen3-4b", "gpt-4o", "llama-3", "tiny", "small-1"):
        answer = (await caller.ask(model=model)).json()
        assert answer["model"] == ("gpt-4o" if model == "gpt-4o" else "m")  # what a backend says, but for an alias
    assert [[body["model"] for body in chats(each)] for each in backends] == [
        ["qwen3-4b", "qwen3-32b"],
        ["llama-3"],
        ["tiny", "small-1"],
    ]
    unknown = await caller.ask(model="llama-33")
    assert refusal(unknown) == (404, "model_not_found", "model")
    assert "'llama-33'" in error_of(unknown)["message"]


@pytest.mark.parametrize("affinity", ["on", "off"])
async def test_the_turns_of_a_conversation_go_to_one_replica(backends, in_front, affinity):
    caller = await in_front(f"--upstream-affinity={affinity}")
    for _ in range(3):
        before, previous = counts(backends), None
        for _ in range(3):
            previous = (await caller.create(previous_response_id=previous))["id"]
        found = [now - then for now, then in zip(counts(backends), before, strict=True)]
        assert sorted(found) == ([0, 0, 3] if affinity == "on" else [1, 1, 1])


async def test_a_cache_key_keeps_together_what_has_no_lineage_in_common(backends, in_front):
    caller = await in_front()
    for key in ("a", "b", "c", "d"):
        before = counts(backends)
        for _ in range(3):
            await caller.create(store=False, prompt_cache_key=key)
        assert sorted(now - then for now, then in zip(counts(backends), before, strict=True)) == [0, 0, 3]


FAILURES = {
    "closed before the head": (CLOSE,),
    "reset before the head": (RESET,),
    "closed after the head": (STREAM_HEAD, CLOSE),
    "closed after a comment": (STREAM_HEAD + chunked(b": wait\n\n"), CLOSE),
    "ended without a chunk": (STREAM_HEAD + b"0\r\n\r\n",),
    "no HTTP": (b"nonsense\r\n\r\n", CLOSE),
    "an error at status 200": (stream({"error": {"message": "loading", "code": 503}}),),
    "hung before the head": (HANGS,),
    "hung after the head": (STREAM_HEAD, HANGS),
    "429": (json_reply({"error": {"message": "busy"}}, status=429, headers=("retry-after: 20",)),),
    "502": (json_reply({}, status=502),),
    "503": (json_reply({"error": {"message": "loading"}}, status=503, headers=("retry-after: 20",)),),
    "504": (json_reply({}, status=504),),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_nothing_is_seen_of_a_replica_that_fails_before_the_first_chunk(backends, in_front, name):
    for backend in backends:
        backend.default = (stream(*talk("Hi")),)
    caller = await in_front(first_byte_timeout=0.5 if "hung" in name else PATIENCE)
    previous, at = await begun(caller, backends)
    asked = 2 if "before the head" in name and name != "hung before the head" else 1  # also on a fresh connection
    for _ in range(asked):
        at.script(*(step() if step is HANGS else step for step in FAILURES[name]))
    before = counts(backends)
    events = await caller.events(previous_response_id=previous)
    assert events[-1]["type"] == "response.completed"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert sum(counts(backends)) == sum(before) + asked + 1
    (other,) = (each for each in backends if each is not at and chats(each))
    assert chats(other)[-1] == chats(at)[-1]
    seen = counts([at])
    await caller.events(previous_response_id=previous)
    has_asked_for_a_rest = name == "503"  # 429 was for the caller's own key
    assert (counts([at]) == seen) == has_asked_for_a_rest


async def test_a_replica_that_is_gone_costs_no_request(backends, in_front):
    caller = await in_front(replicas=[backends[0].url, dead(), backends[1].url])
    answers = await asyncio.gather(*(caller.ask() for _ in range(20)))
    assert [answer.status_code for answer in answers] == [200] * 20


async def test_what_has_begun_is_not_asked_again(backends, in_front):
    for backend in backends:
        backend.default = (BEGUN, CLOSE)
    caller = await in_front()
    events = await caller.events()
    assert events[-1]["type"] == "response.failed"
    assert sum(counts(backends)) == 1


BEGUN = STREAM_HEAD + ONCE + chunked(sse(chunk({"content": "Hel"})))
BREAKS = {
    "closed": (CLOSE,),
    "ended without a last chunk": (STREAM_END,),
    "silent": (HANGS,),
    "an error": (chunked(sse({"error": {"message": "dead", "code": 500}})) + STREAM_END,),
}


async def answers(caller, key, count, end):
    for _ in range(count):
        assert (await caller.events(prompt_cache_key=key))[-1]["type"] == f"response.{end}"


@pytest.mark.parametrize("name", BREAKS)
async def test_a_replica_whose_answers_break_off_in_a_row_is_asked_no_more(backends, in_front, name):
    there = backends[:2]
    for backend in there:
        backend.default = (stream(*talk("Hi")),)
    caller = await in_front(among=there, idle_timeout=0.2 if name == "silent" else PATIENCE)
    _, broken = await begun(caller, there, prompt_cache_key="k")
    (other,) = (each for each in there if each is not broken)
    for breaks in (2, 0, 3):  # whatever broke off before a whole answer is forgotten
        for _ in range(breaks):
            broken.script(BEGUN, *(step() if step is HANGS else step for step in BREAKS[name]))
        await answers(caller, "k", breaks, "failed")
        await answers(caller, "k", 1, "completed")
    assert counts([broken, other]) == [1 + 2 + 1 + 1 + 3, 1]


@pytest.mark.parametrize("reason", ["stop", ""])
async def test_an_answer_that_says_its_end_in_other_words_is_whole(backends, in_front, reason):
    there = backends[:2]
    for backend in there:
        backend.default = (BEGUN + chunked(sse(chunk({}, reason))) + STREAM_END,)
    caller = await in_front("--upstream-eject-after=1", among=there)
    await answers(caller, "k", 3, "completed")
    assert sorted(counts(there)) == [0, 3]


async def test_an_answer_that_its_client_left_says_nothing_of_its_replica(backends, in_front):
    there = backends[:2]
    caller = await in_front("--upstream-eject-after=1", among=there)
    _, busy = await begun(caller, there, prompt_cache_key="k")
    for _ in range(3):
        busy.script(BEGUN, HANGS())
        async with caller.opened(prompt_cache_key="k") as opened:
            await opened.until("response.output_text.delta")
        async with asyncio.timeout(PATIENCE):
            await busy.requests[-1].gone.wait()
    await caller.create(prompt_cache_key="k")
    assert sorted(counts(there)) == [0, 5]


async def test_where_the_answers_of_all_break_off_one_is_asked_all_the_same(backends, in_front):
    there = backends[:2]
    caller = await in_front("--upstream-eject-after=1", among=there)
    for backend in there:
        backend.default = (BEGUN, CLOSE)
    await answers(caller, "k", 5, "failed")
    assert sorted(counts(there)) == [1, 4]


@pytest.mark.parametrize("status", [400, 401, 404, 500])
async def test_what_others_would_answer_alike_is_asked_once(backends, in_front, status):
    for backend in backends:
        backend.default = (json_reply({"error": {"message": "no"}}, status=status),)
    answer = await (await in_front()).ask()
    assert answer.status_code == status
    assert sum(counts(backends)) == 1


async def test_a_client_that_leaves_while_others_are_tried_leaves_nothing_open(backends, in_front):
    for backend in backends:
        backend.default = (HANGS(),)
    caller = await in_front(first_byte_timeout=0.2)
    asking = asyncio.create_task(caller.ask())
    async with asyncio.timeout(PATIENCE):
        while sum(counts(backends)) < 2:  # noqa: ASYNC110 (any of them may be the one)
            await asyncio.sleep(0.01)
    asking.cancel()
    async with asyncio.timeout(PATIENCE):
        for backend in backends:
            for request in backend.requests:
                await request.gone.wait()
    assert sum(counts(backends)) <= 3


async def test_another_group_answers_where_one_cannot_and_the_client_sees_the_name_it_asked_for(backends, calling):
    a, b, c = backends
    small = json_reply({"error": {"message": "busy"}}, status=429)
    caller = await calling(
        QUIET,
        upstreams=[
            {
                "models": ["big"],
                "aliases": {"best": "big"},
                "replicas": [dead()],
                "fallbacks": ["small", {"group": "tiny", "model": "tiny-1"}],
            },
            {"name": "small", "models": ["small*"], "aliases": {"big": "small-big"}, "replicas": [b.url]},
            {"name": "tiny", "models": ["tiny*"], "replicas": [c.url], "kind": "openai", "headers": {"x-team": "t"}},
        ],
    )
    assert (await caller.create(model="best"))["model"] == "best"
    assert [body["model"] for body in chats(b)] == ["small-big"]
    b.script(small)
    c.script(stream(*talk("Hi")))
    events = await caller.events(model="big")
    assert (events[-1]["type"], events[-1]["response"]["model"]) == ("response.completed", "big")
    assert chats(c)[0]["model"] == "tiny-1"
    assert c.requests[-1].values("x-team") == ["t"]
    b.script(small)
    c.script(json_reply({"error": {"message": "Slow down."}}, status=429, headers=("retry-after: 3",)))
    answer = await caller.ask(model="big")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert counts(backends) == [0, 3, 2]


async def test_a_refusal_that_another_group_would_not_better_is_the_answer(backends, calling):
    a, b, _ = backends
    a.default = (json_reply({"error": {"message": "no"}}, status=400),)
    groups = [{"models": ["a"], "replicas": [a.url], "fallbacks": ["b"]}, {"name": "b", "replicas": [b.url]}]
    caller = await calling(QUIET, upstreams=groups)
    assert (await caller.ask(model="a")).status_code == 400
    assert counts(backends) == [1, 0, 0]


async def test_where_nobody_is_left_it_is_said_at_once_and_when_to_come_back(backends, in_front):
    there = backends[:2]
    for backend in there:
        backend.default = (CLOSE,)
    caller = await in_front("--upstream-eject-after=1", "--upstream-eject-seconds=100", among=there)
    assert (await caller.ask()).status_code == 502  # both have been tried
    gate = HANGS()
    for backend in there:
        backend.default = (gate, json_reply(completion()))
    before = sum(counts(there))
    trial = asyncio.create_task(caller.ask())
    async with asyncio.timeout(PATIENCE):
        while sum(counts(there)) == before:  # noqa: ASYNC110 (either may be the one)
            await asyncio.sleep(0.01)
    refused = await caller.ask()
    assert refusal(refused) == (503, "upstream_unavailable", None)
    assert 80 <= int(refused.headers["retry-after"]) <= 100
    gate.set()
    assert ok(await trial)["status"] == "completed"
    assert ok(await caller.ask())["status"] == "completed"


async def test_rounds_of_tools_meet_one_replica_and_another_where_that_one_cannot(backends, serve):
    there = backends[:2]
    for backend in there:
        backend.default = (said("Found."),)
    async with at(serve, options=(QUIET,), upstreams=[{"replicas": [each.url for each in there]}]) as (caller, server):
        _, busy = await begun(caller, there, prompt_cache_key="k")
        (idle,) = [each for each in there if each is not busy]
        busy.script(called(FIND))
        await caller.events(tools=[docs(server)], prompt_cache_key="k")
        assert counts([busy, idle]) == [3, 0]
        busy.script(called(FIND))
        for _ in range(2):  # the second on a fresh connection
            busy.script(CLOSE)
        events = await caller.events(tools=[docs(server)], prompt_cache_key="k")
    assert events[-1]["type"] == "response.completed"
    assert counts([busy, idle]) == [6, 1]
    assert messages(idle)[-1] == ("tool", "found")


async def test_runs_sockets_and_summaries_are_asked_of_the_group_too(backends, in_front):
    for backend in backends:
        backend.default = (stream(*talk("Hi")),)
    caller = await in_front(replicas=[dead(), backends[0].url, backends[1].url])
    background = await made(caller)
    await eventually(lambda: ended(caller, background["id"]))
    async with opened(str(caller.http.base_url).removesuffix("/v1/"), caller.key) as socket:
        await socket.send("Hi")
        assert (await socket.events())[-1]["type"] == "response.completed"
    answer = await caller.http.post("/responses/compact", json={"model": "m", "input": "Hi"})
    assert ok(answer)["object"] == "response.compaction"


async def test_tokens_are_counted_by_the_model_that_an_alias_stands_for(backends, in_front):
    for backend in backends:
        backend.default = (json_reply({"count": 5, "max_model_len": 9, "tokens": [1] * 5}),)
    caller = await in_front(kind="vllm", aliases={"best": "qwen"}, replicas=[dead(), backends[0].url])
    for _ in range(4):
        answer = await caller.http.post("/responses/input_tokens", json={"model": "best", "input": "Hi"})
        assert ok(answer)["input_tokens"] == 5
    assert {request.json["model"] for request in backends[0].requests} == {"qwen"}


async def test_tokens_are_counted_by_the_group_that_would_answer(backends, calling):
    a = backends[0]
    a.default = (json_reply({"count": 5, "max_model_len": 9, "tokens": [1] * 5}),)
    groups = [
        {"models": ["big"], "replicas": [dead()], "kind": "vllm", "fallbacks": [{"group": "*", "model": "small"}]},
        {"replicas": [a.url], "kind": "sglang"},
    ]
    caller = await calling(QUIET, upstreams=groups)
    answer = await caller.http.post("/responses/input_tokens", json={"model": "big", "input": "Hi"})
    assert ok(answer)["input_tokens"] == 5
    assert {request.json["model"] for request in a.requests} == {"small"}


async def test_who_fails_its_health_checks_is_asked_nothing_until_it_is_well(backends, calling):
    a, b, _ = backends
    a.default = (json_reply({}, status=503),)
    caller = await calling(
        "--upstream-health-interval=0.02",
        "--upstream-eject-after=1",
        "--upstream-eject-seconds=0.02",
        upstreams=[{"replicas": [a.url, b.url]}],
    )
    await a.received(2)  # out since the first of its checks
    for _ in range(6):
        await caller.create()
    assert counts(backends) == [0, 6, 0]
    a.default = b.default
    async with asyncio.timeout(PATIENCE):
        while not counts([a])[0]:
            await caller.create()


async def test_ready_is_who_has_one_replica_of_every_group(backends, calling):
    a, b, _ = backends
    groups = [
        {"models": ["a*"], "replicas": [dead(), a.url]},
        {"name": "other", "models": ["o"], "replicas": [b.url], "health_path": "/up"},
        {"name": "covered", "replicas": [dead()], "fallbacks": ["a*"]},
    ]
    caller = await calling(QUIET, upstreams=groups)
    url = str(caller.http.base_url).removesuffix("/v1/")
    assert (await caller.http.get(f"{url}/ready")).status_code == 200
    assert b.requests[-1].target == "/up"
    b.default = (json_reply({}, status=503),)
    answer = await caller.http.get(f"{url}/ready")
    assert answer.status_code == 503
    assert answer.json()["upstream"] == "other: The upstream answered 503."
