"""What an operator sees. Fed by ``app.py`` as wrappers; the core never imports it."""

from proxy.observe.access import log_request
from proxy.observe.logs import at_work_on, at_work_on_run, configure_logging
from proxy.observe.metrics import Metrics
from proxy.observe.requests import CLIENT_LEFT, WEBSOCKET, Finished, Observed, Observer

__all__ = [
    "CLIENT_LEFT",
    "WEBSOCKET",
    "Finished",
    "Metrics",
    "Observed",
    "Observer",
    "at_work_on",
    "at_work_on_run",
    "configure_logging",
    "log_request",
]
