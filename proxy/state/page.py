"""One page of a list: what the caller asked for, and cutting it out (wire §3.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from proxy.errors import InvalidRequest

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page:
    """``limit`` elements in ``order`` after the id ``after``, or the nearest ones before the id ``before``, exclusive.

    A list is scanned in one direction from one cursor: for ``before`` that is against the order, and the page is turned
    round at the end. ``has_more`` then says whether more lie before the page. Raises InvalidRequest for both cursors.
    """

    limit: int = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    before: str | None = None

    def __post_init__(self) -> None:
        if self.after is not None and self.before is not None:
            raise InvalidRequest(
                "Cannot provide both 'after' and 'before' in the same request.",
                param="before",
                code="mutually_exclusive_parameters",
            )

    @property
    def cursor(self) -> str | None:
        """The id the scan starts behind; None for the end of the list it starts from."""
        return self.before if self.before is not None else self.after

    @property
    def direction(self) -> Literal["asc", "desc"]:
        """The direction of the scan."""
        if self.before is None:
            return self.order
        return "asc" if self.order == "desc" else "desc"

    def finish(self, scanned: list[T]) -> tuple[list[T], bool]:
        """(page, has_more) of up to ``limit + 1`` elements in the order they were scanned."""
        found = scanned[: self.limit]
        return (found if self.before is None else found[::-1]), len(scanned) > self.limit

    def no_cursor(self) -> InvalidRequest:
        """The error for a cursor that names no element (wire §2.4)."""
        return InvalidRequest(
            f"No item found with id '{self.cursor}'.", param="after" if self.before is None else "before"
        )


def cut(items: Sequence[dict[str, Any]], page: Page) -> tuple[list[dict[str, Any]], bool]:
    """(page, has_more) of items that are in memory, oldest first. Raises InvalidRequest for an unknown cursor."""
    scan = items if page.direction == "asc" else items[::-1]
    start = 0
    if page.cursor is not None:
        start = next((n for n, item in enumerate(scan, 1) if item.get("id") == page.cursor), 0)
        if not start:
            raise page.no_cursor()
    return page.finish(list(scan[start : start + page.limit + 1]))
