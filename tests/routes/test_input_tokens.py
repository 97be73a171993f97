"""How long an input is, in the upstream's own tokens (wire §3.6)."""

import asyncio

import pytest
from openai.types.responses import InputTokenCountResponse

from tests.backend import PATIENCE, completion, json_reply
from tests.callers import error_of, ok, refusal

BY_GENERATION = "--count-by-generation"
F = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
SENT = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


async def count(caller, **fields):
    return await caller.http.post("/responses/input_tokens", json={"model": "m"} | fields)


async def counted(caller, **fields):
    answer = ok(await count(caller, **fields))
    InputTokenCountResponse.model_validate(answer, strict=True)
    assert answer.keys() == {"object", "input_tokens"}
    return answer["input_tokens"]


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_the_tokenizer_of_vllm_and_sglang_takes_messages(calling, backend, kind):
    caller = await calling(f"--upstream-kind={kind}")
    backend.script(
        json_reply({"count": 5, "max_model_len": 4096, "tokens": [843, 634, 75, 306, 13], "token_strs": None})
    )
    assert await counted(caller, input="Hi", instructions="Be brief.", tools=[F]) == 5
    (request,) = backend.requests
    assert (request.method, request.target) == ("POST", "/tokenize")
    assert request.json == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "tools": [SENT],
        "add_generation_prompt": True,
    }
    assert request.values("authorization") == [f"Bearer {caller.key}"]


async def test_that_of_llamacpp_takes_the_text_its_template_gives(calling, backend):
    caller = await calling("--upstream-kind=llamacpp")
    backend.script(json_reply({"prompt": "<s>Hi"}))
    backend.script(json_reply({"tokens": [843, 634, 75]}))
    assert await counted(caller, input="Hi", chat_template_kwargs={"enable_thinking": False}) == 3
    template, tokenizer = backend.requests
    assert template.target == "/apply-template"
    assert template.json == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert tokenizer.target == "/tokenize"
    assert tokenizer.json == {"content": "<s>Hi", "add_special": True, "parse_special": True}


async def test_the_past_counts_and_nothing_is_kept_or_locked(calling, backend):
    caller = await calling("--upstream-kind=vllm")
    conversation = await caller.conversation()
    await caller.create("one", conversation=conversation)
    first = await caller.create("one")
    for fields in ({"conversation": conversation}, {"previous_response_id": first["id"]}):
        backend.script(json_reply({"count": 7}))
        assert await counted(caller, input="two", **fields) == 7
        assert [m["content"] for m in backend.requests[-1].json["messages"]] == ["one", "Hi", "two"]
        backend.script(json_reply({"count": 4}))
        assert await counted(caller, **fields) == 4
    assert await caller.texts(conversation) == ["one", "Hi"]
    assert len((await caller.get("/responses"))["data"]) == 2


async def test_a_conversation_can_be_counted_while_a_turn_has_it(calling, backend):
    caller = await calling("--upstream-kind=vllm")
    conversation = await caller.conversation()
    go_on = asyncio.Event()
    backend.script(go_on, json_reply(completion()))
    turn = asyncio.create_task(caller.create("one", conversation=conversation))
    await backend.received(1)
    backend.script(json_reply({"count": 4}))
    assert await counted(caller, input="two", conversation=conversation) == 4
    go_on.set()
    await turn


@pytest.mark.parametrize("kind", ["generic", "openai", "ollama"])
async def test_without_a_tokenizer_an_answer_of_one_token_tells_where_that_is_allowed(calling, backend, kind):
    caller = await calling(f"--upstream-kind={kind}", BY_GENERATION)
    backend.script(json_reply({**completion(), "usage": {"prompt_tokens": 11, "completion_tokens": 1}}))
    assert await counted(caller, input="Hi", tools=[F], stream=True) == 11
    (request,) = backend.requests
    assert request.target == "/v1/chat/completions"
    limit = request.json.get("max_tokens") or request.json.get("max_completion_tokens")
    assert (limit, request.json["stream"], len(request.json["tools"])) == (1, False, 1)


async def test_else_it_says_what_would_help(caller, backend):
    answer = await count(caller, input="Hi")
    assert refusal(answer) == (501, "not_implemented", None)
    assert "--count-by-generation" in error_of(answer)["message"]
    assert backend.requests == []


MISSING = [("sglang", 400), ("sglang", 422), ("sglang", 404), ("vllm", 404), ("llamacpp", 501)]


