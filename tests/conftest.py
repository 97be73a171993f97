"""Fixtures every test may use."""

import tempfile
from pathlib import Path

import pytest

from tests import servers


@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"


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
