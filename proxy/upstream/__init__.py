"""The door to the backend: the only rooms that speak HTTP to it. Their exceptions become ours here and nowhere else."""

from proxy.upstream.calls import CUT, Call, Heard
from proxy.upstream.client import Followed, Upstream
from proxy.upstream.forward import Forwarded, forwarded
from proxy.upstream.kind import Found, by_asking
from proxy.upstream.pool import Pool, Served, open_pool
from proxy.upstream.reply import Batch, Reply
from proxy.upstream.target import Target

__all__ = [
    "CUT",
    "Batch",
    "Call",
    "Followed",
    "Forwarded",
    "Found",
    "Heard",
    "Pool",
    "Reply",
    "Served",
    "Target",
    "Upstream",
    "by_asking",
    "forwarded",
    "open_pool",
]
