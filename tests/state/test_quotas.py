"""What tenants may use: let in within every limit, refused without a trace, counted once, forgotten in time."""

import asyncio
import secrets
from dataclasses import replace

import pytest

from proxy import ids
from proxy.errors import RateLimited, StorageFull
from proxy.grants import Quota
from proxy.state import keys, quotas
from tests.state.talk import opened

DAY = 86400


@pytest.fixture
def tenant():
    return secrets.token_hex(16)


class Using:
    """One tenant's use of a quota, and what is kept of it."""

    def __init__(self, state, tenant, *limits):
        self.state, self.tenant, self.quota = state, tenant, Quota(*limits)
        held = keys.Quota(tenant)
        self.names = held.usage, held.at_work, held.bytes, held.ends

    def admitted(self, **how):
        return self.state.quotas.admitted(self.tenant, self.quota, **how)

    async def once(self, tokens=0, kept=("", 0, 0), **how):
        """A request from beginning to end; its headers, or what it is refused with."""
        try:
            async with self.admitted(**how) as admission:
                admission.tokens, admission.kept = tokens, kept
            return admission.headers
        except (RateLimited, StorageFull) as exc:
            return exc

    async def command(self, name, *args):
        return await self.state._client.command(name, *args)

    async def seconds(self):
        return sum(len(name) > 1 for name in await self.command("HKEYS", self.names[0]))

    async def everything(self):
        return [await self.command("DUMP", name) for name in self.names]

    async def later(self, seconds):
        """So many seconds go by."""
        usage, at_work, _, ends = self.names
        flat = await self.command("HGETALL", usage)
        fields = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
        moved = {n if len(n) == 1 else b"%c%d" % (n[0], int(n[1:]) - seconds): v for n, v in fields.items()}
        moved |= {n: int(v) - seconds for n, v in moved.items() if n in (b"p", b"l", b"m")}
        await self.command("DEL", usage)
        if moved:
            await self.command("HSET", usage, *(part for pair in moved.items() for part in pair))
        for name, by in ((at_work, seconds * 1000), (ends, seconds)):
            for member in await self.command("ZRANGE", name, 0, -1):
                await self.command("ZINCRBY", name, -by, member)


async def test_any_minute_holds_as_many_requests_as_the_limit(state, tenant):
    using = Using(state, tenant, 3)
    for left in (2, 1):
        headers = await using.once()
        assert headers["x-ratelimit-limit-requests"] == "3"
        assert headers["x-ratelimit-remaining-requests"] == str(left)
        assert headers["x-ratelimit-reset-requests"] == "61s"
    await using.later(40)
    assert (await using.once())["x-ratelimit-remaining-requests"] == "0"
    before = await using.everything()
    refused = await using.once()
    assert isinstance(refused, RateLimited)
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
    assert 9 <= int(refused.headers["retry-after"]) <= 21
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert "requests per minute, limit 3" in refused.message
    assert await using.everything() == before
    await using.later(22)  # the first two count no more
    assert (await using.once())["x-ratelimit-remaining-requests"] == "1"
    assert await using.seconds() == 2  # what is past is forgotten
    await using.later(150)
    assert (await using.once())["x-ratelimit-remaining-requests"] == "2"
    assert await using.seconds() == 1


async def test_tokens_count_when_they_are_told_and_those_at_work_as_the_average(state, tenant):
    using = Using(state, tenant, 0, 1000)
    assert (await using.once(100))["x-ratelimit-remaining-tokens"] == "1000"
    assert (await using.once(100))["x-ratelimit-remaining-tokens"] == "900"
    async with using.admitted(), using.admitted() as second:
        assert second.headers["x-ratelimit-remaining-tokens"] == "700"
    await using.once(700)
    refused = await using.once()
    assert isinstance(refused, RateLimited) and "tokens per minute, limit 1000" in refused.message
    assert 49 <= int(refused.headers["retry-after"]) <= 61
    await using.later(62)
    assert (await using.once())["x-ratelimit-remaining-tokens"] == "1000"
    await using.once(5000)  # more than the limit in one: nobody can know before
    assert isinstance(await using.once(), RateLimited)


