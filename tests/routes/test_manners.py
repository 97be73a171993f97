"""The upstream's kind, found out by asking it, and what its refusals teach, through the whole proxy."""

import asyncio
import json
import secrets
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from proxy.errors import StoreUnavailable, UpstreamUnreachable
from proxy.settings import Settings
from proxy.state import keys, open_state
from proxy.translate.dialects import for_kind
from proxy.turn import Manners, manners
from proxy.upstream import Target, kind, open_pool
from tests.backend import PATIENCE, completion, json_reply, serving, stream, talk
from tests.callers import refusal
from tests.translate.test_dialects import MISTRAL
from tests.upstream.test_kind import KEYLESS, PATHS, answers, models

STREAM = stream(*talk("Hi"))


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """More time than users have, for machines with more to do."""
    monkeypatch.setattr(manners, "_PATIENCE", 10.0)


@pytest.fixture
def model():
    """A model nobody has learnt about."""
    return f"m-{secrets.token_hex(6)}"


def chats(backend):
    """The bodies of the calls."""
    return [request.json for request in backend.requests if request.target == "/v1/chat/completions"]


def questions(backend):
    return [request for request in backend.requests if request.method == "GET"]


# -- kinds


async def test_a_server_finds_out_at_its_start_what_the_upstream_is(backend, calling):
    backend.script(models("vllm"))
    caller = await calling("--upstream-kind=auto")
    assert (await backend.received(1)).target == "/v1/models"
    await caller.create()
    assert chats(backend)[0]["stream"] is False  # vLLM ends a plain request with its connection
    await caller.create()
    assert len(questions(backend)) == 1


async def test_the_first_turns_wait_for_one_question(backend, calling):
    asked = asyncio.Event()
    backend.script(asked, models("vllm"))
    caller = await calling("--upstream-kind=auto")
    turns = [asyncio.create_task(caller.create()) for _ in range(3)]
    await backend.received(1)
    asked.set()
    await asyncio.gather(*turns)
    assert [body["stream"] for body in chats(backend)] == [False] * 3
    assert len(backend.requests) == 4


async def test_a_question_without_an_answer_holds_no_turn_up_for_long(backend, calling, monkeypatch):
    monkeypatch.setattr(kind, "LIMIT", 0.1)
    backend.script(asyncio.Event())
    caller = await calling("--upstream-kind=auto")
    await backend.received(1)
    backend.script(STREAM)
    await caller.create()
    assert chats(backend)[0]["stream"] is True


async def test_what_cannot_tell_yet_is_generic_and_left_alone_for_a_while(backend, calling, monkeypatch):
    monkeypatch.setattr(manners, "ASK_AGAIN", 1000.0)
    answers(backend, {"/v1/models": json_reply({}, status=503)})
    caller = await calling("--upstream-kind=auto")
    await backend.received(len(PATHS))
    for _ in range(2):
        backend.script(STREAM)
        await caller.create()
    assert [body["stream"] for body in chats(backend)] == [True, True]
    assert len(questions(backend)) == len(PATHS)


async def test_what_could_not_tell_is_asked_again_later(backend, calling, monkeypatch):
    monkeypatch.setattr(manners, "ASK_AGAIN", 0.0)
    answers(backend, {"/v1/models": json_reply({}, status=503)})
    caller = await calling("--upstream-kind=auto")
    await backend.received(len(PATHS))
    backend.script(models("vllm"))
    await caller.create()
    assert chats(backend)[0]["stream"] is False


async def test_a_callers_key_opens_what_is_closed_without_one(backend, calling):
    answers(backend, {"/v1/models": KEYLESS})
    caller = await calling("--upstream-kind=auto")
    await backend.received(len(PATHS))
    backend.script(models("vllm"))
    await caller.create()
    assert questions(backend)[len(PATHS)].values("authorization") == [f"Bearer {caller.key}"]
    assert chats(backend)[0]["stream"] is False


