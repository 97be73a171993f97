"""Which of the replicas that can be asked a call goes to. Every process that knows the same URLs chooses alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b

from proxy.upstream.replica import Replica

ROOM = 8
"""Open requests up to which a replica is never passed over for another: a batch of so many costs a model server little
more than one of one, a prefix that is not in its cache all of the prefill. In bench/affinity.py it is worth 2 % of
an ideal cache's hits at a load factor of 1.25, and 13 % where four processes share the requests."""

_MASK = 2**64 - 1
_MIX, _STIR = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9  # of splitmix64


def nearest(replicas: Sequence[Replica], session: str, factor: float, open: int) -> Replica | None:
    """By rendezvous hashing: of those below their share, the one with the highest hash of its URL and the session.

    So a replica that goes takes away its own sessions only, each to another place, and gets them back. ``open``: what
    is open in the whole group; a share is ``factor`` times a replica's part of it, ``ROOM`` at least. The least busy
    one where those with less have limits that keep them below it. None where all are full.
    """
    point = int.from_bytes(blake2b(session.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    share = max(ROOM, math.ceil(factor * (open + 1) / len(replicas))) if replicas else 0
    best, most = None, -1
    for replica in replicas:
        if replica.open < share and replica.open < replica.limit:
            mixed = (point ^ replica.seed) * _MIX & _MASK
            mixed = (mixed ^ mixed >> 32) * _STIR & _MASK
            if mixed > most:
                best, most = replica, mixed
    return best or least_open(replicas, 0)


def least_open(replicas: Sequence[Replica], turn: int) -> Replica | None:
    """The one with the least open; of several the one whose turn it is. None where all are full."""
    count = len(replicas)
    order = (replicas[(turn + number) % count] for number in range(count))
    return min((each for each in order if each.open < each.limit), key=lambda each: each.open, default=None)
