"""The simulation of ``bench/affinity.py``: what it says must hold for any talks."""

import random

import pytest

from bench.affinity import BLOCK, Cache, Turn, measured, talks, told

FIGURES = measured(1500, replicas=4, processes=2, seed="any")


def turn(*context, prompt):
    return Turn(context, prompt, 10, 0.0)


def test_a_cache_knows_the_beginning_that_it_has_seen_as_long_as_there_is_room():
    cache = Cache(4 * BLOCK)
    assert cache.ask(turn(1, 2, 3, prompt=2)) == 0
    assert cache.ask(turn(1, 2, 3, 4, prompt=4)) == 3, "the answer is known too"
    assert cache.ask(turn(1, 9, 8, prompt=3)) == 1, "a beginning only"
    assert cache.ask(turn(1, 2, 3, prompt=3)) == 2, "the end of what was used longest ago has gone first"


def test_talks_grow_and_branch():
    made = talks(500, random.Random(1))
    assert sum(len(talk.turns) for talk in made) == 500
    assert {talk.session.partition(" ")[0] for talk in made} == {"talk", "application", ""}
    pairs = [(one, other) for talk in made for one, other in zip(talk.turns, talk.turns[1:], strict=False)]
    goes_on = [other.context[: len(one.context)] == one.context for one, other in pairs]
    assert 0.8 < sum(goes_on) / len(goes_on) < 1
    assert all(turn.prompt <= len(turn.context) for talk in made for turn in talk.turns)


def test_affinity_finds_what_is_cached():
    hits = {name: each.hits for name, each in FIGURES.items()}
    least, free, bound, ideal = (
        hits[name]
        for name in ("least open requests", "affinity without a bound", "affinity, load factor 1.25", "ideal")
    )
    assert least + 0.05 < bound <= ideal
    assert 0.9 * ideal < free <= ideal


@pytest.mark.parametrize("name", FIGURES)
def test_every_way_answers_the_same_requests(name):
    assert len(FIGURES[name].first) == 1500
    assert FIGURES[name].asked == FIGURES["ideal"].asked


def test_the_table_has_a_row_for_each():
    rows = list(told(2, FIGURES))
    assert len(rows) == len(FIGURES)
    assert all(row.count("|") == 8 and row.startswith("| 2 |") for row in rows)
