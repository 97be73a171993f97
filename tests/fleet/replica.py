"""A model server with a prefix cache, as a process of its own: ``python -m tests.fleet.replica PORT DIARY``.

It answers as ``tests.faults.teller`` does, and keeps a diary that outlives it, a line of JSON for each thing:
``start``; ``begin`` of a call with its ``id`` (the ``x-request-id``), its ``session``, the ``blocks`` of its prompt, a
pair of hash and tokens for each message, and how many tokens it had ``known``; its ``end`` with the answer's block, of
a call that was answered whole. A message's hash is one of all before it too. SIGUSR1 makes it slow, SIGUSR2 quick
again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.backend import DONE, STREAM_END, STREAM_HEAD, chunk, chunked, completion, json_reply, sse
from tests.faults.teller import Message, Teller, words

SESSION = "x-session-id"
MODEL = "m-1"
LATE, PAUSE = 0.6, 0.02
"""Seconds that a slow one is silent first, and before each word."""

Block = tuple[str, int]


def blocks(messages: list[Message]) -> list[Block]:
    """(hash, tokens) of each message; the hash stands for all before it too."""
    found: list[Block] = []
    for role, text in messages:
        before = found[-1][0] if found else ""
        digest = hashlib.blake2b(f"{before} {role} {text}".encode(), digest_size=8).hexdigest()
        found.append((digest, len(text.split()) + 1))
    return found


class Replica(Teller):
    """``diary``: the file that it keeps."""

    def __init__(self, port: int, diary: Path) -> None:
        super().__init__(port)
        self._diary = os.open(diary, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._cache: set[str] = set()
        self._slow = False

    def slow(self, is_slow: bool) -> None:
        self._slow = is_slow

    def note(self, what: str, **told: Any) -> None:
        """One line, at once: what was noted is there whatever happens to this process."""
        os.write(self._diary, json.dumps({"at": time.monotonic(), "what": what, **told}).encode() + b"\n")

    async def _answer(self, head: bytes, sent: bytes, writer: asyncio.StreamWriter) -> bool:
        if b"/chat/completions " not in head:
            here = b" /v1/models " in head
            models = [{"id": MODEL, "object": "model", "created": 1, "owned_by": "vllm"}]
            writer.write(json_reply({"object": "list", "data": models}, status=200 if here else 404))
            return True
        body = json.loads(sent)
        messages = [(message["role"], message["content"] or "") for message in body["messages"]]
        call, usage = self._begin(head, messages)
        said = words(messages)
        if self._slow:
            await asyncio.sleep(LATE)
        usage |= {"completion_tokens": len(said), "total_tokens": usage["prompt_tokens"] + len(said)}
        if body.get("stream"):
            await self._stream(said, usage, writer)
        else:
            await asyncio.sleep(self._pause * len(said))
            writer.write(json_reply(completion("".join(said)) | {"model": MODEL, "usage": usage}))
        await writer.drain()
        block = blocks([*messages, ("assistant", "".join(said))])[-1]
        self._cache.add(block[0])
        self.note("end", id=call, block=block)
        return True

    def _begin(self, head: bytes, messages: list[Message]) -> tuple[str, dict[str, Any]]:
        """(the call's id, usage as far as it is known)."""
        prompt = blocks(messages)
        known = 0
        for digest, tokens in prompt:
            if digest not in self._cache:
                break
            known += tokens
        self._cache |= {digest for digest, _ in prompt}
        call = _header(head, "x-request-id")
        self.note("begin", id=call, session=_header(head, SESSION), blocks=prompt, known=known)
        whole = sum(tokens for _, tokens in prompt)
        return call, {"prompt_tokens": whole, "prompt_tokens_details": {"cached_tokens": known}}

    async def _stream(self, said: list[str], usage: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunked(sse(chunk({"role": "assistant", "content": ""}))))
        for word in said:
            await asyncio.sleep(self._pause)
            writer.write(chunked(sse(chunk({"content": word}))))
        last = chunk({}) | {"choices": [], "usage": usage}
        writer.write(chunked(sse(chunk({}, "stop"), last, DONE)) + STREAM_END)

    @property
    def _pause(self) -> float:
        return PAUSE if self._slow else PAUSE / 10


def _header(head: bytes, name: str) -> str:
    found = re.search(rf"(?im)^{name}: *(.*?)\r$".encode(), head)
    return found[1].decode() if found else ""


async def main(port: int, diary: Path) -> None:
    replica = Replica(port, diary)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, replica.slow, True)
    loop.add_signal_handler(signal.SIGUSR2, replica.slow, False)
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    async with replica:
        replica.note("start")
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
