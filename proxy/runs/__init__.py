"""Turns that outlive a request: made by one process at a time, followed through any (architecture: runs)."""

from proxy.runs.detached import Detached
from proxy.runs.keyed import KeyedRequest
from proxy.runs.runner import Observer, Runner
from proxy.runs.running import ENDS

__all__ = ["ENDS", "Detached", "KeyedRequest", "Observer", "Runner"]
