"""A state on every kind of store, and a tenant that talks to it."""

import secrets

import pytest

from tests.state.talk import Talk, opened


@pytest.fixture(autouse=True)
def apart(monkeypatch):
    """No server of another test takes up the runs that these leave, or knows by which keys they encrypt."""
    monkeypatch.setattr("proxy.state.runs.RUNS", f"sc:runs:{secrets.token_hex(8)}")
    monkeypatch.setattr("proxy.state.used.KEYS_USED", f"sc:keys:{secrets.token_hex(8)}")


@pytest.fixture
async def state(store_url):
    async with opened(store_url) as one:
        yield one


@pytest.fixture
def talk(state):
    return Talk(state)
