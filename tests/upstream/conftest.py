"""A scripted backend, and upstreams that speak to it."""

import pytest

from proxy.upstream import Upstream
from tests.backend import Backend


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    """The environment of whoever runs the tests names no proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
async def backend():
    async with Backend() as backend:
        yield backend


@pytest.fixture
async def connect():
    """Makes upstreams and closes them afterwards."""
    made = []

    def make(url, **options):
        made.append(Upstream(url, **({"api_key": None} | options)))
        return made[-1]

    yield make
    for upstream in made:
        await upstream.aclose()


@pytest.fixture
async def upstream(backend, connect):
    return connect(backend.url)
