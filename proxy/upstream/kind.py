"""Which server the upstream is, told by what its own endpoints answer.

The questions, in this order, the first that tells decides:

1. ``/v1/models``: who owns the models. vLLM, SGLang, llama.cpp and Ollama each put a name of their own there.
2. ``/props``: llama.cpp; before Ollama's, whose endpoints llama.cpp and SGLang serve too.
3. ``/get_model_info``: SGLang.
4. ``/version``: vLLM, whose key guards only ``/v1``.
5. ``/api/version``: Ollama.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.errors import UpstreamError, UpstreamTimeout, UpstreamUnreachable
from proxy.upstream.client import Upstream
from proxy.upstream.target import Target

LIMIT = 2.0
"""Seconds all questions take at most."""

_MODELS = "/v1/models"
_BYTES = 4 * 1024 * 1024
_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llamacpp", "library": "ollama"}


@dataclass(frozen=True)
class Found:
    """What asking gave. ``kind``: None when no answer told. ``how``: in words, for the log.

    ``final``: the server has shown its models, so that asking again would give the same. ``needs_key``: it shows them
    only to those who have one. ``silent``: it could not be reached, or took too long.
    """

    kind: str | None
    how: str
    final: bool
    needs_key: bool = False
    silent: bool = False


async def by_asking(upstream: Upstream | Target, headers: Sequence[tuple[str, str]] = ()) -> Found:
    """The kind of the server behind ``upstream``. ``headers``: a caller's, for its key. Never raises."""
    refused = 0
    try:
        async with asyncio.timeout(LIMIT):
            for path, tells in _QUESTIONS:
                try:
                    answer = await upstream.ask("GET", path, headers=headers, limit=_BYTES)
                except (UpstreamUnreachable, UpstreamTimeout) as exc:
                    return Found(None, exc.message, final=False, silent=True)
                except UpstreamError as exc:
                    if path == _MODELS and (exc.status in (401, 403, 408, 429) or exc.status >= 500):
                        refused = exc.status
                    continue
                if kind := tells(answer):
                    return Found(kind, f"by its answer to {path}", final=True)
    except TimeoutError:
        return Found(None, f"it did not answer within {LIMIT:g} s", final=False, silent=True)
    if refused:
        how = f"its list of models is answered {refused}"
        return Found(None, how, final=False, needs_key=refused in (401, 403))
    return Found(None, "it answers as no server that is known", final=True)


def _by_owner(answer: Any) -> str | None:
    models = answer.get("data") if isinstance(answer, dict) else None
    owners = [model.get("owned_by") for model in models if isinstance(model, dict)] if isinstance(models, list) else []
    kinds = {_OWNERS.get(str(owner)) for owner in owners}
    return kinds.pop() if len(kinds) == 1 else None  # a gateway may list the models of several


def _if_it_has(key: str, kind: str, *, alone: bool = False) -> Callable[[Any], str | None]:
    def tells(answer: Any) -> str | None:
        found = isinstance(answer, dict) and key in answer and (not alone or len(answer) == 1)
        return kind if found else None

    return tells


_QUESTIONS: tuple[tuple[str, Callable[[Any], str | None]], ...] = (
    (_MODELS, _by_owner),
    ("/props", _if_it_has("default_generation_settings", "llamacpp")),
    ("/get_model_info", _if_it_has("model_path", "sglang")),
    ("/version", _if_it_has("version", "vllm", alone=True)),
    ("/api/version", _if_it_has("version", "ollama", alone=True)),
)
