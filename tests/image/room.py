"""A Dockerfile carried out without a container engine: its steps and its command, in namespaces of the kernel.

A stage's root is a directory. The base image is stood in for by this machine's /usr, read-only, and a copy of a Python
of the wanted version under /usr/local, without its bytecode, as the official image has it. So paths are the image's.
Needs Linux, root and util-linux. It cannot show layers, a registry, another architecture, or the libraries of the base
image's own Debian.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests import servers
from tests.image import dockerfile
from tests.image.dockerfile import Instruction, Stage

T = TypeVar("T")

BASE_PATH = "/usr/local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH of the official Python images."""

ETC = ("passwd", "group", "nsswitch.conf", "hosts", "resolv.conf", "ld.so.conf", "ld.so.conf.d", "ssl")
NOT_IN_THE_IMAGE = ("test", "tests", "idle_test", "__pycache__", "site-packages", "*.a")
ROOT_USER = (0, 0)
CLONE_NEWNET = 0x40000000


def obstacle() -> str:
    """Why nothing can be carried out here; empty when it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    if not all(map(shutil.which, ("setpriv", "unshare"))):
        return "needs setpriv and unshare, of util-linux"
    tried = subprocess.run(["unshare", "--mount", "--pid", "--net", "--fork", "true"], capture_output=True, text=True)
    return tried.stderr.strip()


def python_prefix(version: str) -> Path | None:
    """Where a Python of this version (as 3.13) is installed on this machine."""
    name = f"python{version}"
    found = [Path(path) for path in [shutil.which(name)] if path]
    for home in (".pyenv/versions", ".local/share/uv/python"):
        found += sorted((Path.home() / home).glob(f"*/bin/{name}"))
    for path in found:  # the first may be pyenv's, which runs nothing unless that version is chosen
        asked = subprocess.run([path, "-c", "import sys; print(sys.base_prefix)"], capture_output=True, text=True)
        if asked.returncode == 0:
            return Path(asked.stdout.strip())
    return None


class Image:
    """The Dockerfile's stages built below a folder. ``root``, ``env``, ``user``, ``command``: of the last one."""

    def __init__(self, file: dockerfile.Dockerfile, folder: Path, python: Path, uv: Path) -> None:
        self._folder, self._python, self._uv = folder, python, uv
        self._context = folder / "context"
        for path in dockerfile.context():
            target = self._context / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(dockerfile.ROOT / path, target)
        self._cache = Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache" / "uv")
        for stage in file.stages:
            self._build(stage)

    def _build(self, stage: Stage) -> None:
        self.root = self._folder / stage.name
        self.root.mkdir()
        self.env = {"PATH": BASE_PATH}
        self.user, self.workdir, self.command = ROOT_USER, "/", list[str]()
        if stage.base.startswith("ghcr.io/astral-sh/uv:"):
            shutil.copy2(self._uv, self.root / "uv")
            return
        assert stage.base.startswith("python:"), stage.base
        self._lay_base()
        arguments: dict[str, str] = {}
        for step in stage.instructions:
            known = arguments | self.env
            match step.keyword:
                case "ARG":
                    arguments |= step.pairs
                case "ENV":
                    self.env |= {name: dockerfile.filled(value, known) for name, value in step.pairs.items()}
                case "WORKDIR":
                    self.workdir = step.text
                    (self.root / step.text.lstrip("/")).mkdir(parents=True, exist_ok=True)
                case "COPY":
                    self._copy(step)
                case "RUN":
                    self._run(step)
                case "USER":
                    user, _, group = step.text.partition(":")
                    self.user = (int(user), int(group or user))
                case "ENTRYPOINT" | "CMD":
                    self.command += step.words
                case other:
                    assert other in ("LABEL", "EXPOSE"), f"{other} is not known here"

    def _lay_base(self) -> None:
        """The base image: what /usr does not hold of it."""
        shutil.copytree(
            self._python, self.root / "usr/local", symlinks=True, ignore=shutil.ignore_patterns(*NOT_IN_THE_IMAGE)
        )
        for name in ("etc", "root", "tmp", "var/tmp", "var/lib"):
            (self.root / name).mkdir(parents=True)
        (self.root / "tmp").chmod(0o1777)
        for name in ETC:
            source, target = Path("/etc") / name, self.root / "etc" / name
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True)
            elif source.exists():
                shutil.copy2(source, target)
        for each in _system():
            if each.is_symlink():
                (self.root / each.name).symlink_to(each.readlink())
        self._carry_out(["ldconfig"])

    def _copy(self, step: Instruction) -> None:
        assert set(step.flags) <= {"from"}, step
        source = self._folder / step.flags["from"] if "from" in step.flags else self._context
        *names, place = step.words
        target = self.root / os.path.join(self.workdir, place).lstrip("/")
        for name in names:
            path = source / name.lstrip("/")
            if path.is_dir():
                shutil.copytree(path, target, symlinks=True, dirs_exist_ok=True)
            else:
                (target if place.endswith("/") else target.parent).mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target / path.name if place.endswith("/") else target)

    def _run(self, step: Instruction) -> None:
        mounts = []
        if given := step.flags.get("mount"):
            mount = dict(part.split("=", 1) for part in given.split(","))
            assert mount["type"] == "cache", step
            self._cache.mkdir(parents=True, exist_ok=True)
            mounts.append((self._cache, mount["target"], True))
        self._carry_out(step.words if step.is_exec else ["/bin/sh", "-c", step.text], mounts)

    def _carry_out(self, argv: Sequence[str], mounts: Sequence[tuple[Path, str, bool]] = ()) -> None:
        """One process of the build, with this machine's network and what its environment says of that."""
        kept = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
        kept |= {name: os.environ[name] for name in ("SSL_CERT_FILE", "UV_DEFAULT_INDEX") if name in os.environ}
        env = {"HOME": "/root"} | kept | self.env
        command = self.entering(argv, env, mounts=mounts, user=self.user, cwd=self.workdir)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}{done.stderr}"

    def entering(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        mounts: Sequence[tuple[Path, str, bool]] = (),
        user: tuple[int, int],
        cwd: str = "/",
        contained: bool = False,
    ) -> list[str]:
        """The command that runs this one inside. ``contained``: with a read-only root and a network of its own."""
        base = [(str(each), str(each), False) for each in _system() if not each.is_symlink()]
        task = {
            "root": str(self.root),
            "mounts": base + [(str(source), path, writable) for source, path, writable in mounts],
            "read_only": contained,
            "own_network": contained,
            "user": user,
            "env": dict(env),
            "cwd": cwd,
            "argv": list(argv),
        }
        apart = ["--mount", "--pid", *(["--net", "--ipc"] if contained else []), "--fork", "--kill-child"]
        inner = [sys.executable, "-I", "-S", str(Path(__file__).with_name("enter.py")), json.dumps(task)]
        return ["setpriv", "--pdeathsig", "KILL", "unshare", *apart, *inner]