async def test_those_who_ask_at_once_are_not_all_let_in_before_anything_is_known_of_them(state, tenant):
    using, go, let_in, refused = Using(state, tenant, 0, 10_000), asyncio.Event(), [], []

    async def ask():
        try:
            async with using.admitted() as admission:
                let_in.append(admission)
                await go.wait()
                admission.tokens = 900
        except RateLimited as exc:
            refused.append(exc)

    asked = [asyncio.create_task(ask()) for _ in range(40)]
    while len(let_in) + len(refused) < 40:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert {exc.headers["retry-after"] for exc in refused} == {"1"}
    go.set()
    await asyncio.gather(*asked)
    assert len(let_in) == 10
    assert not isinstance(await using.once(900), RateLimited)  # 9900 by now
    assert isinstance(await using.once(), RateLimited)


async def test_a_request_counts_as_at_work_until_it_ends_or_its_lease_does(state, tenant):
    using = Using(state, tenant, 0, 0, 2)
    async with using.admitted():
        killed = using.admitted()
        await killed.__aenter__()
        refused = await using.once()
        assert isinstance(refused, RateLimited) and refused.headers["retry-after"] == "1"
        async with using.admitted(again=True):  # let in elsewhere
            pass
        state.quotas._at_work[tenant].popitem()  # nobody renews it
        await using.later(10)
        assert isinstance(await using.once(), RateLimited)
        await state.quotas._hold(tenant, list(state.quotas._at_work[tenant]))
        await using.later(10)
        assert not isinstance(await using.once(), RateLimited)  # the other was renewed
        async with using.admitted():
            assert isinstance(await using.once(), RateLimited)
    assert not state.quotas._at_work


async def test_what_is_at_work_is_renewed(state, tenant, monkeypatch):
    monkeypatch.setattr(quotas, "RENEWAL", 0.01)
    using = Using(state, tenant, 0, 0, 1)
    async with using.admitted() as admission:
        await using.later(14)
        due = await using.command("ZSCORE", using.names[1], admission.token)
        while await using.command("ZSCORE", using.names[1], admission.token) == due:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await state.quotas._hold(tenant, [admission.token])
    assert await using.command("ZCARD", using.names[1]) == 0  # what has ended stays so


async def test_stored_bytes_are_those_of_lineages_that_live(state, tenant):
    using = Using(state, tenant, 0, 0, 0, 1000)
    one, two, talk = ids.Minter().own("resp"), ids.Minter().own("resp"), ids.Minter().own("conv")
    tag = ids.parse(one).tag
    await using.once(kept=(tag, 300, 100), stores=True)
    await using.once(kept=(tag, 300, 200), stores=True)
    await using.once(kept=(ids.parse(two).tag, 300, 90), stores=True)
    before = await using.everything()
    refused = await using.once(stores=True)
    assert isinstance(refused, StorageFull)
    assert (refused.status, refused.type, refused.code) == (429, "insufficient_quota", "insufficient_quota")
    assert refused.headers == {"x-should-retry": "false"} and "900 of 1000" in refused.message
    with pytest.raises(StorageFull):
        await state.quotas.keep(tenant, using.quota, talk, 101)
    assert await using.everything() == before
    assert await using.once() == {}  # stores nothing
    await state.quotas.give_back(tenant, using.quota, two, 250)
    async with using.admitted(stores=True):
        refused = await using.once(stores=True)
        assert refused.headers == {"retry-after": "1"} and "950 of 1000" in refused.message
    await using.once(kept=(ids.parse(two).tag, 250, 90), stores=True)
    await state.quotas.keep(tenant, using.quota, talk, 100)
    await state.quotas.give_back(tenant, using.quota, talk)
    await using.later(100)  # the other lineage has ended, this one was used since
    await state.quotas.keep(tenant, using.quota, talk, 400)
    await state.quotas.give_back(tenant, using.quota, one, 250)
    await state.quotas.give_back(tenant, using.quota, one, 5000)  # never more than there is
    await state.quotas.keep(tenant, using.quota, talk, 600)
    await state.quotas.give_back(tenant, using.quota, talk)
    await state.quotas.give_back(tenant, using.quota, two, 250)  # what was never counted
    assert await using.command("EXISTS", *using.names[2:]) == 0


