"""Stored entries become items again."""

from hypothesis import given
from hypothesis import strategies as st

from proxy import codec
from proxy.state.past import decode, without


@given(st.lists(st.booleans(), max_size=40))
def test_gone_positions_are_left_out_however_they_are_written(kept):
    entries = [str(n).encode() for n in range(len(kept))]
    gone = [n for n, keep in enumerate(kept) if not keep]
    expected = [entry for entry, keep in zip(entries, kept, strict=True) if keep]
    assert without(entries, ",".join(map(str, gone))) == expected
    ranges = [n for n in gone if n - 1 not in gone]
    ends = [n for n in gone if n + 1 not in gone]
    written = ",".join(f"{a}-{b}" if a != b else str(a) for a, b in zip(ranges, ends, strict=True))
    assert without(entries, written) == expected


def test_erased_entries_are_skipped_and_lone_surrogates_survive():
    items = [{"id": "a", "text": "\ud83d"}, {"id": "b", "text": "ж"}]
    assert decode([b"", codec.dumps(items[0]), b"", codec.dumps(items[1]), b""]) == items
    assert decode([]) == decode([b""]) == []
