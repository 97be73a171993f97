"""The ACL lines of docs/operations/redis.md: with these rights everything works, with any one less something fails."""

import logging
import re
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from proxy import ids
from proxy.app import create_app
from proxy.errors import StatecarError, StoreUnavailable
from proxy.grants import Quota
from proxy.settings import Settings
from proxy.state import Claim, End, Lease, Page, Run, keys, leases
from tests.backend import serving
from tests.callers import Caller, ok, unframed
from tests.routes.conftest import alive
from tests.servers import Cluster
from tests.state.talk import Talk, message, opened
from tests.state.test_scripts import SCRIPTS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "operations" / "redis.md").read_text("utf-8")
UPSTREAM = "http://acl.test/v1"


def told(pattern):
    """What the document says at a place that it has once, as words."""
    [found] = re.findall(pattern, DOCUMENT, re.MULTILINE)
    return found.split()


LINE = told(r"^```acl\nuser statecar ([^\n]+)\n```$")
FOR_A_CLUSTER = told(r"^- On a Cluster add, on every node: `([^`]+)`")
FOR_THE_DATA = told(r"^- `statecar export`, `import` and `purge` [^\n]*\n  `([^`]+)`$")
FOR_A_DATABASE = told(r"^- With a database number in the URL add: `([^`]+)`")


class Account:
    """The user ``statecar`` on every node of a store. ``url``: how a state logs in as it."""

    def __init__(self, store):
        self.clustered = isinstance(store, Cluster)
        self.nodes = [node.admin() for node in (store.nodes if self.clustered else [store])]
        self.rights = LINE + (FOR_A_CLUSTER if self.clustered else [])
        [password] = [word[1:] for word in LINE if word.startswith(">")]
        self.url = store.url.replace("://", f"://statecar:{password}@")

    @property
    def commands(self):
        return [word[1:] for word in self.rights if word.startswith("+")]

    def set(self, *rules):
        self.all("ACL", "SETUSER", "statecar", *rules)

    def all(self, *command):
        for node in self.nodes:
            node.execute_command(*command)

    @contextmanager
    def slot_on_the_move(self, key):
        """The key's slot is leaving its node: whoever wants the key, which is not there, is sent on with an ASK."""
        names = [node.execute_command("CLUSTER MYID").decode() for node in self.nodes]
        slot = self.nodes[0].execute_command("CLUSTER KEYSLOT", key)
        owner = [_has(node, key) for node in self.nodes].index(True)
        source, target = self.nodes[owner], self.nodes[owner - 1]
        target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", names[owner])
        source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", names[owner - 1])
        try:
            yield
        finally:
            target.execute_command("ASKING")
            target.execute_command("DEL", key)
            for node in (source, target):
                node.execute_command("CLUSTER SETSLOT", slot, "STABLE")


def _has(node, key):
    """Whether the key's slot is the node's."""
    try:
        node.execute_command("GET", key)
    except redis.exceptions.MovedError:
        return False
    return True


