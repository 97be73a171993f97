"""What is counted and measured, for Prometheus: the table of metrics, fed by the observers and hooks of ``app.py``.

No label holds anything of a caller's content, its key or an id; what a stranger can choose is bounded (``MOST``).
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
from bisect import bisect_left
from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import repeat
from pathlib import Path
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.values import MutexValue

from proxy import __version__
from proxy.observe.names import NAMES, Metric
from proxy.observe.requests import CLIENT_LEFT, WEBSOCKET, Finished
from proxy.observe.workers import Workers

log = logging.getLogger(__name__)

_OPEN = ("statecar_open_requests", "statecar_open_streams", "statecar_open_runs", "statecar_open_websockets")

MOST = 100
"""Values a process tells apart of a label that strangers can choose; any further one is ``other``."""

_OTHER = "other"
_INSANE = 2**40
"""More tokens than a turn can have; what an upstream says may be any number, and no counter takes them all."""

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", WEBSOCKET))
_TOOL_TYPE = re.compile(r"[a-z0-9_]{1,64}\Z")
_SOON = 0.5
"""Seconds after which what is fed is counted."""

_Key = tuple[str, ...]
"""A metric's name, then its labels' values."""


class Metrics:
    """The metrics of this process, and their exposition.

    ``directory``: where several workers keep theirs, so that each can tell those of all; None for a process alone,
    which keeps them in memory whatever the environment says.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._workers = Workers(directory) if directory else None
        # the library's own switch: every value made from now on is of this class
        prometheus_client.values.ValueClass = self._workers.value_class() if self._workers else MutexValue
        self._registry = CollectorRegistry()
        room = self._workers.make_room if self._workers else bool
        self._children = {name: _Children(_made(name, metric, self._registry), room) for name, metric in NAMES.items()}
        known = self._workers.labels() if self._workers else {}
        self._model = Bounded(known.get("model", set()) - {""})
        self._tool = Bounded(known.get("type", ()))
        self._counts: defaultdict[_Key, float] = defaultdict(float)
        self._seconds: defaultdict[_Key, list[float]] = defaultdict(list)
        self._open = dict.fromkeys(_OPEN, 0)
        self._out: dict[_Key, bool] = {}
        self._is_due = self._is_full = False
        self._children["statecar_build_info"][__version__,].set(1)
        for part in _PARTS.values():  # opens the file of histograms, while its directory is sure to be there
            self._children["statecar_turn_part_seconds"][part,]

    # -- what is fed to them

    def request(self, request: Finished) -> None:
        """An observer of finished requests."""
        facts = request.facts
        method, route = request.method if request.method in _METHODS else _OTHER, facts.get("route", "unknown")
        # of a stream that its client left the status line was sent
        status = 200 if request.status == CLIENT_LEFT and facts.get("streamed") else request.status
        self._counts["statecar_requests_total", method, route, str(status)] += 1
        self._seconds["statecar_request_seconds", method, route].append(request.whole)
        self.turn(request)

    def turn(self, request: Finished) -> None:
        """An observer of finished requests that came over a WebSocket: of their turns, if they had one."""
        if (turn := request.facts.get("turn")) is not None:
            self._turn(request, turn)
        if not self._is_due:
            self._soon()

    def run(self, facts: dict[str, Any], attended: bool) -> None:
        """Hears of every run made here when it is over, or handed over. ``attended``: its request tells the work."""
        model = self._model(facts["model"]) if "upstream" in facts else ""
        self._counts["statecar_runs_total", model, facts.get("response_status") or "handed over"] += 1
        if not attended:
            self._work(facts, model)
        if not self._is_due:
            self._soon()

    def open_runs(self, change: int) -> None:
        """Takes 1 for a run that begins, -1 for one that is over."""
        self._open["statecar_open_runs"] += change
        if not self._is_due:
            self._soon()

    def store(self, operation: str, seconds: float, ok: bool) -> None:
        """Hears of every operation of the state store."""
        self._seconds["statecar_store_seconds", operation].append(seconds)
        if not ok:
            self._counts["statecar_store_errors_total", operation] += 1
        if not self._is_due:
            self._soon()

    def upstream(self, name: str, status: str, first: float | None) -> None:
        """Hears of every request to an upstream when it is over. ``first``: seconds until its body began."""
        self._counts["statecar_upstream_requests_total", name, status] += 1
        if first is not None:
            self._seconds["statecar_upstream_first_byte_seconds", name].append(first)
        if not self._is_due:
            self._soon()

    def replica(self, what: str, group: str, name: str) -> None:
        """Hears what groups do beside answering: ``ejected``, ``returned``, ``retry``; ``fallback``, to a group."""
        if what in ("ejected", "returned"):
            self._out[group, name] = what == "ejected"
        if what in _OF_REPLICAS:
            self._counts[_OF_REPLICAS[what], group, name] += 1
        if not self._is_due:
            self._soon()

    def tool(self, type_: str, outcome: str, seconds: float, *_: object) -> None:
        """Hears of every call of a tool that runs here, when it is over."""
        self._counts["statecar_tool_calls_total", type_, outcome] += 1
        self._seconds["statecar_tool_seconds", type_].append(seconds)
        if not self._is_due:
            self._soon()

    def limited(self, limit: str) -> None:
        """Hears which limit of a tenant has refused a request."""
        self._counts["statecar_limited_requests_total", limit] += 1
        if not self._is_due:
            self._soon()

    def open_requests(self, change: int) -> None:
        """Takes 1 for a request that begins, -1 for one that is over."""
        self._open["statecar_open_requests"] += change
        if not self._is_due:
            self._soon()

    def open_streams(self, change: int) -> None:
        """Takes 1 for an event stream that begins, -1 for one that is over."""
        self._open["statecar_open_streams"] += change
        if not self._is_due:
            self._soon()

    def open_websockets(self, change: int) -> None:
        """Takes 1 for a WebSocket that begins, -1 for one that is over."""
        self._open["statecar_open_websockets"] += change
        if not self._is_due:
            self._soon()

    def _soon(self) -> None:
        """What is fed is added up for a moment first: the library takes its time for each single number."""
        self._is_due = True
        asyncio.get_running_loop().call_later(_SOON, self.settle)

    def settle(self) -> None:
        """Counts what has been fed until now."""
        self._is_due = False
        counts, self._counts = self._counts, defaultdict(float)
        seconds, self._seconds = self._seconds, defaultdict(list)
        for (name, *labels), count in counts.items():
            if child := self._child(name, tuple(labels)):
                child.inc(count)
        for (name, *labels), amounts in seconds.items():
            if child := self._child(name, tuple(labels)):
                child.observe_all(amounts)
        for name, many in self._open.items():
            self._children[name][()].set(many)
        for replica, is_out in self._out.items():
            if child := self._child("statecar_upstream_out", replica):
                child.set(is_out)

    def _child(self, name: str, labels: tuple[str, ...]) -> Any:
        """What counts under these labels; None where there is no room for one more."""
        try:
            return self._children[name][labels]
        except OSError as exc:
            if not self._is_full:
                self._is_full = True
                log.error("metrics are incomplete: no room for more in the temporary directory: %s", exc.strerror)
            return None

    def _turn(self, request: Finished, turn: dict[str, Any]) -> None:
        counts, seconds, facts = self._counts, self._seconds, request.facts
        model = self._model(turn["model"]) if "upstream" in turn else ""  # else any text of a caller
        told = turn.get("response_status")
        counts["statecar_turns_total", model, told or ("left" if facts.get("left") else "refused")] += 1
        if told:
            seconds["statecar_turn_seconds", model].append(request.whole)
            for fact, part in _PARTS.items():
                if (took := turn.get(fact)) is not None:
                    seconds["statecar_turn_part_seconds", part].append(took / 1000)
        if first := turn.get("first_event_ms"):
            seconds["statecar_first_event_seconds", model].append(first / 1000)
        self._work(turn, model)

    def _work(self, turn: dict[str, Any], model: str) -> None:
        """What was done for a turn, answered at once or as a run."""
        counts = self._counts
        if turn.get("response_status"):
            for fact, name in _TOKENS.items():
                tokens = turn.get(fact)
                counts[name, model] += tokens if tokens and 0 < tokens < _INSANE else 0
            if turn.get("usage_missing"):
                counts["statecar_usage_missing_total", model] += 1
        if turn.get("stateless"):
            counts["statecar_stateless_turns_total", model] += 1
        if dropped := turn.get("dropped_tools"):
            for type_ in dropped.split(", "):
                known = self._tool(type_ if _TOOL_TYPE.match(type_) else _OTHER)
                counts["statecar_dropped_tools_total", known] += 1
        for fact, name in _TURNS.items():
            if turn.get(fact):
                counts[name,] += 1

    # -- what is told

    def exposition(self, accept: str, accept_encoding: str) -> tuple[bytes, dict[str, str]]:
        """(body, headers) in the format and encoding that these headers of a scrape ask for; of all the workers."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # the library compares whatever is said to be a version
            encode, content_type = choose_encoder("")
        body = encode(self._workers.collector() if self._workers else self._registry)
        headers = {"content-type": content_type, "vary": "accept, accept-encoding"}
        if gzip_accepted(accept_encoding):
            return gzip.compress(body, 1), {**headers, "content-encoding": "gzip"}
        return body, headers


_OF_REPLICAS = {
    "ejected": "statecar_upstream_ejections_total",
    "retry": "statecar_upstream_retries_total",
    "fallback": "statecar_upstream_fallbacks_total",
}
_PARTS = {"upstream_ms": "upstream", "store_ms": "store", "tools_ms": "tools", "own_ms": "own"}
_TOKENS = {f"{kind}_tokens": f"statecar_{kind}_tokens_total" for kind in ("input", "cached", "output", "reasoning")}
_TURNS = {
    "save_failed": "statecar_save_failures_total",
    "repaired_calls": "statecar_repaired_orders_total",
    "truncated_items": "statecar_truncated_turns_total",
    "compacted": "statecar_compacted_turns_total",
}
"""Facts of a turn, and what counts the turns that have them."""


class Bounded:
    """The values of a label that strangers can choose: the first ``MOST`` as they are, any further one ``other``."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._told = {value: value for value in known}

    def __call__(self, value: str) -> str:
        told = self._told.get(value)
        if told is None:
            if len(self._told) >= MOST:
                return _OTHER
            told = self._told[value] = value.encode(errors="replace").decode()  # a lone surrogate cannot be told
        return told


