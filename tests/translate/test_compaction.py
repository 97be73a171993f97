"""What a model sees of a talk with compaction items in it, and of sealed thoughts (wire §7.6, §10.8, §10.9)."""

import pytest

from proxy.errors import InvalidRequest
from proxy.translate.compaction import compacted, holds_more, packed, question
from proxy.translate.sealed import opened
from tests.translate.test_truncation import talk

SEEN = "S"


def compaction(*, users_stay=False, id_="cmp_1", text=None):
    return {"type": "compaction", "id": id_, "encrypted_content": text or packed("the gist", users_stay=users_stay)}


def seen(script, **options):
    """What the model sees, a letter an item: C is a compaction item in the script, S its summary in the answer."""
    items = [
        compaction(**options) if letter == "C" else item for letter, item in zip(script, talk(script), strict=True)
    ]
    return "".join(SEEN if "at" not in item else script[item["at"]] for item in compacted(items, str))


@pytest.fixture(autouse=True)
def letters(monkeypatch):
    monkeypatch.setitem(talk.__globals__["MAKE"], "C", lambda n: {})


SCRIPTS = [
    ("uau", "uau"),
    # what was answered is in the summary alone
    ("uauaC", "S"),
    ("uauaCu", "Su"),
    ("u11aCua", "Sua"),
    # what holds for all stays in front
    ("suaTdaCu", "sTdSu"),
    # what was still to be answered stays: the answer after it makes no sense without
    ("uauCa", "Sua"),
    ("uauuCau", "Suuau"),
    ("u11t22Ca", "Sut22a"),
    ("uuau1122Ca", "Su22a"),
    # so does a call whose output may still come, with the step it was made in
    ("u1C1a", "Su11a"),
    ("uau11t2aC2a", "Sut2a2a"),
    ("u121C2a", "Su1212a"),
    ("u1CC1a", "Su11a"),
    ("u1ua1u2C2a", "Su22a"),
    # only the last compaction counts
    ("uauCauCa", "Sua"),
    ("uaCuaC", "S"),
    ("uC11Ca", "Su11a"),
    ("C", "S"),
    ("Cua", "Sua"),
]


@pytest.mark.parametrize(("script", "expected"), SCRIPTS)
def test_a_summary_stands_for_all_that_was_answered(script, expected):
    assert seen(script) == expected


@pytest.mark.parametrize(("script", "expected"), [("uauaC", "Suu"), ("suaua11Cua", "sSuua11ua"), ("uaCuaC", "Suu")])
def test_where_the_summary_leaves_out_what_users_said_that_stays(script, expected):
    assert seen(script, users_stay=True) == expected


def test_the_summary_is_one_system_message():
    (message,) = compacted([compaction()], str)
    assert (message["type"], message["role"]) == ("message", "system")
    (part,) = message["content"]
    assert part["type"] == "input_text" and part["text"].endswith("the gist")


BROKEN = [None, "", "x", "[]", "{}", '{"summary":1,"users_stay":true}', '{"summary":"x","users_stay":1}', '"x"', "{"]


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_an_item_that_cannot_be_read_is_refused_by_what_was_given(text):
    """To skip it would be to forget a whole talk without a word; its id may be one the client never saw."""
    with pytest.raises(InvalidRequest, match=r"content 'gAAAA' of a") as caught:
        compacted([compaction(text="gAAAA")], lambda _: text)
    assert (caught.value.code, caught.value.param) == ("invalid_encrypted_content", "input")


@pytest.mark.parametrize(
    ("script", "expected"), [("", False), ("s", False), ("su", False), ("uu", False), ("u11", False)]
)
def test_what_is_still_to_be_answered_is_nothing_to_sum_up(script, expected):
    assert holds_more(talk(script)) is expected
    assert holds_more(talk("ua" + script))


def test_a_model_is_told_which_of_both_its_summary_is_to_be():
    texts = [question(users_stay=stay)["content"][0]["text"] for stay in (True, False)]
    assert texts[0] != texts[1]
    assert not any("{" in text for text in texts)


# -- sealed thoughts


def thought(**fields):
    return {"type": "reasoning", "id": "rs_1", "summary": [], **fields}


def text_of(text):
    return [{"type": "reasoning_text", "text": text}]


READ = {"sealed": "a thought"}
THOUGHTS = [
    # a sealed thought is read
    (thought(encrypted_content="sealed"), text_of("a thought")),
    (thought(encrypted_content="sealed", content=text_of("")), text_of("a thought")),
    # a foreign one is let be, and one that can be read is not opened
    (thought(encrypted_content="foreign"), None),
    (thought(encrypted_content="sealed", content=text_of("said")), text_of("said")),
    (thought(encrypted_content="sealed", summary=[{"type": "summary_text", "text": "said"}]), None),
    (thought(encrypted_content=5), None),
    (thought(), None),
    ({"type": "compaction", "encrypted_content": "sealed"}, None),
]


@pytest.mark.parametrize(("item", "content"), THOUGHTS)
def test_a_thought_is_opened_where_nothing_else_says_it(item, content):
    before = dict(item)
    (after,) = opened([item], READ.get)
    assert after.get("content") == content
    assert item == before
