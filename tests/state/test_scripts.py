"""The scripts themselves: complete, strict about slots, safe to send twice."""

from importlib import resources

from proxy import ids, state
from proxy.grants import Quota
from proxy.state import (
    Claim,
    End,
    Lease,
    Page,
    Run,
    client,
    conversations,
    export,
    idempotency,
    index,
    leases,
    lineages,
    owners,
    purge,
    quotas,
    responses,
    restore,
    runs,
    sweep,
    used,
)
from proxy.state.client import Client, Script
from proxy.state.keys import Lineage
from proxy.state.keys import tenant_lineages as lineage_list
from tests.state.talk import Talk, message, opened

SCRIPTS = {
    one.name: one
    for module in (
        state,
        responses,
        conversations,
        idempotency,
        index,
        leases,
        lineages,
        owners,
        quotas,
        runs,
        export,
        purge,
        restore,
        sweep,
        used,
    )
    for one in vars(module).values()
    if isinstance(one, Script)
}


def files():
    folder = resources.files("proxy.state").joinpath("scripts")
    return {entry.name.removesuffix(".lua"): entry.read_text("utf-8") for entry in folder.iterdir()}


def test_every_script_is_used_and_says_what_it_guarantees():
    texts = files()
    assert set(SCRIPTS) == set(texts) - {"prelude"}
    for name, text in texts.items():
        assert text.startswith("-- "), name
        assert name == "prelude" or "-- KEYS 1" in text, name


async def every_script(talk):
    """Sends every script at least once."""
    store, tenant = talk.state, talk.tenant
    await store.ping()
    await store.warnings()
    a = await talk.turn(body={"instructions": "x" * 600})
    b = await talk.turn(await talk.turn(a), append=False)
    assert await talk.read(b) == "q a q a q a"
    made = await talk.conversation("one two")
    one, two = await store.conversations.add_items(made.id, tenant, [message("three"), message("four", "mine")])
    c = await talk.converse(made, "q a")
    async with store.conversations.turn(made.id, tenant):
        pass
    await store.conversations.list_items(made.id, tenant, Page())
    await store.conversations.item(made.id, tenant, one["id"])
    await store.conversations.update(made.id, tenant, {"a": "b"})
    await store.conversations.delete_item(made.id, tenant, two["id"])
    await store._client.command("EXPIRE", keys_of(a).record(a.minter.turn), 100)
    await store.responses.items([a.output[0]["id"], one["id"]], tenant)
    assert await talk.read(c) == "one two three four q a"
    await store.responses.load(a.id, tenant)
    await store.responses.list(tenant, Page(), "m", lambda _id, _owner: True)
    await store.responses.delete(b.id, tenant)
    await store.owners.of(c.id, tenant)
    await store.conversations.delete(made.id, tenant)
    await every_script_of_runs(talk)
    await every_script_of_quotas(talk)


async def every_script_of_quotas(talk):
    used, quota = talk.state.quotas, Quota(9, 9000, 9, 9000)
    async with used.admitted(talk.tenant, quota, stores=True) as admission:
        admission.tokens, admission.kept = 5, (ids.new_tag(), 50, 1000)
        await used._hold(talk.tenant, [admission.token])
    id_ = ids.Minter().own("conv")
    await used.keep(talk.tenant, quota, id_, 10)
    await used.give_back(talk.tenant, quota, id_)


async def every_script_of_runs(talk):
    store, tenant, d = talk.state, talk.tenant, talk.draft()
    lease = Lease(d.id)
    await store.runs.create(Run(d.id, tenant, d.created_at, {}, d.input), None)
    await store.runs.claim(d.id, tenant, lease)
    await store.runs.hold(lease)
    await store.runs.append(lease, 0, [b"event"])
    await store.runs.keep(lease, {"a": "b"})
    await store.runs.cancel(d.id, tenant)
    d.end, d.status, d.append = End(lease, 1, [b"last"]), "cancelled", False
    await store.responses.save(d)
    await store.runs.release(lease, tenant)
    await store.runs.ended(d.id, tenant)
    e = talk.draft()
    await store.runs.create(Run(e.id, tenant, e.created_at, {}, e.input), Lease(e.id, "mine"))
    await store.responses.find(e.id, tenant)
    await store.runs.drop(Lease(e.id, "mine"), tenant)
    claim = Claim.of(tenant, "key", b"body")
    await store.idempotency.take(claim)
    await store.idempotency.name(claim, e.id)
    await store.idempotency.let_go(claim)
    lines = [line async for line in store.export(tenant).lines()]
    await store._client.command("DEL", lineage_list(tenant))  # so that it is asked whose each is
    await store.purge(tenant).run()
    restore_ = await store.restore(tenant)
    assert {await restore_.put(line) for line in lines[:-1]} == {"written"}


def keys_of(draft):
    return Lineage(draft.minter.tag)


async def test_no_script_touches_a_foreign_slot(cluster, monkeypatch):
    sent = set()
    evaluate = Client._evaluate

    async def recorded(self, call):
        sent.add(call.script.name)
        return await evaluate(self, call)

    for script in SCRIPTS.values():  # in this dialect a Cluster refuses them
        strict = f"#!lua\n{script.text}"
        monkeypatch.setattr(script, "text", strict)
        monkeypatch.setattr(script, "sha", client.hashlib.sha1(strict.encode()).hexdigest())
    monkeypatch.setattr(Client, "_evaluate", recorded)
    async with opened(cluster.url) as store:
        for _ in range(6):  # lineages in several slots
            await every_script(Talk(store))
    assert sent == set(SCRIPTS)


async def test_no_script_needs_to_be_known_to_the_server(valkey):
    async with opened(valkey.url) as store:
        for _ in range(2):
            await store._client.command("SCRIPT", "FLUSH")
            await every_script(Talk(store))
