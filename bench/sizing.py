"""How many workers a load needs, and how much Redis: from what was measured of one worker.

    python -m bench.sizing --streams 10000 --rate 50 --turns 200 --turn-bytes 2000
    python -m bench.sizing --replicas 100 --bench build/bench.json

``--bench``: takes CPU and memory of a worker from what `make bench` wrote, instead of the figures told here.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, fields, replace
from pathlib import Path

DAY = 86_400
SHARE = 0.7
"""Of a core that is planned to be used, of a worker as of a server of the store: the rest is for bursts."""

LARGEST = 16.0
"""GB of data on one server of the store: what a fork, a failover and a restart still take in a minute or so."""


@dataclass(frozen=True)
class Costs:
    """Measured constants. CPU in µs, memory in bytes."""

    turn: float = 900.0
    """CPU of a worker: a stored turn without its tokens."""
    token: float = 130.0
    """CPU of a worker: a token that comes alone."""
    logged_token: float = 100.0
    """CPU of a worker: what a token of a background stream costs more, as it is logged and read again."""
    item_byte: float = 0.012
    """CPU of a worker: a byte of the history that a turn reads."""
    idle: float = 43e6
    stream: float = 46e3
    """Memory of a worker, and of each stream that it has open."""
    store_turn: float = 250.0
    """CPU of the store: a stored turn that continues a chain."""
    store_item_cpu: float = 0.0028
    """CPU of the store: a byte of the history that a turn reads."""
    store_trips: float = 2.0
    """Round trips of a worker to the store in a turn; on a Cluster 4."""
    store_record: float = 1000.0
    store_item_byte: float = 1.3
    """Memory of the store: a turn besides its items, and each byte of their JSON."""
    store_token: float = 140.0
    store_log: float = 266.0
    """CPU and memory of the store: a token of a background stream, in its log."""


@dataclass(frozen=True)
class Load:
    """``streams`` open at once, ``rate`` tokens a second each; ``turns`` a second, of ``turn_bytes`` of new items as
    JSON each, on a history of ``depth`` turns; kept for ``days``. ``background``: the part of the streams that are
    background responses, whose logs live ``log_hours``.
    """

    streams: float
    rate: float
    turns: float
    turn_bytes: float
    depth: float
    days: float
    background: float
    log_hours: float = 1.0


@dataclass(frozen=True)
class Fleet:
    """``workers`` by CPU and ``worker_bytes`` of memory for each; what the store gets: ``operations`` a second,
    ``store_cores`` of CPU, ``store_bytes``, ``store_network`` bytes a second, and on how many ``shards`` it fits.
    """

    workers: int
    worker_bytes: float
    operations: float
    store_cores: float
    store_bytes: float
    store_network: float
    shards: int


def fleet(load: Load, costs: Costs) -> Fleet:
    """What a load needs."""
    tokens = load.streams * load.rate
    history = load.depth * load.turn_bytes
    logged = tokens * load.background
    workers = _servers(_cpu(load, costs) / 1e6 / SHARE)
    store_cpu = load.turns * (costs.store_turn + history * costs.store_item_cpu) + logged * costs.store_token
    kept = load.turns * load.days * DAY * (costs.store_record + costs.store_item_byte * load.turn_bytes)
    logs = logged * costs.store_log * load.log_hours * 3600
    return Fleet(
        workers=workers,
        worker_bytes=costs.idle + load.streams / workers * costs.stream,
        operations=load.turns * costs.store_trips + logged,
        store_cores=store_cpu / 1e6,
        store_bytes=kept + logs,
        store_network=load.turns * (history + 2 * load.turn_bytes) + logged * costs.store_log,
        shards=max(_servers(store_cpu / 1e6 / SHARE), _servers((kept + logs) / 1e9 / LARGEST)),
    )


def _cpu(load: Load, costs: Costs) -> float:
    """Of all workers: µs a second."""
    token = costs.token + load.background * costs.logged_token
    turn = costs.turn + load.depth * load.turn_bytes * costs.item_byte
    return load.streams * load.rate * token + load.turns * turn


def _servers(fraction: float) -> int:
    return max(1, math.ceil(round(fraction, 6)))


def busy(replicas: int, load: Load, costs: Costs) -> Load:
    """The load that keeps so many workers busy: streams and turns in the proportion given, until all their CPU that is
    planned for is used.
    """
    factor = replicas * SHARE * 1e6 / _cpu(load, costs)
    return replace(load, streams=load.streams * factor, turns=load.turns * factor)


def measured(figures: list[dict[str, object]]) -> Costs:
    """The figures of `make bench` that are constants here; what it did not measure stays as told."""
    known = {str(f["name"]): float(str(f["value"])) for f in figures}
    names = {
        "turn": ("plain request, stored", 1.0),
        "token": ("token one by one, stored", 1.0),
        "idle": ("memory at rest", 1e6),
        "stream": ("memory of a stream, 2000 open", 1e3),
    }
    return replace(Costs(), **{ours: known[name] * unit for ours, (name, unit) in names.items() if name in known})


def told(load: Load, needs: Fleet, connections: int) -> str:
    """As lines to read. ``connections``: each worker's to a server of the store, at most."""
    per_shard = connections * needs.workers
    return "\n".join(
        (
            f"load          {load.streams:,.0f} streams of {load.rate:g} tokens/s, {load.turns:,.0f} turns/s of "
            f"{load.turn_bytes:,.0f} bytes, {load.background:.0%} in the background",
            f"workers       {needs.workers:,} of one core, {needs.worker_bytes / 1e6:,.0f} MB each",
            f"store         {needs.operations:,.0f} operations/s, {needs.store_cores:.2f} cores, "
            f"{needs.store_network * 8 / 1e6:,.0f} Mbit/s",
            f"its memory    {needs.store_bytes / 1e9:,.1f} GB of data after {load.days:g} days",
            f"its servers   {needs.shards:,}" + (" (a Cluster)" if needs.shards > 1 else ""),
            f"connections   up to {per_shard:,} to each of them: maxclients above that",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--replicas", type=int, help="workers that the load is to keep busy, instead of the load as given"
    )
    parser.add_argument("--streams", type=float, default=1000, help="streams open at once (%(default)s)")
    parser.add_argument("--rate", type=float, default=50, help="tokens a second of each (%(default)s)")
    parser.add_argument("--turns", type=float, default=100, help="turns a second (%(default)s)")
    parser.add_argument("--turn-bytes", type=float, default=1000, help="JSON of a turn's new items (%(default)s)")
    parser.add_argument("--depth", type=float, default=10, help="turns of the history that one reads (%(default)s)")
    parser.add_argument("--days", type=float, default=30, help="that turns are kept (%(default)s)")
    parser.add_argument("--background", type=float, default=0, help="part of the streams, 0 to 1 (%(default)s)")
    parser.add_argument("--connections", type=int, default=32, help="--store-connections of a worker (%(default)s)")
    parser.add_argument("--bench", type=Path, metavar="FILE", help="what `make bench` wrote")
    given = parser.parse_args()
    costs = measured(json.loads(given.bench.read_text())["figures"]) if given.bench else Costs()
    load = Load(**{f.name: getattr(given, f.name) for f in fields(Load) if hasattr(given, f.name)})
    if given.replicas:
        load = busy(given.replicas, load, costs)
    print(told(load, fleet(load, costs), given.connections))


if __name__ == "__main__":
    main()