async def test_a_wrong_key_is_tried_once_in_a_while(backend, calling, monkeypatch):
    monkeypatch.setattr(manners, "ASK_AGAIN", 1000.0)
    answers(backend, {"/v1/models": KEYLESS})
    caller = await calling("--upstream-kind=auto")
    await backend.received(len(PATHS))
    answers(backend, {"/v1/models": KEYLESS})
    for _ in range(2):
        backend.script(STREAM)
        await caller.create()
    assert len(questions(backend)) == 2 * len(PATHS)


@pytest.fixture
async def asking(backend):
    """Manners that ask the backend what it is, without a store; and the upstream, which is asked nothing else."""
    state = open_state("unix:///nowhere.sock", response_ttl=60, conversation_ttl=60)
    made = []

    def make(**options):
        settings = Settings(upstream=backend.url, **options)
        made.append((Manners(settings, state.lessons), open_pool(settings)))
        return made[-1][0], made[-1][1].pick("m")

    yield make
    for own, pool in made:
        await own.close()
        await pool.aclose()
    await state.close()


def key(value):
    return [("authorization", f"Bearer {value}")]


async def test_a_wrong_key_keeps_nobody_else_from_opening_it(backend, asking, monkeypatch):
    monkeypatch.setattr(manners, "ASK_AGAIN", 1000.0)
    monkeypatch.setattr(manners, "_ANOTHER_KEY", 0.0)
    own, upstream = asking()
    answers(backend, {"/v1/models": KEYLESS})
    assert (await own.of(upstream, "m")).kind == "generic"
    answers(backend, {"/v1/models": KEYLESS})
    for _ in range(3):
        assert (await own.of(upstream, "m", key("wrong"))).kind == "generic"
    assert len(backend.requests) == 2 * len(PATHS)
    backend.script(models("vllm"))
    assert (await own.of(upstream, "m", key("right"))).kind == "vllm"
    asked = [request.values("authorization") for request in backend.requests if request.target == "/v1/models"]
    assert asked == [[], ["Bearer wrong"], ["Bearer right"]]


async def test_many_wrong_keys_do_not_make_many_questions(backend, asking, monkeypatch):
    monkeypatch.setattr(manners, "ASK_AGAIN", 1000.0)
    monkeypatch.setattr(manners, "_ANOTHER_KEY", 1000.0)
    own, upstream = asking()
    answers(backend, {"/v1/models": KEYLESS})
    for n in range(9):
        await own.of(upstream, "m", key(n))
    assert len(backend.requests) == len(PATHS)


async def test_with_a_key_of_its_own_the_callers_change_nothing(backend, asking, monkeypatch):
    monkeypatch.setattr(manners, "ASK_AGAIN", 1000.0)
    monkeypatch.setattr(manners, "_ANOTHER_KEY", 0.0)
    own, upstream = asking(upstream_api_key="sk-up")
    answers(backend, {"/v1/models": KEYLESS})
    for n in range(3):
        await own.of(upstream, "m", key(n))
    assert len(backend.requests) == len(PATHS)


async def until_known(own, upstream):
    async with asyncio.timeout(PATIENCE):
        while (await own.of(upstream, "m")).kind == "generic":
            await own._kind(upstream)._task
    return (await own.of(upstream, "m")).kind


async def test_nobody_waits_a_second_time_for_an_upstream_that_kept_silent(backend, asking, monkeypatch):
    monkeypatch.setattr(manners, "ASK_AGAIN", 0.0)
    monkeypatch.setattr(kind, "LIMIT", 0.1)
    own, upstream = asking()
    backend.script(asyncio.Event())
    assert (await own.of(upstream, "m")).kind == "generic"
    monkeypatch.setattr(kind, "LIMIT", PATIENCE)
    told = asyncio.Event()
    backend.script(told, models("vllm"))
    async with asyncio.timeout(PATIENCE / 2):
        for _ in range(3):
            assert (await own.of(upstream, "m")).kind == "generic"
    await backend.received(2)
    told.set()
    assert await until_known(own, upstream) == "vllm"
    assert len(backend.requests) == 2


