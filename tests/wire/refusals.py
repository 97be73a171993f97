"""What every refusal test compares: code, param and message at once."""

from collections.abc import Callable
from typing import Any

import pytest

from proxy.errors import InvalidRequest


def refusal(call: Callable[..., Any], *args: Any) -> tuple[str | None, str | None, str]:
    """(code, param, message) of the InvalidRequest that the call raises; fails the test when it raises none."""
    with pytest.raises(InvalidRequest) as caught:
        call(*args)
    error = caught.value
    assert (error.status, error.type) == (400, "invalid_request_error")
    return error.code, error.param, error.message
