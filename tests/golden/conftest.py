"""The server of the routes' tests, in the test's own loop between a scripted backend and a real store."""

from tests.routes.conftest import caller, calling, serve, url

__all__ = ["caller", "calling", "serve", "url"]
