"""Ids say where a thing lies; what is no id of ours says nothing."""

import re

import pytest

from proxy import ids

MINTED = "msg_" + "a" * 16 + "b" * 28 + "0001"


@pytest.mark.parametrize("type_", [*ids.PREFIXES, "unknown"])
def test_an_item_id_carries_the_lineage_and_turn_of_its_minter(type_):
    minter = ids.Minter("0123456789abcdef")
    own, first, second = minter.own("resp"), minter.item(type_), minter.item(type_)
    prefix = ids.PREFIXES.get(type_, "item")
    assert re.fullmatch(rf"{prefix}_[0-9a-f]{{48}}", first)
    assert ids.parse(own) == ("resp", "0123456789abcdef", minter.turn, 0)
    assert ids.parse(first) == (prefix, "0123456789abcdef", minter.turn, 1)
    assert ids.parse(second) == (prefix, "0123456789abcdef", minter.turn, 2)
    assert all(map(ids.is_path_id, (own, first)))


def test_the_prefixes_are_those_that_openai_checks():
    assert ids.PREFIXES["message"] == "msg"
    assert ids.PREFIXES["reasoning"] == "rs"
    assert ids.PREFIXES["function_call"] == "fc"
    assert ids.PREFIXES["function_call_output"].startswith("fc")
    assert len(set(ids.PREFIXES.values())) == len(ids.PREFIXES)


def test_minters_share_nothing_unless_they_are_told_to():
    first, second, same = ids.Minter(), ids.Minter(), ids.Minter("a" * 16)
    assert len({first.tag, second.tag, same.tag}) == 3
    assert first.turn != second.turn
    assert same.tag == "a" * 16


def test_a_turn_ends_at_its_last_ordinal():
    minter = ids.Minter()
    minter._ordinal = ids.MAX_ORDINAL - 1
    assert minter.item("message").endswith("ffff")
    with pytest.raises(OverflowError):
        minter.item("message")


@pytest.mark.parametrize(
    "text",
    ["", "msg_", MINTED[:-1], MINTED + "0", MINTED.upper(), MINTED + "\n", MINTED.replace("b", "g"), "x" + "0" * 48]
    + [None, 5, b"msg", ["msg"], MINTED.replace("msg", "ms1")],
)
def test_what_was_not_minted_here_is_no_id_of_ours(text):
    assert ids.parse(text) is None
    assert ids.of_kind(text, "msg") is None


def test_only_a_response_is_of_the_kind_of_a_response():
    own = ids.Minter().own("resp")
    assert ids.of_kind(own, "resp") == ids.parse(own)
    assert ids.of_kind(own, "conv") is None
    assert ids.of_kind(MINTED, "msg") is None  # an item


@pytest.mark.parametrize("text", ["a", "A-b_9", "x" * 128, MINTED])
def test_a_path_id_may_be_kept(text):
    assert ids.is_path_id(text)


@pytest.mark.parametrize("text", ["", "x" * 129, "a/b", "a b", "a.b", "é", "a\n", "{a}", None, 1])
def test_anything_else_may_not(text):
    assert not ids.is_path_id(text)


def test_call_ids_look_like_openais():
    assert re.fullmatch(r"call_[A-Za-z0-9]{24}", ids.new_call_id())
    assert ids.new_call_id() != ids.new_call_id()