async def test_an_upstream_that_is_down_at_the_start_is_known_soon_after_it_is_up(backend, asking, monkeypatch):
    monkeypatch.setattr(manners, "ASK_AGAIN", 0.0)
    port = int(backend.url.split(":")[2].split("/")[0])
    await backend.__aexit__()
    own, upstream = asking()
    assert (await own.of(upstream, "m")).kind == "generic"
    backend._server = await asyncio.get_running_loop().create_server(backend._accept, "127.0.0.1", port)
    backend.script(models("vllm"))
    assert await until_known(own, upstream) == "vllm"


async def test_the_pauses_between_questions_grow_to_half_a_minute(asking, monkeypatch):
    own, upstream = asking()
    monkeypatch.setattr(Target, "ask", unreachable)
    asked, pauses = own._kind(upstream), []
    for _ in range(6):
        asked._again_at = 0.0
        asked.ask(upstream, ())
        pauses.append(round(asked._again_at - asyncio.get_running_loop().time()))
        await asked._task
    assert pauses == [3, 6, 12, 24, 30, 30]


async def unreachable(*_, **__):
    raise UpstreamUnreachable("nobody there")


async def test_a_kind_that_is_said_is_not_asked_for(backend, calling):
    caller = await calling("--upstream-kind=vllm")
    await caller.create()
    assert len(backend.requests) == 1
    assert chats(backend)[0]["stream"] is False


# -- remedies

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": True}
TOLD = [{"role": "user", "content": "Hi"}, {"role": "developer", "content": "Be brief."}]
CALLED = [
    {"role": "user", "content": "Hi"},
    {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
    {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "call_1", "output": "1"},
]


def roles(body):
    return [message["role"] for message in body["messages"]]


def thought(body):
    return {key for key in ("reasoning", "reasoning_content") if key in body["messages"][1]}


REMEDIES = {
    "stream_options": (
        "generic",
        {},
        {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]},
        lambda body: "stream_options" in body,
        (True, False),
    ),
    "tool call ids": (
        "generic",
        {"input": CALLED},
        {"object": "error", "message": MISTRAL},
        lambda body: len(body["messages"][1]["tool_calls"][0]["id"]),
        (6, 9),
    ),
    "system messages": (
        "openai",
        {"input": TOLD},
        {"error": {"message": "System message must be at the beginning.", "code": 400}},
        roles,
        (["user", "developer"], ["developer", "user"]),
    ),
    "developer": (
        "openai",
        {"input": TOLD[1:]},
        {"error": {"message": "Unsupported value: 'messages[0].role' does not support 'developer' with this model."}},
        roles,
        (["developer"], ["system"]),
    ),
    "one reasoning field": (
        "generic",
        {"input": CALLED},
        {"error": {"message": "'messages.1' : property 'reasoning_content' is unsupported"}},
        thought,
        ({"reasoning", "reasoning_content"}, {"reasoning"}),
    ),
    "strict": (
        "generic",
        {"tools": [TOOL]},
        {"error": {"message": "tools.0.function.strict: Extra inputs are not permitted"}},
        lambda body: "strict" in body["tools"][0]["function"],
        (True, False),
    ),
    "parallel_tool_calls": (
        "generic",
        {"tools": [TOOL], "parallel_tool_calls": True},
        {"error": {"message": "Unrecognized request argument supplied: parallel_tool_calls"}},
        lambda body: "parallel_tool_calls" in body,
        (True, False),
    ),
    "max_tokens": (
        "generic",
        {"max_output_tokens": 16},
        {
            "error": {
                "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use"
                " 'max_completion_tokens' instead.",
                "param": "max_tokens",
            }
        },
        lambda body: body.keys() & {"max_tokens", "max_completion_tokens"},
        ({"max_tokens"}, {"max_completion_tokens"}),
    ),
    "max_completion_tokens": (
        "openai",
        {"max_output_tokens": 16},
        {"error": {"message": "Unknown field: max_completion_tokens"}},
        lambda body: body.keys() & {"max_tokens", "max_completion_tokens"},
        ({"max_completion_tokens"}, {"max_tokens"}),
    ),
    "reasoning_effort": (
        "generic",
        {"reasoning": {"effort": "low"}},
        {"error": {"message": "Unrecognized request argument supplied: reasoning_effort"}},
        lambda body: "reasoning_effort" in body,
        (True, False),
    ),
    "custom tools": (
        "openai",
        {"tools": [{"type": "custom", "name": "run"}]},
        {"error": {"message": "Invalid value: 'custom'. Supported values are: 'function'.", "param": "tools[0].type"}},
        lambda body: [tool["type"] for tool in body["tools"]],
        (["custom"], ["function"]),
    ),
}


