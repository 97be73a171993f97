"""The rest of an answer whose process has died, asked for by another one (wire §10.5)."""

import pytest

from proxy import ids
from proxy import sse as framing
from proxy.state import Lease
from proxy.translate.response import skeleton
from proxy.translate.stream import ResponseStream
from tests.backend import CLOSE, DONE, STREAM_HEAD, Backend, chunk, json_reply, stream
from tests.callers import unframed
from tests.routes.test_background import replay, seen, text_of
from tests.routes.test_recovery import at, left
from tests.translate import rules

TOOL = {"type": "function", "name": "f"}
PIECES = ("One", " two", " three")
REST = stream(chunk({"content": " four"}), chunk({}, "stop"), DONE)
HELD = {"code": "server_error", "message": "The server restarted while this response was running."}
USAGE = {"prompt_tokens": 18, "completion_tokens": 2, "total_tokens": 20}


async def told(state, *chunks, **fields):
    """(a run whose process has told this and is gone, the bytes of that)."""
    run = left(stream=True, **fields)
    lease, minter = Lease(run.id), ids.Minter.again(ids.parse(run.id), len(run.given))
    making = ResponseStream(skeleton(run.request, run.id, run.created_at), minter.item, ids.new_call_id)
    events = [*making.queue(), *making.start(), *(event for one in chunks for event in making.feed(one))]
    frames = list(map(framing.encode, events))
    await state.runs.create(run, lease)
    await state.runs.append(lease, 0, frames)
    await state.runs.release(lease, "shared")
    return run, b"".join(frames)


def texts(*pieces):
    return [chunk({"content": piece}) for piece in pieces]


async def ended(caller, run, before):
    """(the response, its events) when it has ended: one valid stream that begins with the bytes told before."""
    last = await seen(caller, run.id, "completed", "incomplete", "failed")
    whole = await replay(caller, run.id)
    events = unframed(whole)
    rules.check(events)
    assert whole.startswith(before) and events[-1]["response"] == last
    return last, events


def bodies(backend):
    """The bodies of the answers asked for, after all questions to tokenizers."""
    return [request.json for request in backend.requests if request.target.endswith("/chat/completions")]


async def test_a_text_is_written_on_where_it_broke_off(serve, own, state, backend):
    """The tokenizer says that 10 tokens asked, and that 16 ask for the rest: 6 have been told."""
    for reply in (json_reply({"count": 10}), json_reply({"count": 16})):
        backend.script(reply)
    backend.script(stream(chunk({"content": " four"}), {**chunk({}, "stop"), "usage": USAGE}, DONE))
    run, before = await told(state, *texts(*PIECES), max_output_tokens=50)
    async with at(serve, own, "--upstream-kind=vllm") as caller:
        last, _ = await ended(caller, run, before)
        assert (last["status"], text_of(last)) == ("completed", "One two three four")
        usage = last["usage"]
        assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (12, 8, 20)
        (body,) = bodies(backend)
        assert body["messages"][-1] == {"role": "assistant", "content": "One two three"}
        assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
        assert (body["max_tokens"], body["chat_template_kwargs"]) == (44, {"enable_thinking": False})
        first, second = (request.json for request in backend.requests[:2])
        assert first["add_generation_prompt"] and second["messages"] == body["messages"]
        assert (await caller.create("And?", previous_response_id=run.id))["status"] == "completed"
        assert bodies(backend)[-1]["messages"][-2] == {"role": "assistant", "content": "One two three four"}


async def test_what_follows_the_text_is_its_own_item_and_figures_may_be_counted_by_deltas(serve, own, state, backend):
    call = {"index": 0, "id": "call_1", "function": {"name": "f", "arguments": "{}"}}
    backend.script(json_reply({"error": "no"}, status=404))  # no /apply-template
    usage = {**USAGE, "completion_tokens_details": {"reasoning_tokens": 2}}
    backend.script(stream(chunk({"tool_calls": [call]}), {**chunk({}, "tool_calls"), "usage": usage}, DONE))
    thought = chunk({"reasoning_content": "\nHm.\n"})
    run, before = await told(state, thought, *texts(*PIECES), tools=[TOOL])
    async with at(serve, own, "--upstream-kind=llamacpp") as caller:
        last, _ = await ended(caller, run, before)
    assert [item["type"] for item in last["output"]] == ["reasoning", "message", "function_call"]
    assert len({item["id"] for item in last["output"]}) == 3
    assert (last["usage"]["input_tokens"], last["usage"]["output_tokens"]) == (14, 6)
    assert last["usage"]["output_tokens_details"] == {"reasoning_tokens": 1}
    (body,) = bodies(backend)
    assert body["messages"][-1] == {"role": "assistant", "content": "One two three", "reasoning_content": "Hm."}


