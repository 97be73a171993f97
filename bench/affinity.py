"""What affinity does for the prefix caches of a fleet: a simulation, with the chooser that `statecar serve` has.

    python -m bench.affinity [--requests 20000] [--replicas 8] [--processes 1,4] [--seed 1]

Clients talk in chains that grow, some of which branch, with system prompts that many share; some keep their history
themselves and send a ``prompt_cache_key``, their own or their application's, or none. Each replica keeps blocks of
tokens in a cache of bounded size, the least lately used leaves first, computes one prompt after the other and writes
answers side by side. The same requests go to each way of choosing; a client's next one waits for the answer before.
``ideal`` is one cache as large as all of them together.

Prints a table: prompt tokens that were in the cache, as a share of all and of the ideal; how long the first token took;
the busiest replica's open requests beside the mean.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from statistics import mean, quantiles

from proxy.upstream import Upstream
from proxy.upstream.choosing import least_open, nearest
from proxy.upstream.replica import Replica

BLOCK = 64
"""Tokens of a block, which is in the cache whole or not at all."""

CACHE = 400_000
"""Tokens that a replica keeps: what is left beside a model of 8 billion parameters on a card of 80 GB."""

PREFILL = 1 / 12_000
DECODE = 0.015
"""Seconds for a token of the prompt that is not in the cache, one prompt at a time; for a token of the answer."""

RATE = 2.0
"""Talks that begin each second."""

PROMPTS = 40
"""System prompts there are; the first is used most."""

FACTORS = (1.25, 2.0)
"""Values of the option upstream_load_factor, its default first."""

LOST_FROM, LOST_UNTIL = 0.35, 0.5
"""When a replica is away, where one goes: shares of all requests. It comes back with an empty cache."""


@dataclass(frozen=True)
class Turn:
    """``context``: blocks of the prompt, which is ``prompt`` of them long, and of the answer after it; ``answer``: its
    tokens; ``think``: seconds until the client asks for it.
    """

    context: tuple[int, ...]
    prompt: int
    answer: int
    think: float


@dataclass(frozen=True)
class Talk:
    """``session``: what its requests say that they belong to, "" where they say nothing."""

    begins: float
    session: str
    turns: tuple[Turn, ...]


def talks(requests: int, chance: random.Random) -> list[Talk]:
    """Talks of so many requests in all."""
    blocks = count()
    systems = [_new(blocks, chance.randint(500, 4000)) for _ in range(PROMPTS)]
    made: list[Talk] = []
    left, begins = requests, 0.0
    while left > 0:
        begins += chance.expovariate(RATE)
        at = min(int(chance.paretovariate(0.8)) - 1, PROMPTS - 1)
        turns = tuple(_turns(systems[at], blocks, chance))[:left]
        made.append(Talk(begins, _session(len(made), at, chance), turns))
        left -= len(turns)
    return made


def _session(talk: int, system: int, chance: random.Random) -> str:
    """Chains and conversations have their lineage's tag, as good as a key of a client's own (75 %); a key of the
    application is shared by all talks with its system prompt (10 %); of the rest each request is a lineage of its own.
    """
    kind = chance.random()
    return f"talk {talk}" if kind < 0.75 else f"application {system}" if kind < 0.85 else ""


def _turns(system: tuple[int, ...], blocks: Iterator[int], chance: random.Random) -> Iterator[Turn]:
    contexts: list[tuple[int, ...]] = []
    for at in range(1 + min(int(chance.expovariate(1 / 8)), 40)):
        branches = at > 1 and chance.random() < 0.1  # an earlier answer is asked for again, or edited
        after = chance.randrange(at - 1) if branches else at - 1
        said, answer = int(chance.lognormvariate(5, 1)), int(chance.lognormvariate(5.3, 0.7))
        prompt = (contexts[after] if after >= 0 else system) + _new(blocks, said)
        contexts.append(prompt + _new(blocks, answer))
        yield Turn(contexts[-1], len(prompt), answer, chance.expovariate(1 / 25))


def _new(blocks: Iterator[int], tokens: int) -> tuple[int, ...]:
    return tuple(next(blocks) for _ in range(math.ceil(tokens / BLOCK)))


class Cache:
    """Blocks of prompts; of those least lately used the last of a prompt leaves first."""

    def __init__(self, tokens: int) -> None:
        self._most = tokens // BLOCK
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def ask(self, turn: Turn) -> int:
        """How many blocks of its prompt's beginning are there; from now on the whole context is."""
        known = next((at for at, block in enumerate(turn.context) if block not in self._blocks), turn.prompt)
        for block in reversed(turn.context):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._most:
            self._blocks.popitem(last=False)
        return min(known, turn.prompt)


Choose = Callable[[str, Sequence[Replica], int], Replica | None]
"""Which replica: the request's session, those that are available, how many requests are open at all of them. What a
replica has open is known to it as far as its process knows.
"""


@dataclass
class Figures:
    """What a way of choosing comes to. ``first``: seconds until each first token; ``busiest``: of the replicas the most
    open requests, ``usual``: their mean, both at each request.
    """

    asked: int = 0
    known: int = 0
    first: list[float] = field(default_factory=list)
    busiest: list[int] = field(default_factory=list)
    usual: list[float] = field(default_factory=list)

    @property
    def hits(self) -> float:
        """The share of the prompts' blocks that were in the cache."""
        return self.known / self.asked


