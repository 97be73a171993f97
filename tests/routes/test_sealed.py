"""Sealed thoughts: given out when asked for, read when they come back (wire §7.6, §10.9)."""

import pytest

from tests.backend import chunk, completion, json_reply, stream
from tests.callers import Caller, ok
from tests.live import strict

KEY, LATER = "a key that nobody knows", "another one that nobody knows"
ASKED = {"include": ["reasoning.encrypted_content"]}
THOUGHT = "hm, let me see"
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
F = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "42"}


def script(backend, streamed):
    """The model thinks and calls ``f``."""
    if streamed:
        thoughts = [chunk({"reasoning_content": piece}) for piece in ("hm, ", "let me see")]
        backend.script(stream(*thoughts, chunk({"tool_calls": [{"index": 0, **CALL}]}, "tool_calls")))
    else:
        answer = completion()
        message = {"role": "assistant", "content": None, "reasoning_content": THOUGHT, "tool_calls": [CALL]}
        answer["choices"][0] = {"message": message, "finish_reason": "tool_calls"}
        backend.script(json_reply(answer))


async def thought_of(caller, backend, streamed=False, **fields):
    script(backend, streamed)
    if streamed:
        response = strict.stream(await caller.events("Hi", tools=[F], **fields))
    else:
        response = strict.response(await caller.create("Hi", tools=[F], **fields))
    reasoning, call = response["output"]
    assert (reasoning["type"], call["type"]) == ("reasoning", "function_call")
    return reasoning, call


async def replayed(caller, backend, reasoning, call):
    """The thought that reaches the model when the client sends it back."""
    hello = {"role": "user", "content": "Hi"}
    ok(await caller.ask([hello, reasoning, call, RESULT], tools=[F]))
    return backend.requests[-1].json["messages"][1].get("reasoning_content")


def bare(reasoning):
    """As a client sends it that keeps nothing readable of a thought."""
    return {**reasoning, "summary": [], "content": None}


@pytest.mark.parametrize("fields", [{"store": True}, {"store": False}, {"reasoning": {"summary": "auto"}}])
@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "streamed"])
async def test_a_sealed_thought_comes_back_to_the_model(calling, backend, streamed, fields):
    caller = await calling(f"--seal-key={KEY}")
    reasoning, call = await thought_of(caller, backend, streamed, **ASKED, **fields)
    assert reasoning["encrypted_content"].startswith("sc1.")
    assert THOUGHT not in reasoning["encrypted_content"]
    assert reasoning.get("content") or reasoning["summary"]  # readable all the same
    assert await replayed(caller, backend, bare(reasoning), call) == THOUGHT


async def test_it_is_stored_as_it_was_given_out_and_as_it_was_sent(calling, backend):
    caller = await calling(f"--seal-key={KEY}")
    reasoning, call = await thought_of(caller, backend, **ASKED)
    listed = await caller.get("/responses")
    assert listed["data"][0]["output"][0] == reasoning
    sent = {key: value for key, value in bare(reasoning).items() if value is not None}
    response = await caller.create([{"role": "user", "content": "Hi"}, sent, call, RESULT], tools=[F])
    page = await caller.get(f"/responses/{response['id']}/input_items", order="asc")
    assert page["data"][1] == sent
    await caller.create("more", previous_response_id=response["id"])
    assert "encrypted" not in backend.requests[-1].body.decode()


async def test_nobody_gets_it_unasked_or_from_a_server_without_a_key(calling, backend):
    keyed, keyless = await calling(f"--seal-key={KEY}"), await calling()
    for caller, fields in ((keyed, {}), (keyed, {"include": []}), (keyless, ASKED)):
        for streamed in (False, True):
            reasoning, _ = await thought_of(caller, backend, streamed, **fields)
            assert "encrypted_content" not in reasoning


async def test_every_holder_of_the_key_reads_it_and_nobody_else(calling, serve, backend):
    """Replicas, a server whose key has changed since, a stranger, a server without a key, another maker's item."""
    first = await calling(f"--seal-key={KEY}")
    reasoning, call = await thought_of(first, backend, **ASKED)
    expected = {
        (f"--seal-key={KEY}",): THOUGHT,
        (f"--seal-key={LATER}", f"--seal-key={KEY}"): THOUGHT,
        (f"--seal-key={LATER}",): None,
        (): None,
    }
    for options, thought in expected.items():
        async with Caller(await serve(*options), first.key) as same:
            assert await replayed(same, backend, bare(reasoning), call) == thought
            foreign = {**bare(reasoning), "encrypted_content": "gAAAAABo"}
            assert await replayed(same, backend, foreign, call) is None
    stranger = await calling(f"--seal-key={KEY}")
    assert await replayed(stranger, backend, bare(reasoning), call) is None


async def test_keys_may_stand_in_a_file_one_a_line(calling, backend, tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"{LATER}\n{KEY}\n")
    first = await calling(f"--seal-key={KEY}")
    reasoning, call = await thought_of(first, backend, **ASKED)
    second = await calling(f"--seal-key=@{path}")
    second.http.headers["authorization"] = f"Bearer {first.key}"
    assert await replayed(second, backend, bare(reasoning), call) == THOUGHT
