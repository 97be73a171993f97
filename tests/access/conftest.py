"""statecar in the test's own loop, as the tests of its routes have it, and an identity provider."""

import pytest

from tests.access.provider import Provider
from tests.routes.conftest import calling, serve

__all__ = ["calling", "serve"]


@pytest.fixture
async def provider():
    async with Provider() as provider:
        yield provider
