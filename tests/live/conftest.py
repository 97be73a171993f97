"""Real ``statecar serve`` processes over every kind of store, started once a run, and the official clients."""

import asyncio
import itertools
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import openai
import pytest

from tests.backend import Backend
from tests.callers import Caller
from tests.live import strict

PATIENCE = 90.0
"""Seconds in which a process must be ready, or have ended: on a busy machine its workers load for half a minute."""


class Process:
    """One ``statecar serve`` on a free port. ``log``: where its stderr goes."""

    def __init__(self, folder, *options):
        self.log = folder / "log"
        own = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        own = {name: value for name, value in own.items() if not name.startswith("STATECAR_")}
        command = [sys.executable, "-m", "proxy", "serve", "--port=0", *options]
        with self.log.open("w") as stderr:
            self.process = subprocess.Popen(command, stderr=stderr, env=own)

    @property
    def stderr(self):
        return self.log.read_text("utf-8")

    def url(self):
        """Its URL, once it is ready."""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(r" on (http://\S+:\d+)", self.stderr)) or not _is_ready(found[1]):
            assert self.process.poll() is None and time.monotonic() < deadline, self.stderr
            time.sleep(0.02)
        return found[1]

    def ask_to_end(self):
        """SIGTERM; nothing happens to one that has ended."""
        self.process.send_signal(signal.SIGTERM)

    def ended(self):
        """Waits for its end; gives its exit code, None where it broke."""
        code = self.process.wait(PATIENCE)
        return None if "Traceback" in self.stderr else code


def _is_ready(url):
    try:
        return httpx.get(f"{url}/ready", timeout=10, trust_env=False, verify=False).status_code == 200
    except httpx.TransportError:
        return False


class Site:
    """What clients talk to: one server, or several that take turns request by request."""

    def __init__(self, *processes):
        self.processes = processes
        urls = [process.url() for process in processes]
        self.url = urls[0]
        self._ports = itertools.cycle([httpx.URL(url).port for url in urls])

    def spread(self, request):
        """Sends a client's request to the next server."""
        request.url = request.url.copy_with(port=next(self._ports))

    async def spread_async(self, request):
        self.spread(request)


@pytest.fixture(scope="session")
def memory_disk():
    """A directory whose writes never wait: a disk that others keep busy stalls a store for longer than it may take."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def start(tmp_path_factory, memory_disk):
    """Starts a process with these options; it ends with the run."""
    started = []

    def start(*options):
        data = f"--data-dir={memory_disk / str(len(started))}"
        started.append(Process(tmp_path_factory.mktemp("statecar"), data, *options))
        return started[-1]

    yield start
    for process in started:
        process.ask_to_end()
    codes = [process.ended() for process in started]
    assert set(codes) <= {0}, [process.stderr for process in started]


@pytest.fixture(scope="session")
def on_valkey(start, valkey):
    return Site(start("--upstream=demo", f"--store={valkey.url}"))


@pytest.fixture(scope="session")
def on_embedded(start):
    return Site(start("--upstream=demo", "--store=embedded"))


@pytest.fixture(scope="session")
def on_redis(start, redis_server):
    return Site(start("--upstream=demo", f"--store={redis_server.url}"))


@pytest.fixture(scope="session")
def on_cluster(start, cluster):
    return Site(start("--upstream=demo", f"--store={cluster.url}"))


@pytest.fixture(scope="session")
def of_many(start, valkey):
    """Two processes of two workers each that share a store."""
    options = ("--upstream=demo", f"--store={valkey.url}", "--workers=2")
    return Site(start(*options), start(*options))


SITES = ["on_valkey", "on_embedded", "on_redis", "on_cluster", "of_many"]


@pytest.fixture(params=SITES)
def site(request):
    """Every kind of server in turn, in front of the demo backend."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
async def shared_backend():
    async with Backend() as backend:
        yield backend


@pytest.fixture(scope="session")
async def scripted(start, valkey, shared_backend):
    """A server in front of a scripted backend."""
    process = start(f"--upstream={shared_backend.url}", "--upstream-kind=generic", f"--store={valkey.url}")
    return await asyncio.to_thread(Site, process)


@pytest.fixture
async def backend(shared_backend):
    """The scripted backend, with nothing left of earlier tests."""
    shared_backend.requests.clear()
    shared_backend._scripts.clear()
    default = shared_backend.default
    yield shared_backend
    shared_backend.default = default


