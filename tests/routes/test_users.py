"""Users of a tenant and what is theirs: runs, keys, sockets, pages, and what nobody owns (ADR 0021)."""

import asyncio
import json
import logging
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from proxy.state.client import Client
from tests.backend import stream, talk
from tests.callers import ok, refusal, unframed
from tests.routes.test_background import HALF, apart, cancelled, made, seen, text_of
from tests.routes.test_recovery import left
from tests.routes.test_tenants import filled
from tests.routes.users import ADA, User, key_of, unknown, users
from tests.sockets import opened

__all__ = ["apart", "users"]  # fixtures

READERS = (
    "[{permit: {actions: [create, read, update, delete]}, when: user is owner},"
    " {permit: {actions: read}, when: user in owners teams}]"
)
ASK = {"model": "m", "input": "x"}


@pytest.fixture
async def people(serve, users):
    """Starts a server under rules, and gives ada, ben, who shares a team with her, cat, and somebody who is no user."""
    async with AsyncExitStack() as stack:

        async def start(rules=READERS, *options, tenants=True, **rest):
            url = await serve(f"--access-rules={rules}", *users(tenants=tenants), *options, **rest)
            found = [User(url, who) for who in ("owner", "shares a team", "another user", "no user")]
            for user in found:
                await stack.enter_async_context(user.caller)
            return found

        yield start


OF_A_RUN = [
    ("GET", "/responses/{}", {}),
    ("GET", "/responses/{}?stream=true", {}),
    ("GET", "/responses/{}/input_items", {}),
    ("POST", "/responses/{}/cancel", {}),
    ("DELETE", "/responses/{}", {}),
    ("POST", "/responses", {"json": {**ASK, "previous_response_id": "{}"}}),
    ("POST", "/responses/input_tokens", {"json": {**ASK, "previous_response_id": "{}"}}),
]


async def test_a_run_is_its_owners_until_and_after_it_ends(people, backend):
    ada, ben, cat, _ = await people()
    backend.script(HALF, asyncio.Event())
    id_ = (await made(ada.caller, stream=False))["id"]
    await seen(ada.caller, id_, "in_progress")
    for method, path, rest in OF_A_RUN:
        assert await cat.is_missing(id_, method, path, **rest), path
    assert (await ben.caller.get(f"/responses/{id_}"))["status"] == "in_progress"
    assert (await ben.caller.get(f"/responses/{id_}/input_items"))["data"]
    continued = await ben.caller.ask(previous_response_id=id_)
    assert "still in progress" in continued.json()["error"]["message"]
    for method, path in (("POST", f"/responses/{id_}/cancel"), ("DELETE", f"/responses/{id_}")):
        assert refusal(await ben.http.request(method, path)) == (403, "access_denied", None)
    assert (await ada.http.delete(f"/responses/{id_}")).status_code == 400
    assert (await cancelled(ada.caller, id_))["status"] == "cancelled"
    assert (await ben.caller.get(f"/responses/{id_}"))["status"] == "cancelled"
    for method, path, rest in OF_A_RUN:
        assert await cat.is_missing(id_, method, path, **rest), path
    assert [one["id"] for one in (await ben.caller.get("/responses"))["data"]] == [id_]
    assert (await cat.caller.get("/responses"))["data"] == []


@pytest.mark.parametrize("fields", [{}, {"headers": "no JSON"}], ids=["made on", "ended"])
async def test_a_run_that_another_process_left_stays_its_owners(people, own, state, backend, fields):
    run = replace(left(), owner=ADA, **fields)
    await state.runs.create(run, None)
    ada, ben, cat, _ = await people(READERS, "--run-lease=0.5", tenants=False, store=own.url)
    end = await seen(ada.caller, run.id, "completed", "failed")
    assert end["status"] == ("failed" if fields else "completed")
    assert (await ben.caller.get(f"/responses/{run.id}")) == end
    assert await cat.is_missing(run.id, "GET", "/responses/{}")
    assert (await state.owners.of(run.id, "shared")).owner == ADA


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"background": True, "stream": True}], ids=str)
@pytest.mark.parametrize("options", [(), ("--on-disconnect=detach",)], ids=["cancel", "detach"])
async def test_what_is_made_in_any_way_is_its_makers(people, backend, options, fields):
    ada, ben, cat, _ = await people(READERS, *options)
    backend.default = (stream(*talk("Hi")),)
    answer = await ada.caller.ask(**fields)
    id_ = unframed(answer.content)[-1]["response"]["id"] if fields else ok(answer)["id"]
    assert text_of(await ben.caller.get(f"/responses/{id_}")) == "Hi"
    assert await cat.is_missing(id_, "GET", "/responses/{}")
    continued = await ben.caller.create(previous_response_id=id_)  # his own, with all that came before it
    assert await cat.is_missing(continued["id"], "GET", "/responses/{}/input_items")
    assert refusal(await ada.http.delete(f"/responses/{continued['id']}"))[0] == 403
    ok(await ben.http.delete(f"/responses/{continued['id']}"))
    assert len(await ids_of(ada)) == 1


