"""The llm command-line tool, as its users run it."""

import base64
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from feature import CUT, LOOK, MODEL, PERSON, PNG, REFUSED, THINK, URL, WEATHER, WEATHER_TWICE, drive, has

HOME = Path(tempfile.mkdtemp())
MODELS = f"- {{model_id: sc, model_name: {MODEL}, api_base: '{URL}', responses: true, supports_tools: true, "
FUNCTION = "def get_weather(city: str) -> str:\n    'The weather in a city.'\n    return '21 degrees in ' + city\n"


def llm(*arguments, fails=False):
    """What ``llm`` prints; with ``fails`` what it complains of."""
    own = os.environ | {"LLM_USER_PATH": str(HOME), "OPENAI_API_KEY": "none"}
    command = [sys.executable, "-m", "llm", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=own, stdin=subprocess.DEVNULL)
    assert (done.returncode != 0) == fails, done
    return done.stderr if fails else done.stdout


def text():
    has(llm("-m", "sc", "--no-stream", "-s", "Be brief.", "Say hello there"), "hello there")


def streaming():
    has(llm("-m", "sc", "Count to 5"), "1 2 3 4 5")


def tools():
    has(llm("-m", "sc", "--functions", FUNCTION, WEATHER), "21 degrees in Paris")


def parallel_tools():
    has(llm("-m", "sc", "--functions", FUNCTION, WEATHER_TWICE), "21 degrees in Paris; 21 degrees in Rome")


def structured_output():
    assert json.loads(llm("-m", "sc", "--schema", "name, age int", PERSON)) == {"name": "Ada", "age": 36}


def replayed_history():
    llm("-m", "sc", "My name is Ada.")
    has(llm("-c", "--functions", FUNCTION, WEATHER), "21 degrees in Paris")
    has(llm("-c", "What is my name?"), "Ada")


def reasoning():
    has(llm("-m", "sc", THINK), "It is 42.")
    has(llm("-c", "Repeat what you said"), "42")


def images():
    path = HOME / "one.png"
    path.write_bytes(base64.b64decode(PNG.partition(",")[2]))
    has(llm("-m", "sc", "-a", str(path), LOOK), "data:image/png;base64")


def errors():
    has(llm("-m", "sc", REFUSED[400], fails=True), "no 400")


def broken_stream():
    has(llm("-m", "sc", CUT), "These words came")
    return "But the client does not tell that the stream failed"


(HOME / "extra-openai-models.yaml").write_text(f"{MODELS}supports_schema: true, vision: true}}\n")
drive(
    "llm",
    version("llm"),
    {
        "text": text,
        "streaming": streaming,
        "tools": tools,
        "parallel tools": parallel_tools,
        "structured output": structured_output,
        "replayed history": replayed_history,
        "reasoning": reasoning,
        "images": images,
        "errors": errors,
        "broken stream": broken_stream,
    },
)
