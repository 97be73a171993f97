"""The command ``statecar`` and the life of its processes: what starts first, what stops last, and the exit code.

The parent resolves the settings, takes the port, starts the embedded store and the demo backend where they are wanted,
and serves: by itself with one worker, by spawned processes with several. Valkey is the last to stop.
Exit codes: 0 stopped as asked, 1 could not start, 2 a wrong option.
"""

import asyncio
import contextlib
import errno
import functools
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

if os.getpid() == 1:
    # A container's first process: until it handles a signal the kernel drops it, and the rest takes a while to import.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

try:
    import httptools  # noqa: F401
except ImportError as exc:
    sys.exit(f"statecar: httptools reads all HTTP here and cannot be imported ({exc}): pip install httptools")

import uvicorn
from uvicorn.config import STARTUP_FAILURE

import proxy

if not (proxy.__doc__ or "").startswith("statecar"):
    sys.exit(
        f"statecar: {Path(__file__).with_name('__init__.py')} is another distribution's (PyPI's proxy.py has the same"
        " package name): install statecar in a virtual environment of its own"
    )

from proxy import data, demo, doctor, startup
from proxy.errors import StatecarError
from proxy.observe import check_traces, configure_logging
from proxy.options import SettingsError
from proxy.protocol import Http, WebSocket
from proxy.settings import Parser, Settings
from proxy.state.embedded import Embedded, EmbeddedError, private_directory
from proxy.supervisor import Workers, served_app, worker_app
from proxy.values import DEMO, EMBEDDED, MEMORY, redacted

log = logging.getLogger("statecar")

USAGE = """\
usage: statecar COMMAND [options]

commands:
  serve     serve the Responses and Conversations APIs in front of a chat-completions server
  doctor    try what a backend can do, and print it
  export    write a tenant's responses and conversations as JSON lines
  import    put an export into the store
  purge     take everything of a tenant out of the store
  demo      serve the demo backend alone: chat completions without a model
  version   print the version

`statecar COMMAND --help` lists a command's options.
"""