class _Children(dict[tuple[str, ...], Any]):
    """One metric's children by their label values; of one without labels, itself."""

    def __init__(self, metric: Any, make_room: Callable[[], object]) -> None:
        """``make_room``: called before there is another; raises OSError where none can be."""
        self._metric, self._make_room = metric, make_room

    def __missing__(self, labels: tuple[str, ...]) -> Any:
        self._make_room()
        child = self[labels] = self._metric.labels(*labels) if labels else self._metric
        return child


class _Histogram(Histogram):
    """The library's, for many observations at once."""

    def observe_all(self, amounts: list[float]) -> None:
        """The same as ``observe`` for each of them."""
        self._sum.inc(sum(amounts))
        for at, many in Counts(map(bisect_left, repeat(self._upper_bounds), amounts)).items():
            self._buckets[at].inc(many)


def _made(name: str, metric: Metric, registry: CollectorRegistry) -> Any:
    if metric.kind == "counter":
        return Counter(name, metric.meaning, metric.labels, registry=registry)
    if metric.kind == "gauge":
        mode: Any = "livesum" if not metric.labels else "livemax"
        return Gauge(name, metric.meaning, metric.labels, registry=registry, multiprocess_mode=mode)
    return _Histogram(name, metric.meaning, metric.labels, registry=registry, buckets=metric.buckets)


prometheus_client.disable_created_metrics()  # half as many lines again, which nobody reads
