"""Answers that broke off at any place go on from there: the whole is what an unbroken one is (wire §10.5)."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from proxy import ids, sse
from proxy.state import Lease, Run, open_state
from tests.backends.test_features import text_of
from tests.callers import unframed
from tests.servers import PATIENCE
from tests.translate import rules

pytestmark = [pytest.mark.live]
ENDED = ("completed", "incomplete", "failed")


def renamed(event, old, new):
    """An event of one response as one of another."""
    return sse.encode(event).replace(old[5:49].encode(), new[5:49].encode())


async def left(state, event_rows, request, number):
    """A run whose process has told so many of these events and has gone."""
    first = event_rows[0]["response"]
    minter = ids.Minter()
    item = {"type": "message", "id": minter.item("message"), "role": "user", "status": "completed"}
    given = [item | {"content": [{"type": "input_text", "text": request["input"]}]}]
    run = Run(minter.own("resp"), "shared", first["created_at"], {**request, "input": []}, given, headers="[]")
    lease = Lease(run.id)
    await state.runs.create(run, lease)
    await state.runs.append(lease, 0, [renamed(event, first["id"], run.id) for event in event_rows[:number]])
    await state.runs.release(lease, run.tenant)
    return run.id


async def ended(http, id_):
    async with asyncio.timeout(6 * PATIENCE):
        while True:
            response = (await http.get(f"/v1/responses/{id_}")).json()
            if response["status"] in ENDED:
                rules.check(unframed((await http.get(f"/v1/responses/{id_}?stream=true")).content))
                return response
            await asyncio.sleep(0.1)


@pytest.mark.feature("continue")
@pytest.mark.parametrize(("question", "think"), [("Write some code.", False), ("Count to ten.", True)])
async def test_an_answer_cut_anywhere_goes_on_to_the_same_end(name, reals, fronting, valkey, question, think):
    key = reals(name).kind.key or "none"
    async with fronting("--tenant=off", f"--upstream-api-key={key}") as front, AsyncExitStack() as stack:
        state = open_state(valkey.url, response_ttl=600, conversation_ttl=600)
        stack.push_async_callback(state.close)
        switch = {"chat_template_kwargs": {"enable_thinking": think}}
        request = {"model": "tiny", "input": question, "temperature": 0, "max_output_tokens": 100, **switch}
        request |= {"stream": True, "background": True, "store": True}
        events = unframed((await front.http.post("/v1/responses", json=request, timeout=PATIENCE)).content)
        whole = events[-1]["response"]
        kind = "response.output_text.delta"
        deltas = [at for at, event in enumerate(events) if event["type"] == kind and event["delta"] != "\n\n"]
        assert len(deltas) > 10
        runs = [await left(state, events, request, at + 1) for at in deltas]
        for at, id_ in zip(deltas, runs, strict=True):
            made = await ended(front.http, id_)
            assert (made["status"], text_of(made)) == ("completed", text_of(whole)), f"cut after event {at}"
            assert made["usage"]["total_tokens"] == whole["usage"]["total_tokens"]
            assert made["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
