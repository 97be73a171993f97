"""The server of the routes' tests, in the test's own loop between a scripted backend and a real store."""

from tests.routes.conftest import backend, caller, calling, no_environment, serve, url

__all__ = ["backend", "caller", "calling", "no_environment", "serve", "url"]
