"""Instructions of the processor for one unit of each piece of a turn, counted by valgrind: the same at any load.

    PYTHONPATH=. python bench/instructions.py

What is counted is twice as many units less as many, each in a fork of one process that has done both before. Figures
depend on the Python, its build and the libraries: compare them within one installation.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from works import PIECES, Piece

UNITS = 200
_COUNTED = re.compile(r"I\s+refs:\s+([\d,]+)")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        log, told = Path(folder) / "log", Path(folder) / "told"
        command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
        command += [f"--log-file={log}.%p", sys.executable, __file__, str(told)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": "0"})
        for line in told.read_text().splitlines():
            name, *processes = line.split("\t")
            once, twice = (_instructions(Path(f"{log}.{pid}")) for pid in processes)
            print(f"{name:40}{(twice - once) / UNITS:12,.0f} instructions")


def _instructions(log: Path) -> int:
    found = _COUNTED.search(log.read_text())
    assert found, log.read_text()
    return int(found[1].replace(",", ""))


def _count(told: Path) -> None:
    """Under valgrind: every piece in forks of this process, whose ids are written down."""
    with told.open("w") as out:
        for piece in PIECES:
            print(f"{piece.name}, {piece.unit}", *_forked(piece), sep="\t", file=out)


def _forked(piece: Piece) -> list[int]:
    runs = [piece.make(UNITS), piece.make(2 * UNITS)]
    for run in runs * 3:  # Python has adapted its bytecode
        run()
    processes = []
    for run in runs:
        if not (pid := os.fork()):
            run()
            os._exit(0)
        os.waitpid(pid, 0)
        processes.append(pid)
    return processes


if __name__ == "__main__":
    if sys.argv[1:]:
        _count(Path(sys.argv[1]))
    else:
        main()
