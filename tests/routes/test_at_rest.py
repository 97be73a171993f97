"""Nothing that callers and models say lies readable in the store, where there is a key (ADR 0022).

Each thing that can be said holds a canary of its own; then everything in the store is searched: every key's name and
value, and the files that the server writes, raw and unpacked. Without a key the same search finds each of them.
"""

import asyncio
import itertools
import secrets
from contextlib import suppress

import pytest

from proxy.errors import StatecarError
from proxy.principals import Principal
from proxy.state import Envelope, Lease, Run, open_state
from proxy.state.envelope import key_name
from proxy.state.packing import PACKED, Packer
from tests import servers
from tests.backend import STREAM_HEAD, chunk, chunked, sse, stream
from tests.callers import Caller, ok, refusal
from tests.routes.test_background import apart, eventually, seen
from tests.state.talk import Talk

__all__ = ["apart"]  # a fixture for every test here

KEY = "a key of sixteen characters or more"
FORMS = {
    "plain": (),
    "packed": ("--compression=zstd",),
    "sealed": (f"--encryption-key={KEY}",),
    "packed and sealed": (f"--encryption-key={KEY}", "--compression=zstd"),
}


class Canaries:
    """Texts that each hold a name: those of ``of`` are long enough to be packed, those of ``short`` fit everywhere."""

    def __init__(self):
        self.names = set()

    def short(self, name):
        self.names.add(name)
        return f"canary-{name}-{secrets.token_hex(4)}"

    def of(self, name, times=8):
        return " ".join([self.short(name)] * times)

    def found_in(self, data):
        """The names of those that are in these bytes."""
        return {name for name in self.names if b"canary-" + name.encode() + b"-" in data}


@pytest.fixture
def files(tmp_path):
    """A store of its own that writes every file a server can, uncompressed."""
    options = [
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--rdbcompression",
        "no",
        "--aof-use-rdb-preamble",
        "no",
    ]
    store = servers.Server.on_socket(servers.valkey_binary(), tmp_path, *options)
    yield store
    store.stop()


def values(admin):
    """The name of every key, and all that it holds."""
    for key in admin.scan_iter(count=1000):
        yield key
        match admin.type(key):
            case b"string":
                yield admin.get(key) or b""
            case b"hash":
                fields = admin.hgetall(key)
                yield from fields
                yield from (value for name, value in fields.items() if not name.isdigit())
                yield b"".join(fields[name] for name in sorted(filter(bytes.isdigit, fields), key=int))  # a body
            case b"list":
                yield from admin.lrange(key, 0, -1)
            case b"zset":
                yield from (member for member, _ in admin.zrange(key, 0, -1, withscores=True))
            case b"stream":
                yield from itertools.chain.from_iterable(fields.values() for _, fields in admin.xrange(key))
            case b"none":  # it has expired just now
                pass
            case other:
                raise AssertionError(f"a type of key that is not searched: {other}")


def searched(canaries, store, folder):
    """The names of the canaries that are anywhere in a store, raw or packed."""
    packer, found = Packer(), set()
    with store.admin() as admin:
        for value in values(admin):
            found |= canaries.found_in(value)
            if value.startswith(PACKED):
                with suppress(StatecarError):  # a hash may begin so
                    found |= canaries.found_in(packer.unpacked(value))
        admin.save()
    written = [path for path in folder.rglob("*") if path.is_file() and path.suffix in (".rdb", ".aof")]
    assert {path.suffix for path in written} == {".rdb", ".aof"}
    for path in written:
        found |= canaries.found_in(path.read_bytes())
    return found


