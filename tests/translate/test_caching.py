"""What a chat body tells of caches."""

from dataclasses import replace

import pytest

from proxy.translate.caching import Caching
from proxy.translate.dialects import PROFILES

BODY = {"model": "m", "messages": []}
BOTH = Caching(salted=True, keyed=True)
SALTED = ("sglang", "vllm")
KEYED = ("azure", "openai")


def told(body, kind, caching=BOTH, tenant="t1", session="s1"):
    return caching.told(body, PROFILES[kind], tenant=tenant, session=session)


@pytest.mark.parametrize("kind", PROFILES)
def test_each_kind_is_told_what_it_takes(kind):
    assert {"cache_salt", "prompt_cache_key"} & told(BODY, kind).keys() == {
        *(("cache_salt",) if kind in SALTED else ()),
        *(("prompt_cache_key",) if kind in KEYED else ()),
    }


@pytest.mark.parametrize("kind", PROFILES)
def test_nothing_is_told_that_the_operator_has_not_asked_for(kind):
    assert told(BODY, kind, Caching()) is BODY


def test_a_salt_is_its_tenants_own_and_always_the_same():
    salts = [told(BODY, "vllm", tenant=tenant)["cache_salt"] for tenant in ("t1", "t2", "")]
    assert len(set(salts)) == 3
    assert told(BODY, "sglang")["cache_salt"] == salts[0]
    assert all("t1" not in salt and len(salt) == 64 for salt in salts)


def test_a_requests_own_salt_parts_the_tenants_cache_and_reaches_no_other():
    of = {
        (tenant, own): told(BODY | {"cache_salt": own}, "vllm", tenant=tenant)["cache_salt"]
        for tenant in ("t1", "t2")
        for own in ("a", "b", "\ud800", None, 7)
    }
    assert len(set(of.values())) == 8, "what is no text counts as none"
    assert of["t1", None] == of["t1", 7] == told(BODY, "vllm")["cache_salt"]


def test_a_requests_own_key_stays_and_no_session_makes_none():
    assert told(BODY | {"prompt_cache_key": "own"}, "openai")["prompt_cache_key"] == "own"
    assert told(BODY | {"prompt_cache_key": ""}, "openai")["prompt_cache_key"] == "s1"
    assert "prompt_cache_key" not in told(BODY, "openai", session="")


def test_an_upstream_that_has_refused_a_key_is_sent_none():
    dialect = replace(PROFILES["openai"], left_out=frozenset({"prompt_cache_key"}))
    assert dialect.trimmed(BOTH.told(BODY, dialect, tenant="t", session="s")) == BODY
