"""Pages of lists in memory, against slices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.state import Page, cut


@given(st.integers(0, 12), st.integers(1, 5), st.sampled_from(["asc", "desc"]), st.data())
def test_pages_are_slices_of_the_list(size, limit, order, data):
    items = [{"id": str(n)} for n in range(size)]
    ordered = items if order == "asc" else items[::-1]
    assert cut(items, Page(limit, order)) == (ordered[:limit], size > limit)
    if size:
        at = data.draw(st.integers(0, size - 1))
        cursor = ordered[at]["id"]
        assert cut(items, Page(limit, order, after=cursor)) == (
            ordered[at + 1 : at + 1 + limit],
            size - at - 1 > limit,
        )
        assert cut(items, Page(limit, order, before=cursor)) == (ordered[max(0, at - limit) : at], at > limit)


def test_an_unknown_cursor_is_the_callers_error():
    with pytest.raises(InvalidRequest, match="No item found with id 'x'.") as caught:
        cut([{"id": "a"}], Page(after="x"))
    assert (caught.value.param, caught.value.code) == ("after", None)


def test_two_cursors_are_refused():
    with pytest.raises(InvalidRequest) as caught:
        Page(after="a", before="b")
    assert caught.value.code == "mutually_exclusive_parameters"