@pytest.mark.parametrize("name", REMEDIES)
async def test_what_an_upstream_refuses_is_said_in_other_words(backend, calling, model, name):
    """The client hears of the second answer only, and the next request is said right at once."""
    profile, fields, error, seen, (before, after) = REMEDIES[name]
    caller = await calling(f"--upstream-kind={profile}")
    backend.script(json_reply(error, status=400))
    for _ in range(2):
        backend.script(STREAM)
        events = await caller.events(model=model, **fields)
        assert events[-1]["type"] == "response.completed"
    assert [seen(body) for body in chats(backend)] == [before, after, after]


async def test_nothing_reaches_the_client_before_the_last_try(backend, calling, model):
    """A stream's status is still open after the first refusal."""
    caller = await calling()
    backend.script(json_reply({"error": {"message": "Unknown field: stream_options"}}, status=400))
    backend.script(json_reply({"error": {"message": "Too many requests."}}, status=429))
    assert refusal(await caller.ask(model=model, stream=True))[0] == 429
    assert len(backend.requests) == 2
    await caller.events(model=model)
    assert "stream_options" in chats(backend)[2]  # what did not help is no lesson


async def test_a_refusal_of_what_was_not_sent_is_final(backend, calling, model):
    caller = await calling()
    backend.script(json_reply({"error": {"message": "Unknown parameter: parallel_tool_calls"}}, status=400))
    assert refusal(await caller.ask(model=model))[0] == 400
    assert len(backend.requests) == 1


ALL_KEYS = {"tools": [TOOL], "parallel_tool_calls": False, "max_output_tokens": 9, "reasoning": {"effort": "low"}}


async def test_refusals_are_cured_one_after_the_other_but_not_without_end(backend, calling, model):
    caller = await calling()
    refused = ["stream_options", "max_tokens", "max_completion_tokens", "parallel_tool_calls", "reasoning_effort"]
    refused += ["strict", "max_tokens"]
    for name in refused:
        backend.script(json_reply({"error": {"message": f"Unknown parameter: {name}"}}, status=400))
    answer = await caller.ask(model=model, stream=True, **ALL_KEYS)
    assert refusal(answer)[0] == 400
    assert len(backend.requests) == len(refused)
    assert chats(backend)[-1].keys().isdisjoint({"stream_options", "parallel_tool_calls", "reasoning_effort"})


class Picky:
    """A backend that refuses keys at the top of a body with ``said(body, refused)``, and answers everything else."""

    def __init__(self, *unknown, said):
        self.unknown, self.said = unknown, said
        self.bodies = []

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(json.loads(body))
        refused = [name for name in self.unknown if name in self.bodies[-1]]
        status, answer = (400, self.said(self.bodies[-1], refused)) if refused else (200, completion())
        await send(
            {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]}
        )
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


@pytest.fixture
async def picky(calling):
    """Starts such a backend and a server in front of it, and gives it with a caller."""
    async with AsyncExitStack() as stack:

        async def start(*unknown, said):
            backend = Picky(*unknown, said=said)
            return backend, await calling(upstream=f"{await stack.enter_async_context(serving(backend))}/v1")

        yield start


