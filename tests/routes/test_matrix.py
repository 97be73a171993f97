"""The access matrix: every operation, asked by everybody, under rules of every form.

What may not be read is answered byte for byte as what is not there, whichever words a rule says it in.
"""

import re
from contextlib import AsyncExitStack

import httpx
import pytest

from proxy.rules import CONVERSATION, CREATE, DELETE, READ, RESPONSE, UPDATE
from tests.backend import PATIENCE, completion, json_reply
from tests.callers import Caller, ok
from tests.contract.document import operations
from tests.routes.test_tenants import filled
from tests.routes.users import CALLERS, as_one, key_of, unknown, users

__all__ = ["users"]  # a fixture

OPEN = "about the server, or no thing that is kept"
FORBIDDEN = '"code":"access_denied"'
ASK = {"model": "m", "input": "x", "store": False}
GO_ON = {**ASK, "previous_response_id": "{resp}"}
REFER = {**ASK, "input": [{"type": "item_reference", "id": "{msg}"}]}
REFER_TO_CONVERSATION = {**ASK, "input": [{"type": "item_reference", "id": "{item}"}]}
CONVERSE = {**ASK, "conversation": "{conv}"}
ITEMS = {"items": [{"role": "user", "content": "x"}]}

OPERATIONS = [  # (what is done, with what, method, path as in the document, query, body); what ends a thing comes last
    (OPEN, "", "GET", "/health", "", None),
    (OPEN, "", "GET", "/ready", "", None),
    (OPEN, "", "GET", "/metrics", "", None),
    (OPEN, "", "GET", "/openapi.json", "", None),
    (OPEN, "", "POST", "/v1/responses", "", ASK),
    (OPEN, "", "GET", "/v1/responses", "", None),
    (OPEN, "", "POST", "/v1/responses/compact", "", {"model": "m", "input": "x"}),
    (OPEN, "", "POST", "/v1/responses/input_tokens", "", {"model": "m", "input": "x"}),
    (CREATE, RESPONSE, "POST", "/v1/responses", "", {"model": "m", "input": "x"}),
    (CREATE, RESPONSE, "POST", "/v1/responses", "", {"model": "m", "input": "x", "stream": True}),
    (CREATE, RESPONSE, "POST", "/v1/responses", "", {"model": "m", "input": "x", "background": True}),
    (CREATE, CONVERSATION, "POST", "/v1/conversations", "", {}),
    (READ, RESPONSE, "GET", "/v1/responses/{response_id}", "", None),
    (READ, RESPONSE, "GET", "/v1/responses/{response_id}", "?stream=true", None),
    (READ, RESPONSE, "GET", "/v1/responses/{response_id}/input_items", "", None),
    (READ, RESPONSE, "GET", "/v1/responses", "?after={resp}", None),
    (READ, RESPONSE, "GET", "/v1/responses", "?before={resp}", None),
    (READ, RESPONSE, "POST", "/v1/responses", "", GO_ON),
    (READ, RESPONSE, "POST", "/v1/responses", "", {**GO_ON, "stream": True}),
    (READ, RESPONSE, "POST", "/v1/responses", "", REFER),
    (READ, RESPONSE, "POST", "/v1/responses/compact", "", GO_ON),
    (READ, RESPONSE, "POST", "/v1/responses/input_tokens", "", GO_ON),
    (READ, RESPONSE, "POST", "/v1/responses/input_tokens", "", REFER),
    (READ, CONVERSATION, "POST", "/v1/responses", "", CONVERSE),
    (READ, CONVERSATION, "POST", "/v1/responses", "", REFER_TO_CONVERSATION),
    (READ, CONVERSATION, "POST", "/v1/responses/input_tokens", "", CONVERSE),
    (READ, CONVERSATION, "GET", "/v1/conversations/{conversation_id}", "", None),
    (READ, CONVERSATION, "GET", "/v1/conversations/{conversation_id}/items", "", None),
    (READ, CONVERSATION, "GET", "/v1/conversations/{conversation_id}/items/{item_id}", "", None),
    (UPDATE, CONVERSATION, "POST", "/v1/responses", "", {**CONVERSE, "store": True}),
    (UPDATE, CONVERSATION, "POST", "/v1/responses", "", {**CONVERSE, "store": True, "stream": True}),
    (UPDATE, CONVERSATION, "POST", "/v1/conversations/{conversation_id}", "", {"metadata": {"k": "new"}}),
    (UPDATE, CONVERSATION, "POST", "/v1/conversations/{conversation_id}/items", "", ITEMS),
    (UPDATE, RESPONSE, "POST", "/v1/responses/{response_id}/cancel", "", None),
    (UPDATE, CONVERSATION, "DELETE", "/v1/conversations/{conversation_id}/items/{item_id}", "", None),
    (DELETE, CONVERSATION, "DELETE", "/v1/conversations/{conversation_id}", "", None),
    (DELETE, RESPONSE, "DELETE", "/v1/responses/{response_id}", "", None),
]

