"""How tests talk to a running statecar: one caller with a key of its own, event streams as lists of events."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.backend import PATIENCE

DONE = "[DONE]"
COMMENT = ": keepalive"


class Caller:
    """One caller over HTTP. ``url``: of the server, without a path; ``key``: fresh by default, so with state apart."""

    def __init__(self, url: str, key: str | None = None, prefix: str = "/v1", **headers: str) -> None:
        self.key = key or f"sk-{secrets.token_hex(12)}"
        self.headers = {"authorization": f"Bearer {self.key}", **headers}
        self.http = httpx.AsyncClient(
            base_url=url + prefix,
            headers=self.headers,
            timeout=PATIENCE,
            limits=httpx.Limits(max_keepalive_connections=0),  # each request may meet another worker
            trust_env=False,
            verify=False,  # reading certificates takes longer than most tests
        )

    async def __aenter__(self) -> Caller:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def ask(self, text: Any = "Hi", /, **fields: Any) -> httpx.Response:
        """POST /responses, whatever comes of it."""
        return await self.http.post("/responses", json={"model": "m", "input": text} | fields)

    async def create(self, text: Any = "Hi", /, **fields: Any) -> dict[str, Any]:
        """A response that must succeed."""
        return ok(await self.ask(text, **fields))

    async def events(self, text: Any = "Hi", /, **fields: Any) -> list[dict[str, Any]]:
        """The events of a streamed response, framed as wire §9.1 says, its ``[DONE]`` checked and left out."""
        answer = await self.ask(text, stream=True, **fields)
        assert answer.status_code == 200, answer.text
        return unframed(answer.content)

    async def conversation(self, **fields: Any) -> str:
        """The id of a new conversation."""
        return str(ok(await self.http.post("/conversations", json=fields))["id"])

    async def get(self, path: str, **query: Any) -> dict[str, Any]:
        return ok(await self.http.get(path, params=query))

    async def texts(self, conversation: str) -> list[str]:
        """What a conversation holds, oldest first: its items' texts."""
        page = await self.get(f"/conversations/{conversation}/items", order="asc", limit=100)
        return [item["content"][0]["text"] for item in page["data"]]

    @asynccontextmanager
    async def opened(self, text: Any = "Hi", /, **fields: Any) -> AsyncIterator[Opened]:
        """A stream being read; leaving the block hangs up."""
        body = {"model": "m", "input": text, "stream": True} | fields
        async with self.http.stream("POST", "/responses", json=body) as answer:
            yield Opened(answer)


class Opened:
    """A streamed answer, frame by frame."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def frame(self) -> Any:
        """The next event, ``[DONE]``, or a comment."""
        lines: list[str] = []
        async for line in self._lines:
            if line:
                lines.append(line)
            elif lines:
                return _frame("\n".join(lines))
        raise EOFError("the stream has ended")

    async def until(self, type_: str) -> Any:
        """The next event of a type; what lies before is skipped."""
        while True:
            frame = await self.frame()
            if isinstance(frame, dict) and frame["type"] == type_:
                return frame

    async def rest(self) -> list[Any]:
        """Every frame to the end."""
        frames = []
        while True:
            try:
                frames.append(await self.frame())
            except EOFError:
                return frames


def ok(answer: httpx.Response) -> dict[str, Any]:
    """The JSON body of an answer that must be 200."""
    assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
    value: dict[str, Any] = answer.json()
    return value


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error object of an answer, its shape checked (wire §2.1)."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body = answer.json()
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str) and error["message"]
    assert isinstance(error["type"], str)
    return error


def refusal(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    """(status, code, param) of an error answer."""
    error = error_of(answer)
    return answer.status_code, error["code"], error["param"]


def frames(body: bytes) -> list[Any]:
    """Every frame of a whole stream: events, comments and ``[DONE]``."""
    text = body.decode()
    assert "\r" not in text
    assert text.endswith("\n\n")
    return [_frame(frame) for frame in text[:-2].split("\n\n")]


def unframed(body: bytes, *, done: bool = True) -> list[dict[str, Any]]:
    """The events of a whole stream; ``done``: whether ``[DONE]`` must end it."""
    found = frames(body)
    if done:
        assert found.pop() == DONE
    events = [frame for frame in found if frame != COMMENT]
    assert DONE not in events
    return events


def _frame(text: str) -> Any:
    if text in (COMMENT, f"data: {DONE}"):
        return text.removeprefix("data: ")
    name, data = text.split("\n")
    event = json.loads(data.removeprefix("data: "))
    assert name == f"event: {event['type']}"
    return event
