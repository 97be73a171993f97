"""A state on every kind of store, and a tenant that talks to it."""

import pytest

from tests.state.talk import Talk, opened


@pytest.fixture
async def state(store_url):
    async with opened(store_url) as one:
        yield one


@pytest.fixture
def talk(state):
    return Talk(state)
