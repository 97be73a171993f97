"""Codex CLI: ``codex exec`` with a provider of its own and an MCP server, doing what a scripted model says.

The model only speaks chat completions and is told by the prompt which tools to call; what Codex did shows in the files
it made and in what the model was sent afterwards. Three names stand for the three ways in which Codex declares tools:
one it does not know (functions and namespaces), one with custom tools, one whose tools stand in the input.
"""

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from feature import FOUND_URL, LOOK, PERSON, PNG, REFUSED, THINK, UPSTREAM, URL, drive, has, steps

PACKAGE = Path("node_modules/@openai/codex").absolute()
HOME = Path(os.environ["HOME"])
UNKNOWN, CUSTOM, LITE = "tiny", "gpt-5.5", "gpt-6-sol"
CONFIG = f"""
model_provider = "statecar"
check_for_update_on_startup = false

[model_providers.statecar]
name = "statecar"
base_url = "{URL}"
env_key = "DRIVE_KEY"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0

[mcp_servers.wx]
command = "{sys.executable}"
args = ["{Path(__file__).with_name("mcp_weather.py")}"]
"""
PATCH = """*** Begin Patch
*** Add File: patched.txt
+déjà "vu" \\ 𝄞
*** End Patch
"""


def received():
    """Every request that has come to the model."""
    with urllib.request.urlopen(f"{UPSTREAM}/received") as answer:
        return json.load(answer)


class Run:
    """One ``codex exec``. ``said``: its last words; ``sent``: the chat requests it led to; ``folder``: where it ran."""

    def __init__(self, prompt, *options, model=UNKNOWN, after=None):
        self.folder = after.folder if after else Path(tempfile.mkdtemp(dir=HOME))
        how = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--json", "-m", model]
        begin = ["exec", "resume", "--last"] if after else ["exec"]
        before = len(received())
        self.done = subprocess.run(
            [os.environ["DRIVE_NODE"], PACKAGE / "bin/codex.js", *begin, *how, *options, "--", prompt],
            env=os.environ | {"CODEX_HOME": str(HOME / ".codex"), "DRIVE_KEY": "none"},
            cwd=self.folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=50,
        )
        self.sent = received()[before:]
        events = [json.loads(line) for line in self.done.stdout.splitlines() if line.startswith("{")]
        items = [event["item"] for event in events if event["type"] == "item.completed"]
        self.said = "\n".join(item["text"] for item in items if item["type"] == "agent_message")

    def made(self, name):
        """What stands in a file of the folder."""
        path = self.folder / name
        assert path.exists(), f"no {name}: {self.done.stdout[-700:]}"
        return path.read_text("utf-8")

    def results(self):
        """What the tools gave, as the model was told at last."""
        return [message["content"] for message in self.sent[-1]["messages"] if message["role"] == "tool"]

    def tools(self):
        """The names that the model was offered."""
        return [tool["function"]["name"] for tool in self.sent[0]["tools"]]


def text():
    has(Run("Say hello there").said, "hello there")


def streaming():
    has(Run("Count to 5").said, "1 2 3 4 5")


def websocket():
    """Each call of a run goes over one connection: a warm-up, then new items only."""
    upgrade = ("-c", "model_providers.statecar.supports_websockets=true")
    before = connections()
    calls = {"calls": [["exec_command", {"cmd": "echo hello > made.txt; cat made.txt"}]]}
    run = Run(steps(calls, {"say": "Done."}), *upgrade)
    assert run.made("made.txt") == "hello\n"
    has(run.results(), "hello")
    has(run.said, "Done.")
    first = Run("My name is Ada.", *upgrade)
    has(Run("What is my name?", *upgrade, after=first).said, "Ada")
    time.sleep(1)  # until they are counted
    assert connections() >= before + 3, (before, connections())


def connections():
    """WebSockets that the server has taken and that are over."""
    with urllib.request.urlopen(f"{URL.removesuffix('/v1')}/metrics") as answer:
        told = answer.read().decode()
    counted = re.search(r'^statecar_requests_total\{method="WEBSOCKET".*status="101"\} (\S+)', told, re.MULTILINE)
    return float(counted[1]) if counted else 0


def tools():
    run = Run(steps({"calls": [["exec_command", {"cmd": "echo hello > made.txt; cat made.txt"}]]}, {"say": "Done."}))
    assert run.made("made.txt") == "hello\n"
    has(run.results(), "hello")
    has(run.said, "Done.")


def parallel_tools():
    calls = [["exec_command", {"cmd": f"echo {name} > {name}.txt; cat {name}.txt"}] for name in ("one", "two")]
    run = Run(steps({"calls": calls}, {"say": "Done."}))
    assert (run.made("one.txt"), run.made("two.txt")) == ("one\n", "two\n")
    assert len(run.results()) == 2
    has(run.said, "Done.")


