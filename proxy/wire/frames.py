"""The frames that clients send over a WebSocket (wire §13.2)."""

from __future__ import annotations

from typing import Any

from proxy.wire import check
from proxy.wire.responses import create_response

CREATE, STEER = "response.create", "response.steer"

_UNSAID = ("type", "stream", "stream_options", "generate")


def frame(value: Any) -> dict[str, Any]:
    """A frame of a known type. Raises InvalidRequest for anything else."""
    given = check.mapping(value, "")
    check.one_of(CREATE, STEER)(check.required(given.get("type"), "type"), "type")
    return given


def create_frame(given: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """(the request of a frame, as ``create_response`` gives it and streamed; whether output is wanted).

    Raises as that does, and for a background response: a connection tells its turns as they are made.
    """
    generates = given.get("generate")
    if generates is not None:
        check.boolean(generates, "generate")
    if given.get("background"):
        raise check.unsupported(
            "background",
            "Unsupported parameter: 'background' is not supported over a WebSocket. Send the request over HTTP.",
        )
    request = create_response({name: value for name, value in given.items() if name not in _UNSAID})
    return {**request, "stream": True}, generates is not False
