"""What the value of one option must look like: each check gives the value, or raises ValueError with what is right."""

from __future__ import annotations

import re
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, unquote, urlsplit

DEMO = "demo"
EMBEDDED = "embedded"
MEMORY = "memory://"

_HEADER_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SOURCE = rf"header:{_HEADER_NAME}|claim:[^\s,]+"
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_TAKEN = ("authorization", "api-key", "host", "content-type", "content-length", "accept", "user-agent", "x-request-id")
_STORES = ("redis", "rediss", "redis+cluster", "rediss+cluster")
_SENTINELS = ("redis+sentinel", "rediss+sentinel")
_SENTINEL_HOST = r"(?:[^\s,:/?#@\[\]]+|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?"
_CONNECTOR = r"[A-Za-z0-9_-]{1,64}"
_MCP_TOOL = re.compile(rf"mcp:{_CONNECTOR}/[^\s/][^\s]{{0,127}}")


def redacted(url: str) -> str:
    """The URL with its passwords, if any, as ``***``: what may be shown and logged."""
    bare = re.sub(r"([?&]\w*password=)[^&#]*", r"\1***", url)
    return re.sub(r"(?<=://)([^/?#@:]*):[^/?#]*@", r"\1:***@", bare)


def host(text: str) -> str:
    if not re.fullmatch(r"[^\s/]+", text):
        raise ValueError("must be an address or a host name, as 127.0.0.1, 0.0.0.0 or ::")
    return text


def own_prefix(text: str) -> str:
    if text and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", text):
        raise ValueError("must be a path that starts with / and does not end with one, as /statecar")
    if text == "/v1" or text.startswith("/v1/"):
        raise ValueError("must not lie under /v1, where the API is; /statecar would do")
    return text


def seal_key(text: str) -> str:
    if len(text) < 16:
        raise ValueError("must be 16 characters or longer, as openssl rand -base64 32 gives")
    return text


def compression(text: str) -> str:
    if text == "zstd" and not (_installed("compression.zstd") or _installed("backports.zstd")):
        raise ValueError(
            "needs Python 3.14 or newer, or the extra statecar[zstd]: pip install '.[zstd]' in its repository"
        )
    return text


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def upstream(text: str) -> str:
    right = "must be the base URL up to and including /v1, as http://localhost:8000/v1, or demo"
    if text == DEMO:
        return text
    parts = _split(text, right)
    if parts.scheme == "http+unix" and not unquote(parts.netloc).startswith("/"):
        raise ValueError(
            "must be http+unix:// and the socket's path percent-encoded, as http+unix://%2Frun%2Fx.sock/v1"
        )
    if parts.scheme not in ("http", "https", "http+unix") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(right)
    if not parts.path:
        raise ValueError(f"{right}; is {redacted(text)}/v1 meant?")
    return text.rstrip("/")


def mcp_host(text: str) -> str:
    """Hosts as hosted/guard.py reads them: lower-case names, addresses in their usual form."""
    right = (
        "must be NAME, *.NAME, * or an address, each with :PORT or without, as mcp.example.com or *.example.com:8443"
    )
    split = re.fullmatch(r"(\*|(?:\*\.)?[A-Za-z0-9_.-]+|\[[0-9a-fA-F:.]+\])(?::([0-9]{1,5}))?|([0-9a-fA-F:.]+)", text)
    if not split or (split[2] and not 0 < int(split[2]) < 65536):
        raise ValueError(right)
    host = (split[1] or split[3]).strip("[]")
    if ":" in host or re.fullmatch(r"[0-9.]+|.*\.[0-9]+", host):
        try:
            ip_address(host)
        except ValueError:
            raise ValueError(right) from None
    return text.lower()


def network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as exc:
        raise ValueError(f"must be a network, as 10.0.0.0/8 or fd00::/8 ({exc})") from None


def connector(text: str) -> str:
    right = "must be NAME=URL, as notes=https://notes.example.com/mcp, with a name of letters, digits, _ and -"
    name, _, url = text.partition("=")
    parts = _split(url.removeprefix("sse+"), right)
    if not re.fullmatch(_CONNECTOR, name) or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(right)
    if parts.username or parts.password or parts.fragment:
        raise ValueError(f"{right}, without a password: give that as connector_authorization")
    return text