def namespaces():
    run = Run(
        steps(
            {"calls": [["exec_command", {"cmd": "echo hello > made.txt"}]]},
            {"calls": [["mcp__wx__get_weather", {"city": "Paris"}]]},
            {"say": "Done."},
        )
    )
    assert run.made("made.txt") == "hello\n"
    has(run.results(), "Sunny in Paris")
    has(run.said, "Done.")
    assert {"mcp__wx__get_weather", "multi_agent_v1__spawn_agent"} <= set(run.tools()), run.tools()


def custom_tools():
    run = Run(steps({"calls": [["apply_patch", {"input": PATCH}]]}, {"say": "Done."}), model=CUSTOM)
    assert run.made("patched.txt") == 'déjà "vu" \\ 𝄞\n'
    has(run.said, "Done.")


def tool_search():
    run = Run(steps({"calls": [["mcp__wx__get_weather", {"city": "Paris"}]]}, {"say": "Done."}), model=CUSTOM)
    has(run.results(), "Sunny in Paris")


def additional_tools():
    script = 'const r = await tools.exec_command({cmd: "echo hello > made.txt"}); text("ran it");'
    weather = 'text(await tools.mcp__wx__get_weather({city: "Paris"}));'
    run = Run(
        steps(
            {"calls": [["functions__exec", {"input": script}]]},
            {"calls": [["functions__exec", {"input": weather}]]},
            {"say": "Done."},
        ),
        model=LITE,
    )
    assert run.made("made.txt") == "hello\n"
    has(run.results(), "ran it", "Sunny in Paris")
    has(run.said, "Done.")


def structured_output():
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    path = Path(tempfile.mkdtemp(dir=HOME)) / "schema.json"
    path.write_text(json.dumps(schema))
    run = Run(PERSON, "--output-schema", str(path))
    assert json.loads(run.said) == {"name": "Ada", "age": 36}, run.said
    assert run.sent[0]["response_format"]["json_schema"]["schema"] == schema


def replayed_history():
    first = Run("My name is Ada.")
    has(Run("What is my name?", after=first).said, "Ada")


def compaction():
    first = Run("My name is Ada.")
    again = Run("What is my name?", "-c", "model_auto_compact_token_limit=1000", after=first)
    has(again.said, "Ada")
    has(again.sent[0]["messages"][-1]["content"], "CONTEXT CHECKPOINT COMPACTION")


def web_search():
    """Codex asks for it in words of its own: its configuration says whether the web is live."""
    run = Run(steps({"calls": [["web_search", {"query": "ovens"}]]}, {"say": "Hot [1]."}), "-c", 'web_search="live"')
    has(run.said, "Hot [1].")
    has(run.sent[-1]["messages"][-1]["content"], FOUND_URL)


def reasoning():
    first = Run(THINK)
    has(first.done.stdout, "A hard one.")
    has(first.said, "It is 42.")
    has(Run("Repeat what you said", after=first).said, "42")


def images():
    path = Path(tempfile.mkdtemp(dir=HOME)) / "one.png"
    path.write_bytes(base64.b64decode(PNG.partition(",")[2]))
    run = Run(LOOK, "-i", str(path))
    has(run.said, "data:image/png;base64")
    parts = [part["image_url"] for part in run.sent[0]["messages"][-1]["content"] if "image_url" in part]
    details = [part.get("detail") for part in parts]
    assert set(details) <= {None, "auto", "low", "high"}, details


def errors():
    run = Run(REFUSED[400])
    assert run.done.returncode != 0
    has(run.done.stdout, "no 400")
    for status in (429, 500):
        assert Run(REFUSED[status]).done.returncode != 0


def broken_stream():
    run = Run(steps({"cut": "These words came"}))
    assert run.done.returncode != 0
    has(run.done.stdout, "The upstream closed the stream before it finished.")


(HOME / ".codex").mkdir(parents=True, exist_ok=True)
(HOME / ".codex" / "config.toml").write_text(CONFIG)
drive(
    "codex",
    json.loads((PACKAGE / "package.json").read_text("utf-8"))["version"],
    {
        "text": text,
        "streaming": streaming,
        "websocket": websocket,
        "tools": tools,
        "parallel tools": parallel_tools,
        "namespaces": namespaces,
        "custom tools": custom_tools,
        "tool_search": tool_search,
        "additional_tools": additional_tools,
        "structured output": structured_output,
        "replayed history": replayed_history,
        "compaction": compaction,
        "web search": web_search,
        "reasoning": reasoning,
        "images": images,
        "errors": errors,
        "broken stream": broken_stream,
    },
)