async def ids_of(user, **query):
    return [one["id"] for one in (await user.caller.get("/responses", **query))["data"]]


async def test_a_key_is_its_users_own(people):
    ada, ben, cat, nobody = await people()
    answers = {}
    for user in (ada, ben, cat, nobody, ada, nobody):
        text = "x" if user is ada else "y"
        answer = await user.http.post("/responses", json={**ASK, "input": text}, headers={"idempotency-key": "k"})
        first = answers.setdefault(user, ok(answer))
        assert ok(answer) == first
    assert len({answer["id"] for answer in answers.values()}) == 4
    reused = await ada.http.post("/responses", json=ASK | {"input": "z"}, headers={"idempotency-key": "k"})
    assert refusal(reused) == (400, "idempotency_key_reused", None)


async def test_over_a_websocket_the_same_holds(serve, users, backend):
    url = await serve(f"--access-rules={READERS}", *users())
    backend.default = (stream(*talk("Hi")),)
    async with (
        opened(url, key_of("owner")) as ada,
        opened(url, key_of("shares a team")) as ben,
        opened(url, key_of("another user")) as cat,
    ):
        first = await ada.create()
        assert (await ben.create(previous_response_id=first["id"]))["previous_response_id"] == first["id"]
        other = unknown(first["id"])
        for fields in ({}, {"store": False}):
            [told] = await cat.ask(previous_response_id=first["id"], **fields)
            [same] = await cat.ask(previous_response_id=other, **fields)
            assert json.dumps(told).replace(first["id"], other) == json.dumps(same)
        unkept = await cat.create(store=False)
        assert (await cat.create(store=False, previous_response_id=unkept["id"]))["status"] == "completed"
        async with User(url, "owner").caller as caller:
            conversation = await caller.conversation()
        assert (await ben.refused(conversation=conversation))[:2] == (403, "access_denied")
        assert (await ben.create(conversation=conversation, store=False))["status"] == "completed"
        assert (await cat.refused(conversation=conversation))[0] == 404
        asked = len(backend.requests)
    async with opened(await serve("--access-rules=[{permit: {actions: read}}]", *users()), key_of("owner")) as ada:
        assert (await ada.refused())[:2] == (403, "access_denied")
        assert len(backend.requests) == asked
        assert await ada.create(store=False)


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [  # whether ada sees what is her own, and what nobody owns
        ("[]", (True, True)),
        (READERS, (True, False)),
        ("[{permit: {actions: [create, read]}, when: resource is unowned}]", (False, True)),
        ("[{forbid: {actions: read}, unless: resource is unowned}, {permit: {actions: read}}]", (False, True)),
        ("[{permit: {actions: read}, when: user is not owner}]", (False, False)),
    ],
)
async def test_what_was_made_by_no_user_is_nobodys(people, serve, rules, wanted):
    ada, _, _, nobody = await people("[]")
    mine, free = (await ada.caller.create())["id"], (await nobody.caller.create())["id"]
    under, *_, still = await people(rules)
    for id_, sees in ((mine, wanted[0]), (free, wanted[1])):
        assert (await under.http.get(f"/responses/{id_}")).status_code == (200 if sees else 404)
        assert (await still.http.get(f"/responses/{id_}")).status_code == 200
        assert (id_ in await ids_of(under)) is sees
    assert await ids_of(still) == [free, mine]


async def test_a_rule_may_name_one_thing(people):
    ada, _, cat, _ = await people("[]")
    shown, hidden, talked = (
        (await ada.caller.create())["id"],
        (await ada.caller.create())["id"],
        await ada.caller.conversation(),
    )
    _, _, cat, _ = await people(
        f"[{{permit: {{actions: read, principal: cat, resource: 'response::{shown}'}}}},"
        f" {{permit: {{actions: [read, update], resource: 'conversation::{talked}'}}}}]"
    )
    assert await ids_of(cat) == [shown]
    assert await cat.is_missing(hidden, "GET", "/responses/{}")
    item = {"role": "user", "content": "x"}
    assert ok(await cat.http.post(f"/conversations/{talked}/items", json={"items": [item]}))["data"]
    assert refusal(await cat.http.delete(f"/conversations/{talked}")) == (403, "access_denied", None)


