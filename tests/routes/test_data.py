"""``statecar export``, ``import`` and ``purge`` beside a server: every GET and the next turn are as they were."""

import asyncio

import pytest

from proxy import codec, data
from tests.backend import chunk, completion, json_reply, stream, talk
from tests.callers import Caller, ok
from tests.commands import command

SEAL = "--seal-key=a key that nobody knows"
LIMITS = [f"--tenant-{what}=1000000" for what in ("requests-per-minute", "tokens-per-minute", "stored-bytes")]
LONG = {"tools": [{"type": "function", "name": "f", "description": "x" * 900, "parameters": {"type": "object"}}]}
FILE = {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,aGk="}
USER = {"role": "user", "content": [{"type": "input_text", "text": "look \ud83d"}, FILE]}


@pytest.fixture
def statecar(own):
    """Runs a command on the store."""
    return lambda *argv, stdin=b"", store=own.url: command(*argv, f"--store={store}", stdin=stdin)


async def everything(caller, backend):
    """A bit of all that a caller can have: (ids of responses, ids of conversations, a key that was used)."""
    body = codec.dumps({"model": "m", "input": [USER], "instructions": "y" * 900, **LONG})
    first = ok(await caller.http.post("/responses", content=body, headers={"content-type": "application/json"}))
    second = await caller.create("more", previous_response_id=first["id"], **LONG, metadata={"a": "b"})
    branch = await caller.create("else", previous_response_id=first["id"], model="other")
    thought = {"role": "assistant", "content": "so", "reasoning_content": "hm"}
    answer = completion()
    answer["choices"][0]["message"] = thought
    backend.script(json_reply(answer))
    sealed = await caller.create("think", include=["reasoning.encrypted_content"], previous_response_id=second["id"])
    dropped = await caller.create("drop me", previous_response_id=sealed["id"])
    tip = await caller.create("go on", previous_response_id=dropped["id"])
    ok(await caller.http.delete(f"/responses/{dropped['id']}"))
    gist = {**completion("the gist"), "usage": {"prompt_tokens": 2000, "completion_tokens": 5, "total_tokens": 2005}}
    backend.script(json_reply(gist))
    compacted = await caller.create(
        [{"type": "message", "role": "user", "content": "shorter"}, {"type": "compaction_trigger"}],
        previous_response_id=tip["id"],
    )
    talked = await caller.conversation(
        items=[{"role": "user", "content": f"n{n}"} for n in range(5)], metadata={"x": "y"}
    )
    inside = await caller.create("inside", conversation=talked)
    items = (await caller.get(f"/conversations/{talked}/items", order="asc"))["data"]
    ok(await caller.http.delete(f"/conversations/{talked}/items/{items[1]['id']}"))
    bare = await caller.conversation()
    backend.script(stream(*talk("It ", "is ", "so.")))
    streamed = (await caller.events("background", background=True))[0]["response"]
    backend.script(stream(chunk({"content": "x"}), "not json"))
    await caller.ask("fail", stream=True)
    keyed = await caller.http.post("/responses", json={"model": "m", "input": "k"}, headers={"idempotency-key": "k1"})
    responses = [
        one["id"] for one in (first, second, branch, sealed, dropped, tip, compacted, inside, streamed, ok(keyed))
    ]
    return responses, [talked, bare]


async def answers(caller, responses, conversations):
    """What every GET answers, byte for byte."""
    paths = ["/responses?limit=100", "/responses?limit=3&order=asc", "/responses?model=other"]
    paths += [f"/responses?limit=2&after={responses[2]}", f"/responses?limit=2&before={responses[2]}&order=asc"]
    for id_ in responses:
        paths += [f"/responses/{id_}", f"/responses/{id_}/input_items?limit=100"]
        paths += [f"/responses/{id_}/input_items?order=asc&limit=2", f"/responses/{id_}?stream=true"]
        paths += [f"/responses/{id_}?stream=true&starting_after=3"]
    for id_ in conversations:
        paths += [
            f"/conversations/{id_}",
            f"/conversations/{id_}/items?limit=3",
            f"/conversations/{id_}/items?order=asc",
        ]
        listed = (await caller.http.get(f"/conversations/{id_}/items?limit=100")).json().get("data", [])
        paths += [f"/conversations/{id_}/items/{item['id']}" for item in listed]
        paths += [f"/conversations/{id_}/items?limit=2&after={item['id']}" for item in listed[:1]]
    told = {}
    for path in paths:
        answer = await caller.http.get(path)
        told[path] = answer.status_code, answer.content
    assert {status for status, _ in told.values()} <= {200, 400, 404}
    return told


async def asked(caller, backend, **fields):
    """What a next turn asks the model."""
    before = len(backend.requests)
    await caller.create([{"role": "user", "content": "next"}], store=False, **fields)
    [request] = backend.requests[before:]
    return request.json


async def next_turns(caller, backend, responses, conversations):
    gone = responses[4]
    turns = [await asked(caller, backend, previous_response_id=id_) for id_ in responses if id_ != gone]
    return turns + [await asked(caller, backend, conversation=id_) for id_ in conversations]


async def test_out_away_and_in_again(calling, backend, own, statecar):
    caller = await calling(SEAL, *LIMITS, store=own.url)
    async with Caller(str(caller.http.base_url).removesuffix("/v1/")) as other:
        theirs = await everything(other, backend)
        ids = await everything(caller, backend)
        before, asks = await answers(caller, *ids), await next_turns(caller, backend, *ids)
        their_before = await answers(other, *theirs)
        whose = f"--tenant-key={caller.key}"
        code, archive, told = await statecar("export", whose)
        assert code == 0
        assert told.startswith("exported: 6 lineages with 10 responses and 2 conversations, 1 idempotency keys\n"), told
        assert (await statecar("purge", whose))[0] == 1
        assert await answers(caller, *ids) == before  # that was only asked
        assert (await statecar("purge", whose, "--yes"))[0] == 0
        assert not kept(own, archive)
        left = {path: status for path, (status, _) in (await answers(caller, *ids)).items()}
        assert {path for path, status in left.items() if status == 200} <= {p for p in left if p[:11] == "/responses?"}
        assert (await caller.get("/responses"))["data"] == []
        assert (await statecar("export", whose))[1].count(b"\n") == 2
        assert not kept(own, archive)
        for _ in range(2):  # a second time it changes nothing
            assert (await statecar("import", stdin=archive))[0] == 0
            assert await answers(caller, *ids) == before
            assert await next_turns(caller, backend, *ids) == asks
        assert await answers(other, *theirs) == their_before
        again = await caller.http.post(
            "/responses", json={"model": "m", "input": "k"}, headers={"idempotency-key": "k1"}
        )
        assert ok(again)["id"] == ids[0][-1]
    with own.admin() as admin:  # all at once, its secret too, and no server that remembers it
        admin.flushall()
    async with await fresh(calling, own, caller.key) as restarted:
        assert (await statecar("import", stdin=archive))[0] == 0
        assert await answers(restarted, *ids) == before
        assert await next_turns(restarted, backend, *ids) == asks


def kept(own, archive):
    """The names of keys that are a tenant's."""
    header, *lines = map(codec.loads, archive.splitlines())
    texts = {header["tenant"]} | {line["tag"] for line in lines if line["type"] == "lineage"}
    with own.admin() as admin:
        return [name for name in admin.scan_iter() for text in texts if text in name.decode()]


async def fresh(calling, own, key):
    """A caller of another server on the store."""
    started = await calling(SEAL, store=own.url)
    return Caller(str(started.http.base_url).removesuffix("/v1/"), key)


async def test_lines_that_are_wrong_are_told_and_the_others_taken(calling, own, statecar):
    caller = await calling(store=own.url)
    made = [(await caller.create(f"n{n}"))["id"] for n in range(6)]
    whose = f"--tenant-key={caller.key}"
    _, archive, _ = await statecar("export", whose)
    lines = archive.splitlines(keepends=True)
    assert len(lines) == 8
    await statecar("purge", whose, "--yes")

    deep = lines[5].replace(b'"body":{', b'"body":{"text":%s%s,' % (b"[" * 1000, b"]" * 1000))
    broken = [lines[0], lines[1], b"{}\n", lines[2].replace(b'"logs"', b'"long"'), b"\n", deep, lines[3][:99]]
    code, _, told = await statecar("import", stdin=b"".join(broken))
    assert code == 1
    assert "line 3: type: must be one of" in told
    assert "line 4: a lineage: lacks logs" in told
    assert "line 6: the value is nested too deeply" in told
    assert "line 7: no JSON, and it ends in the middle" in told
    assert "imported: 1 lineages" in told
    assert "the file ends before its last line" in told

    code, _, told = await statecar("import", stdin=b"".join([*lines[:4], lines[4][:50]]))
    assert code == 1
    assert "line 5: no JSON, and it ends in the middle" in told
    assert "imported: 2 lineages" in told
    assert "left as they are: 1 lines" in told

    code, _, told = await statecar("import", stdin=b"".join([*lines, lines[0], lines[1]]))
    assert code == 1
    assert "line 9: stands behind the last line" in told
    assert "2 lines were not imported" in told
    assert "imported: 3 lineages" in told
    for id_ in made:
        await caller.get(f"/responses/{id_}")
    assert (await statecar("import", stdin=archive))[0] == 0


@pytest.mark.parametrize(
    ("stdin", "words"),
    [
        (b"", "line 1: no JSON"),
        (b"PK\x03\x04" * 50_000, "line 1: no JSON, and it ends in the middle"),
        (b'{"type": "end"}\n', "line 1: the last line: lacks"),
        (
            b'{"type":"end","lineages":0,"responses":0,"conversations":0,"keys":0}\n',
            "line 1: type: must be statecar-export",
        ),
        (b'{"type":"statecar-export","version":2}\n', "line 1: version: is 2, and this statecar reads 1"),
    ],
)
async def test_what_is_no_export_is_refused_by_its_first_line(statecar, stdin, words):
    code, out, told = await statecar("import", stdin=stdin)
    assert (code, out) == (1, b"")
    assert words in told
    assert told.count("\n") == 1


async def test_data_follows_a_tenant_to_another_key_and_another_store(calling, own, valkey, statecar):
    caller = await calling(store=own.url)
    first = await caller.create("one")
    _, archive, _ = await statecar("export", f"--tenant-key={caller.key}")
    elsewhere = await calling(store=valkey.url)  # which has a secret of its own
    await elsewhere.create("two")

    code, _, told = await statecar("import", stdin=archive, store=valkey.url)
    assert code == 1
    assert "are hashed with another secret" in told
    assert (await statecar("import", f"--tenant-key={elsewhere.key}", stdin=archive, store=valkey.url))[0] == 0
    assert (await elsewhere.get(f"/responses/{first['id']}"))["output"] == first["output"]
    assert len((await elsewhere.get("/responses"))["data"]) == 2

    code, _, told = await statecar("import", "--tenant=somebody", stdin=archive)
    assert code == 1
    assert f"line 2: lineage {codec.loads(archive.splitlines()[1])['tag']} is another tenant's" in told
    await caller.get(f"/responses/{first['id']}")


async def test_tenants_are_named_as_they_are_told_apart(calling, own, statecar):
    for options, headers, whose in (
        ((), {}, "--tenant-key={key}"),
        (("--tenant=header:x-team",), {"x-team": "acme"}, "--tenant=acme"),
        (("--tenant=off",), {}, "--tenant-id=shared"),
        (("--tenant-secret=fixed", "--tenant=header:x-team"), {"x-team": "acme"}, "--tenant=acme"),
    ):
        caller = await calling(*options, store=own.url)
        caller.http.headers.update(headers)
        await caller.create("one")
        fixed = [option for option in options if "secret" in option]
        _, archive, told = await statecar("export", whose.format(key=caller.key), *fixed)
        assert told.startswith("exported: 1 lineages"), told
        assert ("secret" in codec.loads(archive.splitlines()[0])) is not bool(fixed)
        assert (await statecar("purge", whose.format(key=caller.key), *fixed, "--yes"))[0] == 0
        assert (await caller.get("/responses"))["data"] == []


async def test_a_response_in_the_making_ends_with_a_purge(calling, backend, own, statecar):
    caller = await calling("--run-lease=0.6", store=own.url)
    await caller.create("one")
    hanging = asyncio.Event()
    backend.script(hanging)
    made = await caller.create("two", background=True)
    request = await backend.received(2)
    code, _, told = await statecar("export", f"--tenant-key={caller.key}")
    assert code == 0
    assert "left out: 1 responses that are being made" in told
    code, _, told = await statecar("purge", f"--tenant-key={caller.key}", "--yes")
    assert code == 0
    assert "1 responses in the making ended" in told
    async with asyncio.timeout(20):
        await request.gone.wait()
    assert (await caller.http.get(f"/responses/{made['id']}")).status_code == 404
    with own.admin() as admin:
        assert not admin.keys(f"*{made['id'][5:21]}*")


async def test_an_import_that_nobody_could_reach_is_told_of(calling, own, statecar):
    secret = bytes(32)
    header = {"type": "statecar-export", "version": 1, "tenant": "a" * 32, "exported_at": 1}
    header |= {"fingerprint": data._fingerprint(secret), "secret": secret.hex()}
    end = {"type": "end", "lineages": 0, "responses": 0, "conversations": 0, "keys": 0}
    archive = codec.dumps(header) + b"\n" + codec.dumps(end) + b"\n"
    fixed = "--tenant-secret=a secret that servers are given"
    await (await calling(fixed, store=own.url)).create("Hi")
    with own.admin() as admin:
        for whose in ((), ("--tenant-key=k",), ("--tenant=n",)):
            code, _, told = await statecar("import", *whose, stdin=archive)
            assert code == 1 and "give the same --tenant-secret" in told
            assert not admin.exists("sc:secret")
        code, _, told = await statecar("import", "--tenant-key=k", fixed, stdin=archive)
        assert code == 0 and "secret" not in told
        assert (await statecar("import", "--tenant-id=" + "a" * 32, stdin=archive))[0] == 0
        assert admin.get("sc:secret") == secret
    code, _, told = await statecar("import", "--tenant-key=k", fixed, stdin=archive)
    assert code == 0 and "the store has a tenant secret of its own" in told
    code, _, told = await statecar("import", "--tenant-key=k", stdin=archive)
    assert code == 0 and "secret" not in told
