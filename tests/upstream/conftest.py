"""Upstreams that speak to the scripted backend."""

import pytest

from proxy.upstream import Upstream


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
