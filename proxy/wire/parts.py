"""Content parts of messages and of tool outputs, and their stored form (wire §6.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy.wire import check

Part = dict[str, Any]


def content(value: Any, at: str, text_type: str) -> list[Part]:
    """Parts from a string or a list of parts. ``text_type``: what texts are called here, input_text or output_text."""
    if isinstance(value, str):
        return [_text({"type": text_type, "text": value}, at, text_type)]
    if not isinstance(value, list):
        raise check.wrong_type(at, "one of a string or array of objects", value)
    return parts(value, at, text_type)


def parts(value: list[Any], at: str, text_type: str) -> list[Part]:
    """Every part in stored form: no nulls, Responses names instead of those of chat completions, defaults filled in.

    Parts of unknown types are kept as they came.
    """
    return [_part(part, f"{at}[{i}]", text_type) for i, part in enumerate(value)]


def _part(given: Any, at: str, text_type: str) -> Part:
    part = check.without_nulls(given, at)
    part.pop("prompt_cache_breakpoint", None)  # a hint for OpenAI's cache; means nothing to a chat backend
    type_ = part.get("type")
    if type_ in _TEXTS:
        return _text(part, at, text_type)
    complete = _SHAPES.get(check.required(type_, f"{at}.type"))
    if complete is not None:
        complete(part, at)
    return part


def _text(part: Part, at: str, text_type: str) -> Part:
    """A text under the name that its place calls for; output_text always has both of its lists."""
    text = part.get("text")
    if not isinstance(text, str) or len(text) > check.LONGEST_TEXT:  # places are spelled out for errors only
        check.short(_present(part, "text", at), f"{at}.text", check.LONGEST_TEXT)
    part["type"] = text_type
    if text_type == "output_text":
        for key in ("annotations", "logprobs"):
            if key not in part:
                part[key] = []
            elif not isinstance(part[key], list):
                raise check.wrong_type(f"{at}.{key}", "an array", part[key])
    return part


def _present(part: Part, key: str, at: str) -> Any:
    if key not in part:
        raise check.missing(f"{at}.{key}")
    return part[key]


# Each of these completes one part in place: it is a copy already.


def _refusal(part: Part, at: str) -> None:
    check.string(_present(part, "refusal", at), f"{at}.refusal")


def _image(part: Part, at: str) -> None:
    part["type"] = "input_image"
    url = part.get("image_url")
    if isinstance(url, dict):  # as in chat completions: {"url", "detail"?}
        if url.get("detail") is not None:
            part["detail"] = url["detail"]
        part["image_url"] = url = check.required(url.get("url"), f"{at}.image_url.url")
    if url is not None or "file_id" not in part:
        check.short(check.required(url, f"{at}.image_url"), f"{at}.image_url", check.LONGEST_IMAGE_URL)
    part.setdefault("detail", "auto")
    check.fields(part, at, _IMAGE)


def _file(part: Part, at: str) -> None:
    if part["type"] == "file":  # as in chat completions: {"file": {"file_data", "filename"}}
        inner = check.without_nulls(_present(part, "file", at), f"{at}.file")
        del part["file"]
        part.update({key: inner[key] for key in _FILE if key in inner}, type="input_file")
    if not part.keys() & {"file_data", "file_url", "file_id"}:
        raise check.missing(f"{at}.file_data")
    check.fields(part, at, _FILE)


def _audio(part: Part, at: str) -> None:
    audio = check.mapping(_present(part, "input_audio", at), f"{at}.input_audio")
    check.required(audio.get("data"), f"{at}.input_audio.data")


def _video(part: Part, at: str) -> None:
    part["type"] = "input_video"
    url = part.get("video_url")
    if isinstance(url, dict):  # as vLLM's chat completions take it
        part["video_url"] = url = check.required(url.get("url"), f"{at}.video_url.url")
    check.required(url, f"{at}.video_url")


_TEXTS = ("input_text", "output_text", "text")
_IMAGE: dict[str, check.Check] = {"file_id": check.string, "detail": check.string}
_FILE: dict[str, check.Check] = {
    "file_data": lambda value, at: check.short(value, at, check.LONGEST_FILE),
    "file_url": check.string,
    "file_id": check.string,
    "filename": check.string,
}
_SHAPES: dict[str, Callable[[Part, str], None]] = {
    "refusal": _refusal,
    "input_image": _image,
    "image_url": _image,
    "input_file": _file,
    "file": _file,
    "input_audio": _audio,
    "input_video": _video,
    "video_url": _video,
}
