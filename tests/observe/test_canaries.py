"""What callers and models say never reaches the log, whatever fails while they say it."""

import contextlib
import json
import socket

import pytest

from proxy.observe import configure_logging
from tests import servers
from tests.backend import CLOSE, RESET, STREAM_HEAD, chunk, chunked, completion, json_reply, reply, sse, stream, talk
from tests.callers import Caller

WORD = "canary"
SAID = f"{WORD}-said"
ANSWERED = chunk({"content": f"{WORD}-answer"})
CHUNKS = b"HTTP/1.1 %d X\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n"
BAD_CHUNK = f"{SAID}\r\n".encode()  # where its size should be
REMEDY = "extra fields not permitted: stream_options"
LONG = b":" + b" " * 400_000 + b"\n\n"  # so that what follows is read later

FAILURES = {
    "a refusal": [json_reply({"error": {"message": f"cannot read {SAID}"}}, status=400)],
    "a refusal with a remedy": [json_reply({"error": {"message": f"{SAID}: {REMEDY}", "type": SAID}}, status=400)],
    "a refusal in text": [reply(SAID.encode(), status=500)],
    "a refusal that breaks off": [CHUNKS % (400, b"text/plain") + chunked(SAID.encode() + LONG), BAD_CHUNK, CLOSE],
    "a redirect": [reply(status=302, headers=(f"location: /{SAID}",))],
    "a cookie nobody can read": [json_reply(completion(SAID), headers=(f"set-cookie: {SAID} (=1",))],
    "a header nobody can read": [f"HTTP/1.1 200 OK\r\n{SAID} {SAID}\r\n\r\n".encode(), CLOSE],
    "no HTTP": [f"{SAID}\r\n\r\n".encode(), CLOSE],
    "no status": [f"HTTP/1.1 {SAID} OK\r\n\r\n".encode(), CLOSE],
    "no JSON": [reply(SAID.encode(), headers=("content-type: application/json",))],
    "a chunk that is no JSON": [stream(ANSWERED, SAID)],
    "a chunk that is no JSON at the end": [stream(*talk(SAID)[:-1], SAID)],
    "an error in the stream": [stream({"error": {"message": SAID, "type": SAID}})],
    "an error later in the stream": [stream(ANSWERED, {"error": {"message": SAID}})],
    "a stream that breaks off": [STREAM_HEAD + chunked(sse(ANSWERED) + LONG), BAD_CHUNK, CLOSE],
    "a stream that is reset": [STREAM_HEAD + chunked(sse(ANSWERED)), RESET],
    "tool calls that make no sense": [
        stream(chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": {"a": SAID}}}, SAID]}), SAID)
    ],
    "no connection": [],
}


def body(**rest):
    """A request that says it everywhere."""
    call = {"type": "function_call", "call_id": SAID, "name": "f", "arguments": json.dumps({"a": SAID})}
    image = {"type": "input_image", "image_url": f"https://{WORD}.example/{WORD}.png?sig={WORD}"}
    content = [{"type": "input_text", "text": SAID}, image]
    tool = {"type": "function", "name": "f", "description": SAID, "parameters": {"type": "object", "title": SAID}}
    return {
        "model": "m",
        "instructions": SAID,
        "input": [
            {"role": "user", "content": content},
            call,
            {"type": "function_call_output", "call_id": SAID, "output": SAID},
        ],
        "tools": [tool],
        "metadata": {SAID: SAID},
        "user": SAID,
    } | rest


class Talk:
    """A caller who says it in every header and query too, and the log of the server that serves it."""

    def __init__(self, url, capsys):
        self._capsys = capsys
        self._caller = Caller(url, f"sk-{WORD}", **{"api-key": WORD, "cookie": WORD, "x-custom": WORD})
        self.post, self.get = self._caller.http.post, self._caller.http.get

    async def __aenter__(self):
        await self._caller.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self._caller.__aexit__(*error)

    async def ask(self, **rest):
        return await self.post(f"/responses?key={WORD}", json=body(**rest))

    def told(self):
        """The log since it was last asked for; every record one line, that of its request the last."""
        text = self._capsys.readouterr().err
        assert WORD not in text, [line for line in text.splitlines() if WORD in line]
        assert "statecar.access" in text or " INFO request " in text
        return text


@pytest.fixture
async def talking(serve, capsys):
    """Starts a server with these options and gives a talk with it, logged in this form."""

    async def start(form, *options, **rest):
        configure_logging(form, "debug")
        return Talk(await serve(*options, **rest), capsys)

    return start


forms = pytest.mark.parametrize("form", ["json", "text"])


@forms
async def test_a_talk_that_goes_well_says_nothing(talking, backend, form):
    backend.default = (json_reply(completion(f"{WORD}-answer")),)
    async with await talking(form) as talk:
        made = (await talk.ask()).json()
        conversation = (await talk.post("/conversations", json={"items": body()["input"]})).json()["id"]
        await talk.ask(stream=True, conversation=conversation)
        await talk.post(f"/conversations/{conversation}", json={"metadata": {"a": SAID}})
        await talk.get(f"/conversations/{conversation}/items?after={WORD}")
        await talk.get(f"/responses/{made['id']}/input_items?include={WORD}")
        await talk.post("/responses/compact", json={"model": "m", "input": body()["input"]})
        await talk.post("/responses", content=json.dumps(body())[:-1])
        await talk.ask(input=[{"role": SAID, "content": SAID}])
        await talk.ask(previous_response_id=SAID)
        await talk.post(f"/chat/completions?key={WORD}", json={"messages": SAID})
        told = talk.told()
    assert made["id"] in told and conversation in told


@forms
@pytest.mark.parametrize("failure", FAILURES)
async def test_an_upstream_that_fails_repeats_nothing_in_the_log(talking, backend, form, failure):
    upstream = None if FAILURES[failure] else "http://127.0.0.1:9/v1"
    async with await talking(form, upstream=upstream) as talk:
        for stream in (False, True):
            backend.script(*FAILURES[failure])
            await talk.ask(stream=stream)
        backend.script(*FAILURES[failure])
        try:
            await talk.post(f"/chat/completions?key={WORD}", json={"messages": SAID})
        except Exception as exc:  # it broke off here too
            assert "RemoteProtocolError" in type(exc).__name__
        assert "upstream call" in talk.told()


async def test_an_upstream_that_takes_no_connection_repeats_no_query_in_the_log(talking):
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # nobody accepts: the queue is full and the kernel ignores who comes next
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        upstream = f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        async with await talking("json", "--upstream-connect-timeout=0.2", upstream=upstream) as talk:
            assert (await talk.get(f"/models?key={WORD}")).status_code == 502
            assert "took no connection" in talk.told()


@forms
async def test_a_fault_of_ours_tells_where_and_nothing_else(talking, monkeypatch, form):
    def broken(request, *_, **__):
        raise ValueError(json.dumps(request)) from KeyError(SAID)

    async with await talking(form) as talk:
        for place in ("proxy.routes.responses.create_response", "proxy.turn.rounds.to_chat"):
            with monkeypatch.context() as patch:
                patch.setattr(place, broken)
                assert (await talk.ask()).status_code == 500
        told = talk.told()
    assert told.count("Traceback") == 4
    assert "in broken" in told


@forms
async def test_a_store_that_fails_repeats_nothing_in_the_log(talking, tmp_path, form):
    refusing = servers.Server.on_socket(servers.valkey_binary(), tmp_path, "--rename-command", "SET", "")
    try:
        async with await talking(form, store=refusing.url) as talk:
            assert (await talk.ask()).status_code == 503
            told = talk.told()
            assert "unknown command" in told and "with args" not in told  # a secret was among them
    finally:
        refusing.stop()
    async with await talking(form, store=refusing.url) as talk:
        assert (await talk.ask()).status_code == 503
        assert "not reachable" in talk.told()