@pytest.fixture
async def account(store, store_url):
    """The user with the rights of the document, in a store that would evict, so that there is something to warn of."""
    account = Account(store)
    await forget_runs(store_url)
    account.set("reset", *account.rights)
    account.all("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    yield account
    account.all("CONFIG", "SET", "maxmemory-policy", "noeviction")
    account.all("ACL", "DELUSER", "statecar")
    for node in account.nodes:
        node.close()
    await forget_runs(store_url)


async def forget_runs(url):
    """Takes off the list what tests have left half done: a server would take it up."""
    async with opened(url) as state:
        await state._client.command("DEL", keys.RUNS)


async def every_verb(account):
    """Asks a state for all that it can do, by scripts that the store does not know yet."""
    account.all("SCRIPT", "FLUSH")
    async with opened(account.url, connections=1) as state, opened(account.url, 0, 0, connections=1) as lasting:
        talk = Talk(state)
        await _responses(state, talk)
        await _conversations(state, talk)
        await _runs(state, talk)
        await _keys(state, talk)
        await _quotas(state, lasting, talk.tenant)
        await Talk(lasting).conversation("kept")
        assert [warning for warning in await state.warnings() if "volatile-lru" in warning]
        await state.tenant_secret()
        await state.lessons.put(UPSTREAM, "m", {"a": 1})
        assert await state.lessons.get(UPSTREAM, "m") == {"a": 1}


async def _responses(state, talk):
    responses, tenant = state.responses, talk.tenant
    await state.ping()
    first = await talk.turn(body={"instructions": "x" * 600})
    branches = [await talk.turn(first), await talk.turn(first, "r b")]
    last = await talk.turn(branches[1], append=False)
    assert await talk.read(last) == "q a r b q a"
    stored = await responses.load(first.id, tenant)
    assert stored.body["instructions"] == "x" * 600
    assert await responses.context(last.id, tenant)
    # near its end, so that use prolongs it
    await state._client.command("EXPIRE", keys.Lineage(first.minter.tag).record(first.minter.turn), 100)
    assert await responses.items([first.output[0]["id"]], tenant)
    assert await responses.delete(branches[0].id, tenant)
    for page in (Page(limit=1, order="asc"), Page(after=last.id), Page(before=last.id)):
        await responses.list(tenant, page, None)
    await state._client.command("DEL", keys.Lineage(last.minter.tag).record(last.minter.turn))
    assert len((await responses.list(tenant, Page(), None))[0]) == 2  # the dead one is taken off


async def _conversations(state, talk):
    store, tenant = state.conversations, talk.tenant
    made = await talk.conversation("one")
    added = await store.add_items(made.id, tenant, [message(f"m{n}") for n in range(12)])
    response = await talk.converse(made)
    async with store.turn(made.id, tenant) as past:
        assert await state._client.script(leases._LEASE, [past.lock.key], past.lock.token, 1000) == 1
    assert await state.responses.items([added[0]["id"]], tenant)
    for item in added[:10]:  # so that a page is looked up one by one
        await store.delete_item(made.id, tenant, item["id"])
    for page in (Page(limit=2, order="asc"), Page(after=added[10]["id"]), Page(before=added[10]["id"])):
        await store.list_items(made.id, tenant, page)
    assert await store.item(made.id, tenant, added[10]["id"])
    assert (await store.update(made.id, tenant, {"a": "b"})).metadata == {"a": "b"}
    assert (await store.retrieve(made.id, tenant)).metadata == {"a": "b"}
    assert len((await store.past(made.id, tenant)).items) == 5
    await store.delete(made.id, tenant)
    assert await talk.read(response)
    await store.create(tenant, {}, [], ids.Minter())


async def _runs(state, talk):
    runs, tenant, draft = state.runs, talk.tenant, talk.draft()
    lease = Lease(draft.id)
    await runs.create(Run(draft.id, tenant, draft.created_at, {"stream": True}, draft.input), None)
    assert (draft.id, tenant) in await runs.due(1000)
    assert await runs.claim(draft.id, tenant, lease) == await runs.load(draft.id, tenant)
    await runs.hold(lease, began=True)
    await runs.seen_to([(draft.id, tenant)])
    await runs.append(lease, 0, [b"first"])
    assert await runs.events(draft.id, -1) == await runs.events(draft.id, -1, wait=True) == [b"first"]
    now, _ = await runs.announced("")
    assert await runs.cancel(draft.id, tenant)
    await runs.announce(draft.id)
    assert draft.id in (await runs.announced(now))[1]
    draft.status, draft.append, draft.end = "cancelled", False, End(lease, 1, [b"last"])
    await state.responses.save(draft)
    assert (await state.responses.load(draft.id, tenant)).logged
    assert not await runs.exists(draft.id)
    await runs.ended(draft.id, tenant)
    draft = talk.draft()
    lease = Lease(draft.id)
    await runs.create(Run(draft.id, tenant, draft.created_at, {}, draft.input), lease)
    await runs.release(lease, tenant)
    assert (draft.id, tenant) in await runs.due(1000)
    await runs.ended(draft.id, tenant)


async def _keys(state, talk):
    claim, other = (Claim.of(talk.tenant, "key", b"body") for _ in range(2))
    assert await state.idempotency.take(claim) is None
    await state.idempotency.hold(claim)
    assert await state.idempotency.name(claim, "resp_x")
    await state.idempotency.let_go(claim)
    assert (await state.idempotency.take(other)).response == "resp_x"
    assert await state.idempotency.take(other, "resp_x") is None
    await state.idempotency.let_go(other)


async def _quotas(state, lasting, tenant):
    quota, id_, used = Quota(9, 9000, 9, 9000), ids.Minter().own("conv"), keys.Quota(tenant)
    async with state.quotas.admitted(tenant, quota, stores=True) as admission:
        admission.tokens, admission.kept = 5, (ids.new_tag(), 50, 1000)
        await state.quotas._hold(tenant, [admission.token])
    assert await state._client.command("HGET", used.usage, "a") == b"5.00"
    await lasting.quotas.keep(tenant, quota, id_, 10)
    await state.quotas.give_back(tenant, quota, id_)
    assert await state._client.command("HGET", used.bytes, "*") == b"50"


async def fault(account, caplog):
    """What went wrong, None for nothing; what is only logged counts too."""
    caplog.clear()
    try:
        await every_verb(account)
    except (StatecarError, AssertionError) as exc:
        return exc
    return next((record for record in caplog.records if record.levelno >= logging.ERROR), None)


async def test_every_right_of_the_document_is_needed_and_no_other(account, caplog):
    with account.slot_on_the_move(keys.lesson(UPSTREAM, "m")) if account.clustered else _nothing():
        assert await fault(account, caplog) is None
        idle = []
        for command in account.commands:
            account.set(f"-{command}")
            if await fault(account, caplog) is None:
                idle.append(command)
            account.set(f"+{command}")
    assert idle == []


@contextmanager
def _nothing():
    yield


def test_the_document_allows_every_command_of_every_script():
    """Also of one that ``every_verb`` does not reach yet."""
    calls = [call for script in SCRIPTS.values() for call in re.findall(r"redis\.p?call\(([^,)]*)", script.text)]
    called = {word.lower() for call in calls for word in re.findall(r"'(\w+)'", call) if word.isupper()}
    assert "hset" in called
    assert called <= {word[1:] for word in LINE + FOR_THE_DATA if word.startswith("+")}


async def test_every_right_for_export_import_and_purge_is_needed_and_no_other(account, caplog):
    account.set(*FOR_THE_DATA)
    assert await fault_of_moving(account, caplog) is None
    for right in FOR_THE_DATA:
        account.set(f"-{right[1:]}")
        assert await fault_of_moving(account, caplog), right
        account.set(right)


async def fault_of_moving(account, caplog):
    """What goes wrong when a tenant's data is taken out, away and in again; None for nothing."""
    caplog.clear()
    account.all("SCRIPT", "FLUSH")
    async with opened(account.url) as state, opened(account.url, 0, 0) as lasting:
        talk = Talk(state)
        try:
            await Talk(lasting, talk.tenant).turn()
            await talk.converse(await talk.conversation("one"))
            draft = talk.draft()
            await state.runs.create(Run(draft.id, talk.tenant, draft.created_at, {}, draft.input), None)
            lines = [line async for line in state.export(talk.tenant).lines()]
            await state.purge(talk.tenant).run()
            restore = await state.restore(talk.tenant)
            assert {await restore.put(line) for line in lines[:-1]} == {"written"}
            assert [line async for line in state.export(talk.tenant).lines()] == lines
        except (StatecarError, AssertionError) as exc:
            return exc
    return next((record for record in caplog.records if record.levelno >= logging.ERROR), None)


async def test_the_keys_of_others_are_out_of_reach(account, caplog):
    async with opened(account.url) as state:
        with pytest.raises(StoreUnavailable):
            await state._client.command("GET", "other")
    assert "NoPermissionError" in caplog.text


async def test_a_whole_server_starts_and_serves_with_these_rights(account, backend, caplog):
    options = [f"--store={account.url}", f"--upstream={backend.url}", "--upstream-kind=generic"]
    app = create_app(Settings.resolve(options, {}))
    async with alive(app), serving(app) as url, Caller(url) as caller:
        assert ok(await caller.http.get(f"{url}/ready"))["store"] == "ok"
        first = await caller.create()
        await caller.create(previous_response_id=first["id"])
        await caller.create(conversation=await caller.conversation())
        made = (await caller.events(background=True))[0]["response"]
        events = await caller.http.get(f"/responses/{made['id']}", params={"stream": "true"})
        assert unframed(events.content)[-1]["type"] == "response.completed"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_database_number_needs_one_more(valkey):
    account = Account(valkey)
    try:
        account.set("reset", *account.rights)
        async with opened(f"{account.url}?db=1") as state:
            with pytest.raises(StoreUnavailable):
                await state.ping()
            account.set(*FOR_A_DATABASE)
            await state.ping()
    finally:
        account.all("ACL", "DELUSER", "statecar")