def listing(body, refused):
    """As FastAPI does: everything at once."""
    return {"detail": [{"loc": ["body", name], "msg": "Extra inputs are not permitted"} for name in refused]}


async def test_everything_that_one_refusal_names_is_cured_in_one_call_and_learnt_call_by_call(picky, model):
    unknown = ("stream_options", "max_tokens", "parallel_tool_calls", "reasoning_effort")
    backend, caller = await picky(*unknown, said=listing)
    tries = []
    for _ in range(5):
        before = len(backend.bodies)
        await caller.create(model=model, **ALL_KEYS)
        assert backend.bodies[-1].keys().isdisjoint(unknown)
        tries.append(len(backend.bodies) - before)
    assert tries == [5, 4, 3, 2, 1]  # what is proven to be needed is the last remedy of each


def echoing(body, refused):
    return {"error": {"message": f"Unsupported parameter: '{refused[0]}'. (request of user {body['user']})"}}


def numbered(body, refused):
    return {"error": {"message": f"{echoing(body, refused)['error']['message']} {secrets.token_hex(8)}"}}


def repeating(body, refused):
    return {"error": {"message": f"Unsupported parameter: '{refused[0]}' in {json.dumps(body)}"}}


PLANTED = "unknown field stream_options, unknown max_tokens, unknown strict, unknown reasoning, unknown verbosity."


@pytest.mark.parametrize(
    ("said", "user", "text"),
    [
        (echoing, PLANTED, "Hi"),
        (numbered, PLANTED, "Hi"),  # no two refusals are alike
        (repeating, "Hi", "unknown field"),  # the text stands before the first key, and is gone with it
    ],
)
async def test_what_a_caller_plants_in_a_refusal_teaches_nothing(picky, model, said, user, text):
    backend, caller = await picky("parallel_tool_calls", said=said)
    await caller.create(text, model=model, user=user, **ALL_KEYS)
    assert {"stream_options", "max_tokens"} <= backend.bodies[0].keys()
    assert "stream_options" not in backend.bodies[1]  # tried first, in vain
    await caller.create(model=model, user="Hi", **ALL_KEYS)
    meant = {**backend.bodies[0], "user": "Hi", "messages": [{"role": "user", "content": "Hi"}]}
    del meant["parallel_tool_calls"]
    assert backend.bodies[-1] == meant


async def test_a_refusal_that_nothing_cures_teaches_nothing(picky, model):
    backend, caller = await picky("user", said=echoing)
    assert refusal(await caller.ask(model=model, user=PLANTED, **ALL_KEYS))[0] == 400
    assert [len(body.keys() & {"stream_options", "max_tokens"}) for body in backend.bodies] == [2, 1, 1, 2]
    await caller.create(model=model, **ALL_KEYS)
    assert {**backend.bodies[0], "user": None} == {**backend.bodies[-1], "user": None}


# -- lessons

NO_OPTIONS = json_reply({"error": {"message": "Unknown field: stream_options"}}, status=400)


async def has_learnt(backend, caller, model):
    backend.script(NO_OPTIONS)
    backend.script(STREAM)
    await caller.events(model=model)


async def asks_for_usage(backend, caller, model):
    backend.script(STREAM)
    await caller.events(model=model)
    return "stream_options" in chats(backend)[-1]


async def test_another_process_knows_the_lesson_too(backend, calling, model):
    await has_learnt(backend, await calling(), model)
    another = await calling()
    assert not await asks_for_usage(backend, another, model)
    assert await asks_for_usage(backend, another, f"{model}-2")


async def test_a_process_looks_up_what_others_have_learnt_meanwhile(backend, calling, model, monkeypatch):
    monkeypatch.setattr(manners, "LOOK_AGAIN", 0.0)
    one, another = await calling(), await calling()
    assert await asks_for_usage(backend, another, model)
    await has_learnt(backend, one, model)
    assert not await asks_for_usage(backend, another, model)


