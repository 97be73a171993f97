"""Users of a tenant, by headers of a gateway, by claims and by the key file; and what tenants may use by name."""

import json

import pytest

from proxy.access import Authenticator
from proxy.errors import Unauthorized
from proxy.grants import Quota
from proxy.principals import Principal
from proxy.settings import Settings
from tests.backend import json_reply
from tests.callers import error_of, ok, refusal

BODY = {"model": "m", "input": "x"}
GATEWAY = ["--tenant=header:X-Tenant", "--principal=header:X-User", "--attribute=teams=header:X-Teams"]


async def identity(headers, *options, quota=None):
    """Who sends these headers to a server with these options."""
    authenticator = Authenticator(Settings.resolve(["--upstream=demo", *options], {}), quota)
    try:
        return await authenticator.identity([(name.encode(), value) for name, value in headers])
    finally:
        await authenticator.aclose()


async def test_a_gateway_names_tenant_user_and_what_is_known_of_the_user():
    headers = [("x-tenant", b"acme"), ("x-user", " älice ".encode()), ("x-teams", b"a, b,,c d ,")]
    found = await identity(headers, *GATEWAY)
    assert found.tenant == "acme"
    assert found.principal == Principal("älice", {"teams": ("a", "b", "c d")})
    assert (await identity(headers[:2], *GATEWAY)).principal == Principal("älice", {})
    raw = await identity([("x-tenant", b"\xff"), ("x-user", b"u\xfe")], *GATEWAY)
    assert raw.principal.encoded() and raw.principal.name == "u\udcfe"


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ([("x-tenant", b"acme")], "'X-User' that names the user is missing"),
        ([("x-tenant", b"acme"), ("x-user", b" ")], "'X-User' that names the user is missing"),
        ([("x-user", b"alice")], "'X-Tenant' that names the tenant is missing"),
        ([("x-tenant", b"a"), ("x-tenant", b"b"), ("x-user", b"u")], "'X-Tenant' came more than once"),
        ([("x-tenant", b"a"), ("x-user", b"root"), ("x-user", b"u")], "'X-User' came more than once"),
        ([("x-tenant", b"a"), ("x-user", b"u"), ("x-teams", b"x"), ("x-teams", b"y")], "'X-Teams' came more than once"),
    ],
)
async def test_who_is_not_named_by_one_word_of_a_gateway_is_nobody(headers, words):
    with pytest.raises(Unauthorized, match=words):
        await identity(headers, *GATEWAY)


async def test_headers_are_trusted_of_whoever_has_a_key_where_keys_are_asked_for():
    headers = [("x-tenant", b"acme"), ("x-user", b"alice")]
    with pytest.raises(Unauthorized):
        await identity(headers, *GATEWAY, "--api-key=k")
    found = await identity([*headers, ("authorization", b"Bearer k")], *GATEWAY, "--api-key=k")
    assert (found.tenant, found.principal.name) == ("acme", "alice")


async def test_what_the_key_file_says_of_a_key_goes_before_what_headers_say(tmp_path):
    keys = [{"key": "k1", "tenant": "own", "principal": "robot", "attributes": {"teams": "a"}}, {"key": "k2"}]
    limits = {"own": {"limits": {"requests_per_minute": 5}}, "acme": {"limits": {"tokens_per_minute": 0}}}
    (tmp_path / "keys").write_text(json.dumps({"keys": keys, "tenants": limits}))
    options = [*GATEWAY, f"--keys-file={tmp_path}/keys"]
    headers = [("x-tenant", b"acme"), ("x-user", b"alice"), ("x-teams", b"b")]
    first = await identity([*headers, ("api-key", b"k1")], *options, quota=Quota(9, 99))
    assert (first.tenant, first.principal) == ("own", Principal("robot", {"teams": ("a",)}))
    assert first.grant.quota == Quota(5, 99)
    second = await identity([*headers, ("api-key", b"k2")], *options, quota=Quota(tokens_per_minute=99))
    assert (second.tenant, second.principal) == ("acme", Principal("alice", {"teams": ("b",)}))
    assert second.grant.quota is None  # none of its limits is any
    other = await identity([("x-tenant", b"x"), *headers[1:], ("api-key", b"k2")], *options, quota=Quota(9))
    assert other.grant.quota == Quota(9)


async def test_without_an_option_nobody_is_told_apart_within_a_tenant():
    for options in ([], ["--api-key=k"], ["--tenant=off"], ["--tenant=header:X-Tenant"]):
        headers = [("authorization", b"Bearer k"), ("x-tenant", b"a"), ("x-user", b"u")]
        assert (await identity(headers, *options)).principal is None


async def test_users_of_a_tenant_have_what_is_theirs_and_their_teams(calling, provider):
    caller = await calling(*provider.options, "--tenant=claim:org", "--attribute=teams=claim:realm.teams")

    async def ask(method, path, sub, *teams, org="acme"):
        token = provider.token(sub=sub, org=org, realm={"teams": list(teams)})
        return await caller.http.request(method, path, json=BODY, headers={"authorization": f"Bearer {token}"})

    made = ok(await ask("POST", "/responses", "alice", "a", "b"))
    at = f"/responses/{made['id']}"
    told = [
        (await ask("GET", at, *who)).status_code for who in (("alice",), ("bob", "b", "c"), ("bob", "c"), ("Alice",))
    ]
    assert told == [200, 200, 404, 404]
    assert (await ask("GET", at, "alice", "a", org="other")).status_code == 404


async def test_limits_of_a_named_tenant_hold_for_its_keys_its_tokens_and_what_is_passed_on(
    calling, provider, backend, tmp_path
):
    keys = [{"key": "k1", "tenant": "small"}, {"key": "k2", "tenant": "large"}]
    limits = {"small": {"limits": {"requests_per_minute": 3}}}
    (tmp_path / "keys").write_text(json.dumps({"keys": keys, "tenants": limits}))
    options = (f"--keys-file={tmp_path}/keys", "--tenant=claim:org", f"--tenant-secret={tmp_path}")
    caller = await calling(*provider.options, *options)

    async def ask(key, path="/responses"):
        if path != "/responses":
            backend.script(json_reply({}))
        return await caller.http.post(path, json=BODY, headers={"authorization": f"Bearer {key}"})

    token = provider.token(org="small")
    for key, path in (("k1", "/responses"), (token, "/responses"), ("k1", "/embeddings")):
        ok(await ask(key, path))
    for key, path in (("k1", "/responses"), (token, "/responses")):
        assert refusal(await ask(key, path))[:2] == (429, "rate_limit_exceeded")
    answer = await caller.http.post("/embeddings", json=BODY, headers={"authorization": f"Bearer {token}"})
    assert error_of(answer)["code"] == "rate_limit_exceeded"
    for key in ("k2", provider.token(org="other")):
        for _ in range(4):
            ok(await ask(key))
