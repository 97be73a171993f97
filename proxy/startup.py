"""Before a process serves: what one option alone cannot tell is checked, and what it will do is put into words."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from proxy.access.keyfile import parse
from proxy.options import SettingsError
from proxy.settings import Settings
from proxy.state import open_state
from proxy.state.envelope import key_name
from proxy.upstream import open_pool
from proxy.values import DEMO, EMBEDDED, MEMORY, redacted


def check_store(url: str) -> None:
    """Raises SettingsError for what the Redis clients find wrong with the URL, before a worker meets it."""
    if url not in (EMBEDDED, MEMORY):
        try:
            open_state(url, response_ttl=0, conversation_ttl=0)
        except ValueError as exc:
            raise SettingsError(f"--store: {exc}") from None


def check_keys(path: str) -> None:
    """Raises SettingsError for what is wrong with the key file; a worker that meets that lets nobody in."""
    if not path:
        return
    try:
        parse(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "no text" if isinstance(exc, UnicodeError) else exc
        raise SettingsError(f"--keys-file={path!r}: {why}") from None


def check_environment(settings: Settings) -> None:
    """Raises SettingsError for a proxy or certificates of the environment that cannot be used, before a worker meets
    them.
    """
    certificates = os.environ.get("SSL_CERT_FILE")
    try:
        if settings.upstream != DEMO:
            open_pool(settings)
        if certificates and (settings.jwt_issuer or hosted_in_words(settings)):
            ssl.create_default_context(cafile=certificates)
    except ValueError as exc:
        raise SettingsError(f"--upstream{'s' if settings.upstreams else ''}: {exc}") from None
    except OSError as exc:  # ssl.SSLError too
        raise SettingsError(f"SSL_CERT_FILE={certificates!r}: no file of certificates: {exc.strerror}") from None


def upstream_in_words(settings: Settings) -> str:
    groups = (f"{group.name} ({len(group.replicas)})" for group in settings.upstreams)
    return f"groups {', '.join(groups)}" if settings.upstreams else redacted(settings.upstream)


def store_in_words(settings: Settings) -> str:
    kept = {EMBEDDED: f"embedded in {settings.data_dir}", MEMORY: f"{MEMORY} (nothing is kept)"}
    return kept.get(settings.store) or redacted(settings.store)


def callers_in_words(settings: Settings) -> str:
    """Who may call; empty for everybody."""
    found = [
        "keys given as options" if settings.api_key else "",
        f"keys of {settings.keys_file}" if settings.keys_file else "",
        f"tokens of {', '.join(settings.jwt_issuer)}" if settings.jwt_issuer else "",
    ]
    return "; ".join(filter(None, found))


def at_rest_in_words(settings: Settings) -> str:
    """In which form content is stored, and by which keys; empty for plain."""
    first, *others = [key_name(key) for key in settings.encryption_key] or [""]
    found = [
        f"encrypted with key {first}" if first else "",
        f"opened by {', '.join(others)} too" if others else "",
        f"compressed with {settings.compression}" if settings.compression != "off" else "",
    ]
    return ", ".join(filter(None, found))


def hosted_in_words(settings: Settings) -> str:
    """What runs tools here; empty where nothing does."""
    found = {
        "connectors": ", ".join(entry.partition("=")[0] for entry in settings.connector),
        "servers that requests name": ", ".join(settings.mcp_allow),
        "web_search": redacted(settings.web_search).partition("?")[0],
        "file_search": settings.file_search,
        "code_interpreter": settings.code_interpreter,
    }
    return "; ".join(f"{what} {how}" for what, how in found.items() if how)
