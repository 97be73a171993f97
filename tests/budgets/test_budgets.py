"""The work of a turn does not grow unseen: calls, bytecodes and round trips to the store, all counted, none timed."""

import copy
import json
from contextlib import aclosing

import pytest

from bench.works import PIECES
from proxy import sse
from proxy.state.responses import Responses
from proxy.translate import request as request_module
from proxy.turn import Turn
from tests import servers
from tests.budgets import measures, trips
from tests.budgets.counting import counted, grown
from tests.budgets.driving import driven
from tests.budgets.measures import UNITS
from tests.budgets.table import exceeded, found, written

TABLE = written()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store that nobody else uses: its reads are counted."""
    server = servers.Server.on_socket(servers.valkey_binary(), tmp_path_factory.mktemp("s"))
    yield server.url
    server.stop()


@pytest.fixture(scope="module")
def told(store):
    return found(store)


@pytest.mark.parametrize("name", TABLE["counts"])
def test_work_takes_no_more_calls_and_bytecodes_than_its_budget(told, name):
    assert not (grown_by := exceeded(name, told.counts[name])), grown_by


@pytest.mark.parametrize("name", TABLE["round trips"])
def test_a_request_makes_as_many_round_trips_to_the_store_as_the_table_says(told, name):
    now, then = told.round_trips[name], TABLE["round trips"][name]
    assert now <= then, f"{name}: {now:g} round trips, {then:g} in the table (python -m tests.budgets --write)"


def test_the_table_has_all_that_is_counted(told):
    assert {kind: list(rows) for kind, rows in told.figures().items()} == {k: list(v) for k, v in TABLE.items()}


# -- each budget is one that growth exceeds


def now(name):
    """What is said of a piece of work as it is now."""
    [piece] = (piece for piece in PIECES if name == f"{piece.name}, {piece.unit}")
    return exceeded(name, grown(piece.make, UNITS))


def test_a_generator_that_every_token_passes_exceeds_the_budget(monkeypatch, store):
    run = Turn.run

    async def wrapped(self):
        async with aclosing(run(self)) as batches:
            async for events in batches:
                yield events

    monkeypatch.setattr(Turn, "run", wrapped)
    found = driven(store, lambda driver: measures.tokens(driver, "store: false"))
    assert "calls instead of" in exceeded("token one by one, store: false", found)


def test_slower_json_exceeds_the_budget(monkeypatch):
    monkeypatch.setattr(sse.codec, "dumps", lambda value: json.dumps(value).encode())
    assert "calls instead of" in now("encode SSE, event")


def test_a_deep_copy_of_every_item_exceeds_the_budget(monkeypatch):
    to_messages = request_module.to_messages

    def copied(instructions, items, *rest):
        return to_messages(instructions, copy.deepcopy(items), *rest)

    monkeypatch.setattr(request_module, "to_messages", copied)
    assert "calls instead of" in now("rebuild history, item")


def test_a_round_trip_more_is_counted(monkeypatch, store):
    save = Responses.save

    async def twice(self, draft):
        await self.load(draft.id, draft.tenant)
        await save(self, draft)

    monkeypatch.setattr(Responses, "save", twice)
    name = "create, in a chain"
    now = driven(store, lambda driver: trips.round_trips(driver, only=name))[name]
    assert now == TABLE["round trips"][name] + 1


def test_what_is_counted_is_exact():
    def work():
        for _ in range(10):
            len(str(1))

    def more():
        work()
        len("")

    once, twice = counted(work), counted(more)
    assert twice.less(once).figures()["calls"] == 2  # work, and len once more
    assert counted(work).figures() == once.figures()
