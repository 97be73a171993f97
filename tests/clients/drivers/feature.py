"""What every Python driver shares: where to talk to, what to ask, and one line of JSON for each feature.

Drivers run in environments of their own, which have their client and nothing of ours.
"""

import asyncio
import inspect
import json
import os

URL = os.environ.get("DRIVE_URL", "")
"""The base URL of statecar, ending in /v1."""
UPSTREAM = os.environ.get("DRIVE_UPSTREAM", "")
"""The base URL of the scripted chat-completions server, without a path."""
MCP = os.environ.get("DRIVE_MCP", "")
"""The URL of the MCP server of examples/; statecar may call it."""
MODEL = "demo"
SLOW = "demo-slow"
"""Writes 20 words a second."""

WEATHER = "What is the weather in Paris?"
WEATHER_TWICE = "What is the weather in Paris and in Rome?"
SEARCH_NOTES = "Search the notes: how long does the oven take?"
ADD_NOTE = "Add a note: the lamp is broken."
SEARCH_WEB = "Search the web for ovens"
FOUND_URL = "https://ovens.example/hot"
PERSON = "I am 36 years old and my name is Ada."
PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


def steps(*played):
    """A prompt that tells the scripted server what to do, reply by reply."""
    return f"STEPS {json.dumps(played)}"


LOOK = steps({"look": True})
THINK = steps({"think": "A hard one.", "say": "It is 42."})
REFUSED = {status: steps({"refuse": [status, f"no {status}"]}) for status in (400, 429, 500)}
CUT = steps({"cut": "These words came"})


def has(text, *words):
    """Every word stands in the text."""
    missing = [word for word in words if word.lower() not in str(text).lower()]
    assert not missing, f"{missing} not in {text!r}"


async def refused(attempt, status, *exceptions):
    """The attempt ends in one of the exceptions, which knows the status and the message."""
    try:
        told = attempt()
        told = await told if inspect.isawaitable(told) else told
    except exceptions as exc:
        text = f"{exc!r} {exc.__cause__!r}"
        has(text, str(status), f"no {status}")
    else:
        raise AssertionError(f"{status} went unnoticed: {told!r}")


async def _try(function):
    """Whether it went well, and its note."""
    try:
        async with asyncio.timeout(60):
            note = await (function() if inspect.iscoroutinefunction(function) else asyncio.to_thread(function))
        return True, str(note or "")
    except Exception as exc:
        return False, f"{type(exc).__name__}: {exc}"[:500]


async def _drive(client, version, features):
    for feature, function in features.items():
        ok, note = await _try(function)
        line = {"client": client, "version": version, "feature": feature, "ok": ok, "note": note}
        print(json.dumps(line), flush=True)


def drive(client, version, features):
    """Tries every feature and prints how it went. ``features``: functions by name; what one returns is a note."""
    asyncio.run(_drive(client, version, features))
