"""What is passed on to groups of upstreams: to which, in whose name, and where else when one cannot."""

import asyncio
import json
import tracemalloc

import pytest

from tests.backend import CLOSE, STREAM_END, STREAM_HEAD, Backend, json_reply, reply
from tests.callers import refusal
from tests.servers import free_port

CHAT = "/chat/completions"
FORM = b'--x\r\ncontent-disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'


@pytest.fixture
async def backends():
    async with Backend() as a, Backend() as b, Backend() as c:
        yield a, b, c


@pytest.fixture
def groups(backends, calling):
    """A caller of two groups, the second of two replicas, and a third that stands in for the first."""

    async def start(*options):
        a, b, c = backends
        return await calling(
            "--upstream-health-interval=0",
            *options,
            upstreams=[
                {"name": "qwen", "models": ["qwen*"], "aliases": {"gpt": "qwen3"}, "replicas": [a.url], "kind": "vllm"}
                | {"fallbacks": [{"group": "rest", "model": "tiny"}]},
                {"name": "rest", "models": ["tiny*"], "replicas": [b.url, c.url], "kind": "vllm"},
            ],
        )

    return start


def asked(backend):
    return [request for request in backend.requests if request.method == "POST"]


def chat(model, **more):
    return json.dumps({"messages": [{"role": "user", "content": "Hi", "model": "no"}], **more, "model": model}).encode()


