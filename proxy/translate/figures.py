"""What the frames of an upstream's replies say beside the answer: the model, the service tier, the usage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from proxy.translate.response import moved, usage
from proxy.translate.told import Tokens


class Figures:
    """Added up over the upstream calls of a response. ``usages``: of those that another process has seen to the end."""

    def __init__(self, usages: Iterable[dict[str, Any]] = ()) -> None:
        self.model: str | None = None
        self.tier: str | None = None
        self._rounds = list(usages)
        self._last: dict[str, Any] | None = None

    def read(self, chunk: dict[str, Any], told: Tokens | None) -> None:
        """``told``: what an earlier call gave of the answer that this one goes on with."""
        if isinstance(given := chunk.get("usage"), dict) and given:
            # cumulative where it comes with every chunk: the last one counts
            self._last = moved(given, told) if told else given
        if isinstance(model := chunk.get("model"), str) and model:
            self.model = model
        if isinstance(tier := chunk.get("service_tier"), str):
            self.tier = tier

    def end_round(self) -> None:
        """The next frame is one of another upstream call."""
        self._rounds, self._last = self.usages, None

    def forget_round(self) -> None:
        """The call failed before it gave anything to tell."""
        self._last = None

    def add(self, others: Figures) -> None:
        """Counts the calls behind another stream too."""
        self._rounds = [*self._rounds, *others.usages]

    @property
    def usages(self) -> list[dict[str, Any]]:
        """The chat usages, one for each upstream call that told one."""
        return [*self._rounds, self._last] if self._last else self._rounds

    @property
    def output_tokens(self) -> int:
        """What all of them have given, as far as they told."""
        return int(usage(*self.usages)["output_tokens"])
