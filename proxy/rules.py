"""Access rules: which user of a tenant may do what with which response or conversation (ADR 0021). Pure.

The first rule that matches decides, and where none does the answer is no. Without any rules one may do everything with
what is one's own, what nobody owns, and what belongs to somebody with whom one shares a value of an attribute.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy.principals import Principal

CREATE, READ, UPDATE, DELETE = ACTIONS = ("create", "read", "update", "delete")
RESPONSE, CONVERSATION = KINDS = ("response", "conversation")

Owner = Principal | None
"""Whose a thing is; None for nobody's."""


@dataclass(frozen=True, slots=True)
class Condition:
    """``kind``: one of those of ``_FORMS``; ``negated``: as its text says it with a `not`."""

    kind: str
    negated: bool = False
    attribute: str = ""
    value: str = ""

    def holds(self, user: Principal, owner: Owner) -> bool | None:
        """None where a negation speaks of what there is not: an owner, or a value of the attribute."""
        if self.kind == "unowned":
            return owner is None
        if self.kind == "owner":
            known, found = owner is not None, owner is not None and owner.name == user.name
        else:
            mine = user.attributes.get(self.attribute, ())
            theirs = owner.attributes.get(self.attribute, ()) if owner else ()
            known = bool(mine) and (self.kind == "value" or bool(theirs))
            found = self.value in mine if self.kind == "value" else not set(mine).isdisjoint(theirs)
        return found if not self.negated else not found if known else None


@dataclass(frozen=True, slots=True)
class Rule:
    """``principal``: a user's name, ``resource``: as `response::*` or `response::<id>`, both "" for any.

    ``conditions``: all must hold; ``unless``: the rule matches where they do not.
    """

    permits: bool
    actions: tuple[str, ...]
    principal: str = ""
    resource: str = ""
    conditions: tuple[Condition, ...] = ()
    unless: bool = False

    def matches(self, action: str, resource: str, user: Principal, owner: Owner) -> bool:
        """``resource``: as `response::<id>`. What cannot be known permits nothing, and forbids."""
        if action not in self.actions or (self.principal and self.principal != user.name):
            return False
        if self.resource and not (self.resource == resource or _is_wild(self.resource, resource)):
            return False
        held = [condition.holds(user, owner) for condition in self.conditions]
        met = False if False in held else None if None in held else True
        return not self.permits if met is None else met is not self.unless


Rules = tuple[Rule, ...]
"""In the order in which they are asked."""


def permitted(rules: Rules, action: str, resource: str, user: Principal, owner: Owner) -> bool:
    """Whether a user may do that with what is that owner's. ``resource``: as `response::<id>`."""
    if not rules:
        return owner is None or owner.name == user.name or _shares(user, owner)
    number = deciding(rules, action, resource, user, owner)
    return number is not None and rules[number].permits


def deciding(rules: Rules, action: str, resource: str, user: Principal, owner: Owner) -> int | None:
    """The number of the rule that decides, from 0; None where none does."""
    found = (number for number, rule in enumerate(rules) if rule.matches(action, resource, user, owner))
    return next(found, None)


def _is_wild(pattern: str, resource: str) -> bool:
    return pattern.endswith("::*") and resource.startswith(pattern[:-1])


def _shares(user: Principal, owner: Principal) -> bool:
    return any(not set(values).isdisjoint(owner.attributes.get(name, ())) for name, values in user.attributes.items())


# -- as they are written

_FORMS: tuple[tuple[str, Callable[[re.Match[str]], Condition]], ...] = (
    (r"user is( not)? owner", lambda m: Condition("owner", bool(m[1]))),
    (r"user( not)? with (\S.*?)( not)? in (\S+)", lambda m: Condition("value", bool(m[1]) != bool(m[3]), m[4], m[2])),
    (r"user( not)? in owners (\S+)", lambda m: Condition("owners", bool(m[1]), m[2])),
    (r"resource is unowned", lambda _: Condition("unowned")),
)

_WORDS = (
    "user is owner, user is not owner, user with VALUE in ATTRIBUTE, user not with VALUE in ATTRIBUTE,"
    " user in owners ATTRIBUTE, user not in owners ATTRIBUTE or resource is unowned"
)


def parsed(given: Any) -> Rules:
    """The rules that a structure of texts stands for. Raises ValueError with where it is wrong, and what is right."""
    if given in ("", None):
        return ()
    if not isinstance(given, list):
        raise ValueError("must be a list of rules, as - permit: {actions: [read], resource: response::*}")
    return tuple(_rule(one, f"[{n}]") for n, one in enumerate(given))


def _rule(given: Any, at: str) -> Rule:
    keys = _mapping(given, at, ("permit", "forbid", "when", "unless", "description"))
    effects = [key for key in ("permit", "forbid") if key in keys]
    if len(effects) != 1:
        raise ValueError(f"{at}: must have one of permit and forbid")
    if "when" in keys and "unless" in keys:
        raise ValueError(f"{at}: must have when or unless, not both")
    [effect] = effects
    scope = _mapping(keys[effect], f"{at}.{effect}", ("principal", "actions", "resource"))
    condition = next((key for key in ("when", "unless") if key in keys), "")
    texts = (
        _texts(keys[condition], f"{at}.{condition}", f"a condition or a list of them: {_WORDS}") if condition else []
    )
    return Rule(
        effect == "permit",
        _actions(scope.get("actions"), f"{at}.{effect}.actions"),
        _name(scope.get("principal"), f"{at}.{effect}.principal"),
        _resource(scope.get("resource"), f"{at}.{effect}.resource"),
        tuple(_condition(text, f"{at}.{condition}") for text in texts),
        condition == "unless",
    )


def _mapping(given: Any, at: str, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"{at}: must be a mapping with {', '.join(keys)}")
    for key in given:
        if key not in keys:
            near = difflib.get_close_matches(str(key), keys, 1)
            raise ValueError(f"{at}: unknown key {key!r}; {f'is {near[0]} meant?' if near else ', '.join(keys)}")
    return given


def _texts(given: Any, at: str, what: str) -> list[str]:
    texts = given if isinstance(given, list) else [given]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise ValueError(f"{at}: must be {what}")
    return texts


def _actions(given: Any, at: str) -> tuple[str, ...]:
    actions = _texts(given, at, f"one or more of {', '.join(ACTIONS)}")
    for action in actions:
        if action not in ACTIONS:
            raise ValueError(f"{at}: must be one or more of {', '.join(ACTIONS)}, not {action!r}")
    return tuple(actions)


def _name(given: Any, at: str) -> str:
    if given is None:
        return ""
    if not isinstance(given, str) or not given:
        raise ValueError(f"{at}: must be a user's name; without the key it is every user's")
    return given


def _resource(given: Any, at: str) -> str:
    if given is None:
        return ""
    kind, found, id_ = given.partition("::") if isinstance(given, str) else ("", "", "")
    if not (found and id_) or kind not in KINDS:
        raise ValueError(
            f"{at}: must be response::* or conversation::*, or either with an id for the *, not {given!r}; without the"
            " key it is all of both"
        )
    return f"{kind}::{id_}"


def _condition(text: str, at: str) -> Condition:
    said = " ".join(text.split())
    for pattern, made in _FORMS:
        if found := re.fullmatch(pattern, said):
            return made(found)
    raise ValueError(f"{at}: no such condition: {text!r}; must be {_WORDS}")
