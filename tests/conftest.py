"""Fixtures every test may use."""

import gc
import os
import tempfile
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

from tests import servers
from tests.backend import Backend
from tests.loggers import loggers_kept

gc.disable()  # until all tests are known
for _name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):  # whoever runs the tests may have one
    os.environ.pop(_name, None)
    os.environ.pop(_name.upper(), None)

LONG = ("tests/faults", "tests/fleet", "tests/live", "tests/config", "tests/contract", "tests/state")
"""What takes longest, which must not be begun last."""
ONE_BY_ONE = ("tests/faults/", "tests/fleet/")
"""Each takes all that the machine has, and waits for the others."""
ON_EVERY_SITE = tuple(f"tests/live/test_{name}" for name in ("talk", "sdk", "websocket", "open_responses"))
"""They share servers of every kind, ten processes that are started once in each of those who run tests."""


class Shared(LoadFileScheduling):
    """Which process runs what: one file after the other, the long ones first, and what belongs together as one."""

    def __init__(self, config, log):
        super().__init__(config, log)
        config.option.loadscopereorder = False  # the files come in the order of the tests

    def _split_scope(self, nodeid):
        together = [rooms[0] for rooms in (ONE_BY_ONE, ON_EVERY_SITE) if nodeid.startswith(rooms)]
        return together[0] if together else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Shared(config, log) if config.option.dist == "loadfile" else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """Half as many again as there are processors: a third of what tests do is to wait."""
    return -(-3 * (os.cpu_count() or 1) // 2)


@pytest.hookimpl(trylast=True)  # after the order was made random
def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: next((at for at, room in enumerate(LONG) if item.nodeid.startswith(room)), len(LONG)))


def pytest_collection_finish():
    """What was loaded stays: looking for garbage in it again and again took a seventh of the tests' CPU time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"


@pytest.fixture(autouse=True)
def _loggers():
    """Whatever a test sets of them, as all do that run a command: the next one finds them as they were."""
    with loggers_kept():
        yield


@pytest.fixture
async def backend():
    """A scripted backend."""
    async with Backend() as backend:
        yield backend


@pytest.fixture(scope="session")
def valkey(tmp_path_factory):
    """A private Valkey on a unix socket, for the whole run."""
    server = servers.Server.on_socket(servers.valkey_binary(), _folder(tmp_path_factory))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    """A redis-server on a TCP port, for the whole run."""
    binary = servers.redis_binary()
    if binary is None:
        pytest.skip("no redis-server on PATH (STATECAR_TEST_REDIS names another)")
    server = servers.Server.on_port(binary, _folder(tmp_path_factory))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A Cluster of three Valkeys, for the whole run."""
    nodes = servers.Cluster(servers.valkey_binary(), _folder(tmp_path_factory))
    yield nodes
    nodes.stop()


@pytest.fixture(scope="session", params=["valkey", "cluster", "redis_server"])
def store(request):
    """Every kind of store in turn; each is started once, whatever the order of the tests."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def store_url(store):
    """The URL of every kind of store in turn."""
    return store.url


def _folder(factory):
    """A folder whose path is short enough for a socket."""
    folder = factory.mktemp("s")
    return folder if len(str(folder)) < 90 else Path(tempfile.mkdtemp())
