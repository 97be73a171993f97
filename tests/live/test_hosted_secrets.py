"""What a request brings to be shown to its MCP server alone is in no store, log, answer or request of others."""

import asyncio
import base64
import json
import signal

import pytest
from starlette.responses import PlainTextResponse

from tests import servers
from tests.backend import DONE, chunk, stream, talk
from tests.callers import Caller
from tests.live.conftest import Process
from tests.mcp_servers import Liar, McpServer, Tool

pytestmark = pytest.mark.live

WORD = "canary"
SECRETS = {"authorization": f"{WORD}-token", "headers": {"x-key": f"{WORD}-header", "cookie": f"a={WORD}-cookie"}}
ENDED = ("completed", "incomplete", "failed", "cancelled")


def calls(name, **given):
    """The model's reply that calls a tool of the server."""
    function = {"name": f"docs__{name}", "arguments": json.dumps(given)}
    entry = {"index": 0, "id": "call_1", "type": "function", "function": function}
    return stream(chunk({"tool_calls": [entry]}), chunk({}, "tool_calls"), DONE)


def tool(url, **more):
    """An mcp tool with something to hide in each place."""
    url = f"{url}?key={WORD}-query"
    return {"type": "mcp", "server_label": "docs", "server_url": url, "require_approval": "never", **SECRETS, **more}


def dump(store):
    """Everything that a store has, keys too, as one text."""
    found = []
    with store.admin() as admin:
        for key in admin.scan_iter(count=1000):
            read = {
                b"string": admin.get,
                b"hash": admin.hgetall,
                b"list": lambda k: admin.lrange(k, 0, -1),
                b"set": admin.smembers,
                b"zset": lambda k: admin.zrange(k, 0, -1, withscores=True),
                b"stream": admin.xrange,
                b"none": repr,  # it has expired just now
            }[admin.type(key)]
            found.append((key, read(key)))
    return repr(found)


def holds(text):
    """Where a text shows a secret, also in the three forms that base64 gives it."""
    in_base64 = [base64.b64encode(b"x" * shift + WORD.encode()) for shift in range(3)]
    forms = [WORD.encode(), in_base64[0], *(form[3:-3] for form in in_base64[1:])]  # without what depends on others
    return [text[max(at - 200, 0) : at + 200] for form in forms if (at := text.find(form.decode())) >= 0]


class Heard:
    """A caller that keeps every answer it got."""

    def __init__(self, url, key=None):
        self.caller = Caller(url, key)
        self.caller.http.event_hooks = {"response": [self._keep]}
        self.texts = []

    async def _keep(self, answer):
        await answer.aread()
        self.texts.append(f"{answer.headers} {answer.text}")


@pytest.fixture
def store(tmp_path_factory):
    found = servers.Server.on_socket(servers.valkey_binary(), tmp_path_factory.mktemp("s"))
    yield found
    found.stop()


@pytest.fixture
def launch(tmp_path_factory, store, backend):
    """Starts a process that tells everything it has to tell."""
    started = []

    def start(*options):
        fixed = (f"--upstream={backend.url}", "--upstream-kind=generic", f"--store={store.url}", "--run-lease=1")
        told = ("--log-level=debug", "--seal-key=a key of our own", "--upstream-api-key=ours", "--mcp-allow=127.0.0.1")
        started.append(Process(tmp_path_factory.mktemp("statecar"), *fixed, *told, *options))
        return started[-1]

    yield start
    for process in started:
        process.ask_to_end()
    assert {process.ended() for process in started} <= {0, -signal.SIGKILL}


async def ended(caller, id_):
    async with asyncio.timeout(servers.PATIENCE):
        while True:
            found = await caller.get(f"/responses/{id_}")
            if found["status"] in ENDED:
                return found
            await asyncio.sleep(0.05)


