"""statecar in the test's own loop, on a real socket, between a scripted backend and a real store."""

import asyncio
import json
import signal
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from proxy.app import create_app
from proxy.cli import protocols
from proxy.settings import Settings
from proxy.state import open_state
from tests import servers
from tests.backend import serving
from tests.callers import Caller


@pytest.fixture
async def serve(backend, valkey):
    """Starts a server with these options and gives its URL; ``store`` and ``upstream`` may be others than usual;
    ``upstreams``: groups in the upstream's place.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    async with AsyncExitStack() as stack:

        async def start(*options, store=None, upstream=None, upstreams=None):
            behind = f"--upstreams={json.dumps(upstreams)}" if upstreams else f"--upstream={upstream or backend.url}"
            flags = [f"--store={store or valkey.url}", behind, "--upstream-kind=generic"]
            settings = Settings.resolve([*flags, *options], {})
            app = create_app(settings)
            await stack.enter_async_context(alive(app))
            return await stack.enter_async_context(serving(app, **protocols(settings)))

        yield start
    for number, handler in handlers.items():
        signal.signal(number, handler)


@asynccontextmanager
async def alive(app):
    """An application between the start and the end of its life, as a server goes through them."""
    inbox, outbox = asyncio.Queue(), asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan"}, inbox.get, outbox.put))
    for stage in ("startup", "shutdown"):
        await inbox.put({"type": f"lifespan.{stage}"})
        assert await outbox.get() == {"type": f"lifespan.{stage}.complete"}
        if stage == "startup":
            yield
    await task


@pytest.fixture
async def url(serve):
    """A server with the usual options."""
    return await serve()


@pytest.fixture
async def caller(url):
    """Somebody nobody else shares state with."""
    async with Caller(url) as caller:
        yield caller


@pytest.fixture
async def calling(serve):
    """Starts a server with these options and gives a caller of it."""
    async with AsyncExitStack() as stack:

        async def start(*options, **rest):
            return await stack.enter_async_context(Caller(await serve(*options, **rest)))

        yield start


@pytest.fixture
def own(tmp_path_factory):
    """A store of one test, so that no other process takes its runs."""
    store = servers.Server.on_socket(servers.valkey_binary(), tmp_path_factory.mktemp("s"))
    yield store
    store.stop()


@pytest.fixture
async def state(own):
    """What another process has of the store."""
    state = open_state(own.url, response_ttl=60, conversation_ttl=60)
    yield state
    await state.close()