async def test_a_lesson_is_looked_up_once_in_a_while_only(backend, calling, model):
    one, another = await calling(), await calling()
    assert await asks_for_usage(backend, another, model)
    await has_learnt(backend, one, model)
    assert await asks_for_usage(backend, another, model)


async def test_an_expired_lesson_is_forgotten_everywhere(backend, calling, model, monkeypatch, valkey):
    monkeypatch.setattr(manners, "LOOK_AGAIN", 0.0)
    caller = await calling()
    await has_learnt(backend, caller, model)
    assert not await asks_for_usage(backend, caller, model)
    await forget(valkey.url, backend.url, model)
    assert await asks_for_usage(backend, caller, model)


async def forget(store, upstream, model):
    """What a lesson's expiry does."""
    state = open_state(store, response_ttl=60, conversation_ttl=60)
    assert await state._client.command("DEL", keys.lesson(upstream, model)) == 1
    await state.close()


async def test_a_lesson_that_is_no_longer_true_is_unlearnt(backend, calling, model):
    caller = await calling("--upstream-kind=openai")
    for refused in ("max_completion_tokens", "max_tokens"):
        backend.script(json_reply({"error": {"message": f"Unknown field: {refused}"}}, status=400))
        backend.script(STREAM)
        await caller.events(model=model, max_output_tokens=9)
        backend.script(STREAM)
        await caller.events(model=model, max_output_tokens=9)
    kept = [(body.keys() & {"max_tokens", "max_completion_tokens"}).pop() for body in chats(backend)]
    assert kept == [
        "max_completion_tokens",
        "max_tokens",
        "max_tokens",
        "max_tokens",
        "max_completion_tokens",
        "max_completion_tokens",
    ]


@pytest.fixture
async def homeless():
    """Manners without a store, in front of no upstream; ``lesson_ttl`` as it likes."""
    state = open_state("unix:///nowhere.sock", response_ttl=60, conversation_ttl=60)
    pools = []

    def made(**options):
        settings = Settings(upstream="http://127.0.0.1:1/v1", upstream_kind="generic", **options)
        pools.append(open_pool(settings))
        return Manners(settings, state.lessons), pools[-1].pick("m"), for_kind("generic", settings)

    yield made
    for pool in pools:
        await pool.aclose()
    await state.close()


async def test_without_a_store_a_process_learns_for_itself(homeless):
    own, upstream, plain = homeless()
    assert await own.of(upstream, "m") == plain
    await own.learn(upstream, "m", better := replace(plain, stream_options=False, left_out=frozenset({"verbosity"})))
    assert await own.of(upstream, "m") == better
    assert await own.of(upstream, "another") == plain


async def test_a_store_that_fails_is_left_alone_for_a_while(homeless, monkeypatch):
    looks = []

    async def get(upstream, model):
        looks.append(model)
        raise StoreUnavailable

    own, upstream, plain = homeless()
    monkeypatch.setattr(own._lessons, "get", get)
    for model in ("m", "m", "another"):
        assert await own.of(upstream, model) == plain
    assert looks == ["m"]


async def test_without_a_store_a_lesson_ends_all_the_same(homeless):
    own, upstream, plain = homeless(lesson_ttl=0)
    await own.learn(upstream, "m", replace(plain, stream_options=False))
    assert await own.of(upstream, "m") == plain


async def test_the_log_shows_the_start_of_a_long_name(homeless, caplog):
    own, upstream, plain = homeless()
    await own.learn(upstream, "x" * 3_000_000, replace(plain, stream_options=False))
    assert f"model '{'x' * 128}...'" in caplog.text
    assert max(map(len, caplog.messages)) < 300


async def test_lessons_of_many_models_do_not_pile_up(homeless, monkeypatch):
    monkeypatch.setattr(manners, "_PAIRS", 3)
    own, upstream, plain = homeless()
    for n in range(5):
        await own.learn(upstream, f"m{n}", replace(plain, stream_options=False))
    assert [pair[1] for pair in own._learnt] == ["m2", "m3", "m4"]
