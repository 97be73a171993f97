"""The table of metrics: what each is, under which name and with which labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_ANSWER = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_FIRST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_PART = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1, 2.5, 10, 30, 120, 600)
_STORE = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2)


@dataclass(frozen=True)
class Metric:
    """What a metric is. ``buckets``: upper bounds in seconds, of a histogram."""

    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()


NAMES: dict[str, Metric] = {
    "statecar_build_info": Metric("gauge", ("version",), "1, with the version that runs."),
    "statecar_requests_total": Metric(
        "counter",
        ("method", "route", "status"),
        "HTTP requests by path template (passed on: the upstream's; unknown: nobody's) and status sent (499: the"
        " client left before its end). WebSockets that are over have the method WEBSOCKET, and 101 where they were"
        " taken.",
    ),
    "statecar_request_seconds": Metric(
        "histogram", ("method", "route"), "From a request's arrival to the end of its answer.", _ANSWER
    ),
    "statecar_open_requests": Metric(
        "gauge", (), "Requests being answered, those about this server itself left aside."
    ),
    "statecar_open_streams": Metric("gauge", (), "Event streams being sent, those passed on included."),
    "statecar_open_websockets": Metric("gauge", (), "WebSockets that are open, whether or not a turn is made."),
    "statecar_turns_total": Metric(
        "counter",
        ("model", "status"),
        "Turns: completed, incomplete or failed as the response says, refused by an HTTP error instead, left by their"
        " client. The model is told only where an upstream answered.",
    ),
    "statecar_runs_total": Metric(
        "counter",
        ("model", "status"),
        "Background and detached responses made here: completed, incomplete, failed or cancelled; handed over to"
        " another process.",
    ),
    "statecar_open_runs": Metric("gauge", (), "Background and detached responses being made."),
    "statecar_turn_seconds": Metric(
        "histogram",
        ("model",),
        "From a request's arrival to the end of its answer, of turns told as a response.",
        _ANSWER,
    ),
    "statecar_first_event_seconds": Metric(
        "histogram",
        ("model",),
        "From a streamed turn's arrival to the first event that its upstream gave rise to.",
        _FIRST,
    ),
    "statecar_turn_part_seconds": Metric(
        "histogram",
        ("part",),
        "What the time of a turn told as a response went to: waits for the upstream, for the store, for"
        " tools that run here, own work. What"
        " its client took to send and to receive is none of them.",
        _PART,
    ),
    "statecar_input_tokens_total": Metric("counter", ("model",), "Input tokens of turns, cached ones included."),
    "statecar_cached_tokens_total": Metric(
        "counter", ("model",), "Input tokens of turns that the upstream had cached."
    ),
    "statecar_output_tokens_total": Metric("counter", ("model",), "Output tokens of turns, reasoning included."),
    "statecar_reasoning_tokens_total": Metric("counter", ("model",), "Output tokens of turns that were reasoning."),
    "statecar_usage_missing_total": Metric("counter", ("model",), "Turns of which the upstream told no token counts."),
    "statecar_upstream_requests_total": Metric(
        "counter",
        ("upstream", "status"),
        "Chat calls and passed-on requests by HTTP status, or unreachable, timeout, broken; 499: cut before the answer"
        " because nobody waited for it any more.",
    ),
    "statecar_upstream_first_byte_seconds": Metric(
        "histogram",
        ("upstream",),
        "From the start of a chat call or passed-on request to the first byte of the answer's body.",
        _FIRST,
    ),
    "statecar_upstream_out": Metric(
        "gauge",
        ("group", "upstream"),
        "1 while a replica of a group is out, as it failed too often: it is asked again now and then, to see whether it"
        " is back. With several workers, 1 while it is out for any of them.",
    ),
    "statecar_upstream_ejections_total": Metric(
        "counter", ("group", "upstream"), "Times that a replica went out, for each worker that found it so."
    ),
    "statecar_upstream_retries_total": Metric(
        "counter",
        ("group", "upstream"),
        "Calls and passed-on requests that went on to another replica, as this one could not do them.",
    ),
    "statecar_upstream_fallbacks_total": Metric(
        "counter",
        ("group", "fallback"),
        "Calls and passed-on requests that went on to another group, as none of their own's replicas could do them.",
    ),
    "statecar_limited_requests_total": Metric(
        "counter",
        ("limit",),
        "Requests that a limit of their tenant has refused: requests, tokens, turns at work or bytes stored.",
    ),
    "statecar_tool_calls_total": Metric(
        "counter",
        ("tool", "outcome"),
        "Calls of tools that run here, by type (mcp, web_search, file_search, code_interpreter): completed, failed, or"
        " cancelled because nobody waited any more.",
    ),
    "statecar_tool_seconds": Metric("histogram", ("tool",), "From the start of such a call to its outcome.", _FIRST),
    "statecar_store_seconds": Metric(
        "histogram",
        ("operation",),
        "Operations of the state store by script or command, the wait for a connection included.",
        _STORE,
    ),
    "statecar_store_errors_total": Metric("counter", ("operation",), "Operations of the state store that failed."),
    "statecar_save_failures_total": Metric("counter", (), "Turns whose response could not be saved."),
    "statecar_stateless_turns_total": Metric(
        "counter", ("model",), "Turns that were not to be stored, as the state store was down."
    ),
    "statecar_dropped_tools_total": Metric(
        "counter", ("type",), "Turns by the types of tools that were left out, as nothing here can run them."
    ),
    "statecar_repaired_orders_total": Metric(
        "counter", (), "Turns whose calls and outputs had to be moved or filled in."
    ),
    "statecar_truncated_turns_total": Metric("counter", (), "Turns whose context was cut, as it was too long."),
    "statecar_compacted_turns_total": Metric("counter", (), "Turns whose context was summed up."),
}
"""Every metric there is, by its name, with its labels."""
