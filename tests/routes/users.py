"""Users of a tenant, told apart by their keys, so that rules can be tried by everybody."""

import json
import secrets

import pytest

from proxy.principals import Principal
from tests.callers import Caller

ADA = Principal("ada", {"teams": ("red", "blue")})
CALLERS = {
    "owner": ("ours", ADA),
    "shares a team": ("ours", Principal("ben", {"teams": ("blue",), "roles": ("auditor",)})),
    "another user": ("ours", Principal("cat", {"teams": ("green",)})),
    "another tenant": ("theirs", ADA),
    "no user": ("ours", None),
}


def key_of(who):
    return f"sk-{who.replace(' ', '-')}"


def as_one(who):
    """The headers of a caller."""
    return {"authorization": f"Bearer {key_of(who)}"}


@pytest.fixture
def users(tmp_path):
    """Options of a server that knows the callers; ``tenants``: of fresh ones, not of the one that all share."""
    fresh = {name: f"{name}-{secrets.token_hex(8)}" for name in ("ours", "theirs")}

    def options(*, tenants=True):
        keys = []
        for who, (tenant, user) in CALLERS.items():
            entry = {"key": key_of(who)} | ({"tenant": fresh[tenant]} if tenants else {})
            if user:
                attributes = {name: list(values) for name, values in user.attributes.items()}
                entry |= {"principal": user.name, "attributes": attributes}
            keys.append(entry)
        (tmp_path / "new.json").write_text(json.dumps({"keys": keys}))
        (tmp_path / "new.json").replace(tmp_path / "keys.json")  # in one step: a server may be reading it
        return (f"--keys-file={tmp_path / 'keys.json'}", *(() if tenants else ("--tenant=off",)))

    return options


def unknown(id_):
    """An id like this one, of nothing."""
    return f"{id_.partition('_')[0]}_{secrets.token_hex(22)}{id_[-4:]}"


class User:
    """What a caller is answered. ``who``: of ``CALLERS``."""

    def __init__(self, url, who):
        self.caller = Caller(url, key_of(who))
        self.http = self.caller.http

    async def told(self, method, path, **rest):
        """(status, headers, body) of an answer, without what differs between any two."""
        answer = await self.http.request(method, path, **rest)
        headers = {name: value for name, value in answer.headers.multi_items() if name not in ("x-request-id", "date")}
        return answer.status_code, headers, answer.text

    async def is_missing(self, id_, method, path, **rest):
        """Whether what is asked of an id is answered as of an unknown one."""
        other = unknown(id_)
        told = await self.told(method, path.format(id_), **_with(rest, id_))
        same = await self.told(method, path.format(other), **_with(rest, other))
        assert told[0] in (400, 404)
        return told == (same[0], same[1], same[2].replace(other, id_))


def _with(rest, id_):
    return {"json": {key: id_ if value == "{}" else value for key, value in rest["json"].items()}} if rest else {}
