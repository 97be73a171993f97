"""What a stored turn costs in memory and round trips."""

import pytest

from proxy import codec
from proxy.state import Past
from tests import servers
from tests.state.talk import Talk, opened

TURNS = 1000
ITEM = 250


@pytest.fixture(params=["valkey", "redis"])
def fresh(request, tmp_path_factory):
    """A store that holds nothing else."""
    binary = servers.valkey_binary() if request.param == "valkey" else servers.redis_binary()
    if binary is None:
        pytest.skip("no redis-server on PATH (STATECAR_TEST_REDIS names another)")
    server = servers.Server.on_socket(binary, tmp_path_factory.mktemp("f"))
    yield server
    server.stop()


def body(turn, previous, **rest):
    """What a usual response holds beside its items."""
    return {
        "completed_at": 1_795_000_000 + turn,
        "previous_response_id": previous and previous.id,
        "temperature": 0.7,
        "usage": {
            "input_tokens": 100 * turn,
            "input_tokens_details": {"cached_tokens": 90 * turn},
            "output_tokens": 80,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 100 * turn + 80,
        },
    } | rest


async def chain(talk, turns, **rest):
    """A chain of turns of two items, each 250 bytes of JSON: the last draft, and the bytes of all items.

    Each continues what ``history`` would answer, without reading it a thousand times.
    """
    previous, past, size = None, None, 0
    for turn in range(turns):
        draft = talk.draft(past, "q a", model="Qwen/Qwen3-30B-A3B", body=body(turn, previous, **rest))
        for item in (*draft.input, *draft.output):
            part = item["content"][0]
            part["text"] = "x" * (ITEM - len(codec.dumps(item)) + len(part["text"]))
            size += len(codec.dumps(item))
        await talk.state.responses.save(draft)
        log = past.log if past else draft.minter.turn
        previous, past = draft, Past(draft.minter.tag, [], log, 2 * turn + 2, "", "completed", None)
    assert size == 2 * turns * ITEM
    return previous, size


async def growth(server, talk, **rest):
    with server.admin() as admin:
        await chain(Talk(talk.state), 2)  # connections, scripts
        before = admin.info("memory")["used_memory"]
        last, size = await chain(talk, TURNS, **rest)
        return admin.info("memory")["used_memory"] - before, size, last


async def test_a_thousand_turns_stay_small_and_come_back_in_one_round_trip(fresh, capsys):
    async with opened(fresh.url) as state:
        talk = Talk(state)
        grown, size, last = await growth(fresh, talk)
        await talk.read(last)  # makes the script known
        with fresh.admin() as admin, admin.monitor() as monitor:
            past = await state.responses.history(last.id, talk.tenant)
            await state._client.command("EXISTS", "the-end")
            seen = []
            while not (seen and seen[-1].startswith("EXISTS the-end")):
                command = monitor.next_command()
                if command["client_type"] != "lua":
                    seen.append(command["command"])
        assert len(past.items) == 2 * TURNS
        assert [command.split()[0] for command in seen] == ["EVALSHA", "EXISTS"]
        assert grown <= 1.3 * size + 700 * TURNS
    with capsys.disabled():
        print(f"\n{TURNS} turns: {grown / TURNS:.0f} bytes a turn, {size / TURNS:.0f} of them items")


async def test_long_texts_repeated_every_turn_are_stored_once(fresh, capsys):
    texts = {"instructions": "i" * 10_000, "tools": [{"type": "function", "name": "t" * 10_000}]}
    async with opened(fresh.url) as state:
        grown, size, last = await growth(fresh, Talk(state), **texts)
    assert grown <= 1.3 * size + 700 * TURNS + 2 * 20_000
    with capsys.disabled():
        print(f"\n{TURNS} turns with 20 KB of tools and instructions: {grown / TURNS:.0f} bytes a turn")
