"""A driver runs alone and leaves nothing behind."""

import sys
import time
from pathlib import Path

import pytest

from tests.clients import driving

RESULT = '{"client": "a", "version": "1", "feature": "text", "ok": true, "note": ""}'


def driver(folder, text):
    script = folder / "driver.py"
    script.write_text(text)
    return [sys.executable, str(script)]


def test_results_are_read_and_chatter_is_not(tmp_path):
    command = driver(tmp_path, f"print('Hello.')\nprint('''{RESULT}''')\n")
    assert driving.drive(command, tmp_path, {}) == [
        {"client": "a", "version": "1", "feature": "text", "ok": True, "note": ""}
    ]


def test_it_sees_a_home_of_its_own_and_no_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    told = '{"client": "%s", "home": %d}'
    text = f"import os\nprint('{told}' % (sorted(os.environ), len(os.listdir(os.environ['HOME']))))"
    (result,) = driving.drive(driver(tmp_path, text), tmp_path, {"DRIVE_URL": "x"})
    assert "OPENAI_API_KEY" not in result["client"] and "DRIVE_URL" in result["client"]
    assert result["home"] == 0


def test_a_driver_that_breaks_is_an_error_in_its_own_words(tmp_path):
    with pytest.raises(RuntimeError, match="(?s)exit code 1: .*ZeroDivisionError"):
        driving.drive(driver(tmp_path, f"print('''{RESULT}''')\n1 / 0"), tmp_path, {})


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("ending", "limit"), [("", 60), ("import time; time.sleep(600)", 1)], ids=["ends", "hangs"])
def test_what_a_driver_started_ends_with_it(tmp_path, monkeypatch, ending, limit):
    monkeypatch.setattr(driving, "LIMIT", limit)
    pid = tmp_path / "pid"
    text = "import subprocess\nchild = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL)\n"
    text += f"open({str(pid)!r}, 'w').write(str(child.pid))\n{ending}"
    try:
        driving.drive(driver(tmp_path, text), tmp_path, {})
    except RuntimeError as exc:
        assert ending and "no end after 1 s" in str(exc)
    end = time.monotonic() + 30
    while is_running(int(pid.read_text())):
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
