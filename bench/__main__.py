"""The benchmark: what statecar costs beside a bare relay, in one run.

    python -m bench [--json FILE]                 every figure, its ratio, and whether it keeps its budget
    python -m bench --base TREE                   the same for statecar in another source tree, and what has changed
    python -m bench --only plain,flood            some parts; another name tells which there are

Needs Linux, a C compiler and redis-server. Trust ratios of CPU: absolute figures and times depend on the machine.
Exit code 1: a budget is exceeded.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import machine
from bench.measures import Figure, Measures
from bench.systems import Bench, relay, statecar


def measured(tree: Path, only: Collection[str] = ()) -> tuple[list[Figure], float]:
    """(the figures of statecar in a source tree, the share of the machine that other programs took)."""
    directory = machine.scratch()
    bench = Bench(directory)
    try:
        with relay(bench) as base, statecar(bench, tree) as own:
            measures = Measures(bench, own, base, lambda workers: statecar(bench, tree, workers))
            if unknown := set(only) - set(measures.parts):
                sys.exit(f"no such part: {', '.join(unknown)} (there are {', '.join(measures.parts)})")
            measures.run(only)
            return measures.figures, statistics.mean(bench.others)
    finally:
        bench.close()
        shutil.rmtree(directory, ignore_errors=True)


def table(figures: list[Figure], before: list[Figure] | None = None) -> str:
    """As Markdown. ``before``: the same of another source."""
    head = ["figure", "statecar", "beside", "ratio", "budget", "", "backend alone"]
    lines = ["| " + " | ".join([*head, *(["before", "change"] if before else [])]) + " |"]
    lines.append("|---" * (lines[0].count("|") - 1) + "|")
    known = {figure.name: figure.value for figure in before or ()}
    for f in figures:
        beside = f"{f.base:.3g} {f.against}" if f.base else ""
        ratio = f"{f.judged:.2f}" if f.base else ""
        judged = "" if f.budget is None else "holds" if f.holds else "**exceeded**"
        row = [f.name, f"{f.value:.4g} {f.unit}".strip(), beside, ratio, "" if f.budget is None else f"{f.budget:g}"]
        row += [judged, "" if f.alone is None else f"{f.alone:.3g}"]
        if before:
            old = known.get(f.name)
            row += [f"{old:.4g}", f"{f.value / old - 1:+.1%}"] if old else ["", ""]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def as_json(figures: list[Figure], others: float, before: list[Figure] | None = None) -> str:
    """All that was measured. ``judged``: what is held against ``budget``: the ratio to ``base``, or the value."""

    def rows(of: list[Figure]) -> list[dict[str, Any]]:
        return [asdict(figure) | {"judged": figure.judged, "holds": figure.holds} for figure in of]

    told = {"figures": rows(figures), **({"before": rows(before)} if before else {}), "others": others}
    return json.dumps(told, indent=1) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there as well")
    parser.add_argument("--base", metavar="TREE", type=Path, help="another source tree to compare with")
    parser.add_argument("--only", metavar="PARTS", default="", help="measure these parts, separated by commas")
    given = parser.parse_args(argv)
    only = list(filter(None, given.only.split(",")))
    began = time.monotonic()
    before = measured(given.base, only)[0] if given.base else None
    figures, others = measured(machine.HERE.parent, only)
    print(table(figures, before))
    exceeded = [figure.name for figure in figures if not figure.holds]
    print(f"\n{time.monotonic() - began:.0f} s; other programs took {others:.0%} of the machine")
    if others > 0.1:
        print("Above 10 % the figures say little: run it again on a quiet machine.")
    if given.json:
        given.json.write_text(as_json(figures, others, before))
    if exceeded:
        print("over budget:", ", ".join(exceeded))
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
