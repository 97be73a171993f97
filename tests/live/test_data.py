"""``statecar export``, ``import`` and ``purge`` on the embedded store, beside the server that runs it and alone."""

import os

import pytest

from proxy import codec
from tests.callers import Caller
from tests.commands import command
from tests.live.conftest import Process

pytestmark = pytest.mark.live


async def test_the_embedded_store_is_found_beside_its_server_and_started_without(tmp_path, memory_disk):
    data = f"--data-dir={memory_disk / 'data'}"
    server = Process(tmp_path, data, "--upstream=demo", "--store=embedded")
    try:
        async with Caller(server.url()) as caller:
            made = await caller.create("one")
            whose = f"--tenant-key={caller.key}"
            code, beside, told = await command("export", whose, data)
            assert code == 0, told
    finally:
        server.ask_to_end()
        assert server.ended() == 0
    _, alone, told = await command("export", whose, data)
    assert alone.splitlines()[1:] == beside.splitlines()[1:], told
    assert codec.loads(alone.splitlines()[1])["responses"][0]["id"] == made["id"]
    assert (await command("purge", whose, data, "--yes"))[0] == 0
    assert (await command("import", data, stdin=alone))[0] == 0
    assert (await command("export", whose, data))[1].splitlines()[1:] == alone.splitlines()[1:]


async def test_a_directory_that_is_not_there_is_not_made(tmp_path):
    missing = tmp_path / "missing"
    code, out, told = await command("export", "--tenant=a", f"--data-dir={missing}")
    assert (code, out) == (1, b"")
    assert told == f"statecar: the data directory {missing} does not exist; give another with --data-dir\n"
    assert not missing.exists()


async def test_a_reader_that_has_had_enough_is_no_fault(valkey):
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "w") as out:
        code, _, told = await command("export", "--tenant-id=shared", f"--store={valkey.url}", stdout=out)
    assert (code, told) == (1, "")