async def test_what_only_the_server_may_see_is_nowhere_else(launch, store, backend):
    never = asyncio.Event()
    search, hold = Tool("search", lambda _: "found"), Tool("hold", lambda _: never.wait())
    rude = Liar({"initialize": lambda _: PlainTextResponse(f"{WORD}: go away", 500)})
    first, second = launch(), launch()
    async with McpServer(search, hold) as docs, rude:
        one = Heard(await asyncio.to_thread(first.url))
        two = Heard(await asyncio.to_thread(second.url), one.caller.key)
        async with one.caller as caller, two.caller as other:
            made = await all_that_goes_well(caller, backend, docs.url)
            await all_that_goes_wrong(caller, backend, docs.url, rude.url)
            assert not holds(dump(store))
            backend.script(calls("hold"))
            run = await caller.create(tools=[tool(docs.url)], background=True)
            while docs.calls[-1:] != [("hold", {})]:
                await docs.called(len(docs.calls) + 1)
            while_it_runs = dump(store)
            first.process.kill()
            await asyncio.to_thread(first.process.wait)
            backend.script(calls("search"))
            backend.script(stream(*talk("Done.")))
            last = await ended(other, run["id"])
            await other.get(f"/responses/{made}/input_items")
            await other.get("/responses")
    assert run["id"] in while_it_runs and not holds(while_it_runs)
    assert not holds(dump(store))
    assert [item["type"] for item in last["output"]] == ["mcp_list_tools", "mcp_call", "mcp_call", "message"]
    assert [item.get("status") for item in last["output"][1:3]] == ["failed", "completed"]
    assert docs.calls[-1] == ("search", {})  # the second process knew the secrets too
    for _, headers in docs.requests:
        assert headers["authorization"] == f"Bearer {WORD}-token"
        assert (headers["x-key"], headers["cookie"]) == (f"{WORD}-header", f"a={WORD}-cookie")
    for text in (*one.texts, *two.texts, first.stderr, second.stderr):
        assert not holds(text)
    assert "docs" in first.stderr and not [r for r in backend.requests if holds(f"{r.head!r} {r.body!r}")]


async def all_that_goes_well(caller, backend, url):
    """Turns of each kind; gives the id of the last."""
    for fields in ({}, {"stream": True}, {"background": True}, {"conversation": await caller.conversation()}):
        backend.script(calls("search", q="x"))
        backend.script(stream(*talk("It is found.")))
        answer = await caller.ask(tools=[tool(url)], **fields)
        assert answer.status_code == 200, answer.text
        if not fields.get("stream"):
            made = answer.json()["id"]
            assert (await ended(caller, made))["output"][1]["output"] == "found"
    backend.script(calls("search"))
    asked = await caller.create(tools=[tool(url, require_approval="always")], previous_response_id=made)
    request = asked["output"][-1]
    assert request["type"] == "mcp_approval_request"
    backend.script(stream(*talk("Approved.")))
    told = [{"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": True}]
    last = await caller.create(told, tools=[tool(url)], previous_response_id=asked["id"])
    assert last["output"][0]["output"] == "found"
    return last["id"]


async def all_that_goes_wrong(caller, backend, url, rude):
    backend.default = (stream(*talk("I could not.")),)
    nobody = f"http://127.0.0.1:{servers.free_port()}/mcp"
    for away in (rude, nobody, url.replace("/mcp", "/none")):
        made = await caller.create(tools=[tool(away)])
        assert made["output"][0]["type"] == "mcp_list_tools" and made["output"][0]["error"], made["output"]
        refused = await caller.ask(tools=[tool(away)], tool_choice={"type": "mcp", "server_label": "docs"})
        assert refused.status_code == 424, refused.text
    wrong = (
        {"server_url": f"http://10.0.0.1/?key={WORD}"},
        {"server_url": f"http://elsewhere.example/?key={WORD}"},
        {"server_url": f"http://user:{WORD}@127.0.0.1/mcp"},
        {"server_url": f"ftp://127.0.0.1/?{WORD}"},
        {"headers": {"x-key": [f"{WORD}-list"]}},
        {"headers": {"x-key": f"{WORD}\r\nx: y"}},
        {"authorization": [f"{WORD}-list"]},
        {"require_approval": "sometimes"},
    )
    for fields in wrong:
        assert (await caller.ask(tools=[tool(url, **fields)])).status_code == 400, fields
