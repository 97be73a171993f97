"""Content parts of messages and outputs in their chat form (wire §7.3, §7.4)."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any
from urllib.parse import unquote_to_bytes

from proxy.errors import InvalidRequest

Part = dict[str, Any]

_TEXT_NAME = re.compile(
    r".*\.(txt|md|markdown|csv|tsv|json|jsonl|xml|ya?ml|html?|log|ini|toml|py|js|ts|sql|sh)\Z", re.I
)
_TEXT_TYPE = re.compile(r"(text/|application/(json|xml|yaml|x-yaml|x-ndjson|csv)\b)", re.I)
_BINARY_TYPE = re.compile(r"(application/(pdf|zip)|image/|audio/|video/)", re.I)
_DATA_URL = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),(.*)\Z", re.S)


def plain_text(content: str | list[Part]) -> str:
    """All text of a message's content, parts joined by newlines."""
    if isinstance(content, str):
        return content
    return "\n".join(_text(part) for part in content if _text(part))


def said_by_model(content: str | list[Part]) -> tuple[str, str]:
    """(text, refusal) of an assistant message; its text parts are one text."""
    if isinstance(content, str):
        return content, ""
    text = "".join(_text(part) for part in content if part.get("type") != "refusal")
    return text, "".join(_text(part) for part in content if part.get("type") == "refusal")


def said_by_user(content: str | list[Part], *, openai_like: bool) -> str | list[Part]:
    """A user's content; a single text stays a string, as many templates take only that.

    Raises InvalidRequest for a part that no chat backend takes.
    """
    if isinstance(content, str):
        return content
    if not content:
        return ""
    sent = [_chat_part(part, openai_like) for part in content]
    if len(sent) == 1 and sent[0]["type"] == "text":
        return str(sent[0]["text"])
    return sent


def of_output(output: Any, *, openai_like: bool) -> tuple[str, list[Part]]:
    """(text for the tool message, images and files for a user message after it): tool messages hold only text.

    Raises InvalidRequest for a part that no chat backend takes.
    """
    if not isinstance(output, list):
        return (output if isinstance(output, str) else ""), []
    sent = [_chat_part(part, openai_like) for part in output if isinstance(part, dict)]
    return plain_text([part for part in sent if part["type"] == "text"]), [p for p in sent if p["type"] != "text"]


def _text(part: Part) -> str:
    value = part.get("refusal") if part.get("type") == "refusal" else part.get("text")
    return value if isinstance(value, str) else ""


def _chat_part(part: Part, openai_like: bool) -> Part:
    type_ = part.get("type")
    if type_ == "input_image":
        return _image(part)
    if type_ == "input_file":
        return _file(part, openai_like)
    if type_ == "input_audio":
        return {"type": "input_audio", "input_audio": part.get("input_audio") or {}}
    if type_ == "input_video":
        return {"type": "video_url", "video_url": {"url": part.get("video_url") or ""}}
    if isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if type_ == "refusal":
        return {"type": "text", "text": part.get("refusal") or ""}
    raise InvalidRequest(f"Content of type '{type_}' cannot be sent to the model.", param="input")


def _image(part: Part) -> Part:
    url = part.get("image_url")
    if not isinstance(url, str) or not url:
        given = "a file_id" if part.get("file_id") else "none"
        raise InvalidRequest(f"An input_image needs a non-empty 'image_url', got {given}.", param="input")
    image = {"url": url}
    detail = part.get("detail")
    if detail in ("low", "high", "original"):
        image["detail"] = "high" if detail == "original" else detail
    return {"type": "image_url", "image_url": image}


def _file(part: Part, openai_like: bool) -> Part:
    if part.get("file_url") and not part.get("file_data"):
        raise InvalidRequest("An input_file by 'file_url' is not supported: send its 'file_data'.", param="input")
    name, data = part.get("filename"), part.get("file_data")
    if data and not openai_like and (text := _decoded(data, name or "")) is not None:
        return {"type": "text", "text": f"[file: {name or 'file'}]\n{text}"}
    file = {"filename": name, "file_data": _as_data_url(data) if data else None, "file_id": part.get("file_id")}
    return {"type": "file", "file": {k: v for k, v in file.items() if v}}


def _decoded(data: str, name: str) -> str | None:
    """The text of a text file, None for any other: vLLM and the like take no file parts."""
    match = _DATA_URL.match(data)
    type_ = match[1] if match else ""
    named = _TEXT_NAME.match(name) and not _BINARY_TYPE.match(type_)  # browsers give text files generic types
    if not (named or _TEXT_TYPE.match(type_)):
        return None
    try:
        if match and "base64" not in match[2]:
            return unquote_to_bytes(match[3]).decode()
        return base64.b64decode(match[3] if match else data, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def _as_data_url(data: str) -> str:
    return data if data.startswith("data:") else f"data:application/octet-stream;base64,{data}"
