"""Keys and tokens that change under several workers (ADR 0020)."""

import asyncio
import json

import pytest

from proxy.state.envelope import key_name
from tests.access.provider import Provider, public, rsa_key
from tests.callers import Caller
from tests.servers import PATIENCE

pytestmark = pytest.mark.live

KEY = "k" * 16

TIMES = 12
"""Requests one after the other, each over a connection of its own, so that every worker has some."""


async def test_every_worker_goes_by_the_keys_of_now(start, valkey, tmp_path):
    path = tmp_path / "keys.json"

    def write(*keys):
        new = tmp_path / "new"
        new.write_text(json.dumps({"keys": [{"key": key, "name": "named", "tenant": "acme"} for key in keys]}))
        new.rename(path)

    write("k-first")
    async with Provider() as provider:
        options = (
            f"--keys-file={path}",
            *provider.options,
            "--tenant=claim:org",
            "--workers=2",
            f"--encryption-key={KEY}",
        )
        process = start("--upstream=demo", f"--store={valkey.url}", *options)
        async with Caller(await asyncio.to_thread(process.url)) as caller:

            async def told(key, at="/responses"):
                """The statuses of many requests."""
                headers = {"authorization": f"Bearer {key}"}
                return {(await caller.http.get(at, headers=headers)).status_code for _ in range(TIMES)}

            async def becomes(key, status):
                async with asyncio.timeout(PATIENCE):
                    while await told(key, at) != {status}:
                        pass

            first, second = provider.token(org="acme"), provider.token(rsa_key(1), "r2", org="acme")
            made = await caller.http.post(
                "/responses", json={"model": "demo", "input": "x"}, headers={"authorization": "Bearer k-first"}
            )
            at = f"/responses/{made.json()['id']}"
            assert await told("k-first", at) == await told(first, at) == {200}
            assert await told(provider.token(org="other"), at) == {404}
            assert await told("k-second") == {401}
            write("k-second")
            await becomes("k-second", 200)
            await becomes("k-first", 401)
            provider.keys.append(public(rsa_key(1), "r2"))
            assert await told(second, at) == {200}
            assert provider.asked.count("/keys") <= 4  # at first and for the new key, of each worker
    log = process.stderr
    assert f"stored content: encrypted with key {key_name(KEY)}\n" in log
    assert f"callers: keys of {path}; tokens of {provider.url}\n" in log
    assert "read again, 1 keys" in log and "key=named" in log
    assert not any(word in log for word in ("k-first", "k-second", first, second, KEY))
