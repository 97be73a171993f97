"""A chat-completions server whose answers are known beforehand: each tells which messages it was asked with.

How it answers is said in the last user message: ``[words=20 pause=5 fault=reset@3]`` says twenty words with 5 ms before
each, and the connection is reset after the third. ``fault``: reset, close, hang (each ``@`` a word) or 500.
``calls=2 rounds=3``: before that it calls the first tool it is offered, twice in each of three answers, never with an
``n`` that it has given before. It goes on with a message that it is to continue, as vLLM does.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import socket
import struct
from collections.abc import Iterator
from typing import Any

from tests.backend import DONE, STREAM_END, STREAM_HEAD, chunk, chunked, completion, json_reply, sse

Message = tuple[str, str]
"""Role and text."""

_MANNER = re.compile(r"\[((?:\w+=[\w@.]+ ?)*)\]")


def words(messages: list[Message]) -> list[str]:
    """The answer to these messages, word by word: the first is a digest of them all."""
    digest = hashlib.blake2b(json.dumps(messages).encode(), digest_size=16).hexdigest()
    rest = [f" {digest[at % 16 : at % 16 + 4]}{at}" for at in range(int(_manner(messages).get("words", 4)) - 1)]
    return [digest, *rest]


def answer(messages: list[Message]) -> str:
    """The same as one text."""
    return "".join(words(messages))


def _manner(messages: list[Message]) -> dict[str, str]:
    text = next((text for role, text in reversed(messages) if role == "user"), "")
    found = _MANNER.search(text)
    return dict(pair.split("=") for pair in found[1].split()) if found else {}


class Teller:
    """The server. ``url``: its base, ending in ``/v1``; ``asked``: how many completions it was asked for;
    ``open``: how many it is at. ``port``: to listen on, 0 for a free one.
    """

    def __init__(self, port: int = 0) -> None:
        self.asked = self.open = 0
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Teller:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, backlog=1024)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    def cut_all(self) -> None:
        """Resets every connection."""
        for writer in self._writers:
            _reset(writer)

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b""
                work = self._answer(head, body, writer)
                if not await self._gone_meanwhile(reader, work):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _gone_meanwhile(self, reader: asyncio.StreamReader, work: Any) -> bool:
        """Does the work until the client leaves; whether the connection is good for another request."""
        self.open += 1
        working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(reader))
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            return working.done() and bool(working.result())
        finally:
            self.open -= 1
            for task in (working, leaving):
                task.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)

    async def _answer(self, head: bytes, sent: bytes, writer: asyncio.StreamWriter) -> bool:
        path = head.split(b" ", 2)[1]
        if path != b"/v1/chat/completions":
            here = path == b"/v1/models"
            writer.write(json_reply({"object": "list", "data": [{"id": "m"}]}, status=200 if here else 404))
            return True
        body = json.loads(sent)
        self.asked += 1
        messages = [(message["role"], _text(message["content"])) for message in body["messages"]]
        told = messages.pop()[1] if body.get("continue_final_message") else ""
        manner = _manner(messages)
        pause = float(manner.get("pause", 0)) / 1000
        fault, _, place = manner.get("fault", "").partition("@")
        if fault == "500":
            writer.write(json_reply({"error": {"message": "out of order"}}, status=500))
            return True
        if not body.get("stream"):
            await asyncio.sleep(pause * len(words(messages)))
            if fault:
                return await _broken(fault, writer)
            writer.write(json_reply(completion(answer(messages))))
            return True
        writer.write(STREAM_HEAD + chunked(sse(chunk({"role": "assistant", "content": ""}))))
        calls = [] if told else _calls(body, messages, manner)
        for at, delta in enumerate(calls or _said(words(messages), told)):
            if delta is None:
                continue
            await asyncio.sleep(pause)
            if fault and at == int(place):
                return await _broken(fault, writer)
            if writer.transport.is_closing():
                raise ConnectionResetError
            writer.write(chunked(sse(chunk(delta))))
        writer.write(chunked(sse(chunk({}, "tool_calls" if calls else "stop"), DONE)) + STREAM_END)
        return True


def _said(said: list[str], told: str) -> Iterator[dict[str, Any] | None]:
    """The words as deltas, None for one that stands already, as far as it has got."""
    for word in said:
        assert told.startswith(word) or word.startswith(told)
        yield {"content": word[len(told) :]} if len(word) > len(told) else None
        told = told[len(word) :]


def _calls(body: dict[str, Any], messages: list[Message], manner: dict[str, str]) -> list[dict[str, Any]]:
    """The pieces of the calls it makes, none where it has made them all."""
    if sum("tool_calls" in message for message in body["messages"]) >= int(manner.get("rounds", 0)):
        return []
    digest, name = words(messages)[0], body["tools"][0]["function"]["name"]
    pieces: list[dict[str, Any]] = []
    for at in range(int(manner["calls"])):
        pieces.append({"index": at, "id": f"call_{at}", "type": "function", "function": {"name": name}})
        arguments = json.dumps({"n": f"{digest} {at}"})
        pieces += [{"index": at, "function": {"arguments": part}} for part in (arguments[:9], arguments[9:])]
    return [{"tool_calls": [piece]} for piece in pieces]


async def _left(reader: asyncio.StreamReader) -> None:
    """Returns when the peer has closed: while it waits for an answer it says nothing else."""
    while not reader.at_eof() and reader.exception() is None:  # noqa: ASYNC110 (nothing wakes it but bytes)
        await asyncio.sleep(0.05)


async def _broken(fault: str, writer: asyncio.StreamWriter) -> bool:
    if fault == "hang":
        await asyncio.Event().wait()
    if fault == "reset":
        _reset(writer)
    return False


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()


def _text(content: Any) -> str:
    if content is None:
        return ""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
