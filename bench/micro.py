"""Microbenchmarks of the pieces of a turn, in CPU time (pyperf).

    PYTHONPATH=. python bench/micro.py -o after.json
    python -m pyperf compare_to before.json after.json --table

A figure is the CPU time of one unit: a token, an item, a request.
"""

from __future__ import annotations

from collections.abc import Callable
from time import process_time

import pyperf
from works import PIECES


def timed(run: Callable[[], object]) -> Callable[[int], float]:
    """CPU seconds of so many runs: wall clock would count other programs in."""

    def time(loops: int) -> float:
        began = process_time()
        for _ in range(loops):
            run()
        return process_time() - began

    return time


def main() -> None:
    runner = pyperf.Runner(processes=3, values=7, warmups=1, min_time=0.02)
    runner.parse_args()
    runner.args.inherit_environ = ["PYTHONPATH"]
    for piece in PIECES:
        for size in piece.sizes:
            of = f" of {size}" if len(piece.sizes) > 1 else ""
            runner.bench_time_func(f"{piece.name}, {piece.unit}{of}", timed(piece.make(size)), inner_loops=size)


if __name__ == "__main__":
    main()
