"""The door to the backend: the only rooms that speak HTTP to it. Their exceptions become ours here and nowhere else."""

from proxy.upstream.client import Pool, Upstream
from proxy.upstream.forward import Forwarded, forwarded
from proxy.upstream.kind import Found, by_asking
from proxy.upstream.reply import Batch, Reply

__all__ = ["Batch", "Forwarded", "Found", "Pool", "Reply", "Upstream", "by_asking", "forwarded"]