def layer(image: Image) -> int:
    """Bytes of what the image adds to its base, compressed as fast as gzip can: a layer is smaller."""
    with tempfile.TemporaryFile() as packed:
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
            archive.add(image.root / "app", "app")
            for path in (image.root / "usr/local").rglob("*.pyc"):
                archive.add(path, str(path.relative_to(image.root)))
        return packed.tell()


class Container:
    """The image's command as process 1: read-only root, /tmp alone to write to, nothing reachable from outside.

    ``volumes``: directories by their path inside. ``tmp``: the directory that is /tmp inside. ``pid``: of process 1, as
    seen from here.
    """

    def __init__(self, image: Image, folder: Path, env: Mapping[str, str], volumes: Mapping[str, Path]) -> None:
        self._log = folder / "log"
        self.tmp = volumes["/tmp"]
        mounts = [(path, place, True) for place, path in volumes.items()]
        given = {"HOME": "/"} | image.env | env
        command = image.entering(image.command, given, mounts=mounts, user=image.user, contained=True)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8")

    def until(self, condition: Callable[[], T]) -> T:
        """The condition's first true value."""
        end = time.monotonic() + servers.PATIENCE
        while not (value := condition()):
            assert self._process.poll() is None, f"it ended with {self._process.returncode}\n{self.log}"
            assert time.monotonic() < end, self.log
            time.sleep(0.02)
        return value

    @property
    def pid(self) -> int:
        return self.until(lambda: _children(self._process.pid))[0]

    def tree(self) -> dict[int, str]:
        """The state letter of every process inside, by its id out here."""
        found, waiting = {}, [self.pid]
        while waiting:
            pid = waiting.pop()
            if stat := _told(pid, "stat"):
                found[pid] = stat.rsplit(")", 1)[1].split()[0]
                waiting += _children(pid)
        return found

    def named(self, text: str) -> list[int]:
        """The processes inside whose command line has this text."""
        return [pid for pid in self.tree() if text in _told(pid, "cmdline").replace("\0", " ")]

    def handles(self, number: signal.Signals) -> bool:
        """Whether process 1 handles a signal; until it does, the kernel drops it."""
        caught = dict(line.split(":\t") for line in _told(self.pid, "status").splitlines())["SigCgt"]
        return bool(int(caught, 16) >> (number - 1) & 1)

    def inside(self, ask: Callable[[], T]) -> T:
        """What a function gives that runs in the network inside."""
        answers: list[Any] = []

        def enter() -> None:
            with open(f"/proc/{self.pid}/ns/net") as network:
                if ctypes.CDLL(None, use_errno=True).setns(network.fileno(), CLONE_NEWNET):
                    answers.append(OSError(ctypes.get_errno(), "setns"))
                    return
            try:
                answers.append(ask())
            except Exception as exc:
                answers.append(exc)

        thread = threading.Thread(target=enter)  # a network belongs to a thread
        thread.start()
        thread.join()
        if isinstance(answers[0], Exception):
            raise answers[0]
        answer: T = answers[0]
        return answer

    def end(self) -> int:
        """Asks process 1 to end, waits, gives its exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        return self._process.wait(servers.PATIENCE)

    def kill(self) -> None:
        """Ends whatever still runs."""
        self._process.kill()
        self._process.wait()


def _system() -> list[Path]:
    """This machine's directories that stand in for the base image's, and its links to them."""
    below = [each for each in Path("/usr").iterdir() if each.is_dir() and each.name not in ("local", "src", "include")]
    return [*below, *Path("/").glob("lib*"), Path("/bin"), Path("/sbin")]


def _children(pid: int) -> list[int]:
    threads = [path.name for path in Path(f"/proc/{pid}/task").glob("*")]  # each has its own children
    return [int(each) for thread in threads for each in _told(pid, f"task/{thread}/children").split()]


def _told(pid: int, name: str) -> str:
    """A file of /proc about a process; empty once that is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
