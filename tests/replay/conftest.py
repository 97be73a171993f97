"""Whole statecars for replaying: one for each set of options, kept as long as the module's tests run."""

import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from proxy.app import create_app
from proxy.settings import Settings
from tests.backend import Backend, serving
from tests.callers import Caller
from tests.routes.conftest import alive


@dataclass
class House:
    """A running statecar: somebody who calls it, and the scripted backend behind it."""

    caller: Caller
    backend: Backend


@pytest.fixture(scope="module")
async def house(valkey):
    """Starts a statecar with these options, or gives the one that runs; ``alone``: one that nobody else has used."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    houses = {}
    async with AsyncExitStack() as stack:

        async def start(options, prefix):
            backend = await stack.enter_async_context(Backend())
            flags = [f"--store={valkey.url}", f"--upstream={backend.url}", "--upstream-kind=generic", *options]
            app = create_app(Settings.resolve(flags, {}))
            await stack.enter_async_context(alive(app))
            url = await stack.enter_async_context(serving(app))
            return House(await stack.enter_async_context(Caller(url, prefix=prefix)), backend)

        async def enter(*options, alone=False, prefix="/v1"):
            key = options, prefix
            if alone:
                return await start(*key)
            if key not in houses:
                houses[key] = await start(*key)
            return houses[key]

        yield enter
    for number, handler in handlers.items():
        signal.signal(number, handler)