class Fleet:
    """``replicas`` behind so many ``processes``, each of which knows of its own requests only.

    ``shared``: one cache for all of them; ``loses``: the first one is away for a while.
    """

    def __init__(self, replicas: int, processes: int, choose: Choose, *, shared: bool, loses: bool) -> None:
        one = Cache(CACHE * replicas)
        self._caches = [one if shared else Cache(CACHE) for _ in range(replicas)]
        self._free = [0.0] * replicas
        self._known = [[_replica(at) for at in range(replicas)] for _ in range(processes)]
        self._choose, self._loses = choose, loses

    def serve(self, work: Sequence[Talk], chance: random.Random) -> Figures:
        """All of the talks, in the order that their clients come to ask."""
        figures, number = Figures(), count()
        due = [(talk.begins, next(number), at, 0, None) for at, talk in enumerate(work)]
        heapq.heapify(due)
        whole = sum(len(talk.turns) for talk in work)
        while due:
            now, _, at, next_, answered = heapq.heappop(due)
            if answered:
                answered.open -= 1
                continue
            turn = work[at].turns[next_]
            known = chance.choice(self._known)
            replica = self._pick(work[at].session, known, len(figures.first) / whole)
            ends = self._ask(turn, now, known.index(replica), figures)
            replica.open += 1
            heapq.heappush(due, (ends, next(number), at, next_, replica))
            if next_ + 1 < len(work[at].turns):
                think = work[at].turns[next_ + 1].think
                heapq.heappush(due, (ends + think, next(number), at, next_ + 1, None))
        return figures

    def _pick(self, session: str, known: list[Replica], done: float) -> Replica:
        available = known
        if self._loses and LOST_FROM <= done < LOST_UNTIL:
            self._caches[0] = Cache(CACHE)
            available = known[1:]
        replica = self._choose(session, available, sum(replica.open for replica in available))
        assert replica
        return replica

    def _ask(self, turn: Turn, now: float, at: int, figures: Figures) -> float:
        """When the answer ends."""
        known = self._caches[at].ask(turn)
        figures.asked += turn.prompt
        figures.known += known
        self._free[at] = max(now, self._free[at]) + (turn.prompt - known) * BLOCK * PREFILL
        figures.first.append(self._free[at] - now + DECODE)
        open_ = [sum(replica.open for replica in each) for each in zip(*self._known, strict=True)]
        figures.busiest.append(max(open_))
        figures.usual.append(mean(open_))
        return self._free[at] + turn.answer * DECODE


def _replica(at: int) -> Replica:
    return Replica(Upstream(f"http://replica-{at}:8000/v1", api_key=None))


@dataclass(frozen=True)
class Way:
    """One line of the table."""

    name: str
    choose: Choose
    shared: bool = False
    loses: bool = False


def _ways(chance: random.Random) -> list[Way]:
    def any_(_session: str, available: Sequence[Replica], _open: int) -> Replica:
        return chance.choice(available)

    def least(_session: str, available: Sequence[Replica], _open: int) -> Replica | None:
        return least_open(available, chance.randrange(len(available)))

    def affine(factor: float) -> Choose:
        return lambda session, available, open_: nearest(available, session or f"{chance.random()}", factor, open_)

    return [
        Way("any", any_),
        Way("least open requests", least),
        Way("affinity without a bound", affine(1e9)),
        *(Way(f"affinity, load factor {factor:g}", affine(factor)) for factor in FACTORS),
        Way(f"load factor {FACTORS[0]:g}, a replica lost and back", affine(FACTORS[0]), loses=True),
        Way("ideal", least, shared=True),
    ]


def measured(requests: int, replicas: int, processes: int, seed: str) -> dict[str, Figures]:
    """The figures of each way, by its name."""
    work = talks(requests, random.Random(f"{seed}/work"))
    figures = {}
    for way in _ways(random.Random(f"{seed}/choice")):
        fleet = Fleet(replicas, processes, way.choose, shared=way.shared, loses=way.loses)
        figures[way.name] = fleet.serve(work, random.Random(f"{seed}/process"))
    return figures


def told(processes: int, figures: dict[str, Figures]) -> Iterator[str]:
    """Rows of the table."""
    for name, each in figures.items():
        cuts = quantiles(each.first, n=100)
        yield (
            f"| {processes} | {name} | {each.hits:.1%} | {each.hits / figures['ideal'].hits:.1%}"
            f" | {1000 * cuts[49]:.0f} ms | {1000 * cuts[94]:.0f} ms | {mean(each.busiest) / mean(each.usual):.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, help="in all (%(default)s)")
    parser.add_argument("--replicas", type=int, default=8, help="model servers (%(default)s)")
    parser.add_argument("--processes", default="1,4", help="of statecar, a table for each (%(default)s)")
    parser.add_argument("--seed", default="1", help="another one gives other talks (%(default)s)")
    given = parser.parse_args()
    print("| processes | choice | hits | of ideal | first token, median | 95 % | busiest replica, of the mean |")
    print("|---|---|---|---|---|---|---|")
    for processes in map(int, given.processes.split(",")):
        for row in told(processes, measured(given.requests, given.replicas, processes, given.seed)):
            print(row, flush=True)


if __name__ == "__main__":
    main()
