"""The composition root: the one place where state, upstream, clock and routes meet."""

from __future__ import annotations

import asyncio
import logging
import posixpath
import re
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.access import Authenticator
from proxy.errors import StatecarError, StoreUnavailable, UpgradeRequired
from proxy.grants import Quota
from proxy.hosted import open_hosted
from proxy.life import Life
from proxy.observe import Finished, Metrics, Observed, Untraced, log_request, open_traces
from proxy.routes.access import Access
from proxy.routes.conversations import Conversations
from proxy.routes.edge import facts
from proxy.routes.health import Health
from proxy.routes.limits import Limited
from proxy.routes.metrics import Scrape
from proxy.routes.models import Models
from proxy.routes.open import OpenRequests
from proxy.routes.openapi import ABOUT, OpenApi
from proxy.routes.passthrough import Passthrough
from proxy.routes.recent import Recent
from proxy.routes.resources import Resource, Resources, refusal
from proxy.routes.responses import Responses
from proxy.routes.streaming import Pace
from proxy.routes.websocket import Bounds, WebSockets
from proxy.runs import Observer, Runner
from proxy.seal import Sealer
from proxy.settings import Settings
from proxy.state import Envelope, Limits, State, open_state
from proxy.translate.caching import Caching
from proxy.turn import Guard, Manners, Services, Sessions, ShuttingDown
from proxy.upstream import Pool, open_pool

log = logging.getLogger("statecar")

PREFIX, ALIAS = "/v1", "/v1/openai/v1"
_OWN = re.compile(rf"({PREFIX}|{ALIAS})/(responses|conversations)(/.*)?\Z", re.DOTALL)
_SOCKETS = (f"{PREFIX}/responses", f"{ALIAS}/responses")
_SLASHES = re.compile("/{2,}")

_LATER = 5.0
"""Seconds until a store that was away at the start is asked again for what is to be told of it."""


def create_app(settings: Settings, metrics_directory: Path | None = None) -> ASGIApp:
    """The whole proxy as one ASGI application. ``settings``: store and upstream are URLs by now.

    ``metrics_directory``: where several workers keep their metrics; None for a process alone. Raises ValueError for
    traces that cannot be had.
    """
    metrics, traces = Metrics(metrics_directory), open_traces(settings)
    state = _state(settings, traces.store(metrics.store))
    state.quotas.refused = metrics.limited
    # A worker may hear SIGTERM from whoever ends its whole group, and then from its parent: once is meant.
    hurried_by = (signal.SIGINT,) if metrics_directory else (signal.SIGINT, signal.SIGTERM)
    life = Life(settings.drain_delay, settings.grace, OpenRequests(metrics.open_streams), hurried_by)
    pool = open_pool(settings, heard=metrics.upstream, told=metrics.replica)
    pool.follow(traces.calls)
    manners = traces.manners(settings, state.lessons)
    authenticator = Authenticator(settings, _quota(settings))
    access = Access(state, authenticator, settings.tenant_secret, settings.session_header)
    services = _services(settings, state, pool, manners, metrics, traces)
    observer = Observer(metrics.run, metrics.open_runs, traces.at_work_on_run)
    runner = Runner(services, most=settings.worker_runs, limit=settings.background_timeout, observer=observer)
    own = Resources([*_routes(settings, services, runner, access, life), *_about(settings, state, pool, metrics, life)])
    lifespan = Starlette(lifespan=lambda app: _lifespan(services, runner, life, metrics, authenticator, traces))
    relay = Passthrough(
        pool,
        keep_authorization=not authenticator.guards,
        body_limit=settings.body_limit,
        session_header=settings.session_header,
        streams=metrics.open_streams,
    )
    passthrough = Limited(relay, access, state.quotas)
    models = Models(pool, keep_authorization=not authenticator.guards)
    about = frozenset(settings.own_prefix + path for path in _about_paths(settings))
    sockets = _sockets(settings, services, runner, access, life, metrics) if settings.websocket == "on" else None
    door = Door(lifespan, own, sockets, passthrough, models, access, about, life, metrics.open_requests)
    return Observed(traces.served(door, about), [metrics.request, *([log_request] if settings.access_log else [])])


