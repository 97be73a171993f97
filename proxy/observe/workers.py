"""The metrics of several workers: each keeps its own in files, and any of them can tell those of all."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterable, Iterator
from io import FileIO
from itertools import count
from pathlib import Path
from typing import Any

from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.values import MultiProcessValue

_SLOT = "slot-"
_KINDS = ("counter", "histogram", "gauge_livesum", "gauge_livemax")
_SIZE = 1 << 16
"""Bytes of a file to begin with, as the library has them; it doubles a file that is full. Half of that holds all values
of a histogram for one more model, however long its name.
"""


class Workers:
    """The files of several workers in one directory: a slot for each, which it holds locked as long as it lives.

    A new worker takes the lowest slot that is free and counts on from there. So what dead workers have counted stays,
    and there are never more files than workers at once, however often they die, and whatever their process ids.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._slot, self._held = next(self._free(map(str, count())))
        mark_process_dead(self._slot, str(directory))  # open requests are those of its last holder
        for kind in _KINDS:
            self._prepare(directory / f"{kind}_{self._slot}.db")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)  # where the library looks for it

    @staticmethod
    def _prepare(path: Path) -> None:
        """Puts an empty file there, whole from the first: the library's own is for a moment one that none can read."""
        if not path.exists():
            fresh = path.with_suffix(".new")
            fresh.write_bytes(bytes(_SIZE))
            fresh.rename(path)

    def make_room(self) -> None:
        """Gives the slot's files what the next value may take, on the disk itself. Raises OSError when there is none.

        The library only sets a file's new size: to write where a full disk has nothing behind it ends the process.
        """
        for kind in _KINDS:
            with (self._directory / f"{kind}_{self._slot}.db").open("r+b", buffering=0) as file:
                used, size = int.from_bytes(file.read(4), sys.byteorder), file.seek(0, os.SEEK_END)
                if used + _SIZE // 2 > size:
                    _double(file, size)

    def value_class(self) -> Any:
        """The library's values that lie in the files of this worker's slot."""
        return MultiProcessValue(lambda: self._slot)

    def labels(self) -> dict[str, set[str]]:
        """Every label's values in the slot's files, by the label's name: they are this worker's from the start."""
        found: dict[str, set[str]] = {}
        for path in self._directory.glob(f"*_{self._slot}.db"):
            for key, *_ in MmapedDict.read_all_values_from_file(path):
                for name, value in json.loads(key)[2].items():
                    found.setdefault(name, set()).add(value)
        return found

    def collector(self) -> MultiProcessCollector:
        """The metrics of all workers; open requests and streams only of those that live."""
        slots = (path.name.removeprefix(_SLOT) for path in self._directory.glob(f"{_SLOT}*"))
        for slot, held in self._free(slots):
            mark_process_dead(slot, str(self._directory))
            os.close(held)
        return MultiProcessCollector(None, str(self._directory))

    def _free(self, slots: Iterable[str]) -> Iterator[tuple[str, int]]:
        """Those that no living worker holds, each with its lock, now held."""
        for slot in slots:
            held = os.open(self._directory / f"{_SLOT}{slot}", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(held)
            else:
                yield slot, held


def _double(file: FileIO, size: int) -> None:
    """Adds as many zeros as it has bytes, or nothing."""
    try:
        missing = size
        while missing:
            missing -= file.write(bytes(missing))
    except OSError:
        file.truncate(size)
        raise
