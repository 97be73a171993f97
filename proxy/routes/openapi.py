"""``/openapi.json``: what this server answers, as OpenAPI 3.1. The document is kept by hand beside the package."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from proxy import __version__, codec
from proxy.routes.resources import Resource

DOCUMENT = Path(__file__).parents[1] / "openapi.json"
ABOUT = ("/health", "/ready", "/metrics", "/openapi.json")
"""Paths about this server itself, which ``--own-prefix`` moves."""


@dataclass(frozen=True)
class OpenApi:
    """``prefix``: in front of our own paths. ``about``: those of ``ABOUT`` that are served."""

    prefix: str
    about: tuple[str, ...] = ABOUT

    def routes(self) -> list[Resource]:
        return [Resource(f"{self.prefix}/openapi.json", GET=self.document)]

    async def document(self, request: Request) -> Response:
        return Response(self._bytes, media_type="application/json")

    @functools.cached_property
    def _bytes(self) -> bytes:
        """The document of this version with its paths where they are; read when somebody first asks."""
        document = codec.loads(DOCUMENT.read_bytes())
        document["info"]["version"] = __version__
        paths = [(path, item) for path, item in document["paths"].items() if path in self.about or path not in ABOUT]
        document["paths"] = {self.prefix + path if path in self.about else path: item for path, item in paths}
        return codec.dumps(document)
