"""What is counted, beside the table of budgets.

python -m tests.budgets                  all figures: calls and bytecodes for each unit, round trips to the store
python -m tests.budgets 'decode SSE'     which functions they lie in, of all whose names hold this text
python -m tests.budgets --write          writes the table anew
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests import servers
from tests.budgets import measures
from tests.budgets.table import Found, found, write, written


def main(asked: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = servers.Server.on_socket(servers.valkey_binary(), Path(folder))
        try:
            told = found(server.url)
        finally:
            server.stop()
    if asked == ["--write"]:
        write(told.figures())
    elif asked:
        _show(told, asked[0])
    else:
        _compare(told)


def _show(told: Found, text: str) -> None:
    for name, count in told.counts.items():
        if text in name:
            print(name, *count.lines(measures.UNITS, 0.1), "", sep="\n")


def _compare(told: Found) -> None:
    table = written()
    for name, figures in told.figures()["counts"].items():
        then = table["counts"].get(name, {})
        columns = (f"{now:8g} {kind} {_change(now, then.get(kind))}" for kind, now in figures.items())
        print(f"{name:40}", *columns)
    for name, now in told.round_trips.items():
        print(f"{name:40} {now:8g} round trips {_change(now, table['round trips'].get(name))}")


def _change(now: float, then: float | None) -> str:
    if then is None:
        return "    new"
    return "       " if now == then else f"{now / then - 1:+7.1%}" if then else "  not 0"


if __name__ == "__main__":
    main(sys.argv[1:])
