"""Access rules: what they say, in which order they are asked, and how a wrong one is refused."""

import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.options import in_yaml
from proxy.principals import Principal
from proxy.rules import ACTIONS, KINDS, parsed, permitted

ADA = Principal("ada", {"teams": ("red", "blue"), "roles": ("user",)})
BEN = Principal("ben", {"teams": ("blue",), "roles": ("admin",)})
CAT = Principal("cat", {"teams": ("green",)})
DAN = Principal("dan")


def rules(text):
    return parsed(in_yaml(text))


def asked(text, user, owner, action="read", resource="response::resp_1"):
    return permitted(rules(text), action, resource, user, owner)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("user", "owner", "wanted"),
    [
        (ADA, ADA, True),
        (DAN, DAN, True),
        (DAN, None, True),
        (ADA, BEN, True),  # blue
        (ADA, CAT, False),
        (DAN, ADA, False),
        (ADA, DAN, False),
        (CAT, Principal("x", {"roles": ("green",)}), False),  # the same word, another attribute
    ],
)
def test_without_rules_it_is_what_is_ones_own_nobodys_or_of_somebody_with_a_shared_attribute(
    action, kind, user, owner, wanted
):
    for none in ("", "[]"):
        assert asked(none, user, owner, action, f"{kind}::x") is wanted


READ = "{permit: {actions: read}"
CLOSED = "{forbid: {actions: read}"


@pytest.mark.parametrize(
    ("condition", "holds"),
    [  # for ada on what is hers, ben's, cat's, dan's, nobody's; None: it cannot be known
        ("user is owner", (True, False, False, False, False)),
        ("user is not owner", (False, True, True, True, None)),
        ("user in owners teams", (True, True, False, False, False)),
        ("user not in owners teams", (False, False, True, None, None)),
        ("user in owners roles", (True, False, False, False, False)),
        ("user not in owners roles", (False, True, None, None, None)),
        ("user not in owners projects", (None,) * 5),
        ("user with red in teams", (True,) * 5),
        ("user with green in teams", (False,) * 5),
        ("user not with red in teams", (False,) * 5),
        ("user with green not in teams", (True,) * 5),
        ("user not with x in projects", (None,) * 5),
        ("user  with   red in teams ", (True,) * 5),
        ("resource is unowned", (False, False, False, False, True)),
        (["user with red in teams", "user is owner"], (True, False, False, False, False)),
        (["user is not owner", "user with green in teams"], (False,) * 5),
        (["user is not owner", "user with red in teams"], (False, True, True, True, None)),
    ],
)
def test_a_condition_decides_and_what_it_cannot_know_permits_nothing_and_forbids(condition, holds):
    for owner, known in zip((ADA, BEN, CAT, DAN, None), holds, strict=True):
        assert asked(f"[{READ}, when: {condition}}}]", ADA, owner) is (known is True)
        assert asked(f"[{READ}, unless: {condition}}}]", ADA, owner) is (known is False)
        assert asked(f"[{CLOSED}, when: {condition}}}, {READ}}}]", ADA, owner) is (known is False)
        assert asked(f"[{CLOSED}, unless: {condition}}}, {READ}}}]", ADA, owner) is (known is True)


def test_a_value_may_hold_blanks_and_words_of_the_rules():
    user = Principal("x", {"teams": ("in a b", "not")})
    for value, wanted in (("in a b", True), ("not", True), ("in a", False)):
        assert asked(f"[{READ}, when: user with {value} in teams}}]", user, None) is wanted


@pytest.mark.parametrize(
    ("scope", "wanted"),
    [
        ("actions: read", True),
        ("actions: [read]", True),
        ("actions: [create, update, delete]", False),
        ("actions: [read, delete], principal: ada", True),
        ("actions: read, principal: Ada", False),
        ("actions: read, principal: ad", False),
        ("actions: read, resource: 'response::*'", True),
        ("actions: read, resource: 'response::resp_1'", True),
        ("actions: read, resource: 'response::resp_'", False),
        ("actions: read, resource: 'response::resp_*'", False),
        ("actions: read, resource: 'conversation::*'", False),
        ("actions: read, principal: ada, resource: 'response::*'", True),
    ],
)
def test_a_rule_matches_by_action_principal_and_resource(scope, wanted):
    assert asked(f"[{{permit: {{{scope}}}}}]", ADA, CAT) is wanted
    assert asked(f"[{{forbid: {{{scope}}}}}, {{permit: {{actions: read}}}}]", ADA, CAT) is not wanted


