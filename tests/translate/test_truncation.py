"""What is left out of a context that is too long, and what never is (wire §10.7)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.translate.truncation import SHARES, shortened, shorter


def message(role, text="x" * 100):
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def call(id_):
    return {"type": "function_call", "call_id": id_, "name": "f", "arguments": "{}"}


def output(id_, text="y" * 100):
    return {"type": "function_call_output", "call_id": id_, "output": text}


THOUGHT = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
MAKE = {
    "s": lambda n: message("system"),
    "d": lambda n: message("developer"),
    "u": lambda n: message("user"),
    "a": lambda n: message("assistant"),
    "t": lambda n: {**THOUGHT},
    "T": lambda n: {"type": "additional_tools", "role": "developer", "tools": []},
    "1": lambda n: call("1") if n == 0 else output("1"),
    "2": lambda n: call("2") if n == 0 else output("2"),
    "3": lambda n: call("3") if n == 0 else output("3"),
}


def talk(script):
    """A letter an item; a digit is a call the first time and its output the second."""
    return [{**MAKE[letter](script[:at].count(letter)), "at": at} for at, letter in enumerate(script)]


def left(script, share):
    """The letters that stay, the others as dots."""
    kept = {item["at"] for item in shortened(talk(script), share)}
    return "".join(letter if at in kept else "." for at, letter in enumerate(script))


SCRIPTS = [
    # what may go goes in whole turns, oldest first
    ("uauaua", 0.5, "..uaua"),
    ("uauaua", 0.0, "....ua"),
    ("uauau", 0.5, "..uau"),
    ("uauau", 0.0, "....u"),
    ("u", 0.0, "u"),
    # thoughts and calls go with their turn
    ("uta11uta22u", 0.5, ".....uta22u"),
    ("u11auau", 0.6, "....uau"),
    # what holds for all of it stays, wherever it stands
    ("sudaTuau", 0.0, "s.d.T..u"),
    # of the newest turn whole steps go, its question stays
    ("uau112233", 0.0, "..u....33"),
    ("u1122t33", 0.0, "u....t33"),
    ("ut1a122", 0.0, "u....22"),
    ("u1212t33", 0.0, "u....t33"),
    # a call and an output in different turns go or stay together, and all between them
    ("ua1u1au", 0.0, "......u"),
    ("ua1u1a", 0.0, "ua1u1a"),
    ("u1u1uau", 0.5, "....uau"),
    # without a question the newest step stays
    ("112233", 0.0, "....33"),
    ("s", 0.0, "s"),
    ("", 0.0, ""),
]


@pytest.mark.parametrize(("script", "share", "expected"), SCRIPTS)
def test_the_oldest_goes_first_and_in_whole(script, share, expected):
    assert left(script, share) == expected


def test_what_fits_the_share_stays():
    assert left("uauaua", 1.0) == "uauaua"


def test_an_image_counts_for_less_than_its_length():
    image = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 1_000_000}
    items = talk("uauauau")
    items[2]["content"].append(image)
    for at in (0, 4):
        items[at]["content"][0]["text"] = "x" * 8000
    assert [item["at"] for item in shortened(items, 0.65)] == [2, 3, 4, 5, 6]
    items[2]["content"][1] = {"type": "input_text", "text": "A" * 1_000_000}
    assert [item["at"] for item in shortened(items, 0.65)] == [4, 5, 6]


def test_every_try_sends_less_until_nothing_may_go():
    items = talk("s" + "ua" * 40 + "u")
    sent, shares, sizes = items, iter(SHARES), []
    while (less := shorter(items, sent, shares)) is not None:
        sent = less
        sizes.append(len(sent))
    assert len(sizes) == len(SHARES) == 7  # eight tries with the first, whole one
    assert sizes == sorted(set(sizes), reverse=True)
    assert [item["at"] for item in sent] == [0, 81]


def test_shares_that_change_nothing_cost_no_try():
    items = talk("uau")
    shares = iter(SHARES)
    assert [item["at"] for item in shorter(items, items, shares)] == [2]
    assert shorter(items, talk("u"), shares) is None


@given(st.text("sdTuat123", max_size=14), st.sampled_from(SHARES))
def test_a_call_is_never_parted_from_its_output_and_the_question_stays(script, share):
    letters = "".join(c for at, c in enumerate(script) if not c.isdigit() or script[:at].count(c) < 2)
    kept = left(letters, share)
    for id_ in "123":
        assert kept.count(id_) in (0, letters.count(id_))
    for stays in "sdT":
        assert kept.count(stays) == letters.count(stays)
    if "u" in letters:
        assert kept[letters.rindex("u")] == "u"