async def test_a_bodys_model_decides_and_an_alias_becomes_the_models_name_and_nothing_else(backends, groups):
    caller = await groups()
    body = b' {"x": 1.50,  "model" :"gpt", "messages":[ ]}'
    far = b"\n" * 100 + chat("tiny")
    for content in (body, chat("qwen3-4b"), far, b'{"messages": []}', b"no JSON", b" " * 100):
        answer = await caller.http.post(CHAT, content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 200
    assert [request.body for request in asked(backends[0])] == [
        body.replace(b"gpt", b"qwen3"),
        chat("qwen3-4b"),
        b'{"messages": []}',  # which model that means is the first group's to say
        b"no JSON",
        b" " * 100,
    ]
    assert [request.body for request in asked(backends[1]) + asked(backends[2])] == [far]
    refused = await caller.http.post(CHAT, content=chat("llama"))
    assert refusal(refused) == (404, "model_not_found", "model")


async def test_a_forms_model_decides_where_it_stands_early(backends, groups):
    caller = await groups()
    model, big = FORM % (b"model", b"", b"tiny"), FORM % (b"file", b'; filename="a"', b"\x00" * 100_000)
    for body in (model + big, big + model):
        headers = {"content-type": "multipart/form-data; boundary=x"}
        await caller.http.post("/audio/transcriptions", content=body + b"--x--\r\n", headers=headers)
    assert [len(asked(backend)) for backend in backends][0] == 1, "the first group's, as it was not found"
    assert (asked(backends[1]) + asked(backends[2]))[0].body == model + big + b"--x--\r\n"


async def test_a_body_in_parts_is_put_together_within_its_limit(backends, groups):
    caller = await groups("--body-limit=5000")

    async def parts(body):
        for at in range(0, len(body), 1000):
            yield body[at : at + 1000]
            await asyncio.sleep(0)

    whole = chat("gpt", pad="x" * 4000)
    assert (await caller.http.post(CHAT, content=parts(whole))).status_code == 200
    assert asked(backends[0])[0].body == whole.replace(b'"gpt"', b'"qwen3"')
    for body in (chat("gpt", pad="x" * 5000), parts(chat("gpt", pad="x" * 9000))):
        answer = await caller.http.post(CHAT, content=body)
        assert answer.status_code == 413
        assert "at most 5000 bytes" in answer.json()["error"]["message"]


@pytest.mark.parametrize("model", ["gpt", "qwen3", "tiny"])
async def test_a_body_is_forgotten_once_its_answer_has_begun(backends, groups, model):
    """``model``: an alias, the only replica's, and one of a group with a choice."""
    caller, size, go_on = await groups(), 4_000_000, asyncio.Event()
    for backend in backends:
        backend.default = (STREAM_HEAD, go_on, STREAM_END)
    content = chat(model, pad="x" * size)
    tracemalloc.start()
    try:
        async with caller.http.stream("POST", CHAT, content=content):
            kept = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/proxy/*")])
    finally:
        go_on.set()
        tracemalloc.stop()
    assert sum(each.size for each in kept.traces) < size / 4


@pytest.mark.parametrize("method", ["OPTIONS", "GET"])
async def test_nothing_is_kept_of_a_request_that_can_ask_no_model(backends, groups, method):
    caller = await groups("--body-limit=5000", "--api-key=k")
    key = {"authorization": "Bearer k"} if method == "GET" else {}
    body = chat("tiny", pad="x" * 9000)
    assert (await caller.http.request(method, "/x", content=body, headers=key)).status_code == 200
    assert backends[0].requests[-1].body == body


async def test_a_session_finds_its_replica_again(backends, groups):
    caller = await groups()
    for session in range(24):
        before = [len(asked(backend)) for backend in backends]
        for _ in range(3):
            await caller.http.post(CHAT, content=chat("tiny"), headers={"x-session-id": f"s{session}"})
        more = [len(asked(backend)) - n for backend, n in zip(backends, before, strict=True)]
        assert sorted(more) == [0, 0, 3]
    assert min(len(asked(backend)) for backend in backends[1:]) > 0
    assert {value for backend in backends for one in asked(backend) for value in one.values("x-session-id")} == {
        f"s{session}" for session in range(24)
    }


BUSY = reply(b"busy", status=503)


@pytest.mark.parametrize("failure", [(BUSY,), (CLOSE,), (reply(b"", status=429),)], ids=["503", "closed", "429"])
async def test_another_replica_answers_what_one_cannot(backends, groups, failure):
    caller = await groups()
    backends[1].script(*failure)
    answers = [await caller.http.post(CHAT, content=chat("tiny")) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [request.body for backend in backends[1:] for request in asked(backend)] == [chat("tiny")] * 3


async def test_another_group_answers_by_its_own_name_for_the_model(backends, groups):
    caller = await groups()
    backends[0].default = (BUSY,)
    answer = await caller.http.post(CHAT, content=chat("gpt"))
    assert answer.status_code == 200
    assert (asked(backends[1]) + asked(backends[2]))[0].body == chat("tiny")
    for backend in backends:
        backend.default = (BUSY,)
    last = await caller.http.post(CHAT, content=chat("gpt"))
    assert (last.status_code, last.content) == (503, b"busy"), "the last one's own answer"


async def test_a_form_goes_to_no_group_that_has_another_name_for_its_model(backends, groups):
    caller = await groups()
    backends[0].default = (BUSY,)
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = await caller.http.post("/audio/x", content=FORM % (b"model", b"", b"qwen3") + b"--x--", headers=headers)
    assert (answer.status_code, answer.content) == (503, b"busy")
    assert not asked(backends[1]) + asked(backends[2])


async def test_what_is_not_whole_goes_to_another_group_where_nothing_of_it_was_sent(backends, calling):
    gone = {"replicas": [f"http://127.0.0.1:{free_port()}/v1"], "name": "gone", "fallbacks": ["*"]}
    caller = await calling("--upstream-health-interval=0", upstreams=[gone, {"replicas": [backends[0].url]}])
    for _ in range(4):  # from the fourth on the first group is out

        async def parts():
            yield b"\x00" * 100
            await asyncio.sleep(0.01)
            yield b"\x01" * 100

        assert (await caller.http.post("/files", content=parts())).status_code == 200
    assert {request.body for request in asked(backends[0])} == {b"\x00" * 100 + b"\x01" * 100}


async def test_500_and_what_is_not_whole_are_asked_once(backends, groups):
    caller = await groups()
    backends[0].default = (json_reply({"error": {}}, status=500),)
    assert (await caller.http.post(CHAT, content=chat("gpt"))).status_code == 500
    for backend in backends:
        backend.default = (BUSY,)

    async def parts():
        yield b"\x00" * 100
        await asyncio.sleep(0.01)
        yield b"\x01" * 100

    answer = await caller.http.post("/files", content=parts())
    assert (answer.status_code, answer.content) == (503, b"busy")
    assert asked(backends[0])[-1].body == b"\x00" * 100 + b"\x01" * 100
    assert not asked(backends[1]) + asked(backends[2])


async def test_whoever_leaves_while_the_body_comes_is_noticed(backends, groups):
    caller = await groups()

    async def parts():
        yield b'{"model": "gpt", '
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await caller.http.post(CHAT, content=parts())
    assert (await caller.http.post(CHAT, content=chat("gpt"))).status_code == 200
    assert len(asked(backends[0])) == 1


async def test_nothing_of_a_group_that_is_out_is_waited_for(calling):
    async with Backend() as a, Backend() as b:
        caller = await calling(
            "--upstream-eject-after=1", "--upstream-health-interval=0", upstreams=[{"replicas": [a.url, b.url]}]
        )
        for backend in (a, b):
            backend.default = (CLOSE,)
        answers = [await caller.http.post(CHAT, content=chat("m")) for _ in range(4)]
        assert [answer.status_code for answer in answers][:1] == [502]
        assert len(asked(a)) + len(asked(b)) < 8
