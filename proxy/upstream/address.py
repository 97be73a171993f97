"""Where the upstream is, and which of its URLs a caller's path means. Nothing here touches the network."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote, unquote_to_bytes

import httpx

from proxy.errors import NotFound

_OWN = re.compile(r"(?:^|/v\d+)/(?:responses|conversations)(?:/|$)")
_SLASHES = re.compile(r"[/\\]+")
_PARAMETERS = re.compile(";[^/]*")


class Address:
    """A base URL such as ``http://host:8000/v1`` or ``http+unix://%2Frun%2Fbackend.sock/v1``, taken apart.

    ``url``: what requests are addressed to, without a trailing slash; ``chat``: its chat completions, both taken apart
    once, as httpx takes its time for that. ``socket``: path of the unix socket, or None.
    ``name``: host and port, or the name of the socket, for logs and metrics. Raises ValueError for any other kind
    of URL.
    """

    def __init__(self, base_url: str) -> None:
        scheme, found, rest = base_url.partition("://")
        host, slash, path = rest.partition("/")
        self.socket: str | None = None
        if found and scheme == "http+unix":
            self.socket = unquote(host)
            base_url = f"http://localhost{slash}{path}"
        try:
            url = httpx.URL(base_url)
        except httpx.InvalidURL as exc:
            raise ValueError(f"{base_url!r} is no URL: {exc}") from None
        if url.scheme not in ("http", "https") or not url.host or not host:
            raise ValueError(f"{base_url!r} is no upstream: http://, https:// or http+unix:// and a host are needed")
        if url.userinfo or url.query or url.fragment:
            raise ValueError("the upstream's URL takes no credentials (use the API key option), query or fragment")
        self.name = self.socket.rpartition("/")[2] if self.socket else url.netloc.decode()
        self.origin = f"{url.scheme}://{url.netloc.decode()}"
        self._path = url.raw_path.rstrip(b"/")
        self.url = httpx.URL(self.origin + self._path.decode())
        self.chat = httpx.URL(f"{self.url}/chat/completions")

    def target(self, given: bytes, *, harmless: bool = False) -> bytes:
        """The request target for a caller's path and query, every byte behind the mapped prefix as it came.

        ``/v1/x`` and ``/v1/openai/v1/x`` are ``<base>/x``; any other ``/y`` lies beside a trailing ``/v1`` of the base.
        Raises NotFound for what names the upstream's own responses or conversations, whose state is not ours, and for
        what climbs out of the base by dot segments: both as a server would read it, decoded and resolved. ``harmless``:
        the method neither reads nor changes state, so that every name may be asked.
        """
        path, query, rest = given.partition(b"?")
        root = self._path.removesuffix(b"/v1")
        for prefix in (b"/v1/openai/v1", b"/v1"):
            if path == prefix or path.startswith(prefix + b"/"):
                mapped = self._path + path[len(prefix) :]
                break
        else:
            mapped = root + path
        meant = _resolved(mapped)
        inside = f"{meant}/".startswith(f"{_resolved(root)}/")
        lenient = _PARAMETERS.sub("", meant.lower())
        own = _OWN.search(lenient) or _OWN.search(lenient.removeprefix(_resolved(self._path).lower()))
        if (own and not harmless) or not path.startswith(b"/") or not inside:
            raise NotFound(
                f"There is nothing at {path.decode('latin-1')} here. (Responses and conversations are under /v1.)"
            )
        return mapped + query + rest


def _resolved(path: bytes) -> str:
    """A path as a lenient server reads it: decoded, slashes collapsed, dot segments gone, no slash at the end."""
    text = _SLASHES.sub("/", unquote_to_bytes(path).decode("latin-1"))
    return posixpath.normpath(f"/{text.lstrip('/')}").rstrip("/")
