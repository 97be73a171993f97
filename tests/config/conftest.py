"""What the files under config/ run with here: a demo backend on a TCP port, processes with options in the env alone."""

import os
import subprocess
import sys

import pytest

from proxy import demo
from tests.backend import serving
from tests.live.conftest import Process


class Started(Process):
    """``statecar serve`` with exactly this environment for options, as a container has it."""

    def __init__(self, folder, env, *argv):
        self.log = folder / "log"
        own = {name: value for name, value in os.environ.items() if not name.startswith("STATECAR_")}
        own = {name: value for name, value in own.items() if not name.lower().endswith("_proxy")}
        command = [sys.executable, "-m", "proxy", *argv]
        with self.log.open("w") as stderr:
            self.process = subprocess.Popen(command, stderr=stderr, env=own | env)


@pytest.fixture(scope="session")
async def demo_url():
    """The demo backend, where a real one would be."""
    async with serving(demo.app) as url:
        yield f"{url}/v1"


@pytest.fixture
def serve(tmp_path):
    """Starts statecar with these options in the environment and on the command line; it must end with code 0."""
    started = []

    def serve(env, *argv):
        started.append(Started(tmp_path, {"STATECAR_PORT": "0", **env}, *argv))
        return started[-1]

    yield serve
    for process in started:
        process.ask_to_end()
    assert [process.ended() for process in started] == [0] * len(started), [process.stderr for process in started]
