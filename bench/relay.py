"""The bare relay that statecar is measured against: Starlette over httpx with the aiohttp transport, bytes only.

    RELAY_UPSTREAM=http://127.0.0.1:8000/v1 uvicorn bench.relay:app

The least that a Python proxy with this stack does: it reads the body, asks the same of the upstream, sends what comes.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import aiohttp
import httpx
import orjson
from httpx_aiohttp import AiohttpTransport
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

CHAT = os.environ.get("RELAY_UPSTREAM", "http://127.0.0.1:8000/v1") + "/chat/completions"
_HEADERS = {"content-type": "application/json"}


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60))


_http = httpx.AsyncClient(timeout=600, trust_env=False, transport=AiohttpTransport(client=_session))


class Relay:
    """One route, as a plain ASGI endpoint."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        body = message.get("body", b"")
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        if not orjson.loads(body).get("stream"):
            answer = await _http.post(CHAT, content=body, headers=_HEADERS)
            reply = Response(answer.content, answer.status_code, media_type="application/json")
            await reply(scope, receive, send)
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for data in _streamed(body):
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _streamed(body: bytes) -> AsyncIterator[bytes]:
    async with _http.stream("POST", CHAT, content=body, headers=_HEADERS) as answer:
        async for data in answer.aiter_raw():
            yield data


async def _health(request: Request) -> Response:
    return Response(b"{}", media_type="application/json")


app = Starlette(routes=[Route("/ready", _health), Route("/v1/chat/completions", Relay(), methods=["POST"])])
