"""Sealed texts: who can open them, and what they cost a process that has no key."""

import subprocess
import sys

import pytest

from proxy.seal import COMPACTION, REASONING, Sealer, packed, unpacked

OLD, NEW, OTHER = "the old key, as it was", "the new key, as it is", "another server's key"
TEXTS = ["a thought", "", "é\u2028\0", "half a pair \ud83d", "x" * 100_000]


@pytest.fixture
def sealer():
    return Sealer([OLD])


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_what_was_sealed_is_opened_by_every_holder_of_the_key(sealer, text):
    sealed = sealer.seal(text, REASONING, "t")
    assert Sealer([OLD]).open(sealed, REASONING, "t") == text
    assert sealed.startswith("sc1.")
    assert sealed.isascii() and not set(sealed) & set("+/= ")


def test_the_first_key_seals_and_all_open(sealer):
    """So that a key may be changed while clients still hold what the old one sealed."""
    rotated = Sealer([NEW, OLD])
    assert rotated.open(sealer.seal("x", REASONING, "t"), REASONING, "t") == "x"
    assert Sealer([NEW]).open(rotated.seal("x", REASONING, "t"), REASONING, "t") == "x"
    assert sealer.open(rotated.seal("x", REASONING, "t"), REASONING, "t") is None


def test_no_two_seals_are_alike(sealer):
    assert len({sealer.seal("x", REASONING, "t") for _ in range(100)}) == 100


def test_another_tenant_purpose_or_key_opens_nothing(sealer):
    sealed = sealer.seal("x", REASONING, "t")
    assert sealer.open(sealed, REASONING, "u") is None
    assert sealer.open(sealed, COMPACTION, "t") is None
    assert Sealer([OTHER]).open(sealed, REASONING, "t") is None


def test_a_change_at_any_place_is_noticed(sealer):
    sealed = sealer.seal("a thought", REASONING, "t")
    for at in range(len(sealed) - 1):  # of the last character some bits mean nothing
        changed = sealed[:at] + ("A" if sealed[at] != "A" else "B") + sealed[at + 1 :]
        assert sealer.open(changed, REASONING, "t") is None


FOREIGN = ["", "sc1.", "sc1.AAAA", "gAAAAABo", "sc1.é", "sc1.\ud83d", "sc1.a b", "sc0.eA", "sc1." + "A" * 1000]


@pytest.mark.parametrize("text", FOREIGN, ids=range(len(FOREIGN)))
def test_foreign_texts_are_not_opened_and_do_no_harm(sealer, text):
    assert sealer.open(text, REASONING, "t") is None


@pytest.mark.parametrize("text", [text for text in TEXTS if text], ids=range(len(TEXTS) - 1))
def test_without_a_key_texts_are_only_packed(text):
    assert packed(text).startswith("sc0.")
    assert unpacked(packed(text)) == text


@pytest.mark.parametrize("text", ["", "sc0.", "sc0.é", "sc0.a", "sc0._w", "sc1.eA", "x"])
def test_what_was_not_packed_is_not_unpacked(text):
    assert unpacked(text) is None


def test_a_process_without_a_key_does_not_load_the_cryptography():
    # redis looks whether the package is there; that costs nothing
    code = "import sys, proxy.app; sys.exit({*sys.modules} & {'cryptography.hazmat', 'jwt'} != set())"
    subprocess.run([sys.executable, "-c", code], check=True)
