"""The key file: what it says, what is wrong with one, and that it is read again."""

import asyncio
import hashlib
import json
import logging
import os
import time

import pytest

from proxy.access import keyfile
from proxy.access.keyfile import digest, parse
from proxy.access.watched import KeyFile
from proxy.errors import KeysUnavailable
from proxy.grants import Grant
from proxy.principals import Principal

WHOLE = """
keys:
  - key: sk-one
    name: ci
    tenant: platform
    principal: robot
    attributes: {teams: [a, b], roles: admin}
    scope: [responses, "conversations:read"]
    models: ["qwen*", gpt-4o]
    expires: 2030-01-31T12:00:00Z
  - sha256: %s
    scope: passthrough responses:read
    expires: 1893456000
tenants:
  platform: {limits: {requests_per_minute: 60, stored_bytes: 1000}}
  other: {}
"""


def test_a_file_says_of_each_key_whose_it_is_and_what_it_may():
    table = parse(WHOLE % hashlib.sha256(b"sk-two").hexdigest().upper())
    one, two = table.entries[digest("sk-one")], table.entries[digest("sk-two")]
    assert (one.name, one.tenant) == ("ci", "platform")
    assert one.principal == Principal("robot", {"teams": ("a", "b"), "roles": ("admin",)})
    assert one.grant == Grant(frozenset({"responses", "conversations:read"}), ("qwen*", "gpt-4o"))
    assert time.gmtime(one.expires)[:5] == (2030, 1, 31, 12, 0)
    assert two.grant == Grant(frozenset({"passthrough", "responses:read"}))
    assert (two.principal, two.tenant, two.expires) == (None, "", 1893456000)
    assert table.limits == {"platform": {"requests_per_minute": 60, "stored_bytes": 1000}, "other": {}}
    assert "sk-" not in repr(table) and hashlib.sha256(b"sk-two").hexdigest() not in repr(table)


def test_json_will_do_and_so_will_a_file_for_a_single_key(tmp_path):
    (tmp_path / "k").write_text("sk-one\n")
    table = parse(json.dumps({"keys": [{"key": f"@{tmp_path}/k", "expires": 1, "models": ["a"]}]}))
    assert table.entries[digest("sk-one")].expires == 1
    assert table.files == (tmp_path / "k",)