@pytest.mark.parametrize("trims", [True, False])
async def test_blanks_at_the_end_that_a_template_drops_end_it(serve, own, state, backend, trims):
    """The same tokens without them: the template has dropped them. As many would mean nothing: `.\\n` may be one."""
    for tokens in ([1, 2], [1, 2, 3], [1, 2, 3 if trims else 4]):
        backend.script(json_reply({"count": len(tokens), "tokens": tokens}))
    backend.script(stream(*texts("\tTwo"), chunk({}, "stop"), DONE))
    run, before = await told(state, *texts("One", ".\n"))
    async with at(serve, own, "--upstream-kind=vllm") as caller:
        last, _ = await ended(caller, run, before)
    assert (last["error"], text_of(last)) == ((HELD, "One.\n") if trims else (None, "One.\n\tTwo"))
    asked = [request.json["messages"][-1]["content"] for request in backend.requests]
    assert asked[:3] == ["Hi", "One.\n", "One."] and len(bodies(backend)) == (not trims)


async def test_one_that_has_said_all_it_may_asks_for_nothing_more(serve, own, state, backend):
    for reply in (json_reply({"count": 10}), json_reply({"count": 13})):
        backend.script(reply)
    run, before = await told(state, *texts(*PIECES), max_output_tokens=3)
    async with at(serve, own, "--upstream-kind=vllm") as caller:
        last, _ = await ended(caller, run, before)
    assert (last["status"], last["incomplete_details"]["reason"]) == ("incomplete", "max_output_tokens")
    assert (last["usage"]["input_tokens"], last["usage"]["output_tokens"]) == (10, 3)
    assert not bodies(backend)


async def test_what_cannot_be_gone_on_with_fails_and_keeps_what_was_told(serve, own, state, backend):
    call = {"index": 0, "id": "call_1", "function": {"name": "f", "arguments": "{"}}
    schema = {"format": {"type": "json_object"}}
    runs = [
        await told(state, *texts(*PIECES), text=schema),
        await told(state, *texts(*PIECES), chunk({"tool_calls": [call]}), tools=[TOOL]),
        await told(state, chunk({"reasoning_content": "One two three"})),
    ]
    async with at(serve, own, "--upstream-kind=vllm") as caller:
        for run, before in runs:
            last, events = await ended(caller, run, before)
            assert (last["status"], last["error"], text_of(last)) == ("failed", HELD, "One two three")
            assert events[-1]["sequence_number"] == before.count(b"\n\n")
    assert not backend.requests


@pytest.mark.parametrize(
    "script",
    [
        json_reply({"error": {"message": "Unknown."}}, status=400),
        stream(chunk({"reasoning_content": " four"}), chunk({}, "stop"), DONE),
        STREAM_HEAD,
    ],
    ids=["refused", "taken for a thought", "no answer"],
)
async def test_one_whose_rest_does_not_come_fails_and_keeps_what_was_told(serve, own, state, backend, script):
    for reply in (json_reply({"count": 10}), json_reply({"count": 16}), script):
        backend.script(reply, CLOSE)
    async with at(serve, own, "--upstream-kind=vllm") as caller:
        last, _ = await ended(caller, *await told(state, *texts(*PIECES)))
    assert (last["status"], text_of(last), last["output"][0]["status"]) == ("failed", "One two three", "incomplete")
    assert len(bodies(backend)) == 1


@pytest.mark.parametrize("told_some", [True, False])
async def test_the_rest_is_asked_of_no_fallback(serve, own, state, told_some):
    """Another model would go on with what this one has begun; where nothing was told it begins."""
    async with Backend() as away, Backend() as small:
        away.default = (json_reply({"error": {"message": "no"}}, status=503),)
        small.default = (REST,)
        groups = [
            {"models": ["m"], "replicas": [away.url], "kind": "vllm", "fallbacks": ["small"]},
            {"name": "small", "replicas": [small.url], "kind": "vllm"},
        ]
        run, before = await told(state, *texts(*PIECES * told_some))
        async with at(serve, own, "--upstream-health-interval=0", upstreams=groups) as caller:
            last, _ = await ended(caller, run, before)
        assert last["status"] == ("failed" if told_some else "completed")
        assert text_of(last) == ("One two three" if told_some else " four")
        assert len(bodies(small)) == (not told_some) and bodies(away)
