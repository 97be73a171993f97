"""What content looks like in the store: wrapped and unwrapped, by which keys, and what is refused."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import EncryptionKeyMissing, StatecarError
from proxy.state.envelope import ITEM, OPEN, TEXT, Envelope

A, B, C = (letter * 16 for letter in "abc")
TAG, OTHER = "00" * 8, "11" * 8
FORMS = {
    "plain": OPEN,
    "packed": Envelope(compression="zstd"),
    "sealed": Envelope([A]),
    "packed and sealed": Envelope([A], "zstd"),
}
ALL = Envelope([B, A], "zstd")
SAID = b'{"type":"message","content":[{"type":"input_text","text":"' + 20 * b"what a secret! " + b'"}]}'

form = pytest.mark.parametrize("envelope", FORMS.values(), ids=FORMS)


@form
@settings(max_examples=30)
@given(text=st.text(max_size=2000))
def test_whatever_was_wrapped_is_unwrapped_the_same(envelope, text):
    data = b'"' + text.encode("utf-8", "surrogatepass") + b'"'
    wrapped = envelope.wrap(data, TAG, ITEM)
    assert envelope.unwrap(wrapped, TAG, ITEM) == ALL.unwrap(wrapped, TAG, ITEM) == data
    assert (wrapped[0] < 0x20) or wrapped == data


def test_what_is_wrapped_cannot_be_read():
    for name, envelope in FORMS.items():
        wrapped = envelope.wrap(SAID, TAG, ITEM)
        assert (b"secret" in wrapped) == ("sealed" not in name)
        assert (len(wrapped) < len(SAID) / 2) == ("packed" in name)


def test_nothing_grows_for_being_packed():
    packed = FORMS["packed"]
    for data in (b"", b"{}", b'"x"', bytes(range(0x20, 0x7F))):
        assert packed.wrap(data, TAG, ITEM) == data


def test_equal_values_look_different_each_time():
    assert len({FORMS["sealed"].wrap(b"{}", TAG, ITEM) for _ in range(100)}) == 100


def test_a_sealed_value_opens_only_where_it_was_put_and_as_what_it_is():
    sealed = FORMS["sealed"].wrap(SAID, TAG, ITEM)
    for owner, about in ((OTHER, ITEM), (TAG, TEXT), ("", ITEM)):
        with pytest.raises(StatecarError) as caught:
            FORMS["sealed"].unwrap(sealed, owner, about)
        assert caught.value.code == "history_damaged"


@pytest.mark.parametrize("at", [5, 16, 17, 40, -1])
def test_a_changed_value_is_not_opened(at):
    sealed = bytearray(FORMS["sealed"].wrap(SAID, TAG, ITEM))
    sealed[at] ^= 1
    with pytest.raises(StatecarError) as caught:
        FORMS["sealed"].unwrap(bytes(sealed), TAG, ITEM)
    assert caught.value.code == "history_damaged"


@pytest.mark.parametrize("data", [b"\x01", b"\x01abcd", b"\x02", b"\x02\x28", b"\x03?", b"\x1f"])
def test_what_is_no_value_of_ours_is_an_error_of_ours(data):
    with pytest.raises(StatecarError):
        ALL.unwrap(data, TAG, ITEM)


def test_the_first_key_seals_and_all_open():
    old, both, new, other = Envelope([A]), Envelope([B, A]), Envelope([B]), Envelope([C])
    assert both.unwrap(old.wrap(SAID, TAG, ITEM), TAG, ITEM) == SAID
    rotated = both.wrap(SAID, TAG, ITEM)
    assert new.unwrap(rotated, TAG, ITEM) == SAID
    for envelope, value in ((old, rotated), (new, old.wrap(SAID, TAG, ITEM)), (other, rotated), (OPEN, rotated)):
        with pytest.raises(EncryptionKeyMissing) as caught:
            envelope.unwrap(value, TAG, ITEM)
        assert (caught.value.status, caught.value.code) == (500, "encryption_key_missing")


@form
def test_a_log_is_read_whatever_its_entries_are(envelope):
    items = [{"id": str(n), "text": "x" * n * 40} for n in range(8)]
    entries = [
        entry for one, item in zip(2 * list(FORMS.values()), items, strict=True) for entry in one.entries([item], TAG)
    ]
    entries.insert(3, b"")
    if envelope in (OPEN, FORMS["packed"]):
        with pytest.raises(EncryptionKeyMissing):
            envelope.items(entries, TAG)
        items, entries = [*items[:2], *items[4:6]], [*entries[:2], *entries[5:7]]
    assert envelope.items(entries, TAG) == items


def test_names_are_found_again_after_the_key_has_changed():
    old, new = Envelope([A]), Envelope([B, A])
    for envelope in (OPEN, old):
        assert envelope.name("mine", TAG) in new.names("mine", TAG)
        assert envelope.model("gpt-4o", "t") in new.models("gpt-4o", "t")
        assert len(envelope.names("mine", TAG)) == envelope.spellings
    assert old.name("mine", TAG) == old.names("mine", TAG)[0] not in (new.name("mine", TAG), b"mine", "mine")
    assert old.name("mine", TAG) != old.name("mine", OTHER)
    assert old.model("gpt-4o", "t") not in (old.model("gpt-4o", "u"), old.model("gpt-4", "t"))
    assert old.unwrap(old.model("gpt-4o", "t"), "t", "model") == b'"gpt-4o"'


def test_one_text_has_another_hash_in_each_form():
    found = [envelope.digest(SAID, TAG) for envelope in (*FORMS.values(), ALL)]
    assert len(set(found)) == len(found)
    assert FORMS["sealed"].digest(SAID, TAG) != FORMS["sealed"].digest(SAID, OTHER)


def test_what_is_packed_stays_readable_for_ever():
    """A frame of the first version, by its text of usual bytes."""
    frame = bytes.fromhex(FRAME)
    assert OPEN.unwrap(frame, TAG, ITEM) == SAID


FRAME = "0228b52ffd606a0025010098776861742061207365637265742120227d5d7d05001a326a258877839ce91e0ca62920"


def test_a_process_without_these_options_loads_neither_library():
    code = (
        "import sys; from proxy.state import open_state, Envelope; Envelope();"
        "sys.exit(any(name in sys.modules for name in ('cryptography.hazmat', 'backports.zstd', 'compression.zstd')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_zstd_what_is_packed_is_an_error_that_says_so(monkeypatch, caplog):
    packed = FORMS["packed"].wrap(SAID, TAG, ITEM)
    for name in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(StatecarError, match="compressed"):
        Envelope([A]).unwrap(packed, TAG, ITEM)
    assert "statecar[zstd]" in caplog.text