def _quota(settings: Settings) -> Quota | None:
    """Of tenants that have none of their own."""
    quota = Quota(
        settings.tenant_requests_per_minute,
        settings.tenant_tokens_per_minute,
        settings.tenant_concurrent_turns,
        settings.tenant_stored_bytes,
    )
    return None if quota == Quota() else quota


def _about_paths(settings: Settings) -> tuple[str, ...]:
    return tuple(path for path in ABOUT if settings.metrics or path != "/metrics")


def _about(settings: Settings, state: State, pool: Pool, metrics: Metrics, life: Life) -> list[Resource]:
    """The routes about this server itself."""
    prefix = settings.own_prefix
    return [
        *Health(state, pool, lambda: life.stopping, needs_store=settings.store_down == "fail").routes(prefix),
        *(Scrape(metrics).routes(prefix) if settings.metrics else []),
        *OpenApi(prefix, _about_paths(settings)).routes(),
    ]


def _state(settings: Settings, heard: Callable[[str, float, bool], object]) -> State:
    return open_state(
        settings.store,
        response_ttl=settings.response_ttl,
        conversation_ttl=settings.conversation_ttl,
        lesson_ttl=settings.lesson_ttl,
        connections=settings.store_connections,
        limits=Limits(
            runs=settings.max_runs,
            tenant_runs=settings.max_tenant_runs,
            lease=settings.run_lease,
            log_bytes=settings.event_log_limit,
            log_ttl=settings.event_log_ttl,
            followers=settings.max_followers,
            longest=int(settings.background_timeout + 10 * settings.run_lease) + 60,
        ),
        envelope=Envelope(settings.encryption_key, settings.compression),
        heard=heard,
    )


def _services(
    settings: Settings, state: State, pool: Pool, manners: Manners, metrics: Metrics, traces: Untraced
) -> Services:
    return Services(
        state=state,
        pool=pool,
        manners=manners,
        guard=Guard(settings.access_rules, state.owners),
        now=time.time,
        upstream_stream=settings.upstream_stream,
        lock_wait=settings.conversation_lock_wait,
        late_errors=settings.late_errors,
        sealer=Sealer(settings.seal_key) if settings.seal_key else None,
        count_by_generation=settings.count_by_generation,
        stateless=settings.store_down == "stateless",
        hosted=open_hosted(settings),
        max_tool_rounds=settings.max_tool_rounds,
        heard_tool=traces.tool(metrics.tool),
        traced=traces.turn,
        sessions=Sessions(
            settings.session_header,
            Caching(salted=settings.cache_salt == "tenant", keyed=settings.prompt_cache_key == "session"),
        ),
    )


def _routes(settings: Settings, services: Services, runner: Runner, access: Access, life: Life) -> list[Resource]:
    pace = _pace(settings)
    responses = Responses(services, runner, access, life.requests, pace, settings.body_limit, settings.on_disconnect)
    conversations = Conversations(services.state, services.guard, access, time.time, settings.body_limit)
    return [
        *responses.routes(PREFIX, done=True),
        *responses.routes(ALIAS, done=False),  # its client parses [DONE] as JSON and dies
        *conversations.routes(PREFIX),
        *conversations.routes(ALIAS),
    ]


def _pace(settings: Settings) -> Pace:
    return Pace(
        keepalive=settings.sse_keepalive_seconds,
        early=settings.early_stream_after_seconds,
        stall=settings.client_stall_timeout,
        comments=settings.sse_comments,
    )


def _sockets(
    settings: Settings, services: Services, runner: Runner, access: Access, life: Life, metrics: Metrics
) -> WebSockets:
    def told(request: Finished) -> None:
        metrics.turn(request)
        if settings.access_log:
            log_request(request)

    return WebSockets(
        services,
        runner,
        access,
        life.requests,
        _pace(settings),
        Bounds(settings.max_websockets, settings.websocket_max_seconds, settings.body_limit),
        Recent(settings.websocket_memory),
        told,
        metrics.open_websockets,
        settings.on_disconnect,
    )