ALL = {CREATE, READ, UPDATE, DELETE}
OWNERS = "[{permit: {actions: [create, read, update, delete]}, when: user is owner}"
RULES = {  # rules, and for each who is a user of the tenant what these let do with ada's things; one's own: `mine`
    "none": ("[]", {"owner": ALL, "shares a team": ALL, "another user": {CREATE}}),
    "permit": (
        "[{permit: {actions: [create, read, update, delete]}}]",
        {"owner": ALL, "shares a team": ALL, "another user": ALL},
    ),
    "forbid": (
        "[{forbid: {actions: [create, update, delete], principal: ada}}, {forbid: {actions: read, principal: ben}},"
        " {permit: {actions: [create, read, update, delete]}}]",
        {"owner": {READ}, "shares a team": ALL - {READ}, "another user": ALL},
    ),
    "when": (
        f"{OWNERS}, {{permit: {{actions: read}}, when: user in owners teams}}]",
        {"owner": ALL, "shares a team": {CREATE, READ}, "another user": {CREATE}},
    ),
    "unless": (
        "[{forbid: {actions: [read, update, delete]}, unless: user is owner},"
        " {permit: {actions: [create, read, update, delete]}, unless: user with auditor in roles}]",
        {"owner": ALL, "shares a team": set(), "another user": {CREATE}},
    ),
    "actions": (
        f"{OWNERS}, {{permit: {{actions: [read, update]}}, when: [user with auditor in roles, user is not owner]}}]",
        {"owner": ALL, "shares a team": {CREATE, READ, UPDATE}, "another user": {CREATE}},
    ),
    "no match": (
        "[{permit: {actions: [create]}}]",
        dict.fromkeys(("owner", "shares a team", "another user"), {CREATE}),
    ),
}
KINDS = {
    "responses only": (
        "[{permit: {actions: [create, read, update, delete], resource: 'response::*'}}]",
        {RESPONSE: ALL, CONVERSATION: set()},
    ),
    "conversations only": (
        "[{permit: {actions: [create, read, update, delete], resource: 'conversation::*'}}]",
        {RESPONSE: set(), CONVERSATION: ALL},
    ),
}


def allowed(rules, who, kind):
    """What a caller may do with ada's things of a kind."""
    if who == "no user":
        return ALL
    told = RULES[rules][1] if rules in RULES else KINDS[rules][1][kind]
    as_one = told if isinstance(told, set) else told["owner" if who == "another tenant" else who]
    return as_one & {CREATE} if who == "another tenant" else as_one


def wanted(rules, who, action, kind, body):
    """``done``, ``forbidden`` or ``missing``. A turn that is kept creates a response, wherever else it writes."""
    if action == OPEN:
        return "done"
    may = allowed(rules, who, kind)
    if action == CREATE:
        return "done" if CREATE in may else "forbidden"
    if body and body.get("store") and CREATE not in allowed(rules, who, RESPONSE):
        return "forbidden"
    return "missing" if READ not in may else "done" if action in may else "forbidden"


def test_every_operation_is_in_the_matrix():
    assert {(method, path) for _, _, method, path, _, _ in OPERATIONS} == {
        (operation.method, operation.path) for operation in operations()
    }


ENDS = [(UPDATE, CONVERSATION, "done"), (DELETE, CONVERSATION, "done"), (DELETE, RESPONSE, "done")]
"""What leaves a thing other than it was; there is nothing to update of a response that has ended."""