WRONG = {
    "- key: HUSH": "the file: must be a mapping of keys, tenants",
    "": "the file: must be a mapping",
    "kyes: []": "is keys meant?",
    "keys: {HUSH: {}}": "keys: must be a list",
    "keys: [HUSH]": "keys[0]: must be a mapping of key, sha256",
    "keys: [{HUSH: a}]": "keys[0]: must have none but key, sha256",
    "keys: [{kei: HUSH}]": "keys[0]: must have none but key",
    "keys: [{name: a}]": "keys[0]: must have either key or sha256",
    "keys: [{key: HUSH, sha256: a}]": "keys[0]: must have either key or sha256",
    "keys: [{sha256: HUSH}]": "keys[0].sha256: must be 64 hex digits",
    "keys: [{key: [HUSH]}]": "keys[0].key: must be one text",
    'keys: [{key: "HUSH\\nHUSH"}]': "keys[0].key: must be one key",
    "keys: [{key: '@/does/not/exist'}]": "keys[0].key: cannot read /does/not/exist: No such file",
    "keys: [{key: HUSH}, {key: HUSH}]": "keys[1]: the same key is there twice",
    "keys: [{key: HUSH, scope: [all]}]": "keys[0].scope: 'all' must be one of passthrough, responses",
    "keys: [{key: HUSH, scope: [passthrough:read]}]": "keys[0].scope: 'passthrough:read' must be one of",
    "keys: [{key: HUSH, scope: []}]": "keys[0].scope: must not be empty",
    "keys: [{key: HUSH, models: []}]": "keys[0].models: must not be empty",
    "keys: [{key: HUSH, models: {a: b}}]": "keys[0].models: must be a text or a list",
    "keys: [{key: HUSH, attributes: {a: b}}]": "keys[0].attributes: are those of a principal",
    "keys: [{key: HUSH, principal: p, attributes: [a]}]": "keys[0].attributes: must be a mapping",
    "keys: [{key: HUSH, expires: soon}]": "keys[0].expires: must be a time as 2030-01-31",
    "keys: [{key: HUSH}]\ntenants: [a]": "tenants: must be a mapping",
    "tenants: {a: {limit: {}}}": "tenants.a: must have none but limits; is limits meant?",
    "tenants: {a: {limits: {tokens: 1}}}": "tenants.a.limits: must have none but requests_per_minute",
    "tenants: {a: {limits: {tokens_per_minute: -1}}}": "tenants.a.limits.tokens_per_minute: must be a whole number",
    "keys:\n  - key: HUSH\n   name: [HUSH": "no YAML: near line 3",
    "keys: [{key: *HUSH}]": "no YAML",
    "keys: [{key: HUSH}]\nkeys: [{key: HUSH2}]": "the same name twice in one mapping: again in line 2",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_one_line_that_names_the_place_and_no_key(text):
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert WRONG[text] in str(caught.value)
    assert "\n" not in str(caught.value) and "HUSH" not in str(caught.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.yaml"


@pytest.fixture
async def file(path):
    file = KeyFile(str(path))
    yield file
    await file.close()


def write(path, *keys):
    """Replaces the file in one step, as careful writers do."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"keys": [{"key": key} for key in keys]}))
    new.rename(path)


async def known(file):
    """Which of a few keys the file has, once it may have looked again."""
    file._due = 0.0
    entries = (await file.table()).entries
    return {name for name in ("a", "b", "c") if digest(name) in entries}


async def test_a_changed_file_counts_at_the_next_look(file, path, monkeypatch):
    monkeypatch.setattr("proxy.access.watched._EVERY", 60)
    write(path, "a")
    assert await known(file) == {"a"}
    first = await file.table()
    assert await file.table() is first
    write(path, "b")
    assert await file.table() is first  # until then nobody looks
    assert await known(file) == {"b"}
    path.write_text('{"keys": [{"key": "c"}]}\n')  # written in place; a file's clock alone may be too coarse
    assert await known(file) == {"c"}


async def test_kubernetes_changes_a_file_by_another_target_of_a_link(file, path, tmp_path):
    for version, key in (("..1", "a"), ("..2", "b")):
        (tmp_path / version).mkdir()
        write(tmp_path / version / "keys.yaml", key)
        os.utime(tmp_path / version / "keys.yaml", (1, 1))
    (tmp_path / "..data").symlink_to("..1")
    path.symlink_to("..data/keys.yaml")
    assert await known(file) == {"a"}
    (tmp_path / "..tmp").symlink_to("..2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    assert await known(file) == {"b"}


async def seen(file, key):
    """Waits until the file's first key is this one, and asks for nothing."""
    for _ in range(500):
        if file._table and next(iter(file._table.entries)) == digest(key):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"the file that begins with {key} was not read")


@pytest.mark.parametrize("broken", ["keys: [{key: HUSH", "", "keys: HUSH", b"\xff\xfe\x00", None])
async def test_a_broken_file_leaves_the_keys_of_before_and_is_told_once(file, path, caplog, broken):
    caplog.set_level(logging.INFO, "statecar")
    write(path, "a", "b")
    assert await known(file) == {"a", "b"}
    if broken is None:
        path.unlink()
    else:
        path.write_bytes(broken.encode() if isinstance(broken, str) else broken)
    for _ in range(3):
        file._again = 0.0  # what could not be read is tried again now and then
        assert await known(file) == {"a", "b"}
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "2 keys read before go on" in caplog.text and "HUSH" not in caplog.text
    write(path, "a", "b")  # mended as it was, which is told too
    assert await known(file) == {"a", "b"}
    assert "read again, 2 keys" in caplog.text
    write(path, "c")
    assert await known(file) == {"c"}
    assert "read again, 1 keys" in caplog.text


async def test_a_process_that_nobody_asks_sees_each_change_too(file, path, monkeypatch):
    monkeypatch.setattr("proxy.access.watched._EVERY", 0.01)
    write(path, "a", "b")
    file.begin()
    await seen(file, "a")
    write(path, "b")  # "a" is withdrawn
    await seen(file, "b")
    path.write_text("keys: [")
    assert await known(file) == {"b"}


async def test_a_key_in_a_file_of_its_own_changes_with_that_file(file, path, tmp_path):
    (tmp_path / "k").write_text("a")
    path.write_text(json.dumps({"keys": [{"key": f"@{tmp_path}/k"}]}))
    assert await known(file) == {"a"}
    (tmp_path / "k").write_text("b\n")
    assert await known(file) == {"b"}


async def test_a_key_that_changes_while_it_is_read_is_read_again(file, path, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "statecar")
    (tmp_path / "k").write_text("a")
    path.write_text(json.dumps({"keys": [{"key": f"@{tmp_path}/k"}]}))
    parse, later = keyfile.parse, iter("bb")

    def parse_late(text):
        table = parse(text)
        (tmp_path / "k").write_text(next(later, "c"))
        return table

    monkeypatch.setattr("proxy.access.watched.parse", parse_late)
    assert await known(file) == {"a"}
    assert await known(file) == {"b"}
    monkeypatch.undo()
    assert [await known(file) for _ in range(3)] == [{"b"}] * 3
    assert caplog.text.count("read again") == 1


async def test_a_file_that_was_never_read_lets_nobody_in_and_is_tried_again(file, path, tmp_path):
    with pytest.raises(KeysUnavailable):
        await file.table()
    path.write_text(json.dumps({"keys": [{"key": f"@{tmp_path}/late"}]}))
    file._due = 0.0
    with pytest.raises(KeysUnavailable):
        await file.table()
    (tmp_path / "late").write_text("a")  # which the key file's own state does not show
    file._again = 0.0
    assert await known(file) == {"a"}


async def test_requests_that_come_while_a_changed_file_is_read_wait_for_it(file, path, monkeypatch):
    write(path, "a")
    await known(file)
    read, slow = [], keyfile.parse

    def parse_slowly(text):
        read.append(text)
        time.sleep(0.05)
        return slow(text)

    monkeypatch.setattr("proxy.access.watched.parse", parse_slowly)
    write(path, "b")
    first = asyncio.create_task(known(file))
    await asyncio.sleep(0.01)
    first.cancel()  # one that leaves takes nobody with it
    tables = await asyncio.gather(*(file.table() for _ in range(5)))
    assert all(digest("b") in table.entries and digest("a") not in table.entries for table in tables)
    assert len(read) == 1
