"""The loggers of the process, which commands and servers set."""

import logging
from contextlib import contextmanager


@contextmanager
def loggers_kept():
    """The loggers as they were, given back at the end."""
    root, names = logging.getLogger(), ("", "statecar", "proxy", "uvicorn.error")
    handlers, levels = root.handlers, {name: logging.getLogger(name).level for name in names}
    try:
        yield
    finally:
        root.handlers = handlers
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
