"""Limits of tenants (ADR 0023): each edge counts what it asks once, and what is refused asks and changes nothing."""

import asyncio
import secrets
from dataclasses import replace

import httpx
import pytest

from proxy.errors import StoreUnavailable
from proxy.grants import Quota
from proxy.routes.limits import Found
from proxy.state import Quotas, fixed_secret, keys, tenant_id
from proxy.state.client import Client
from proxy.turn import legible
from tests.backend import CLOSE, DONE, STREAM_HEAD, chunk, chunked, completion, json_reply, sse, stream, talk
from tests.callers import Caller, error_of, ok
from tests.routes.test_background import apart, eventually, seen
from tests.routes.test_recovery import at, left
from tests.sockets import opened

__all__ = ["apart"]  # a fixture for every test here

SECRET = "--tenant-secret=0123456789abcdef"
GENEROUS = [f"--tenant-{name}=100000" for name in ("requests-per-minute", "tokens-per-minute", "concurrent-turns")]
LIMITS = [*GENEROUS, "--tenant-stored-bytes=1000000"]
TOLD = stream(
    *talk("Hel", "lo")[:-1],
    {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}},
    DONE,
)
UNTOLD = stream(*talk("Hel", "lo"))
PLAIN = json_reply(completion() | {"usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}})
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


class Usage:
    """What is kept of a caller's limits."""

    def __init__(self, admin, caller):
        tenant = tenant_id(fixed_secret(SECRET.partition("=")[2]), f"Bearer {caller.key}")
        self.admin, self.names = admin, [f"sc:{{t:{tenant}}}:{name}" for name in "uqbz"]

    def sums(self):
        """(requests, tokens) that count."""
        kept = self.admin.hgetall(self.names[0])
        return tuple(sum(int(n) for name, n in kept.items() if name[:1] == kind and name[1:]) for kind in (b"r", b"t"))

    def at_work(self):
        return self.admin.zcard(self.names[1])

    def stored(self):
        return int(self.admin.hget(self.names[2], "*") or 0)

    def everything(self):
        return [self.admin.dump(name) for name in self.names]


@pytest.fixture
async def limited(calling, valkey):
    """Starts a server with these limits, and gives a caller of it."""
    with valkey.admin() as admin:

        async def start(*options):
            caller = await calling(SECRET, *options)
            caller.usage = Usage(admin, caller)
            return caller

        yield start


async def plain(caller):
    return await caller.create()


async def streamed(caller):
    return await caller.events()


async def background(caller):
    return await seen(caller, (await caller.create(background=True))["id"], "completed")


async def detached(caller):
    answer = await caller.http.post(
        "/responses", json={"model": "m", "input": "Hi"}, headers={"statecar-on-disconnect": "detach"}
    )
    return ok(answer)


async def keyed(caller):
    """Twice with one key: the second asks nobody."""
    headers = {"idempotency-key": secrets.token_hex(8)}
    for _ in range(2):
        ok(await caller.http.post("/responses", json={"model": "m", "input": "Hi"}, headers=headers))


async def over_a_websocket(caller):
    async with opened(str(caller.http.base_url).removesuffix("/v1/"), caller.key) as socket:
        await socket.create()


async def compacted(caller):
    return ok(await caller.http.post("/responses/compact", json={"model": "m", "input": "Hi"}))


async def passed_on(caller):
    return ok(await caller.http.post("/chat/completions", json=CHAT))


async def passed_on_streamed(caller):
    return (await caller.http.post("/chat/completions", json=CHAT | {"stream": True})).content


async def counted(caller):
    return ok(await caller.http.post("/responses/input_tokens", json={"model": "m", "input": "Hi"}))


EDGES = {
    "plain": (plain, PLAIN, 12),
    "streamed": (streamed, TOLD, 12),
    "streamed, no usage told": (streamed, UNTOLD, None),
    "background": (background, PLAIN, 12),
    "detached": (detached, PLAIN, 12),
    "keyed": (keyed, PLAIN, 12),
    "websocket": (over_a_websocket, TOLD, 12),
    "compact": (compacted, PLAIN, 12),
    "compact, no usage told": (compacted, json_reply(completion() | {"usage": None}), None),
    "input tokens, by generation": (counted, PLAIN, 5),
    "passed on": (passed_on, PLAIN, 12),
    "passed on, streamed": (passed_on_streamed, TOLD, 12),
    "passed on, streamed, no usage told": (passed_on_streamed, UNTOLD, None),
}
STORED = ("plain", "streamed", "streamed, no usage told", "background", "detached", "keyed", "websocket")


async def test_every_edge_counts_what_it_asks_once(limited, backend):
    first = await limited(*LIMITS, "--count-by-generation", "--upstream-stream=never")
    for name, (act, script, tokens) in EDGES.items():
        async with Caller(str(first.http.base_url).removesuffix("/v1/")) as caller:
            usage = Usage(first.usage.admin, caller)
            backend.default = (script,)
            await act(caller)
            await eventually(lambda usage=usage: _nothing_at(usage))
            requests, told = usage.sums()
            assert requests == 1, name
            assert told == tokens if tokens else 0 < told < 150, name
            assert (usage.stored() > 0) == (name in STORED), name


async def _nothing_at(usage):
    return not usage.at_work()


async def test_reading_costs_nothing_and_a_tokenizer_no_tokens(limited, backend):
    caller = await limited(*LIMITS, "--upstream-kind=vllm")
    backend.default = (json_reply({"count": 5, "max_model_len": 4096}),)
    await counted(caller)
    assert caller.usage.sums() == (1, 0)
    backend.default = (PLAIN,)
    made = (await caller.create())["id"]
    await caller.get(f"/responses/{made}")
    await caller.get("/responses")
    await caller.get("/models")
    await caller.http.delete(f"/responses/{made}")
    assert caller.usage.sums() == (2, 12)


def asks(caller):
    """One request of each kind that a limit stands before."""

    def create(headers, **fields):
        return caller.http.post("/responses", json={"model": "m", "input": "Hi"} | fields, headers=headers)

    detach, key = {"statecar-on-disconnect": "detach"}, {"idempotency-key": "key"}
    return {
        "plain": caller.ask(),
        "streamed": caller.ask(stream=True),
        "detached": create(detach),
        "detached, streamed": create(detach, stream=True),
        "keyed": create(key),
        "keyed, once more": create(key),
        "background": caller.ask(background=True),
        "background, streamed": caller.ask(background=True, stream=True),
        "compact": caller.http.post("/responses/compact", json={"model": "m", "input": "Hi"}),
        "count": caller.http.post("/responses/input_tokens", json={"model": "m", "input": "Hi"}),
        "passed on": caller.http.post("/chat/completions", json=CHAT),
    }


async def test_what_is_refused_asks_nobody_and_changes_nothing(limited, backend):
    caller = await limited("--tenant-requests-per-minute=1", "--tenant-tokens-per-minute=500")
    answer = await caller.ask()
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert answer.headers["x-ratelimit-limit-tokens"] == answer.headers["x-ratelimit-remaining-tokens"] == "500"
    before, asked = caller.usage.everything(), len(backend.requests)
    for name, ask in asks(caller).items():
        refused = await ask
        assert refused.status_code == 429, name
        assert error_of(refused)["code"] == "rate_limit_exceeded"
        assert error_of(refused)["type"] == "rate_limit_error"
        assert 1 <= int(refused.headers["retry-after"]) <= 61
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    async with opened(str(caller.http.base_url).removesuffix("/v1/"), caller.key) as socket:
        assert await socket.refused() == (429, "rate_limit_exceeded", None)
        await socket.create(generate=False, store=False)  # asks no model
    assert caller.usage.everything() == before
    assert len(backend.requests) == asked
    await eventually(lambda: _told(caller, "requests", 12.0))
    assert len((await caller.get("/responses"))["data"]) == 1


async def _told(caller, limit, count):
    metrics = (await caller.http.get(str(caller.http.base_url.copy_with(path="/metrics")))).text
    return f'statecar_limited_requests_total{{limit="{limit}"}} {count}' in metrics


async def test_limits_of_the_upstream_stand_back_behind_ours(limited, backend):
    caller = await limited("--tenant-requests-per-minute=10")
    headers = ("x-ratelimit-limit-requests: 7", "x-ratelimit-limit-tokens: 8")
    backend.default = (json_reply(completion(), headers=headers),)
    for answer in [await caller.ask(), await caller.http.post("/chat/completions", json=CHAT)]:
        assert answer.headers.get_list("x-ratelimit-limit-requests") == ["10"]
        assert answer.headers["x-ratelimit-limit-tokens"] == "8"


async def test_errors_of_what_was_let_in_tell_the_limits_too(limited, backend):
    caller = await limited("--tenant-requests-per-minute=100")
    told = ("x-ratelimit-limit-requests: 7",)
    backend.default = (json_reply({"error": {"message": "no"}}, status=400, headers=told),)
    for ask in (*asks(caller).values(), caller.ask(previous_response_id="resp_none"), passing(caller)):
        answer = await ask
        assert answer.status_code in (200, 400, 501)
        assert answer.headers.get_list("x-ratelimit-limit-requests") == ["100"], answer.request.content
    backend.default = (CLOSE,)
    for ask in (caller.ask(), caller.ask(stream=True), passing(caller)):
        assert (await ask).headers["x-ratelimit-limit-requests"] == "100"
    assert "x-ratelimit-limit-requests" not in (await caller.http.get("/responses/resp_none")).headers


async def test_a_turn_is_at_work_until_its_end_or_its_client_leaves(limited, backend):
    caller = await limited("--tenant-concurrent-turns=1")
    backend.default = (STREAM_HEAD + chunked(sse(*talk("Hel")[:2])), asyncio.Event())
    async with caller.opened() as reader:
        await reader.until("response.output_text.delta")
        refused = await caller.ask()
        assert refused.headers["retry-after"] == "1" and "at work at once, limit 1" in error_of(refused)["message"]
    await eventually(lambda: _nothing_at(caller.usage))


async def test_a_request_has_ended_for_the_store_before_it_has_for_its_client(limited, backend, monkeypatch):
    settle = Quotas._settle

    async def slow(self, admission):
        await asyncio.sleep(0.03)
        await settle(self, admission)

    monkeypatch.setattr(Quotas, "_settle", slow)
    caller = await limited("--tenant-concurrent-turns=1")
    backend.default = (TOLD,)
    for _ in range(2):
        await caller.events()
        assert (await caller.http.post("/chat/completions", json=CHAT | {"stream": True})).status_code == 200
    async with opened(str(caller.http.base_url).removesuffix("/v1/"), caller.key) as socket:
        for _ in range(2):
            await socket.create()


async def test_what_is_passed_on_is_asked_for_in_a_form_that_can_be_counted(limited, backend):
    for option, encoding in (("tokens-per-minute", "identity"), ("requests-per-minute", "gzip, br")):
        caller = await limited(f"--tenant-{option}=100000")
        ok(await caller.http.post("/chat/completions", json=CHAT, headers={"accept-encoding": "gzip, br"}))
        assert backend.requests[-1].values("accept-encoding") == [encoding]


async def test_what_a_client_does_not_wait_for_counts_as_what_it_asked(limited, backend):
    caller = await limited("--tenant-tokens-per-minute=100000", "--count-by-generation")
    text, picture = "1234567 " * 500, {"url": "data:image/png;base64," + "iVBORw0K" * 5000}
    shown = [{"type": "text", "text": text}, {"type": "image_url", "image_url": picture}]
    given = [{"type": "input_text", "text": text}, {"type": "input_image", "image_url": picture["url"]}]
    for path, body in [
        ("/chat/completions", CHAT | {"messages": [{"role": "user", "content": shown}]}),
        ("/responses/compact", {"model": "m", "input": [{"role": "user", "content": given}]}),
        ("/responses/input_tokens", {"model": "m", "input": [{"role": "user", "content": given}]}),
        ("/responses", {"model": "m", "input": [{"role": "user", "content": given}]}),
    ]:
        before, asked = caller.usage.sums()[1], len(backend.requests)
        backend.default = (asyncio.Event(),)
        waiting = asyncio.create_task(caller.http.post(path, json=body))
        await eventually(lambda asked=asked: _asked(backend, asked))
        waiting.cancel()
        await eventually(lambda: _nothing_at(caller.usage))
        assert 1000 <= caller.usage.sums()[1] - before <= 1200, path


async def _asked(backend, before):
    return len(backend.requests) > before


async def test_what_could_not_be_saved_is_not_stored_and_a_refusal_takes_no_tokens(limited, backend, monkeypatch):
    caller = await limited(*LIMITS)
    backend.default = (json_reply({"error": {"message": "no" * 500}}, status=400),)
    assert (await caller.http.post("/chat/completions", json=CHAT)).status_code == 400
    assert (await caller.ask()).status_code == 400
    assert caller.usage.sums() == (2, 0)
    script = Client.script

    async def failing(self, called, *args, **rest):
        if called.name == "save":
            raise StoreUnavailable
        return await script(self, called, *args, **rest)

    monkeypatch.setattr(Client, "script", failing)
    backend.default = (PLAIN,)
    assert (await caller.ask()).status_code == 503
    assert caller.usage.sums() == (3, 12) and not caller.usage.stored()


async def test_what_fails_is_at_work_no_more(limited, backend):
    caller = await limited("--tenant-concurrent-turns=1", "--tenant-tokens-per-minute=10000")
    refused, broken = json_reply({"error": {"message": "no"}}, status=500), STREAM_HEAD + chunked(sse(chunk({}))) + b"x"
    for script in (refused, CLOSE, broken):
        for ask in (lambda: caller.ask(), lambda: caller.ask(stream=True), lambda: passing(caller)):
            backend.default = (script, CLOSE)
            await ask()
            await eventually(lambda: _nothing_at(caller.usage))
    assert (await caller.ask(previous_response_id="resp_none")).status_code == 400
    assert not caller.usage.at_work()


async def passing(caller):
    try:
        return await caller.http.post("/chat/completions", json=CHAT)
    except httpx.TransportError as exc:  # cut off, as the upstream was
        return exc


async def test_stored_bytes_fill_up_and_what_is_deleted_is_free_again(limited, backend):
    caller = await limited("--tenant-stored-bytes=6000", "--tenant-requests-per-minute=100")
    made = []
    while (answer := await caller.ask("x" * 800)).status_code == 200:
        made.append(answer.json()["id"])
    assert 4 <= len(made) <= 6
    assert error_of(answer)["code"] == "insufficient_quota" and answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-ratelimit-remaining-requests"] == str(100 - len(made))
    before = caller.usage.stored()
    items = [{"role": "user", "content": "y" * 3000}]
    assert error_of(await caller.http.post("/conversations", json={"items": items}))["code"] == "insufficient_quota"
    assert caller.usage.stored() == before
    await caller.create("x" * 800, store=False)
    for id_ in made:
        ok(await caller.http.delete(f"/responses/{id_}"))
    assert caller.usage.stored() == 0
    conversation = await caller.conversation(items=items)
    assert 3000 < caller.usage.stored() < 3200
    more = await caller.http.post(f"/conversations/{conversation}/items", json={"items": items})
    assert error_of(more)["code"] == "insufficient_quota"
    missing = "conv_" + conversation[5:-40] + "0" * 40
    few = {"items": [{"role": "user", "content": "z"}]}
    assert (await caller.http.post(f"/conversations/{missing}/items", json=few)).status_code == 404
    assert caller.usage.stored() < 3200
    await caller.create("x" * 800, conversation=conversation)
    ok(await caller.http.delete(f"/conversations/{conversation}"))
    assert caller.usage.stored() == 0


async def test_metadata_of_conversations_takes_room_too(limited):
    caller = await limited("--tenant-stored-bytes=6000")
    long, short = ({f"k{n}": "v" * size for n in range(4)} for size in (500, 5))
    made, full = [], None
    while full is None:
        answer = await caller.http.post("/conversations", json={"metadata": long})
        made, full = ([*made, answer.json()["id"]], None) if answer.status_code == 200 else (made, answer)
    assert (len(made), error_of(full)["code"]) == (2, "insufficient_quota")
    at = f"/conversations/{made[0]}"
    ok(await caller.http.post(at, json={"metadata": short}))
    assert 2000 < caller.usage.stored() < 2500
    other = await caller.conversation(metadata=long)
    assert error_of(await caller.http.post(at, json={"metadata": long}))["code"] == "insufficient_quota"
    assert (await caller.get(at))["metadata"] == short
    ok(await caller.http.post(at, json={"metadata": short}))  # takes no more than it did
    for id_ in (*made, other):
        ok(await caller.http.delete(f"/conversations/{id_}"))
    assert caller.usage.stored() == 0


async def test_a_run_that_another_process_takes_up_counts_there(serve, own, state, backend):
    """Its record knows the limits: what it takes counts, the request does not once more, and nothing refuses it."""
    run, names = replace(left(), quota=Quota(1, 1)), keys.Quota("shared")
    await state.runs.create(run, None)
    backend.default = (PLAIN,)
    async with state.quotas.admitted("shared", run.quota):  # all that may be
        async with at(serve, own) as caller:
            await seen(caller, run.id, "completed")
    with own.admin() as admin:
        counts = [int(n) for name, n in admin.hgetall(names.usage).items() if name[1:]]
        assert sorted(counts) == [1, 12] and not admin.zcard(names.at_work)


@pytest.mark.parametrize(
    ("pieces", "tokens"),
    [
        ([b'{"choices":[],"usage":{"total_tokens":12,"prompt_tokens_details":{"a":1}},"x":1}'], 12),
        ([b'{"choices":[],"usa', b'ge" : {"prompt_tokens":5,', b'"completion_tokens":2}', b"}"], 7),
        ([b'{"usage":{"input_tokens":4,"output_tokens":1}', b"," + b"x" * 9000], 5),
        ([b'data: {"usage":{"total_tokens":3}}\n\n', b'data: {"usage":{"total_tokens":9}}\n\ndata: [DONE]\n\n'], 9),
        ([b'{"usage":{"input_tokens":25}}', b'{"usage":{"output_tokens":2}}', b'{"usage":{"output_tokens":9}}'], 34),
        ([b'{"usage":{"input_tokens":25,"output_tokens":1}}{"usage":{"output_tokens":9}}'], 34),
        ([b'{"usage":{"input_tok', b'ens":25,"output_tokens":1}}', b'{"usage":{"output_tokens":9}}'], 34),
        ([b'{"text":"say \\"usage\\": {", "b":12345678}'], 25 + 10),
        ([b'{"usage":{"total_tokens":"x"}}', b"y" * 10], 25 + 10),
        ([b'{"usage":{"total_tokens":', b"9" * 18 + b"}}"], 1 << 40),
        ([b'{"usage":{"total_tokens":-1}}'], 0),
    ],
)
def test_tokens_are_read_from_what_is_passed_on(pieces, tokens):
    found = Found(text=True)
    for piece in pieces:
        found.read(piece)
    assert found.tokens(100) == tokens


@pytest.mark.parametrize("gap", [b" ", b'"', b":", b",", b"\xc3\xa9"])
def test_pictures_count_less_than_text(gap):
    run = b"aZ09+/=_-" * 57  # 513
    assert legible(gap.join([b"text", run, run[:511], run[1:]])) == 4 + 511 + 3 * len(gap) + (513 + 512) // 100
    assert legible(run[:511]) == 511


def test_events_are_counted_where_a_stream_tells_nothing():
    found = Found(events=True)
    for n in range(5):
        found.read(b'data: {"n":%d}\n\ndata: {"text":"data: x"}\n\n' % n)
    assert found.tokens(40) == 10 + 10


async def test_without_limits_nothing_is_asked_and_nothing_told(limited):
    caller = await limited()
    answer = await caller.ask()
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
    await passed_on(caller)
    assert caller.usage.everything() == [None] * 4