@dataclass(frozen=True)
class Door:
    """Which requests are ours, by the path a lenient server would read; all others go upstream (wire §3.10).

    ``sockets``: None where no WebSockets are served. ``models``: the list of them, where several upstreams share in it.
    ``about``: the paths about this server itself. ``opened``: called
    with 1 for any other request that begins, with -1 for one that is over.
    """

    lifespan: ASGIApp
    own: ASGIApp
    sockets: ASGIApp | None
    passthrough: ASGIApp
    models: Models
    access: Access
    about: frozenset[str]
    life: Life
    opened: Callable[[int], object]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.lifespan(scope, receive, send)
            return
        requests, send = self.life.requests, self.life.closing(send)
        with requests.counted():
            try:
                await self._route(scope, receive, send)
            except asyncio.CancelledError:
                if not requests.stopped:
                    raise
                asyncio.current_task().uncancel()  # type: ignore[union-attr]  # a coroutine runs in a task
                if not facts(scope).get("begun"):
                    await refusal(ShuttingDown(), scope)(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = _canonical(scope["path"])
        own = _OWN.match(path)
        if scope["type"] == "websocket":
            await (self._upgrade if own else self.passthrough)({**scope, "path": path}, receive, send)
            return
        is_about = path in self.about
        self.opened(not is_about)
        try:
            if is_about or (own and scope["method"] != "OPTIONS"):
                if path != scope["path"]:
                    scope = {**scope, "path": path, "raw_path": path.encode()}
                await self.own(scope, receive, send)
            else:
                await self._pass_on(path, scope, receive, send)
        finally:
            self.opened(is_about - 1)

    async def _upgrade(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self.sockets is None or scope["path"] not in _SOCKETS:
                raise UpgradeRequired("WebSocket mode is not served here: use HTTP.", headers={"upgrade": "websocket"})
            await self.sockets(scope, receive, send)
        except StatecarError as exc:
            if "websocket.http.response" in scope.get("extensions", {}):
                await refusal(exc, scope)(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})

    async def _pass_on(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        facts(scope).update(passed_on=True, route="passed on")
        try:
            if scope["method"] != "OPTIONS":  # a browser's preflight carries no key
                scope["statecar.grant"] = await self.access.check(scope)
            if self.models.serves(scope, path):
                await self.models({**scope, "path": path}, receive, send)
            else:
                await self.passthrough(scope, receive, send)
        except StatecarError as exc:
            facts(scope)["passed_on"] = False
            await refusal(exc, scope)(scope, receive, send)


@asynccontextmanager
async def _lifespan(
    services: Services,
    runner: Runner,
    life: Life,
    metrics: Metrics,
    authenticator: Authenticator,
    traces: Untraced,
) -> AsyncIterator[None]:
    state, pool, manners = services.state, services.pool, services.manners
    life.watch_signals()
    manners.begin(pool.targets())
    pool.begin()
    for group in (served.group for served in pool.served if not served.group.only):
        for replica in group.replicas:
            metrics.replica("returned", group.name, replica.name)
    authenticator.begin()
    runner.open()
    later = await _greeted(state)
    try:
        yield
    finally:
        if later:
            later.cancel()
        await life.ended()
        await runner.close(life.left)
        metrics.settle()
        await manners.close()
        await authenticator.aclose()
        if services.hosted:
            await services.hosted.aclose()
        await pool.aclose()
        await state.close()
        await traces.close()


async def _greeted(state: State) -> asyncio.Task[None] | None:
    """Tells what an operator should know of the store. Where it is away, that is the work of the task."""
    try:
        await state.ping()
        await _warn(state)
    except StoreUnavailable as exc:
        log.error("not ready: %s Serving goes on without it.", exc.message)
        return asyncio.create_task(_warn_later(state))
    return None


async def _warn(state: State) -> None:
    for warning in await state.warnings():
        log.warning("%s", warning)


async def _warn_later(state: State) -> None:
    while True:
        await asyncio.sleep(_LATER)
        with suppress(StoreUnavailable):
            await _warn(state)
            return


def _canonical(path: str) -> str:
    """The path a lenient server would read: slashes collapsed, dot segments gone, no slash at the end."""
    return posixpath.normpath(_SLASHES.sub("/", path)) if path.startswith("/") else path