@pytest.mark.parametrize(("kind", "status"), MISSING)
async def test_a_tokenizer_that_takes_no_messages_counts_as_none(calling, backend, kind, status):
    refused = json_reply({"message": "Field required: prompt"}, status=status)
    caller = await calling(f"--upstream-kind={kind}")
    backend.script(refused)
    answer = await count(caller, input="Hi")
    assert refusal(answer) == (501, "not_implemented", None)
    assert answer.headers["x-should-retry"] == "false"
    assert "Field required: prompt" in error_of(answer)["message"]
    caller = await calling(f"--upstream-kind={kind}", BY_GENERATION)
    backend.script(refused)
    assert await counted(caller, input="Hi") == 1


BROKEN = [{"count": None}, {"count": "5"}, {"count": True}, {}, [], 5]


@pytest.mark.parametrize("answer", BROKEN, ids=range(len(BROKEN)))
async def test_an_answer_that_tells_no_number_is_an_error_and_never_a_guess(calling, backend, answer):
    caller = await calling("--upstream-kind=vllm", BY_GENERATION)
    backend.script(json_reply(answer))
    assert (await count(caller, input="Hi")).status_code == 502


async def test_so_are_a_chat_without_usage_and_a_broken_template(calling, backend):
    caller = await calling(BY_GENERATION)
    for broken in ({**completion(), "usage": None}, {"error": {"message": "no"}}):
        backend.script(json_reply(broken))
        assert (await count(caller, input="Hi")).status_code == 502
    caller = await calling("--upstream-kind=llamacpp")
    for answers in ([{}], [{"prompt": "x"}, {}]):
        for each in answers:
            backend.script(json_reply(each))
        assert (await count(caller, input="Hi")).status_code == 502


async def test_a_refusing_tokenizer_keeps_its_status(calling, backend):
    caller = await calling("--upstream-kind=vllm", BY_GENERATION)
    for status, told in (
        (401, "no"),
        (429, "no"),
        (503, "no"),
        (400, "bad role"),
        (404, "The model `m` does not exist"),
    ):
        backend.script(json_reply({"error": {"message": told}}, status=status))
        assert (await count(caller, input="Hi")).status_code == status


TALK = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "1"}, {"role": "user", "content": "two"}]
THRESHOLD = {"context_management": [{"type": "compaction", "compact_threshold": 1000}]}


async def test_a_turn_waits_for_a_silent_tokenizer_once_in_a_while_and_not_for_long(calling, backend, monkeypatch):
    monkeypatch.setattr("proxy.turn.counting._PATIENCE", 0.1)
    caller = await calling("--upstream-kind=vllm")
    backend.script(asyncio.Event())
    async with asyncio.timeout(PATIENCE / 2):
        for _ in range(2):
            await caller.create(TALK, **THRESHOLD)
    chat = "/v1/chat/completions"
    assert [request.target for request in backend.requests] == ["/tokenize", chat, chat]
    backend.script(json_reply({"count": 5}))
    assert await counted(caller, input="Hi") == 5  # who asks for nothing else gets it asked
    monkeypatch.setattr("proxy.turn.manners.COUNT_AGAIN", 0.0)
    caller = await calling("--upstream-kind=vllm")
    backend.script(asyncio.Event())
    await caller.create(TALK, **THRESHOLD)
    monkeypatch.setattr("proxy.turn.counting._PATIENCE", PATIENCE)
    backend.script(json_reply({"count": 5}))
    await caller.create(TALK, **THRESHOLD)
    assert [request.target for request in backend.requests[4:]] == ["/tokenize", chat] * 2


REFUSED = {
    "no model": ({"model": None, "input": "x"}, (400, "missing_required_parameter", "model")),
    "nothing to count": ({}, (400, None, "input")),
    "a wrong type": ({"input": 5}, (400, "invalid_type", "input")),
    "an unknown past": (
        {"previous_response_id": "resp_" + "0" * 48},
        (400, "previous_response_not_found", "previous_response_id"),
    ),
    "an unknown conversation": ({"conversation": "conv_" + "0" * 48}, (404, None, "conversation")),
    "an output without its call": (
        {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
        (400, None, "input"),
    ),
    "a tool that cannot run here": (
        {"input": "x", "tools": [{"type": "file_search", "vector_store_ids": []}]},
        (400, "unsupported_parameter", "tools[0].type"),
    ),
}


@pytest.fixture
async def counting(calling):
    return await calling("--upstream-kind=vllm")


@pytest.mark.parametrize("body", REFUSED)
async def test_it_is_refused_as_a_response_is(counting, backend, body):
    fields, expected = REFUSED[body]
    assert refusal(await count(counting, **fields)) == expected
    assert backend.requests == []
