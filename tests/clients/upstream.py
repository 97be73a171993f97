"""The chat-completions server behind the clients: the demo backend, which can also be told step by step what to do.

A user message that ends in ``STEPS`` and a JSON list is a program; each reply plays the step after those already
played, which are counted in the messages of the request, so a lost history shows at once:

    STEPS [{"calls": [["get_time", {"zone": "UTC"}]]}, {"say": "It is noon."}]

``{"think": …, "say": …, "calls": …}`` is a reply, ``{"refuse": [429, "Slow down."]}`` an error before the first byte,
``{"cut": "Hel"}`` a connection that breaks off after a few words, ``{"look": true}`` says which images it was sent.

``GET /received`` gives the body of every request so far, oldest first; ``GET /search`` answers as SearXNG does.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import uvicorn

from proxy import demo
from tests.backend import chunk, completion

Json = dict[str, Any]

FOUND = {"url": "https://ovens.example/hot", "title": "Ovens", "content": "All ovens get hot."}
"""What a search of the web finds."""
PROGRAM = re.compile(r"STEPS (\[.*\])\s*$", re.DOTALL)


def step_of(body: Json) -> Json | None:
    """The step to play for a request; None when no program is running."""
    messages = body["messages"]
    programs = [(at, found) for at, message in enumerate(messages) if (found := _program(message))]
    if not programs:
        return None
    at, steps = programs[-1]
    if any(message["role"] == "user" for message in messages[at + 1 :]):
        return None  # the talk has moved on
    played = sum(message["role"] == "assistant" for message in messages[at + 1 :])
    return steps[played] if played < len(steps) else {"say": "There is no step left."}


def _program(message: Json) -> list[Json] | None:
    found = PROGRAM.search(_text(message)) if message["role"] == "user" else None
    return json.loads(found[1]) if found else None


def _text(message: Json) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


def _images(body: Json) -> str:
    parts = [
        part for message in body["messages"] if isinstance(message["content"], list) for part in message["content"]
    ]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return f"{len(urls)} image: {urls[-1][:22]}" if urls else "no image"


class Upstream:
    """The ASGI application. ``received``: the request bodies."""

    def __init__(self) -> None:
        self.received: list[Json] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/received":
            return await _answer(send, 200, self.received)
        if scope["path"] == "/search":
            return await _answer(send, 200, {"query": "", "results": [FOUND]})
        if scope["method"] != "POST":
            return await demo.app(scope, receive, send)
        data = b""
        while (message := await receive())["type"] == "http.request":
            data += message.get("body", b"")
            if not message.get("more_body"):
                break
        body = json.loads(data)
        self.received.append(body)
        if step := step_of(body):
            return await _play(step, body, send)
        first = iter([{"type": "http.request", "body": data}])

        async def again() -> Any:
            return next(first, None) or await receive()

        await demo.app(scope, again, send)


async def _play(step: Json, body: Json, send: Any) -> None:
    if "refuse" in step:
        status, message = step["refuse"]
        return await _answer(send, status, {"error": {"message": message, "type": None, "param": None, "code": None}})
    said = _images(body) if "look" in step else step.get("cut", step.get("say"))
    message = {"role": "assistant", "content": said, "reasoning_content": step.get("think")}
    if calls := [_call(index, name, given) for index, (name, given) in enumerate(step.get("calls") or [])]:
        message["tool_calls"] = calls
    finish = "tool_calls" if calls else "stop"
    if not body.get("stream"):
        if "cut" in step:
            raise ConnectionResetError("the script breaks off here")
        whole = completion() | {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}
        return await _answer(send, 200, whole)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for payload in _payloads(message, finish, cut="cut" in step):
        data = f"data: {payload if isinstance(payload, str) else json.dumps(payload)}\n\n".encode()
        await send({"type": "http.response.body", "body": data, "more_body": True})
    if "cut" in step:
        raise ConnectionResetError("the script breaks off here")
    await send({"type": "http.response.body", "body": b""})


def _call(index: int, name: str, given: Any) -> Json:
    arguments = given if isinstance(given, str) else json.dumps(given)
    id_ = f"call_{time.time_ns():x}{index}"
    return {"id": id_, "type": "function", "index": index, "function": {"name": name, "arguments": arguments}}


def _payloads(message: Json, finish: str, *, cut: bool) -> Iterator[Any]:
    for key in ("reasoning_content", "content"):
        for word in re.findall(r"\s*\S+", message[key] or ""):
            yield chunk({key: word})
    for call in message.get("tool_calls", ()):
        function = call["function"]
        yield chunk({"tool_calls": [call | {"function": function | {"arguments": ""}}]})
        for piece in re.findall(r".{1,16}", function["arguments"], re.DOTALL):
            yield chunk({"tool_calls": [{"index": call["index"], "function": {"arguments": piece}}]})
    if not cut:
        yield chunk({}, finish)
        yield {**chunk({}), "choices": [], "usage": completion()["usage"]}
        yield "[DONE]"


async def _answer(send: Any, status: int, value: Any) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})


def tools(url: str, notes: str) -> list[str]:
    """The options of a statecar whose hosted tools are the search of this server and an MCP server's."""
    return [f"--mcp-allow={urlsplit(notes).netloc}", f"--web-search=searxng+{url}"]


@contextmanager
def serving() -> Iterator[str]:
    """Runs one in a thread; gives its URL, without a path."""
    config = uvicorn.Config(Upstream(), host="127.0.0.1", port=0, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
