"""A store of each test's own, the model server whose answers are known, and processes in front of it."""

import fcntl
import os
import random

import httpx
import pytest

from tests import servers
from tests.faults.fleet import Fleet
from tests.faults.teller import Teller
from tests.routes.conftest import calling, serve

__all__ = ["calling", "serve"]

FULL = os.environ.get("STATECAR_FAULTS") == "full"
"""Whether the numbers are those that were promised, instead of what fits into a run of all tests."""


@pytest.fixture(autouse=True)
def alone(tmp_path_factory):
    """One such test at a time, also where several processes share the tests: each takes all that the machine has."""
    with (tmp_path_factory.getbasetemp().parent / "faults.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def store(tmp_path):
    found = servers.Server.on_port(servers.valkey_binary(), tmp_path)
    yield found
    found.stop()


@pytest.fixture
async def teller():
    async with Teller() as teller:
        yield teller


@pytest.fixture
def fleet(tmp_path_factory, store, teller):
    """Makes a fleet of so many processes: ``async with fleet(2, "--grace=1"):``."""

    def fleet(count, *options):
        fixed = [f"--upstream={teller.url}", "--upstream-kind=generic", f"--store={store.url}", "--upstream-api-key=k"]
        return Fleet(tmp_path_factory.mktemp("fleet"), *[[*fixed, *options]] * count)

    return fleet


@pytest.fixture
async def http():
    """A client that a server's end cannot surprise: each request has a connection of its own."""
    limits = httpx.Limits(max_keepalive_connections=0, max_connections=None)
    async with httpx.AsyncClient(timeout=servers.PATIENCE, limits=limits, trust_env=False, verify=False) as http:
        http.headers["authorization"] = "Bearer somebody"
        yield http


@pytest.fixture
def chance():
    """The same at every run, unless STATECAR_SEED says otherwise."""
    return random.Random(os.environ.get("STATECAR_SEED", "1"))
