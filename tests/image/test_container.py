"""What the Dockerfile makes: its steps carried out, and its command as process 1 with a read-only root."""

import errno
import os
import shutil
import signal
from pathlib import Path

import httpx
import pytest

pytest.importorskip("uv", reason="needs the dependency group image")

URL = "http://127.0.0.1:8080"


def ready():
    try:
        return httpx.get(f"{URL}/ready", timeout=30, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def say(text, **fields):
    body = {"model": "demo", "input": text} | fields
    answer = httpx.post(f"{URL}/v1/responses", json=body, timeout=30, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()


def text_of(response):
    return response["output"][0]["content"][0]["text"]


def served(container):
    """The container, once it is ready."""
    container.until(lambda: container.inside(ready))
    return container


def test_the_environment_is_the_image_pythons_with_bytecode_that_is_never_checked(image):
    assert (image.root / "app/bin/python").readlink() == Path("/usr/local/bin/python3")
    (packages,) = image.root.glob("app/lib/python*/site-packages")
    assert (packages / "proxy/state/scripts").is_dir()
    assert not list(packages.glob("pytest*")), "a package of the tests is in it"
    for source in (packages / "proxy").rglob("*.py"):
        (compiled,) = (source.parent / "__pycache__").glob(f"{source.stem}.*.pyc")
        assert compiled.read_bytes()[4:8] == b"\x01\0\0\0", compiled  # by hash, unchecked (PEP 552)


def test_nothing_of_the_building_is_left(image):
    assert not (image.root / "src").exists()
    assert not (image.root / "usr/local/bin/uv").exists()
    assert list((image.root / "root").iterdir()) == []
    (library,) = (image.root / "usr/local/lib").glob("python*")
    assert list((library / "asyncio/__pycache__").glob("base_events.*.pyc")), "the standard library is not compiled"


@pytest.mark.parametrize("workers", [1, 2])
def test_it_keeps_nothing_and_ends_in_good_order(container, workers):
    first = served(container({"STATECAR_STORE": "memory://", "STATECAR_WORKERS": str(workers)}))
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{first.pid}/status").read_text().splitlines())
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"10001"}
    assert int(status["CapEff"], 16) == 0
    assert status["NSpid"].split()[-1] == "1"
    for path in ("/app/x", "/var/lib/statecar/x", "/x"):
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            Path(f"/proc/{first.pid}/root{path}").touch()
    told = first.inside(lambda: say("My name is Ada."))
    assert "Ada" in text_of(first.inside(lambda: say("What is my name?", previous_response_id=told["id"])))
    assert first.end() == 0
    assert "Traceback" not in first.log
    assert os.listdir(first.tmp) == []


def test_what_a_volume_holds_outlives_the_container(container, volume):
    first = served(container(volume=volume))
    told = first.inside(lambda: say("My name is Ada."))
    assert first.end() == 0
    assert "Valkey is now ready to exit" in (volume / "valkey.log").read_text()
    second = served(container(volume=volume))
    assert "Ada" in text_of(second.inside(lambda: say("What is my name?", previous_response_id=told["id"])))
    assert second.end() == 0


def test_as_process_1_it_replaces_what_dies_and_leaves_no_zombie(container, volume):
    first = served(container({"STATECAR_WORKERS": "2"}, volume))
    workers = first.until(lambda: len(found := first.named("spawn_main")) == 2 and found)
    (valkey,) = first.named("valkey-server")
    os.kill(workers[0], signal.SIGKILL)
    os.kill(valkey, signal.SIGKILL)
    first.until(lambda: workers[0] not in (now := first.named("spawn_main")) and len(now) == 2)
    first.until(lambda: valkey not in (now := first.named("valkey-server")) and now)
    first.until(lambda: first.inside(ready))
    first.until(lambda: "Z" not in first.tree().values())
    assert first.end() == 0
    assert os.listdir(first.tmp) == []


def test_asked_to_end_while_it_starts_it_ends(container):
    first = container({"STATECAR_STORE": "memory://", "STATECAR_WORKERS": "2"})
    first.until(lambda: first.handles(signal.SIGTERM))
    assert first.end() == 0
    assert "Traceback" not in first.log
    assert os.listdir(first.tmp) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_killed_container_left_in_tmp_is_removed_by_the_next(container, workers):
    env = {"STATECAR_STORE": "memory://", "STATECAR_WORKERS": str(workers)}
    first = served(container(env))
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert os.listdir(first.tmp) != []
    second = served(container(env, tmp=first.tmp))
    assert second.end() == 0
    assert os.listdir(first.tmp) == []


@pytest.mark.parametrize(
    ("env", "volume_of", "code", "told"),
    [
        ({"STATECAR_UPSTREAM": ""}, None, 2, "no upstream: give --upstream or STATECAR_UPSTREAM"),
        ({}, None, 1, "the data directory /var/lib/statecar cannot be used: Read-only file system"),
        ({}, "root", 1, "the data directory /var/lib/statecar cannot be used: Permission denied"),
    ],
)
def test_what_keeps_it_from_starting_is_one_line_and_an_exit_code(container, tmp_path, env, volume_of, code, told):
    place = None
    if volume_of:
        place = tmp_path / "of-another"
        place.mkdir()
        shutil.chown(place, volume_of)
    failed = container(env, place)
    assert failed.wait() == code
    assert failed.log.startswith(f"statecar: {told}")
    assert failed.log.count("\n") == 1