def test_the_first_rule_that_matches_decides_and_where_none_does_the_answer_is_no():
    text = """
    - forbid: {principal: ben, actions: [create, read, update, delete]}
      description: no ben
    - permit: {actions: [read, delete], resource: "response::*"}
      when: user with blue in teams
    - forbid: {actions: read}
    - permit: {actions: [read, update]}
    """
    table = [
        (BEN, "read", False),
        (ADA, "read", True),
        (ADA, "delete", True),
        (ADA, "create", False),
        (CAT, "read", False),
        (CAT, "update", True),
    ]
    for user, action, wanted in table:
        assert asked(text, user, None, action) is wanted


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("permit", "must be a list of rules"),
        ("{permit: {actions: read}}", "must be a list of rules"),
        ("[read]", r"\[0\]: must be a mapping"),
        ("[{}]", r"\[0\]: must have one of permit and forbid"),
        ("[{permit: {actions: read}, forbid: {actions: read}}]", "one of permit and forbid"),
        ("[{permit: {actions: read}}, {permitt: {actions: read}}]", r"\[1\]: unknown key 'permitt'; is permit meant\?"),
        ("[{permit: read}]", r"\[0\].permit: must be a mapping"),
        ("[{permit: {action: read}}]", r"\[0\].permit: unknown key 'action'; is actions meant\?"),
        ("[{permit: {}}]", r"\[0\].permit.actions: must be one or more of create, read, update, delete"),
        ("[{permit: {actions: []}}]", r"\[0\].permit.actions: must be one or more of"),
        ("[{forbid: {actions: [read, write]}}]", r"\[0\].forbid.actions: .*, not 'write'"),
        ("[{permit: {actions: read, principal: ''}}]", r"\[0\].permit.principal: must be a user's name"),
        ("[{permit: {actions: read, principal: [a]}}]", r"\[0\].permit.principal: must be a user's name"),
        ("[{permit: {actions: read, resource: 'model::*'}}]", r"\[0\].permit.resource: .* not 'model::\*'"),
        ("[{permit: {actions: read, resource: 'response'}}]", r"must be response::\*"),
        ("[{permit: {actions: read, resource: '*'}}]", r"must be response::\*"),
        ("[{permit: {actions: read}, when: user is owner, unless: user is owner}]", "when or unless, not both"),
        ("[{permit: {actions: read}, when: user owns it}]", r"\[0\].when: no such condition: 'user owns it'; must be"),
        ("[{permit: {actions: read}, unless: []}]", r"\[0\].unless: must be a condition"),
        ("[{permit: {actions: read}, when: [{a: b}]}]", r"\[0\].when: must be a condition"),
    ],
)
def test_a_wrong_rule_is_refused_with_where_it_stands_and_what_is_right(text, told):
    with pytest.raises(ValueError, match=told):
        rules(text)


def test_the_rules_that_the_documentation_shows_are_rules():
    page = (Path(__file__).parents[1] / "docs" / "operations" / "rules.md").read_text("utf-8")
    [shown] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    found = parsed(in_yaml(shown)["access_rules"])
    assert [rule.permits for rule in found] == [False, True, True, True]
    for kind, wanted in (("conversation", True), ("response", False)):
        assert permitted(found, "read", f"{kind}::x", CAT, replace(BEN, attributes=CAT.attributes)) is wanted


def test_rules_go_to_other_processes():
    text = "[{permit: {actions: read, principal: ada}, when: [user is owner, user not with a b in teams]}]"
    assert pickle.loads(pickle.dumps(rules(text))) == rules(text)
