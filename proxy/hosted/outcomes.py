"""What hosted calls came to, as plain dicts, and how much of it is kept."""

from __future__ import annotations

from typing import Any


def outcome(output: str = "", error: dict[str, Any] | None = None, **rest: Any) -> dict[str, Any]:
    """An outcome with every key: output, error, found, outputs, action."""
    return {"output": output, "error": error, "found": [], "outputs": [], "action": None, **rest}


def http_error(code: int, message: str) -> dict[str, Any]:
    """``error`` of a server that could not be asked, or did not answer as it should (wire §6.2)."""
    return {"type": "http_error", "code": code, "message": message}


def protocol_error(code: int, message: str) -> dict[str, Any]:
    """``error`` of a server that refused the call (wire §6.2)."""
    return {"type": "mcp_protocol_error", "code": code, "message": message}


def execution_error(text: str) -> dict[str, Any]:
    """``error`` of a tool that ran and failed (wire §6.2)."""
    return {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": text}]}


def cut(text: str, limit: int) -> str:
    """``text``, or its first ``limit`` bytes of UTF-8 and a line that says how much is missing."""
    whole = text.encode("utf-8", "surrogatepass")
    if len(whole) <= limit:
        return text
    kept = whole[:limit].decode("utf-8", "ignore")
    missing = len(whole) - len(kept.encode())
    return f"{kept}\n[cut here: {missing} of {len(whole)} bytes are above this server's limit]"


def cut_error(error: dict[str, Any] | None, limit: int) -> dict[str, Any] | None:
    """``error``, of whose words there are ``limit`` bytes at most."""
    if error is None:
        return None
    if "content" in error:
        return {**error, "content": [{**part, "text": cut(part["text"], limit)} for part in error["content"]]}
    return {**error, "message": cut(error["message"], limit)}