@pytest.fixture
async def matrix(serve, users, backend):
    """Starts a server with these rules, and gives what a request to it comes to, and what makes things of ada's."""
    backend.default = (json_reply(completion()),)
    free = await serve("--count-by-generation", *users())
    async with AsyncExitStack() as stack:

        async def start(rules):
            url = await serve("--count-by-generation", f"--access-rules={rules}", *users())
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False))
            first = await stack.enter_async_context(Caller(free, key_of("owner")))
            return Matrix(http, first, backend)

        yield start


class Matrix:
    """A server under rules, ``http``, and one without beside it, which ``first`` makes things with."""

    def __init__(self, http, first, backend):
        self.http, self.first, self.backend = http, first, backend

    async def things(self):
        """The ids of one of each, all of ada's."""
        [*_, end] = await self.first.events(background=True)
        item = {"role": "user", "content": "x"}
        conversation = await self.first.conversation(items=[item], metadata={"k": "v"})
        held = await self.first.get(f"/conversations/{conversation}/items")
        response = end["response"]
        return {
            "resp": response["id"],
            "msg": response["output"][0]["id"],
            "conv": conversation,
            "item": held["data"][0]["id"],
        }

    async def seen(self, ids):
        """All that there is of things, as somebody sees it whom no rule holds."""
        paths = {
            RESPONSE: ("/responses/{resp}", "/responses/{resp}/input_items"),
            CONVERSATION: ("/conversations/{conv}", "/conversations/{conv}/items"),
        }
        asked = as_one("no user")
        return {
            kind: [(await self.first.http.get(path.format(**ids), headers=asked)).text for path in some]
            for kind, some in paths.items()
        }

    async def ask(self, who, method, path, query, body, ids):
        """(status, headers, body) without what differs between any two answers; ids by what they name."""
        names = {"{response_id}": ids["resp"], "{conversation_id}": ids["conv"], "{item_id}": ids["item"]}
        for name, id_ in names.items():
            path = path.replace(name, id_)
        answer = await self.http.request(
            method, path + filled(query, ids), json=body and filled(body, ids), headers=as_one(who)
        )
        text = answer.text
        for key, id_ in ids.items():
            text = text.replace(id_, f"<{key}>")
        headers = {name: value for name, value in answer.headers.multi_items() if name not in ("x-request-id", "date")}
        return answer.status_code, headers, text

    async def outcome(self, who, method, path, query, body, ids):
        """``done``, ``forbidden``, ``missing``, or how an answer differs from that for what is not there."""
        asked = len(self.backend.requests)
        told = await self.ask(who, method, path, query, body, ids)
        if told[0] < 400:
            if body and body.get("background"):
                await self.backend.received(asked + 1)
            return "done"
        if len(self.backend.requests) > asked:
            return f"the model was asked, then {told}"
        if told[0] == 403:
            kind = CONVERSATION if "conversation" in told[2] else RESPONSE
            return "forbidden" if re.search(FORBIDDEN, told[2]) and kind in told[2] else told
        others = {key: unknown(id_) for key, id_ in ids.items()}
        same = await self.ask(who, method, path, query, body, others)
        return "missing" if told == same else f"{told} instead of {same}"


@pytest.mark.parametrize("rules", [*RULES, *KINDS])
async def test_everybody_may_do_what_the_rules_let_them_and_sees_nothing_else(matrix, rules):
    server = await matrix((RULES | KINDS)[rules][0])
    found, expected = {}, {}
    for who in CALLERS:
        ids = await server.things()
        before = await server.seen(ids)
        listed = ok(await server.http.get("/v1/responses", headers=as_one(who)))["data"]
        may = allowed(rules, who, RESPONSE)
        assert (ids["resp"] in [one["id"] for one in listed]) is (READ in may), who
        for action, kind, method, path, query, body in OPERATIONS:
            cell = who, action, kind, method, path + query, str(body)
            found[cell] = await server.outcome(who, method, path, query, body, ids)
            expected[cell] = wanted(rules, who, action, kind, body)
        ends = {
            kind for (one, action, kind, *_), what in expected.items() if one == who and (action, kind, what) in ENDS
        }
        for kind, now in (await server.seen(ids)).items():
            assert (now == before[kind]) is (kind not in ends), (who, kind)
    assert found == expected
