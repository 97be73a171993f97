"""What a process leaves behind: its log lines, and the streams that are open when it is asked to end."""

import asyncio
import json
import re

import pytest

from tests import servers
from tests.backend import CLOSE, STREAM_END, STREAM_HEAD, chunk, chunked, json_reply, sse, talk
from tests.callers import Caller, unframed
from tests.live import strict

pytestmark = pytest.mark.live

SECRETS = ("planted-prompt", "planted-output", "planted-key", "planted-header", "planted-metadata", "planted-query")


@pytest.fixture
async def logging(start, valkey, shared_backend, backend):
    """A server that logs all it ever does as JSON, and its process."""
    kind = "--upstream-kind=generic"  # else it asks for it, and may take a script
    options = (f"--upstream={shared_backend.url}", kind, f"--store={valkey.url}", "--log-format=json")
    process = start(*options, "--log-level=debug")
    async with Caller(await asyncio.to_thread(process.url), "planted-key", **{"x-custom": "planted-header"}) as caller:
        yield caller, process


def _whole_lines(log, last):
    """The log, once it has the last line whole; None before."""
    return log if last in log and log.endswith("\n") else None


def said(text="planted-output"):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    return json_reply({"id": "c", "model": "m", "choices": [choice], "usage": usage})


async def asked_again(caller, backend, prompt):
    """A request whose refusal repeats the prompt and has a remedy."""
    refused = {"error": {"message": f"{prompt}: extra fields not permitted: stream_options"}}
    backend.script(json_reply(refused, status=400))
    backend.script(said())
    before = len(backend.requests)
    await caller.events(prompt, model="m-refused")
    assert len(backend.requests) == before + 2


async def test_the_log_tells_ids_and_counts_and_never_what_was_said(logging, backend):
    caller, process = logging
    prompt = "planted-prompt"
    metadata = {"k": "planted-metadata"}
    backend.script(said())
    made = await caller.create(prompt, metadata=metadata, instructions=prompt)
    conversation = await caller.conversation(items=[{"role": "user", "content": prompt}], metadata=metadata)
    backend.script(said())
    answer = await caller.ask(prompt, stream=True, conversation=conversation)
    talked = strict.stream(unframed(answer.content))
    backend.script(json_reply({"error": {"message": f"cannot read {prompt}"}}, status=400))
    await caller.ask(prompt)
    backend.script(STREAM_HEAD + chunked(sse(chunk({"content": "planted-output"}), f"{prompt} is no JSON")), CLOSE)
    await caller.events(prompt)
    await asked_again(caller, backend, prompt)
    backend.script(STREAM_HEAD + chunked(sse(f"{prompt} is no JSON")), CLOSE)
    await caller.ask(prompt, stream=True)
    backend.script(STREAM_HEAD + chunked(sse(chunk({"content": "planted-output"}))), CLOSE)
    await caller.ask(prompt)
    backend.script(json_reply({"planted-output": prompt}))
    await caller.http.post("/chat/completions?key=planted-query", json={"messages": prompt})
    await caller.http.post("/responses", content=b'{"model":"planted-prompt')
    await caller.http.post("/responses", json={"model": "m", "input": [{"role": "planted-prompt", "content": prompt}]})
    await caller.http.get("/responses", params={"after": "planted-query"})
    await caller.http.post(f"/conversations/{conversation}", json={"metadata": metadata})
    last = f"/v1/conversations/{conversation}"  # its line may come after its answer
    log = await asyncio.to_thread(servers.until, lambda: _whole_lines(process.stderr, last))
    found = [secret for secret in SECRETS if secret in log]
    assert not found, [line for line in log.splitlines() if any(secret in line for secret in found)]
    lines = [json.loads(line) for line in log.splitlines()]
    requests = [line for line in lines if line["logger"] == "statecar.access" and line["path"] != "/ready"]
    assert len(requests) == 13
    first, stream = requests[0], requests[2]
    assert first["response"] == made["id"]
    assert (first["status"], first["input_tokens"], first["output_tokens"]) == (200, 11, 7)
    assert (stream["response"], stream["response_status"]) == (talked["id"], "completed")
    assert stream["request_id"] == answer.headers["x-request-id"]
    assert stream["ms"] >= stream["first_ms"] > 0
    assert requests[1]["conversation"] == conversation
    assert len({line["tenant"] for line in requests if "tenant" in line}) == 1
    assert re.fullmatch("[0-9a-f]{8}", first["tenant"])


@pytest.mark.parametrize("workers", [1, 2])
async def test_turns_open_at_sigterm_get_their_grace_and_then_a_good_end(start, valkey, backend, workers):
    ends = ("--drain-delay=0.2", "--grace=1")
    kind = "--upstream-kind=generic"  # else a worker may ask for it when the others are at work, and take a script
    options = (f"--upstream={backend.url}", kind, f"--store={valkey.url}", f"--workers={workers}", *ends)
    process = start(*options)
    url = await asyncio.to_thread(process.url)
    backend.requests.clear()  # those of /ready
    half, go = STREAM_HEAD + chunked(sse(*talk("Hel")[:2])), asyncio.Event()
    async with Caller(url) as caller, asyncio.TaskGroup() as tasks:
        conversation = await caller.conversation()
        backend.script(half, asyncio.Event())
        async with caller.opened("One", conversation=conversation) as opened:
            events = [await opened.frame()]
            while events[-1]["type"] != "response.output_text.delta":
                events.append(await opened.frame())
            backend.script(half, asyncio.Event())
            plain = tasks.create_task(caller.ask("Two"))
            await backend.received(2)
            backend.script(half, go, chunked(sse(*talk("lo"))) + STREAM_END)
            short = tasks.create_task(caller.ask("Three"))
            await backend.received(3)
            process.ask_to_end()
            go.set()
            events += await opened.rest()
    assert events.pop() == "[DONE]"
    last = strict.stream([one for one in events if isinstance(one, dict)])
    assert (last["status"], last["error"]["code"]) == ("failed", "server_error")
    assert "shutting down" in last["error"]["message"]
    assert last["output"][0]["status"] == "incomplete"
    assert strict.response(plain.result().json())["status"] == "failed"
    assert strict.response(short.result().json())["status"] == "completed"
    assert await asyncio.to_thread(process.ended) == 0
    again = start(*options)
    async with Caller(await asyncio.to_thread(again.url), caller.key) as caller:
        assert await caller.get(f"/responses/{last['id']}") == last
        assert await caller.texts(conversation) == []
        assert (await caller.create("Hi", conversation=conversation))["status"] == "completed"


async def test_a_store_that_is_restarted_is_found_again(start, tmp_path_factory):
    store = servers.Server.on_port(servers.valkey_binary(), tmp_path_factory.mktemp("s"))
    try:
        process = start("--upstream=demo", f"--store={store.url}")
        async with Caller(await asyncio.to_thread(process.url)) as caller:
            await caller.create("Hi", model="demo")
            store.stop()
            assert (await caller.ask("Hi", model="demo")).status_code == 503
            await asyncio.to_thread(store.start)
            async with asyncio.timeout(servers.PATIENCE):
                while (await caller.ask("Hi", model="demo")).status_code == 503:
                    pass
    finally:
        store.stop()
