"""A real server process for the tests of the contract, and servers with options of their own."""

from tests.live.conftest import memory_disk, start
from tests.routes.conftest import serve

__all__ = ["memory_disk", "serve", "start"]
