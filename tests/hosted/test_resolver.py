"""Names that requests name: looked up where they keep nobody else waiting."""

import asyncio
import socket
import threading

import pytest

from proxy.hosted import resolver
from proxy.hosted.resolver import SystemResolver
from tests.backend import PATIENCE


@pytest.fixture
def dark(monkeypatch):
    """Lookups of ``*.dark.test`` end when this is set; ``dark.most``: so many were made at a time."""
    over, system, lock = threading.Event(), socket.getaddrinfo, threading.Lock()
    over.now = over.most = 0

    def look_up(host, *args, **more):
        if str(host).endswith(".dark.test"):
            with lock:
                over.now += 1
                over.most = max(over.most, over.now)
            over.wait(PATIENCE)
            with lock:
                over.now -= 1
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return system(host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield over
    over.set()


async def test_names_whose_servers_never_answer_keep_no_other_lookup_waiting(dark):
    resolve = SystemResolver()
    asked = [asyncio.create_task(resolve(f"{n}.dark.test", 80)) for n in range(40)]
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE / 2):
        assert await asyncio.get_running_loop().getaddrinfo("localhost", 80)
        assert set(await resolve("127.0.0.1", 80)) == {"127.0.0.1"}
    assert not any(task.done() for task in asked)
    dark.set()
    assert {type(error) for error in await asyncio.gather(*asked, return_exceptions=True)} == {socket.gaierror}


async def test_no_more_names_are_looked_up_at_once_than_there_is_room_for(dark, monkeypatch):
    monkeypatch.setattr(resolver, "_AT_ONCE", 2)
    resolve = SystemResolver()
    asked = [asyncio.create_task(resolve(f"{n}.dark.test", 80)) for n in range(3)]
    await asyncio.sleep(0)
    asked[0].cancel()  # nobody waits for it any more, and it still has its thread
    async with asyncio.timeout(PATIENCE):
        while dark.now < 2:  # noqa: ASYNC110 (threads tell nobody)
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # in which a third could begin
        dark.set()
        for task in asked[1:]:
            with pytest.raises(OSError):
                await task
    assert dark.most == 2


@pytest.mark.parametrize("name", ["no-such-name.invalid", "a" * 64 + ".test"])
async def test_a_name_without_addresses_is_an_error_of_the_network(name):
    with pytest.raises(OSError):
        await SystemResolver()(name, 80)
