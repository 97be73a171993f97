"""statecar in the test's own loop, as the tests of its routes have it."""

from tests.routes.conftest import calling, serve

__all__ = ["calling", "serve"]