@pytest.fixture
async def caller(site):
    """Somebody nobody else shares state with, on every kind of server."""
    async with calling(site) as caller:
        yield caller


def calling(site):
    caller = Caller(site.url)
    caller.http.event_hooks = {"request": [site.spread_async], "response": [strict.watch_async]}
    return caller


class Client:
    """The official client, either of the two. ``responses`` and ``conversations`` as it has them, all to be awaited."""

    def __init__(self, site, *, is_async):
        options = {"base_url": f"{site.url}/v1", "api_key": f"sk-{secrets.token_hex(12)}", "max_retries": 0}
        options["default_headers"] = {"connection": "close"}  # so that each request may meet another worker
        if is_async:
            hooks = {"request": [site.spread_async], "response": [strict.watch_async]}
            http = openai.DefaultAsyncHttpxClient(event_hooks=hooks, trust_env=False, verify=False)
            self.sdk = openai.AsyncOpenAI(http_client=http, **options)
        else:
            hooks = {"request": [site.spread], "response": [strict.watch]}
            http = openai.DefaultHttpxClient(event_hooks=hooks, trust_env=False, verify=False)
            self.sdk = openai.OpenAI(http_client=http, **options)
        self.is_async = is_async

    @property
    def responses(self):
        return _Awaited(self.sdk.responses, self.is_async)

    @property
    def conversations(self):
        return _Awaited(self.sdk.conversations, self.is_async)

    async def create(self, text="Hi", /, **fields):
        return await self.responses.create(**{"model": "demo", "input": text} | fields)

    async def events(self, text="Hi", /, **fields):
        """The events of ``create(stream=True)``."""
        stream = await self.create(text, stream=True, **fields)
        return [event async for event in stream] if self.is_async else await asyncio.to_thread(list, stream)

    async def helper(self, text="Hi", /, **fields):
        """(events, final response) of the ``stream()`` helper."""
        fields = {"model": "demo", "input": text} | fields

        def read():
            with self.sdk.responses.stream(**fields) as stream:
                return list(stream), stream.get_final_response()

        if not self.is_async:
            return await asyncio.to_thread(read)
        async with self.sdk.responses.stream(**fields) as stream:
            events = [event async for event in stream]
            return events, await stream.get_final_response()

    async def pages(self, page):
        """Every row of a list, page by page as the client goes through them."""
        return [row async for row in page] if self.is_async else await asyncio.to_thread(list, page)

    async def close(self):
        if self.is_async:
            await self.sdk.close()
        else:
            self.sdk.close()


class _Awaited:
    """A resource of the client whose methods are awaited, also the synchronous one's: those run in a thread."""

    def __init__(self, resource, is_async):
        self._resource, self._is_async = resource, is_async

    def __getattr__(self, name):
        found = getattr(self._resource, name)
        if not callable(found):
            return _Awaited(found, self._is_async)

        async def call(*args, **kwargs):
            if self._is_async:
                return await found(*args, **kwargs)
            return await asyncio.to_thread(found, *args, **kwargs)

        return call


def whole(value):
    """What an object of the official client was made from, which turns whole numbers of seconds into floats."""
    made = value.to_dict()
    for one in (made, made.get("response") or {}):
        one |= {key: int(one[key]) for key in ("created_at", "completed_at") if one.get(key) is not None}
    return made


@pytest.fixture(params=["sync", "async"])
def kind(request):
    """Which of the official clients."""
    return request.param


@pytest.fixture(params=[*zip(SITES, itertools.cycle(["sync", "async"])), ("on_valkey", "async")], ids="-".join)
async def client(request):
    """An official client on every kind of server; both of them on one, as a client cannot tell the kinds apart."""
    site, kind = request.param
    client = Client(request.getfixturevalue(site), is_async=kind == "async")
    yield client
    await client.close()


@pytest.fixture
async def client_there(site, kind):
    """Both official clients on a module's own kind of server."""
    client = Client(site, is_async=kind == "async")
    yield client
    await client.close()


@pytest.fixture
async def scripted_client(scripted, kind):
    """Both official clients in front of the scripted backend."""
    client = Client(scripted, is_async=kind == "async")
    yield client
    await client.close()