def connector_token(text: str) -> str:
    if not re.fullmatch(rf"{_CONNECTOR}=.+", text):
        raise ValueError("must be NAME=TOKEN, with the name of a connector")
    return text


def mcp_tool(text: str) -> str:
    if text and not _MCP_TOOL.fullmatch(text):
        raise ValueError("must be mcp:CONNECTOR/TOOL, as mcp:files/search")
    return text


def web_search(text: str) -> str:
    right = "must be searxng+http://HOST:PORT, brave, tavily, or mcp:CONNECTOR/TOOL"
    service, _, base = text.partition("+")
    if not text or service in ("brave", "tavily") and text == service or _MCP_TOOL.fullmatch(text):
        return text
    parts = _split(base, right)
    if service not in ("searxng", "brave", "tavily") or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(right)
    if parts.fragment or (parts.query and service != "searxng"):
        raise ValueError(f"{right}; the base URL of {service} has no query")
    return text


def tenant(text: str) -> str:
    if text in ("auth", "off") or re.fullmatch(_SOURCE, text):
        return text
    raise ValueError("must be auth, off, header:NAME with the name of a header, or claim:NAME with that of a claim")


def principal(text: str) -> str:
    if not text or re.fullmatch(_SOURCE, text):
        return text
    raise ValueError("must be header:NAME with the name of a header, or claim:NAME with that of a claim")


def attribute(text: str) -> str:
    if re.fullmatch(rf"[A-Za-z0-9_.-]+=(?:{_SOURCE})", text):
        return text
    raise ValueError("must be NAME=header:NAME or NAME=claim:NAME, as teams=claim:groups")


def issuer(text: str) -> str:
    if "://" in text:
        _https(text, "must be the iss claim of its tokens, as https://login.example.com/realms/main")
    elif re.search(r"\s", text):
        raise ValueError("must be the iss claim of its tokens, without spaces")
    return text


def jwks(text: str) -> str:
    return text and _https(text, "must be the URL of a key set, as https://login.example.com/keys")


def algorithm(text: str) -> str:
    if text not in ALGORITHMS:
        raise ValueError(f"must be of {', '.join(ALGORITHMS)}; none and those with a shared secret are never accepted")
    return text


def session_header(text: str) -> str:
    """In lower case, "" for none. Not one that requests have anyhow."""
    name = "" if text == "off" else text.lower()
    if not name or re.fullmatch(_HEADER_NAME, name) and name not in _TAKEN:
        return name
    raise ValueError("must be the name of a header of its own, as x-session-id, or off")


def store(text: str) -> str:
    also = ", ".join((*_STORES[1:], *_SENTINELS, "unix"))
    right = f"must be embedded, memory://, or a URL as redis://localhost:6379/0 (also {also})"
    if text in (EMBEDDED, MEMORY):
        return text
    scheme, _, rest = text.partition("://")
    if scheme in _SENTINELS:
        if re.fullmatch(
            rf"(?:[^\s/?#]*@)?{_SENTINEL_HOST}(?:,{_SENTINEL_HOST})*/[^\s/?#]+(?:/[0-9]*)?(?:\?\S*)?", rest
        ):
            return text
        raise ValueError(f"must name the Sentinels and the service, as {scheme}://a:26379,b:26379/mymaster/0")
    parts = _split(text, right)
    if not (parts.path.strip("/") if parts.scheme == "unix" else parts.scheme in _STORES and parts.hostname):
        raise ValueError(right)
    if parts.scheme != "unix" and not re.fullmatch(r"/?|/[0-9]+", parts.path):
        raise ValueError(f"{right}; what follows the port is the number of a database")
    return text


def _https(url: str, right: str) -> str:
    parts = _split(url, right)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ValueError(right)
    if parts.username or parts.password:
        raise ValueError(f"{right}, without a password")
    return url


def _split(url: str, right: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for a port that is no number
    except ValueError:
        raise ValueError(right) from None
    if re.search(r"\s", url):
        raise ValueError(right)
    return parts