async def test_pages_are_full_and_end_where_there_is_no_more_to_see(people, backend):
    ada, _, cat, _ = await people()
    made = {ada: [], cat: []}
    for n in range(21):
        user = cat if n % 3 else ada
        made[user].append((await user.caller.create())["id"])
    for user, ids in made.items():
        for order in ("asc", "desc"):
            wanted, got, after = ids if order == "asc" else ids[::-1], [], None
            for limit in (1, 2, 3, 100):
                page = await user.caller.get(
                    "/responses", limit=limit, order=order, **({"after": after} if after else {})
                )
                got += [one["id"] for one in page["data"]]
                after = page["last_id"]
                assert got == wanted[: len(got)]
                assert page["first_id"] == page["data"][0]["id"]
                assert page["has_more"] is (len(got) < len(wanted))
            assert got == wanted
        back = await user.caller.get("/responses", limit=2, order="asc", before=ids[4])
        assert ([one["id"] for one in back["data"]], back["has_more"]) == (ids[2:4], True)


async def test_users_that_a_gateways_headers_name_are_held_by_the_same_rules(calling):
    named = ("--tenant=header:X-Tenant", "--principal=header:X-User", "--attribute=teams=header:X-Teams")
    caller = await calling(*named)
    people = {"ada": "red, blue", "ben": "blue", "cat": "green"}
    headers = {name: {"x-tenant": "t", "x-user": name, "x-teams": teams} for name, teams in people.items()}
    made = ok(await caller.http.post("/responses", json=ASK, headers=headers["ada"]))
    for name, status in (("ada", 200), ("ben", 200), ("cat", 404)):
        assert (await caller.http.get(f"/responses/{made['id']}", headers=headers[name])).status_code == status
    moved = {"x-tenant": "another", "x-user": "ada", "x-teams": "red"}
    assert (await caller.http.get(f"/responses/{made['id']}", headers=moved)).status_code == 404
    for nameless in ({"x-tenant": "t"}, {"x-tenant": "t", "x-user": ""}):
        assert (await caller.http.get(f"/responses/{made['id']}", headers=nameless)).status_code == 401


async def test_a_refusal_is_explained_to_who_debugs_and_to_nobody_else(people, caplog):
    caplog.set_level(logging.DEBUG, "statecar.rules")
    ada, ben, cat, _ = await people(f"[{{forbid: {{actions: delete}}}}, {READERS[1:]}")
    id_ = (await ada.caller.create())["id"]
    for user, status in ((ada, 403), (cat, 404)):
        assert (await user.http.delete(f"/responses/{id_}")).status_code == status
    assert [record.getMessage() for record in caplog.records if record.name == "statecar.rules"] == [
        f"not allowed to delete response::{id_}: access_rules[0] forbids it",
        f"not allowed to read response::{id_}: no access rule permits it",
    ]


COSTS = [  # (method, path, body, round trips more than for a caller who is no user)
    ("POST", "/responses", ASK, 0),
    ("POST", "/responses", {**ASK, "previous_response_id": "{resp}"}, 0),
    ("POST", "/responses", {**ASK, "input": [{"type": "item_reference", "id": "{msg}"}]}, 0),
    ("GET", "/responses/{resp}", None, 0),
    ("GET", "/responses/{resp}/input_items", None, 0),
    ("GET", "/responses", None, 1),
    ("POST", "/responses", {**ASK, "conversation": "{conv}"}, 1),
    ("GET", "/conversations/{conv}", None, 1),
    ("POST", "/conversations", {}, 0),
    ("DELETE", "/responses/{resp}", None, 1),
]


async def test_a_read_costs_no_round_trip_for_the_rules_and_a_change_one(people, monkeypatch):
    ada, _, _, nobody = await people()
    sent, bounded = [], Client._bounded

    async def counted(self, node, name, send):
        sent.append(name)
        return await bounded(self, node, name, send)

    monkeypatch.setattr(Client, "_bounded", counted)
    costs = {}
    for user in (ada, nobody):
        made = await user.caller.create()
        ids = {"resp": made["id"], "msg": made["output"][0]["id"], "conv": await user.caller.conversation()}
        for method, path, body, _ in COSTS:
            sent.clear()
            ok(await user.http.request(method, filled(path, ids), json=body and filled(body, ids)))
            # the clock says what is prolonged and probed, and when runs are looked for; the list what is loaded
            asked = [name for name in sent if name not in ("touch", "probe", "ZRANGEBYSCORE", "load")]
            costs.setdefault((method, path, str(body)), []).append(asked)
    for method, path, body, more in COSTS:
        hers, free = costs[method, path, str(body)]
        assert len(hers) - len(free) == more, (method, path, hers, free)
