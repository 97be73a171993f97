"""Client packages that install in seconds drive a server through their features; many more: ``make test-clients``."""

import sys

import pytest

from tests import mcp_servers
from tests.clients import upstream
from tests.clients.catalogue import CLIENTS, verdict
from tests.clients.driving import DRIVERS, drive

pytestmark = pytest.mark.live

LIGHT = ("openai-agents-python", "langchain-openai", "pydantic-ai")


@pytest.fixture(scope="module")
def addresses(start, valkey):
    """Where the drivers talk to: a server in front of the scripted one."""
    with upstream.serving() as backend, mcp_servers.sample() as notes:
        process = start(f"--upstream={backend}/v1", f"--store={valkey.url}", *upstream.tools(backend, notes))
        yield {"DRIVE_URL": f"{process.url()}/v1", "DRIVE_UPSTREAM": backend, "DRIVE_MCP": notes}


@pytest.mark.parametrize("client", [client for client in CLIENTS if client.name in LIGHT], ids=lambda each: each.name)
def test_a_client_does_all_it_can(addresses, client, tmp_path):
    results = drive([sys.executable, str(DRIVERS / client.driver)], tmp_path, addresses)
    told = {result["feature"]: verdict(result) for result in results}
    assert len(told) > 10
    assert {feature: how for feature, how in told.items() if how.startswith("failed")} == {}
