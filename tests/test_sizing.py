"""The arithmetic of ``bench/sizing.py``: what more load needs more of, and what the documents say of fleets."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.sizing import Costs, Load, busy, fleet, measured

LOAD = Load(streams=1000, rate=50, turns=100, turn_bytes=1000, depth=10, days=30, background=0)
COSTS = Costs(
    turn=1000, token=100, item_byte=0.01, store_turn=200, store_item_cpu=0.01, store_record=1000, store_item_byte=1.3
)


def test_what_a_load_needs_is_what_its_parts_cost():
    needs = fleet(LOAD, COSTS)
    assert needs.workers == 8, "5 cores of tokens and 0.11 of turns, at 70 % of each"
    assert needs.worker_bytes == COSTS.idle + 125 * COSTS.stream
    assert needs.operations == 100 * COSTS.store_trips
    assert needs.store_cores == pytest.approx(0.03)
    assert needs.store_bytes == 100 * 30 * 86400 * 2300
    assert needs.shards == 38, "596 GB in parts of 16"


@pytest.mark.parametrize(
    ("more", "grows"),
    [
        ({"streams": 4000}, {"workers"}),
        ({"turns": 4000}, {"workers", "operations", "store_cores", "store_bytes", "store_network", "shards"}),
        ({"turn_bytes": 4000}, {"store_cores", "store_bytes", "store_network", "shards"}),
        ({"depth": 1000}, {"workers", "store_cores", "store_network"}),
        ({"days": 60}, {"store_bytes", "shards"}),
        ({"background": 0.5}, {"workers", "operations", "store_cores", "store_bytes", "store_network", "shards"}),
    ],
)
def test_each_part_of_a_load_asks_for_its_own(more, grows):
    before, after = vars(fleet(LOAD, COSTS)), vars(fleet(replace(LOAD, **more), COSTS))
    assert {name for name in before if after[name] > before[name]} - {"worker_bytes"} == grows


@pytest.mark.parametrize("replicas", [1, 10, 1000])
def test_a_load_for_so_many_replicas_needs_as_many(replicas):
    assert fleet(busy(replicas, LOAD, COSTS), COSTS).workers == replicas


def test_constants_come_from_what_the_benchmark_wrote(tmp_path):
    figures = [{"name": "token one by one, stored", "value": 111.0}, {"name": "memory at rest", "value": 50.0}]
    costs = measured(figures)
    assert (costs.token, costs.idle, costs.turn) == (111.0, 50e6, Costs().turn)
    written = tmp_path / "bench.json"
    written.write_text(json.dumps({"figures": figures}))
    command = [sys.executable, "-m", "bench.sizing", "--replicas=10", f"--bench={written}", "--background=0.1"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent).stdout
    assert re.search(r"workers +10 of one core", said) and "10% in the background" in said


def test_the_fleets_that_are_told_are_those_computed():
    page = (Path(__file__).parent.parent / "docs/operations/sizing.md").read_text()
    number = r" ([\d,.]+) \|"
    rows = re.findall(rf"^\| (10+)(,[^|]+)? \|{number * 4}[^|]+\|[^|]+\|{number}{number}$", page, re.M)
    assert len(rows) == 6
    for replicas, background, *rest in rows:
        load = busy(int(replicas), replace(LOAD, days=1, background=0.1 if background else 0), Costs())
        needs = fleet(load, Costs())
        told = [float(text.replace(",", "")) for text in rest]
        assert told[:4] == pytest.approx([load.streams, load.turns, needs.operations, needs.store_cores], rel=0.05)
        assert told[4] == needs.shards
