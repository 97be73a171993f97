"""What a process says of itself when it starts."""

import pytest

from proxy.errors import EncryptionKeyMissing
from proxy.settings import Settings
from proxy.startup import at_rest_in_words
from proxy.state.envelope import ITEM, Envelope, key_name

FIRST, SECOND = "f" * 16, "s" * 16


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), ""),
        (("--compression=zstd",), "compressed with zstd"),
        ((f"--encryption-key={FIRST}",), f"encrypted with key {key_name(FIRST)}"),
        (
            (f"--encryption-key={FIRST}", f"--encryption-key={SECOND}", "--compression=zstd"),
            f"encrypted with key {key_name(FIRST)}, opened by {key_name(SECOND)} too, compressed with zstd",
        ),
    ],
)
def test_the_form_of_what_is_stored_is_told_with_the_keys_names(options, told):
    assert at_rest_in_words(Settings.resolve(["--upstream=demo", *options], {})) == told


def test_a_key_that_is_missing_is_named_as_the_start_names_it(caplog):
    sealed = Envelope([FIRST]).wrap(b"{}", "00" * 8, ITEM)
    with pytest.raises(EncryptionKeyMissing):
        Envelope([SECOND]).unwrap(sealed, "00" * 8, ITEM)
    assert f"({key_name(FIRST)})" in caplog.text and FIRST not in key_name(FIRST)
