"""Groups of upstreams through the whole proxy: who is asked for which model, and in which name."""

import pytest

from tests.backend import Backend
from tests.callers import error_of, refusal


@pytest.fixture
async def backends():
    """Three of them."""
    async with Backend() as a, Backend() as b, Backend() as c:
        yield a, b, c


def chats(backend):
    return [request.json for request in backend.requests if request.target.endswith("/chat/completions")]


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


async def test_the_turns_of_a_conversation_go_to_one_replica(backends, calling):
    caller = await calling(upstreams=[{"replicas": [each.url for each in backends]}])
    asked = []
    for _ in range(4):
        before = [len(chats(each)) for each in backends]
        previous = None
        for _ in range(3):
            answer = (await caller.ask(model="m", previous_response_id=previous)).json()
            previous = answer["id"]
        asked.append([len(chats(each)) - n for each, n in zip(backends, before, strict=True)])
    assert all(sorted(counts) == [0, 0, 3] for counts in asked)