async def test_what_lives_longer_counts_for_longer(state, tenant):
    using = Using(state, tenant, 0, 0, 0, 1000)
    talk = ids.Minter().own("conv")
    await state.quotas.keep(tenant, using.quota, talk, 800)
    for _ in range(3):
        await using.later(20 * DAY)  # of 30
        await state.quotas.keep(tenant, using.quota, talk, 0)
    with pytest.raises(StorageFull):
        await state.quotas.keep(tenant, using.quota, talk, 201)
    await using.later(20 * DAY)
    lower = replace(using.quota, stored_bytes=10)
    await state.quotas.keep(tenant, lower, talk, 0)  # takes no room


async def test_what_is_kept_for_ever_counts_for_ever(state, tenant):
    using = Using(state, tenant, 0, 0, 0, 1000)
    tag = ids.new_tag()
    await using.once(kept=(tag, 1000, 0), stores=True)
    await using.once(kept=(tag, 1, 60))
    await using.later(400 * DAY)
    assert isinstance(await using.once(stores=True), StorageFull)
    assert await using.command("TTL", using.names[2]) == -1


async def test_a_request_is_counted_once_however_often_its_scripts_are_sent(state, tenant):
    using = Using(state, tenant, 5, 1000, 5, 1000)
    send, client = state._client.script, state._client

    async def twice(*args, **rest):
        await send(*args, **rest)
        return await send(*args, **rest)

    client.script = twice
    await using.once(100, (ids.new_tag(), 100, 60), stores=True)
    await state.quotas.keep(tenant, using.quota, ids.Minter().own("conv"), 100)
    client.script = send
    async with using.admitted(stores=True) as admission:
        assert admission.headers["x-ratelimit-remaining-requests"] == "3"
        assert admission.headers["x-ratelimit-remaining-tokens"] == "900"
    assert await using.command("HGET", using.names[2], "*") == b"200"


async def test_a_request_that_is_cancelled_while_it_is_let_in_is_at_work_no_more(state, tenant):
    using = Using(state, tenant, 5)
    send = state._client.script

    async def cancelled(script, *args, **rest):
        await send(script, *args, **rest)
        if script.name == "quota_admit":
            raise asyncio.CancelledError

    state._client.script = cancelled
    with pytest.raises(asyncio.CancelledError):
        await using.once()
    await state.quotas.close()
    assert await using.command("ZCARD", using.names[1]) == 0


async def test_limits_hold_for_all_who_ask_at_once(state, store_url, tenant):
    async with opened(store_url) as other:
        both = [Using(one, tenant, 10) for one in (state, other)]
        found = await asyncio.gather(*(using.once() for using in both * 12))
        assert sum(isinstance(one, dict) for one in found) == 10


async def test_without_a_store_limits_let_pass_and_say_so_once(tenant, caplog):
    async with opened("redis://127.0.0.1:1") as away:
        using = Using(away, tenant, 1, 1, 1, 1)
        for _ in range(3):
            assert await using.once(stores=True) == {}
        await away.quotas.keep(tenant, using.quota, ids.Minter().own("conv"), 100)
    assert caplog.text.count("requests are let pass") == 1


async def test_who_is_refused_for_long_lets_go_of_what_counts_no_more(state, tenant):
    """Else each refusal would read all seconds since the last request that was let in."""
    using = Using(state, tenant, 0, 1000, 0, 100)
    for _ in range(3):
        await using.once(tokens=30, kept=(ids.new_tag(), 40, DAY))
        await using.later(15)
    assert await using.seconds() == 6
    await using.later(25)  # the first counts no more, seconds away from where the second does not either
    for left in (4, 0):
        refused = await using.once(stores=True)
        assert isinstance(refused, StorageFull)
        assert refused.headers["x-ratelimit-remaining-tokens"] == str(1000 - 15 * left)
        assert await using.seconds() == left
        await using.later(60)


async def test_one_that_took_far_more_keeps_nobody_out_for_longer_than_it_counts(state, tenant):
    using = Using(state, tenant, 0, 10_000)
    for tokens in (100, 100, 1 << 40):
        await using.once(tokens=tokens)
    assert isinstance(await using.once(), RateLimited)
    await using.later(62)
    for _ in range(5):
        assert (await using.once(tokens=100))["x-ratelimit-limit-tokens"] == "10000"
