"""The quickstart, run as it is printed: its commands in a shell, its Python line by line."""

import json
import re
import subprocess
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "quickstart.md").read_text("utf-8")
HERE = "http://127.0.0.1:8080"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_its_python_prints_what_it_says(on_valkey):
    told, names = StringIO(), {}
    code = "".join(blocks("python"))
    with redirect_stdout(told):
        exec(code.replace(HERE, on_valkey.url), names)
    names["client"].close()
    printed = told.getvalue().splitlines()
    promised = re.findall(r"^ *print.*?  # (.*)$", code, re.MULTILINE)
    assert len(promised) == 6 and [line for line in printed if line in promised] == promised


def test_its_curl_is_answered(on_valkey):
    (command,) = [block for block in blocks("bash") if block.startswith("curl")]
    made = subprocess.run(command.replace(HERE, on_valkey.url), shell=True, capture_output=True, check=True, text=True)
    assert json.loads(made.stdout)["id"].startswith("resp_")


def test_it_serves_with_the_flags_that_serve_knows(start):
    serving = [flags for block in blocks("bash") for flags in re.findall(r"statecar serve (.+)$", block, re.MULTILINE)]
    assert serving == ["--upstream demo"]
    assert start("--store=memory://", *serving[0].split()).url()
