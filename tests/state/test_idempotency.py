"""Idempotency keys: held by one request, then standing for one response, until that has come to nothing."""

import secrets
from dataclasses import replace

import pytest

from proxy import ids
from proxy.state import Claim, Limits
from proxy.state.idempotency import Holder
from proxy.state.keys import KEY_TTL, key_hold, key_name
from tests.state.talk import opened


@pytest.fixture
async def keys(store_url):
    async with opened(store_url, limits=Limits(lease=60)) as state:
        yield state.idempotency


@pytest.fixture
def claim():
    return Claim.of("tenant", secrets.token_hex(8), b"body")


def again(claim, body=b"body"):
    """Another request with the same key."""
    return replace(Claim.of(claim.tenant, "", body), key=claim.key)


async def test_a_key_is_held_by_one_request_until_it_lets_go(keys, claim):
    other = again(claim)
    for _ in "sent", "again":
        assert await keys.take(claim) is None
    assert await keys.take(other) == Holder(claim.body, "", True)
    assert await keys.take(replace(claim, tenant="another")) is None
    await keys.let_go(other)
    assert await keys.take(other)
    await keys.let_go(claim)
    assert await keys.take(other) is None


async def test_a_hold_lasts_as_long_as_it_is_renewed(keys, claim):
    name = key_hold(claim.tenant, claim.key)
    assert await keys.take(claim) is None
    assert 30000 < await keys._client.command("PTTL", name) <= 60000
    await keys._client.command("PEXPIRE", name, 30000)
    await keys.hold(again(claim))
    assert await keys._client.command("PTTL", name) <= 30000
    await keys.hold(claim)
    assert 30000 < await keys._client.command("PTTL", name) <= 60000
    await keys._client.command("DEL", name)  # it was not renewed in time
    await keys.hold(claim)
    assert await keys.take(again(claim)) is None
    assert not await keys.name(claim, ids.Minter().own("resp"))
    await keys.let_go(claim)
    assert await keys.take(claim)


async def test_a_key_stands_for_a_response_until_that_is_freed(keys, claim):
    other, first, second = again(claim, b"other"), ids.Minter().own("resp"), ids.Minter().own("resp")
    assert await keys.take(claim) is None
    for _ in "sent", "again":
        assert await keys.name(claim, first)
    assert await keys.take(other) == Holder(claim.body, first, True)
    await keys.let_go(claim)
    assert 0 < await keys._client.command("TTL", key_name(claim.tenant, claim.key)) <= KEY_TTL
    assert await keys.take(other) == Holder(claim.body, first, False)
    assert await keys.take(other, second) == Holder(claim.body, first, False)
    assert await keys.take(other, first) is None
    assert await keys.take(claim, first) == Holder(other.body, "", True)
    assert await keys.name(other, second)
    assert await keys.take(claim, first) == Holder(other.body, second, True)


async def test_neither_keys_nor_bodies_can_be_read_from_the_store(keys):
    claim = Claim.of("tenant", "planted-key", b"planted-body")
    assert await keys.take(claim) is None
    assert await keys.name(claim, "resp_x")
    names = key_hold(claim.tenant, claim.key), key_name(claim.tenant, claim.key)
    assert [await keys._client.command("GET", name) for name in names] == [
        claim.value.encode(),
        f"{claim.body}resp_x".encode(),
    ]
    assert "planted" not in "".join((*names, claim.value))
    await keys._client.command("DEL", *names)
