"""Turns that outlive a request: made by one process at a time, followed through any (architecture: runs)."""

from proxy.runs.runner import Observer, Runner

__all__ = ["Observer", "Runner"]