async def everything(caller, backend, canaries):
    """Says all that can be said; the last response is still being made."""
    of, short = canaries.of, canaries.short
    schema = {"type": "object", "properties": {short("format"): {"type": "string"}}, "x": of("schema", 20)}
    function = {"name": "f", "description": of("tool", 20), "parameters": {"type": "object"}}
    call = {
        "index": 0,
        "id": "c1",
        "type": "function",
        "function": {"name": "f", "arguments": f'{{"x":"{of("arguments")}"}}'},
    }
    picture = {"type": "input_image", "image_url": f"https://example.com/{short('image')}.png"}
    paper = {
        "type": "input_file",
        "filename": short("filename"),
        "file_data": f"data:text/plain;base64,{short('file')}",
    }
    model, calls = short("model"), {"tool_calls": [call]}
    deltas = [({"reasoning_content": of("reasoning")},), ({"content": of("answer")},), (calls, "tool_calls")]
    backend.script(stream(*({**chunk(*each), "model": model} for each in deltas)))
    first = await caller.create(
        [{"role": "user", "content": [{"type": "input_text", "text": of("input")}, picture, paper]}],
        model=model,
        instructions=of("instructions", 20),
        metadata={short("metadata-key"): short("metadata-value")},
        tools=[{"type": "function", **function}],
        text={"format": {"type": "json_schema", "name": "n", "schema": schema}},
        user=short("user"),
        prompt_cache_key=short("cache-key"),
        safety_identifier=short("safety"),
    )
    output = {"type": "function_call_output", "call_id": "c1", "output": of("output")}
    backend.script(stream(chunk({"content": "ok"}, "stop")))
    await caller.create([output], previous_response_id=first["id"], instructions=short("instructions-short"))
    listed = await caller.get("/responses", model=model)
    assert [one["id"] for one in listed["data"]] == [first["id"]]

    item = {"type": "message", "role": "user", "content": of("item"), "id": short("item-id")}
    made = await caller.conversation(metadata={short("talk-key"): of("talk-value")}, items=[item])
    more = {**item, "content": of("added"), "id": short("added-id")}
    ok(await caller.http.post(f"/conversations/{made}/items", json={"items": [more]}))
    assert (await caller.get(f"/conversations/{made}/items/{more['id']}"))["id"] == more["id"]
    other = await caller.conversation()
    ok(await caller.http.post(f"/conversations/{other}", json={"metadata": {"k": of("changed")}}))
    backend.script(stream(chunk({"content": "ok"}, "stop")))
    await caller.create([{"type": "item_reference", "id": item["id"]}], conversation=made)

    words = {"model": "m", "input": of("keyed")}
    backend.script(stream(chunk({"content": "ok"}, "stop")))
    ok(await caller.http.post("/responses", json=words, headers={"idempotency-key": "canary-key-1"}))

    backend.script(STREAM_HEAD, chunked(sse(chunk({"content": of("told")}))), asyncio.Event())
    async with caller.opened(of("running"), background=True, metadata={"k": short("running-meta")}) as opened:
        running = (await opened.until("response.created"))["response"]
        await opened.until("response.output_text.delta")
    return running


async def in_flight(store, envelope, canaries):
    """What a run holds that no request makes lie there for long, and an owner."""
    state = open_state(store.url, response_ttl=600, conversation_ttl=600, envelope=envelope)
    talk = Talk(state)
    owner = Principal(canaries.short("owner"), {"teams": (canaries.short("team"),)})
    draft = (await talk.turn(owner=owner)).minter
    run = Run(
        draft.own("resp").replace(draft.turn, "f" * 28),
        talk.tenant,
        0,
        {"input": []},
        [],
        headers=f'[["x","{canaries.of("header")}"]]',
        secrets=canaries.of("secret"),
    )
    lease = Lease(run.id)
    await state.runs.create(run, lease)
    await state.runs.keep(lease, {"item0": {"x": canaries.of("kept")}})
    found = await state.runs.load(run.id, talk.tenant)
    assert (found.headers, found.secrets) == (run.headers, run.secrets) and "canary-kept" in str(found.kept)
    assert (await state.owners.of(talk_id := draft.own("resp"), talk.tenant)).owner == owner, talk_id
    await state.close()


@pytest.mark.parametrize("form", FORMS)
async def test_no_canary_is_found_in_a_store_with_a_key(serve, backend, files, tmp_path, form):
    canaries = Canaries()
    async with Caller(await serve(*FORMS[form], store=files.url)) as caller:
        running = await everything(caller, backend, canaries)
        keys = [KEY] if "sealed" in form else []
        await in_flight(files, Envelope(keys, "zstd" if "packed" in form else "off"), canaries)
        found = searched(canaries, files, tmp_path)
        assert found == (set() if keys else canaries.names)
        await caller.http.post(f"/responses/{running['id']}/cancel")
        await seen(caller, running["id"], "cancelled")
    assert len(canaries.names) == 35


async def test_without_the_key_every_answer_is_one_error(serve, backend, files):
    async with Caller(await serve(*FORMS["sealed"], store=files.url)) as caller:
        made = await caller.create("Hi", model="m")
        conversation = await caller.conversation(items=[{"role": "user", "content": "Hello"}])
    other = await serve("--encryption-key=another key of sixteen or more", store=files.url)
    async with Caller(other, caller.key) as caller:
        asked = [
            caller.http.get(f"/responses/{made['id']}"),
            caller.http.get(f"/responses/{made['id']}/input_items"),
            caller.http.get("/responses"),
            caller.http.get(f"/conversations/{conversation}"),
            caller.http.get(f"/conversations/{conversation}/items"),
            caller.http.get(f"/conversations/{conversation}/items/msg_mine"),
            caller.ask(previous_response_id=made["id"]),
            caller.ask(previous_response_id=made["id"], stream=True),
            caller.ask(conversation=conversation, background=True),
        ]
        for answer in await asyncio.gather(*asked):
            assert refusal(answer) == (500, "encryption_key_missing", None)
        assert len(backend.requests) == 1
        await caller.create("Hi")  # what is new is nobody's trouble


async def test_a_store_that_comes_after_the_start_hears_of_the_key_all_the_same(own, serve, monkeypatch, caplog):
    monkeypatch.setattr("proxy.app._LATER", 0.01)
    own.stop()
    await serve(f"--encryption-key={KEY}", store=own.url)
    assert "not ready" in caplog.text
    own.start()
    with own.admin() as admin:
        await eventually(lambda: asyncio.sleep(0, admin.zrange("sc:keys", 0, -1) == [key_name(KEY).encode()]))
