"""What a piece of code does, counted: calls and bytecodes, which are the same on every machine and at any load."""

from __future__ import annotations

import gc
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

_TOOL = 3  # of those that sys.monitoring leaves to anybody

Function = tuple[CodeType, str]
"""Who called, and the C function that was called; "" for the Python function itself."""


@dataclass
class Count:
    """What was done: by Python functions, how often each was entered (a coroutine each time it goes on), how often it
    called which C function, and how many bytecodes it took.
    """

    calls: Counter[Function] = field(default_factory=Counter)
    bytecodes: Counter[CodeType] = field(default_factory=Counter)

    def figures(self) -> dict[str, float]:
        """``calls``, of Python and of C functions, and ``bytecodes``."""
        return {"calls": self.calls.total(), "bytecodes": self.bytecodes.total()}

    def less(self, other: Count) -> Count:
        """What is more in this count than in another."""
        more = Count(Counter(self.calls), Counter(self.bytecodes))
        more.calls.subtract(other.calls)
        more.bytecodes.subtract(other.bytecodes)
        return more

    def times(self, factor: float) -> Count:
        """As if all of it had been done so often."""
        calls = {called: number * factor for called, number in self.calls.items()}
        bytecodes = {code: number * factor for code, number in self.bytecodes.items()}
        return Count(Counter(calls), Counter(bytecodes))

    def lines(self, units: int, least: float = 0.5) -> list[str]:
        """How often each function was called for one of ``units``, and its bytecodes; most bytecodes first."""
        rows: dict[CodeType, list[str]] = {}
        for (code, called), times in sorted(self.calls.items(), key=lambda row: -row[1]):
            if times >= least * units and called:
                rows.setdefault(code, []).append(f"{times / units:.1f} {called}")
        most = [(taken, code) for code, taken in self.bytecodes.items() if taken >= least * units]
        return [
            f"{taken / units:9.1f} bytecodes {self.calls[code, ''] / units:6.1f} calls  {_place(code)}"
            + (f"  -> {', '.join(rows[code])}" if code in rows else "")
            for taken, code in sorted(most, key=lambda row: -row[0])
        ]


def counted(run: Callable[[], object]) -> Count:
    """What a call does, in this thread."""
    with counting() as count:
        run()
    return count


def grown(make: Callable[[int], Callable[[], object]], units: int) -> Count:
    """What ``units`` more of something take: twice as many less as many, so that what is done once cancels out."""
    once, twice = make(units), make(2 * units)
    once()
    twice()
    return counted(twice).less(counted(once))


@contextmanager
def counting() -> Iterator[Count]:
    """Counts what is done in the block."""
    count = Count()
    with undisturbed():
        start(count)
        try:
            yield count
        finally:
            stop()


def start(count: Count) -> None:
    """From now on this thread's work is counted."""
    calls = count.calls

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            calls[frame.f_code, ""] += 1
        elif event == "c_call":
            calls[frame.f_code, getattr(arg, "__qualname__", repr(type(arg)))] += 1

    if sys.version_info >= (3, 12):
        _monitor(count.bytecodes)
    else:
        _trace(count.bytecodes)
    sys.setprofile(profile)


def stop() -> None:
    """The end of that."""
    sys.setprofile(None)
    if sys.version_info >= (3, 12):
        sys.monitoring.set_events(_TOOL, 0)
        sys.monitoring.free_tool_id(_TOOL)
    else:
        sys.settrace(None)


def _trace(bytecodes: Counter[CodeType]) -> None:
    def trace(frame: FrameType, event: str, _arg: object) -> Any:
        if event == "opcode":
            bytecodes[frame.f_code] += 1
        else:
            frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return trace

    sys.settrace(trace)


def _monitor(bytecodes: Counter[CodeType]) -> None:
    """The same from Python 3.12 on, where traces miss opcodes. All threads are heard, and one is meant."""
    events, thread = sys.monitoring.events.INSTRUCTION, threading.get_ident()

    def heard(code: CodeType, _offset: int) -> None:
        if threading.get_ident() == thread:
            bytecodes[code] += 1

    sys.monitoring.use_tool_id(_TOOL, "budgets")
    sys.monitoring.register_callback(_TOOL, events, heard)
    sys.monitoring.set_events(_TOOL, events)


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection: what it ends is not the block's work."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _place(code: CodeType) -> str:
    file = code.co_filename.rpartition("site-packages/")[2]
    return f"{'/'.join(file.split('/')[-3:])}:{code.co_firstlineno} {code.co_name}"
