"""What an operator sees. Fed by ``app.py`` as wrappers; the core never imports it."""

from proxy.observe.access import log_request
from proxy.observe.logs import at_work_on, at_work_on_run, configure_logging
from proxy.observe.metrics import Metrics
from proxy.observe.requests import CLIENT_LEFT, WEBSOCKET, Finished, Observed, Observer
from proxy.observe.tracing import Untraced, check_traces, open_traces

__all__ = [
    "CLIENT_LEFT",
    "WEBSOCKET",
    "Finished",
    "Metrics",
    "Observed",
    "Observer",
    "Untraced",
    "at_work_on",
    "at_work_on_run",
    "check_traces",
    "configure_logging",
    "log_request",
    "open_traces",
]