BACKLOG = 4096
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class CannotListen(RuntimeError):
    """One line: which address cannot be listened on, and why."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command. ``argv``: without the program's name. Always raises SystemExit."""
    args = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[list[str]], int]] = {
        "serve": _serve,
        "doctor": _doctor,
        "demo": _demo,
        **{name: functools.partial(data.main, name) for name in ("export", "import", "purge")},
        "version": _version,
    }
    commands |= {name: _help for name in ("help", "-h", "--help")} | {"--version": _version}
    try:
        if args and args[0] not in commands:
            raise SettingsError(f"no such command: {args[0]} (see statecar --help)")
        code = commands[args[0]](args[1:]) if args else _help(args)
    except SettingsError as exc:
        print(f"statecar: {exc}", file=sys.stderr)
        code = 2
    except (CannotListen, EmbeddedError) as exc:
        print(f"statecar: {exc}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:  # SIGINT or SIGTERM before there was anything to end in good order
        code = 0
    sys.exit(code)


def _help(_args: list[str]) -> int:
    print(USAGE, end="")
    return 0


def _version(_args: list[str]) -> int:
    print(f"statecar {proxy.__version__}")
    return 0


def _demo(args: list[str]) -> int:
    parser = Parser("statecar demo", description="Serve the demo backend: chat completions without a model.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", default=8081, type=int, help="port to listen on (default %(default)s)")
    options = parser.parse_args(args)
    configure_logging("text", "info")
    asked = _AskedToEnd()
    sockets = listen(options.host, options.port)
    log.info("demo backend on %s/v1", _url(sockets[0]))
    return _run_here(_config(demo.app, lifespan="off"), sockets, asked)


def _doctor(args: list[str]) -> int:
    parser = Parser(
        "statecar doctor",
        usage="%(prog)s --upstream URL [--model NAME] [--json] [options of serve]",
        description="Try what a backend can do, one request each, and print it. Exit code 1: it lacks what is needed.",
        epilog="Options of serve that say how the upstream is asked count too, in all three places.",
        allow_abbrev=False,
    )
    parser.add_argument("--model", default="", metavar="NAME", help="model to ask for (default: the first it lists)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options, rest = parser.parse_known_args(args)
    settings = Settings.resolve(rest, os.environ, parser.prog)
    if not settings.upstream:
        raise SettingsError("the doctor examines one backend at a time: give --upstream instead of upstreams")
    startup.check_environment(settings)
    configure_logging("text", "error")
    with contextlib.ExitStack() as stack:
        named = settings.upstream
        if named == DEMO:
            settings = replace(settings, upstream=stack.enter_context(_demo_backend()), upstream_kind="generic")
        try:
            tell = (lambda text: None) if options.json else functools.partial(print, flush=True)
            report = asyncio.run(doctor.examine(settings, options.model, name=redacted(named), tell=tell))
        except KeyboardInterrupt:
            return 1
        except StatecarError as exc:
            print(f"statecar: {redacted(named)}: {exc.message}", file=sys.stderr)
            return 1
    if options.json:
        print(report.as_json())
    return 0 if report.ok else 1


def _serve(args: list[str]) -> int:
    settings = Settings.resolve(args, os.environ)
    startup.check_store(settings.store)
    startup.check_keys(settings.keys_file)
    startup.check_environment(settings)
    try:
        check_traces(settings)
    except ValueError as exc:
        raise SettingsError(f"--traces=on: {exc}") from None
    configure_logging(settings.log_format, settings.log_level)
    _raise_file_limit()
    asked = _AskedToEnd()
    with contextlib.ExitStack() as stack:
        sockets = listen(settings.host, settings.port)
        for sock in sockets:
            stack.callback(sock.close)
        ready = stack.enter_context(_with_backends(settings))
        if asked.so:
            return 0
        many = f", {settings.workers} workers" if settings.workers > 1 else ""
        log.info("statecar %s on %s%s", proxy.__version__, _url(sockets[0]), many)
        log.info("upstream %s, store %s", startup.upstream_in_words(settings), startup.store_in_words(settings))
        if callers := startup.callers_in_words(settings):
            log.info("callers: %s", callers)
        if at_rest := startup.at_rest_in_words(settings):
            log.info("stored content: %s", at_rest)
        if hosted := startup.hosted_in_words(settings):
            log.info("hosted tools: %s", hosted)
        if settings.workers == 1:
            app = functools.partial(served_app, ready)
            config = _config(app, grace=settings.grace, factory=True, **protocols(settings))
            return _run_here(config, sockets, asked)
        metrics = stack.enter_context(_metrics_directory(settings.workers))
        return _run_workers(ready, metrics, sockets, asked)


class _AskedToEnd:
    """Notes SIGINT and SIGTERM until a server takes them: an exception at any point would leave things half started."""

    def __init__(self) -> None:
        self.so = False
        for sig in SIGNALS:
            signal.signal(sig, self._note)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.so = True


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS refuses "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def listen(host: str, port: int) -> list[socket.socket]:
    """A listening socket for each address of the host, all on one port. Raises CannotListen."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, kind, proto, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            sock = socket.socket(family, kind, proto)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((address[0], sockets[0].getsockname()[1] if sockets else port, *address[2:]))
                sock.listen(BACKLOG)  # now: two that are merely bound would both believe that the port is theirs
            except OSError as exc:
                sock.close()
                if exc.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = exc  # localhost has an IPv6 address on machines that have no IPv6
            else:
                sockets.append(sock)
        if missing and not sockets:
            raise missing
    except (OSError, UnicodeError) as exc:
        for sock in sockets:
            sock.close()
        reason = (exc.strerror if isinstance(exc, OSError) else None) or "no such host"
        raise CannotListen(f"cannot listen on host {host}, port {port}: {reason}") from None
    return sockets


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def _with_backends(settings: Settings) -> Iterator[Settings]:
    """The settings with URLs for ``embedded``, ``memory://`` and ``demo``, which are served to the end of the block."""
    with contextlib.ExitStack() as stack:
        if settings.store in (EMBEDDED, MEMORY):
            embedded = Embedded(None if settings.store == MEMORY else settings.data_dir)
            stack.callback(_end, embedded)
            settings = replace(settings, store=embedded.start())
        if settings.upstream == DEMO:
            settings = replace(settings, upstream=stack.enter_context(_demo_backend()), upstream_kind="generic")
        yield settings


def _end(embedded: Embedded) -> None:
    for sig in SIGNALS:
        signal.signal(sig, signal.SIG_IGN)  # a second Ctrl-C must not leave Valkey behind
    embedded.stop()


@contextlib.contextmanager
def _metrics_directory(workers: int) -> Iterator[Path]:
    """Where the workers keep their metrics, gone with the last of them. Raises EmbeddedError when there is no room."""
    with private_directory() as directory:
        metrics = directory / "metrics"
        room = metrics / "room"
        try:
            metrics.mkdir(mode=0o700)
            room.write_bytes(bytes(workers << 18))  # what they begin with: one that finds none is started for ever
            room.unlink()
        except OSError as exc:
            raise EmbeddedError(
                f"{directory.parent} has no room for the metrics of {workers} workers, a few MB each: {exc.strerror}"
            ) from None
        yield metrics


@contextlib.contextmanager
def _demo_backend() -> Iterator[str]:
    with private_directory() as directory:
        path = directory / "demo.sock"
        server = uvicorn.Server(_config(demo.app, uds=str(path), lifespan="off"))
        thread = threading.Thread(target=server.run, name="demo-backend", daemon=True)
        thread.start()
        while thread.is_alive() and not server.started:
            time.sleep(0.005)
        try:
            yield f"http+unix://{quote(str(path), safe='')}/v1"
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


def protocols(settings: Settings) -> dict[str, Any]:
    """What uvicorn is told of HTTP and of WebSockets (ADR 0014)."""
    return {
        "http": Http,
        "ws": WebSocket,
        "ws_max_size": settings.body_limit,
        "ws_ping_interval": settings.sse_keepalive_seconds or None,
        "ws_ping_timeout": settings.client_stall_timeout or None,
        "ws_per_message_deflate": False,
    }


def _config(app: Any, *, grace: int = 0, lifespan: Any = "on", http: Any = "httptools", **rest: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan=lifespan,
        http=http,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_worker_healthcheck=30,  # a worker may take long to import where all CPUs are busy: no reason to kill it
        timeout_graceful_shutdown=grace + 5,  # the app ends its own turns after the grace; this is for what is left
        **rest,
    )


def _run_here(config: uvicorn.Config, sockets: list[socket.socket], asked: _AskedToEnd) -> int:
    server = uvicorn.Server(config)
    for sig in SIGNALS:
        # uvicorn puts this one back when it has ended and raises the signal once more: that must change nothing.
        signal.signal(sig, server.handle_exit)
    if asked.so:
        return 0
    try:
        server.run(sockets=sockets)
    except SystemExit:  # uvicorn has logged why the app could not start
        return 1
    return 0 if server.started else 1


def _run_workers(settings: Settings, metrics: Path, sockets: list[socket.socket], asked: _AskedToEnd) -> int:
    app = functools.partial(worker_app, settings, metrics)
    how = protocols(settings)
    config = _config(app, grace=settings.grace, factory=True, workers=settings.workers, **how)
    supervisor = Workers(config, sockets, settings.drain_delay)
    if asked.so:
        return 0
    supervisor.run()
    return 1 if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes) else 0
