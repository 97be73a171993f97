"""Tokens of an identity provider: which hold, whose state they open, and how its keys change."""

import asyncio
import base64
import hmac
import json
import logging
import time
from contextlib import nullcontext

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from proxy.access import jwks
from proxy.access.tokens import Tokens
from tests.access.provider import AUDIENCE, Provider, ec_key, ed_key, public, rsa_key
from tests.backend import PATIENCE, json_reply, stream, talk
from tests.callers import Caller, error_of, ok, refusal
from tests.sockets import opened

BODY = {"model": "m", "input": "x"}


@pytest.fixture
async def ask(serve, provider, backend):
    """Asks a statecar that takes the provider's tokens: token, method, path, body."""
    async with Caller(await serve(*provider.options)) as caller:

        async def ask(token, method="GET", path="/responses", body=None, **headers):
            given = {"authorization": f"Bearer {token}"} | headers
            return await caller.http.request(method, path, json=body, headers=given)

        ask.url = str(caller.http.base_url.join("/")).rstrip("/")
        yield ask


async def test_tokens_of_every_kind_of_key_hold_and_never_go_upstream(ask, provider, backend):
    provider.keys += [public(ed_key(), "d1"), public(rsa_key(1), "r2", alg="PS256")]
    tokens = [
        provider.token(),
        provider.token(algorithm="RS512"),
        provider.token(algorithm="PS384"),
        provider.token(ec_key(), "e1", "ES256"),
        provider.token(ed_key(), "d1", "EdDSA"),
        provider.token(rsa_key(1), "r2", "PS256"),
        provider.token(aud=["other", AUDIENCE]),
        provider.token(exp=int(time.time()) - 20),  # within the leeway
        provider.token(nbf=int(time.time()) + 20),
    ]
    for token in tokens:
        ok(await ask(token, "POST", "/responses", BODY))
        backend.script(json_reply({}))
        ok(await ask(token, "GET", "/models"))
        assert (await ask("", authorization="", **{"api-key": token})).status_code == 200
    assert provider.asked == ["/.well-known/openid-configuration", "/keys"]
    assert len(backend.requests) == 2 * len(tokens)
    for request in backend.requests:
        assert token.rpartition(".")[2].encode() not in request.head
        assert request.values("authorization") == request.values("api-key") == []


def unsigned(header, payload, signature=b""):
    parts = (header if isinstance(header, bytes) else json.dumps(header).encode(), json.dumps(payload).encode())
    encoded = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (*parts, signature)]
    return b".".join(encoded).decode()


