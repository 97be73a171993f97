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
from tests.budgets.table import Found, exceeded, found, slack, written

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
    assert not (grown_by := exceeded(name, told.counts[name], TABLE)), grown_by


@pytest.mark.parametrize("name", TABLE["counts"])
def test_a_budget_is_not_far_above_what_is_needed(told, name):
    assert not (too_much := slack(name, told.counts[name], TABLE)), too_much


@pytest.mark.parametrize("name", TABLE["round trips"])
def test_a_request_makes_as_many_round_trips_to_the_store_as_the_table_says(told, name):
    now, then = told.round_trips[name], TABLE["round trips"][name]
    assert now == then, f"{name}: {now:g} round trips, {then:g} in the table (python -m tests.budgets --write)"


def test_the_table_has_all_that_is_counted(told):
    assert {kind: list(rows) for kind, rows in told.figures().items()} == {k: list(v) for k, v in TABLE.items()}


# -- each budget is one that growth exceeds, and slack is seen


def beside(told, name):
    """What is said of a piece of work as it is now, beside what it was before."""
    [piece] = (piece for piece in PIECES if name == f"{piece.name}, {piece.unit}")
    now = grown(piece.make, UNITS)
    return exceeded(name, now, told.figures()), slack(name, told.counts[name], Found({name: now}).figures())


def test_a_generator_that_every_token_passes_exceeds_the_budget(monkeypatch, store, told):
    run = Turn.run

    async def wrapped(self):
        async with aclosing(run(self)) as batches:
            async for events in batches:
                yield events

    monkeypatch.setattr(Turn, "run", wrapped)
    now = driven(store, lambda driver: measures.tokens(driver, "store: false"))
    assert "calls instead of" in exceeded("token one by one, store: false", now, told.figures())


def test_slower_json_exceeds_the_budget(monkeypatch, told):
    monkeypatch.setattr(sse, "encode", lambda event: f"data: {json.dumps(event)}\n\n".encode())
    over, too_much = beside(told, "encode SSE, event")
    assert "calls instead of" in over
    assert "Write it anew" in too_much  # once it is as it was again


def test_a_deep_copy_of_every_item_exceeds_the_budget(monkeypatch, told):
    to_messages = request_module.to_messages

    def copied(instructions, items, *rest):
        return to_messages(instructions, copy.deepcopy(items), *rest)

    monkeypatch.setattr(request_module, "to_messages", copied)
    over, _ = beside(told, "rebuild history, item")
    assert "calls instead of" in over


def test_a_round_trip_more_is_counted(monkeypatch, store, told):
    save = Responses.save

    async def twice(self, draft):
        await self.load(draft.id, draft.tenant)
        await save(self, draft)

    monkeypatch.setattr(Responses, "save", twice)
    name = "create, in a chain"
    now = driven(store, lambda driver: trips.round_trips(driver, only=name))[name]
    assert now == told.round_trips[name] + 1


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
