"""The Dockerfile as it is read and, once a run, carried out."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.image import dockerfile, room, size


@pytest.fixture(scope="session")
def file():
    return dockerfile.read((dockerfile.ROOT / "Dockerfile").read_text("utf-8"))


@pytest.fixture(scope="session")
def image(file, tmp_path_factory):
    """The stages built in a fresh folder; skipped where that cannot be done."""
    uv = pytest.importorskip("uv")
    if why := room.obstacle():
        pytest.skip(f"the steps cannot be carried out here: {why}")
    version = size.base_tag().partition("-")[0]
    if (python := room.python_prefix(version)) is None:
        pytest.skip(f"no Python {version} on this machine")
    folder = tmp_path_factory.mktemp("image")
    yield room.Image(file, folder, python, Path(uv.find_uv_bin()))
    shutil.rmtree(folder)


@pytest.fixture
def container(image, tmp_path):
    """Starts containers of the image in front of the demo backend; whatever still runs at the end is killed."""
    started = []

    def start(env=None, volume=None, tmp=None):
        folder = tmp_path / str(len(started))
        folder.mkdir()
        if tmp is None:
            tmp = folder / "tmp"
            tmp.mkdir()
            tmp.chmod(0o1777)
        volumes = {"/tmp": tmp} | ({} if volume is None else {"/var/lib/statecar": volume})
        started.append(room.Container(image, folder, {"STATECAR_UPSTREAM": "demo"} | (env or {}), volumes))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def volume(image, tmp_path):
    """A fresh volume, as an engine makes one for a directory of the image: with its owner and mode."""
    place = tmp_path / "volume"
    subprocess.run(["cp", "--archive", image.root / "var/lib/statecar", place], check=True)
    yield place
    shutil.rmtree(place)