def with_public_key_as_secret(provider, algorithm="HS256", kid="r1"):
    """HS256 over the bytes of the public key, which a server that believes 'alg' would take for its secret."""
    secret = (
        rsa_key().public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    head, body, _ = unsigned({"alg": algorithm, "kid": kid, "typ": "JWT"}, provider.claims()).split(".")
    made = hmac.digest(secret, f"{head}.{body}".encode(), "sha256")
    return f"{head}.{body}.{base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"


def tampered(token, **claims):
    head, body, signature = token.split(".")
    changed = jwt.decode(token, options={"verify_signature": False}) | claims
    body = base64.urlsafe_b64encode(json.dumps(changed).encode()).rstrip(b"=").decode()
    return f"{head}.{body}.{signature}"


HOUR = 3600
REFUSED = {
    "expired": (lambda p: p.token(exp=int(time.time()) - HOUR), "The token has expired"),
    "no end": (lambda p: p.token(exp=None), "The token has no claim 'exp'"),
    "an end that is no time": (lambda p: p.token(exp="soon"), "a claim or its header is not as it should be"),
    "an endless end": (lambda p: p.token(exp=1e400), "a claim or its header is not as it should be"),
    "not yet": (lambda p: p.token(nbf=int(time.time()) + HOUR), "not valid yet"),
    "issued tomorrow": (lambda p: p.token(iat=int(time.time()) + HOUR), "not valid yet"),
    "another issuer": (lambda p: p.token(iss="https://evil.example"), "The token's issuer"),
    "the issuer with a slash": (lambda p: p.token(iss=f"{p.url}/"), "The token's issuer"),
    "no issuer": (lambda p: p.token(iss=None), "The token's issuer"),
    "an issuer that is a list": (lambda p: unsigned({"alg": "RS256"}, {"iss": [p.url]}), "The token's issuer"),
    "another audience": (lambda p: p.token(aud="other"), "another audience"),
    "audiences without ours": (lambda p: p.token(aud=["a", "b"]), "another audience"),
    "no audience": (lambda p: p.token(aud=None), "The token has no claim 'aud'"),
    "an audience that is no text": (lambda p: p.token(aud=[1]), "another audience"),
    "no subject": (lambda p: p.token(sub=None), "no text in its claim 'sub'"),
    "an empty subject": (lambda p: p.token(sub=""), "no text in its claim 'sub'"),
    "a subject that is half a character": (
        lambda p: jwt.PyJWS().encode(json.dumps(p.claims(sub="\ud800")).encode(), rsa_key(), "RS256", {"kid": "r1"}),
        "no text in its claim 'sub'",
    ),
    "a subject that is a number": (lambda p: p.token(sub=7), "a claim or its header"),
    "another's key": (lambda p: p.token(rsa_key(7)), "signature is not valid"),
    "other claims than were signed": (lambda p: tampered(p.token(), sub="root"), "signature is not valid"),
    "no signature": (lambda p: p.token().rpartition(".")[0] + ".", "signature is not valid"),
    "none": (lambda p: unsigned({"alg": "none"}, p.claims()), "The token's algorithm"),
    "None": (lambda p: unsigned({"alg": "None", "kid": "r1"}, p.claims()), "The token's algorithm"),
    "no algorithm": (lambda p: unsigned({"kid": "r1"}, p.claims()), "The token's algorithm"),
    "an algorithm that is a list": (lambda p: unsigned({"alg": ["RS256"]}, p.claims()), "The token's algorithm"),
    "the public key as secret": (with_public_key_as_secret, "The token's algorithm"),
    "the same, said to be RS256": (lambda p: with_public_key_as_secret(p, "RS256"), "signature is not valid"),
    "the same, for the other key": (lambda p: with_public_key_as_secret(p, "ES256", "e1"), "signature is not valid"),
    "a kind that its key is not": (lambda p: p.token(ec_key(), "r1", "ES256"), "does not publish"),
    "an unknown key": (lambda p: p.token(kid="r9"), "does not publish"),
    "a key by a path": (lambda p: p.token(kid="../../../dev/null"), "does not publish"),
    "a key by a statement": (lambda p: p.token(kid="r1' OR '1'='1"), "does not publish"),
    "a key in unicode": (lambda p: p.token(kid="r1\u202e\ud83d\ude00"), "does not publish"),
    "a key by a lone surrogate": (
        lambda p: unsigned(b'{"alg":"RS256","kid":"\\ud800"}', p.claims()),
        "does not publish",
    ),
    "a key that is a list": (lambda p: unsigned({"alg": "RS256", "kid": ["r1"]}, p.claims()), "cannot be read"),
    "its own key": (
        lambda p: jwt.encode(p.claims(), rsa_key(7), "RS256", {"jwk": public(rsa_key(7)), "jku": f"{p.url}/evil"}),
        "signature is not valid",
    ),
    "what must be understood": (
        lambda p: jwt.encode(p.claims(), rsa_key(), "RS256", {"kid": "r1", "crit": ["x"], "x": 1}),
        "cannot be read",
    ),
    "a detached payload": (lambda p: unsigned({"alg": "RS256", "b64": False, "crit": ["b64"]}, {}), "cannot be read"),
    "a header that is no JSON": (lambda p: unsigned(b"{", p.claims()), "cannot be read"),
    "a header that is a list": (lambda p: unsigned([], p.claims()), "cannot be read"),
    "claims that are a list": (lambda p: unsigned({"alg": "RS256"}, []), "cannot be read"),
    "claims without an end": (lambda p: f"{base64.urlsafe_b64encode(b'[' * 9000).decode()}.e30.", "cannot be read"),
    "what is no base64": (lambda p: "!!.??.##", "cannot be read"),
    "nothing between dots": (lambda p: "..", "cannot be read"),
    "a key name of 20,000": (lambda p: p.token(kid="k" * 20_000), "too long"),
    "a token of 60,000": (lambda p: p.token(groups=["g" * 100] * 400), "too long"),
}


async def test_a_token_that_does_not_hold_opens_nothing_and_says_why(ask, provider, backend, caplog):
    caplog.set_level(logging.DEBUG)
    told = {}
    for name, (make, words) in REFUSED.items():
        # of one key there is no need to name it
        provider.keys = [public(rsa_key(), "r1")] if name == "its own key" else provider.keys
        token = make(provider)
        for path in ("/responses", "/models"):
            answer = await ask(token, path=path)
            if path == "/models" and "subject" in name:
                continue  # where no state is asked for, nobody asks whose
            code = "token_expired" if name == "expired" else "invalid_token"
            assert refusal(answer) == (401, code, None), name
            assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
            told[name] = error_of(answer)["message"]
            assert words in told[name], name
            assert token not in answer.text
        assert token[-40:] not in caplog.text, name
    # of all that, one look for a new key in a while is what the provider is asked for
    assert provider.asked.count("/keys") == 2


async def test_a_token_is_a_tenant_by_its_subject_however_often_it_is_renewed(ask, provider):
    made = ok(await ask(provider.token(jti="1"), "POST", "/responses", BODY))
    at = f"/responses/{made['id']}"
    assert (await ask(provider.token(jti="2"), path=at)).status_code == 200
    assert (await ask(provider.token(sub="bob"), path=at)).status_code == 404
    assert (await ask(provider.token(sub="älice\u0000 x"), path=at)).status_code == 404


async def test_a_claim_names_the_tenant(serve, provider):
    options = ["--tenant=claim:org.id", "--tenant-secret=s", "--jwt-scopes"]
    async with Caller(await serve(*provider.options, *options)) as caller:

        async def ask(method="GET", path="/responses", **claims):
            headers = {"authorization": f"Bearer {provider.token(**claims)}"}
            return await caller.http.request(method, path, json=BODY, headers=headers)

        made = ok(await ask("POST", org={"id": "acme"}, scope="openid responses"))
        at = f"/responses/{made['id']}"
        assert (await ask(path=at, org={"id": "acme"}, jti="2", scp=["responses:read"])).status_code == 200
        assert (await ask(path=at, org={"id": "Acme"}, scope="responses")).status_code == 404
        assert refusal(await ask(path=at, org={"id": "acme"})) == (403, "insufficient_scope", None)
        assert refusal(await ask("POST", org={"id": "acme"}, scp="responses:read"))[0] == 403
        assert (await ask(path="/models", org={}, scope="responses passthroughs")).status_code == 403
        for org in ({}, {"id": ""}, {"id": ["acme"]}, {"id": True}, "acme", None):
            answer = await ask(org=org, scope="responses")
            assert refusal(answer) == (401, "invalid_token", None)
            assert "claim 'org.id', which names the tenant" in error_of(answer)["message"]
        assert (await ask(path=at, **{"org.id": "acme"}, scope="responses")).status_code == 200  # a name with a dot


async def test_a_websocket_is_opened_by_a_token_and_ends_with_it(ask, provider, backend, monkeypatch):
    backend.default = (stream(*talk("Hi")),)
    async with opened(ask.url, provider.token()) as socket:
        assert len(await socket.ask()) > 1
        monkeypatch.setattr("jwt.api_jwt.datetime", Later)
        [told] = await socket.ask()
        assert (told["status"], told["error"]["code"]) == (401, "token_expired")


class Later(jwt.api_jwt.datetime):
    """The clock of the library, an hour later."""

    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + jwt.api_jwt.timedelta(hours=1)


async def test_keys_beside_tokens(serve, provider, tmp_path):
    (tmp_path / "keys").write_text(json.dumps({"keys": [{"key": "k.with.dots", "tenant": "acme"}]}))
    options = (*provider.options, f"--keys-file={tmp_path}/keys", "--api-key=flag", "--tenant=claim:org")
    async with Caller(await serve(*options)) as caller:

        async def ask(key, method="GET", path="/responses"):
            headers = {"authorization": f"Bearer {key}"}
            return await caller.http.request(method, path, json=BODY, headers=headers)

        made = ok(await ask(provider.token(org="acme"), "POST"))
        at = f"/responses/{made['id']}"
        statuses = [(await ask(key, path=at)).status_code for key in ("k.with.dots", "flag", "x.y.z", "xyz")]
        assert statuses == [200, 404, 401, 401]


# -- the provider's keys


async def test_a_new_key_is_fetched_when_a_token_names_it_and_an_old_one_goes(ask, provider, monkeypatch):
    old = provider.token()
    ok(await ask(old))
    provider.keys = [public(rsa_key(1), "r2"), public(ec_key(), "e1")]
    new = provider.token(rsa_key(1), "r2")
    statuses = [answer.status_code for answer in await asyncio.gather(*(ask(new) for _ in range(10)))]
    assert statuses == [200] * 10
    assert provider.asked.count("/keys") == 2
    assert (await ask(old)).status_code == 401
    provider.keys.append(public(rsa_key(), "r1"))
    assert (await ask(old)).status_code == 401  # who makes up keys does not make us ask again and again
    assert provider.asked.count("/keys") == 2
    monkeypatch.setattr(jwks, "_APART", 0.0)


async def test_whoever_leaves_while_keys_are_fetched_takes_nobody_with_it(provider):
    tokens = Tokens([provider.url], ["*"], "", ["RS256"], 0)
    provider.open.clear()
    first, second = (asyncio.create_task(tokens.claims(provider.token())) for _ in range(2))
    async with asyncio.timeout(PATIENCE):
        await provider.reached.wait()
    first.cancel()
    await asyncio.wait([first])
    provider.open.set()
    assert (await second)["sub"] == "alice"
    assert provider.asked.count("/keys") == 1
    await tokens.aclose()


async def test_another_key_under_the_same_name_is_found_too(ask, provider):
    provider.keys = [public(rsa_key())]
    ok(await ask(provider.token(kid=None)))
    provider.keys = [public(rsa_key(1))]
    ok(await ask(provider.token(rsa_key(1), kid=None)))
    assert (await ask(provider.token(kid=None))).status_code == 401


async def test_old_keys_are_looked_at_beside_the_requests_and_outlive_their_provider(
    ask, provider, monkeypatch, caplog
):
    for name in ("_FRESH", "_APART"):
        monkeypatch.setattr(jwks, name, 0.0)
    ok(await ask(provider.token()))
    provider.status = 500
    for _ in range(3):
        ok(await ask(provider.token()))
    assert provider.asked.count("/keys") < len(provider.asked)
    assert f"{provider.url}/.well-known/openid-configuration answered 500; those fetched before go on" in caplog.text
    provider.status, provider.keys = 200, [public(ec_key(), "e1")]
    async with asyncio.timeout(20):
        while (await ask(provider.token())).status_code == 200:
            pass


TROUBLES = {
    "down": {"status": 503},
    "another issuer's document": {"document": {"issuer": "https://other.example"}},
    "no place": {"document": {"jwks_uri": None}},
    "a place that is a file": {"document": {"jwks_uri": "file:///etc/passwd"}},
    "no keys": {"keys": []},
    "no list": {"keys": {"r1": 1}},
    "secrets": {"keys": [{"kty": "oct", "kid": "r1", "k": "c2VjcmV0"}]},
    "too much": {"document": {"padding": "x" * (1024 * 1024)}},
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_without_a_single_key_callers_are_told_to_come_again(ask, provider, trouble, monkeypatch):
    usual = dict(vars(provider))
    vars(provider).update(TROUBLES[trouble])
    for _ in range(3):
        answer = await ask(provider.token())
        assert refusal(answer) == (503, "keys_unavailable", None)
        assert answer.headers["retry-after"] == "2"
    assert provider.asked.count("/.well-known/openid-configuration") == 1  # once in two seconds
    vars(provider).update(usual)
    provider.asked.clear()
    loop, now = asyncio.get_running_loop(), asyncio.get_running_loop().time
    monkeypatch.setattr(loop, "time", lambda: now() + 3)
    ok(await ask(provider.token()))


async def test_keys_that_are_no_signers_are_passed_over(ask, provider):
    weak = rsa_key(9, 1024)
    private = jwt.algorithms.RSAAlgorithm.to_jwk(rsa_key(1), as_dict=True)
    provider.keys += [
        public(weak, "weak"),
        public(rsa_key(1), "enc", use="enc"),
        public(rsa_key(1), "wrap", key_ops=["encrypt"]),
        {**private, "kid": "private", "key_ops": ["verify"]},
        public(rsa_key(1), "bound", alg="RS512"),
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        public(rsa_key(1), 7),
        {"kty": ["EC"], "crv": {}},
        {"kty": "EC", "crv": ["P-256"]},
        "r1",
    ]
    ok(await ask(provider.token()))
    for kid in ("weak", "enc", "wrap", "private", "bound", "broken"):
        with pytest.warns() if kid == "weak" else nullcontext():
            token = provider.token(weak if kid == "weak" else rsa_key(1), kid)
        assert "does not publish" in error_of(await ask(token))["message"], kid
    ok(await ask(provider.token(rsa_key(1), "bound", "RS512")))


async def test_each_issuer_signs_for_itself_alone(serve, provider):
    async with Provider() as other:
        other.keys = [public(rsa_key(1), "r1")]
        options = [*provider.options, *other.options, "--jwt-audience=*"]
        async with Caller(await serve(*options)) as caller:
            for token, status in (
                (provider.token(), 200),
                (other.token(rsa_key(1)), 200),
                (other.token(rsa_key(1), iss=provider.url), 401),
                (provider.token(iss=other.url), 401),
                (provider.token(aud=None), 200),
            ):
                answer = await caller.http.get("/responses", headers={"authorization": f"Bearer {token}"})
                assert answer.status_code == status


async def test_the_keys_of_issuers_without_a_document_have_a_place_of_their_own(serve, provider):
    options = ["--jwt-issuer=our-own", f"--jwt-audience={AUDIENCE}", f"--jwt-jwks={provider.url}/keys"]
    async with Caller(await serve(*options, "--jwt-algorithms=ES256", "--jwt-leeway=0")) as caller:
        for token, status in (
            (provider.token(ec_key(), "e1", "ES256", iss="our-own"), 200),
            (provider.token(iss="our-own"), 401),
            (provider.token(ec_key(), "e1", "ES256", iss="our-own", exp=int(time.time()) - 1), 401),
        ):
            answer = await caller.http.get("/responses", headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == status
    assert provider.asked == ["/keys"]
