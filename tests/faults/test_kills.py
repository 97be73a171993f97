"""Readers, processes and whole releases that go at any moment, and what everybody sees of it: nothing."""

import asyncio
import json
import re

import httpx
import pytest

from tests import servers
from tests.callers import ok
from tests.faults.conftest import FULL
from tests.faults.front import Front
from tests.faults.reading import Seen, follow, read
from tests.faults.teller import answer
from tests.live import strict
from tests.mcp_servers import McpServer, Tool

pytestmark = pytest.mark.live


def text_of(response):
    return "".join(item["content"][0]["text"] for item in response["output"])


def checked(seen, prompt):
    """A whole stream, valid, that says what the model said; gives its response."""
    last = strict.grammar(seen.events)
    assert (last["status"], text_of(last)) == ("completed", answer([("user", prompt)]))
    return last


async def test_a_reader_that_is_cut_anywhere_and_goes_on_anywhere_sees_the_whole_stream(fleet, http, chance):
    cut, places = asyncio.Semaphore(16), range(200 if FULL else 40)
    async with fleet(2) as site:

        def any_url():
            return site.any_url(chance)

        async def one(at):
            prompt = f"{at} [words=30 pause={chance.choice((0, 2, 5))}]"
            body = {"model": "m", "input": prompt, "background": True, "stream": True}
            seen = Seen()
            async with cut:
                most = chance.randrange(2000, 9000)  # it has heard of the id
                await read(http, seen, "POST", f"{any_url()}/v1/responses", json=body, most=most)
                await follow(http, seen, seen.id, any_url, lambda: chance.randrange(6000) if seen.pieces < 5 else 1e9)
                whole = Seen()
                await follow(http, whole, seen.id, any_url)
            assert seen.frames == whole.frames
            assert whole.pieces == 1
            checked(seen, prompt)
            if at < 3:
                strict.stream(seen.events)
            return seen.pieces

        pieces = await asyncio.gather(*map(one, places))
    assert min(pieces) >= 1 and sum(pieces) > 2 * len(places)


async def ended(http, url, id_):
    """The response, once it has ended."""
    async with asyncio.timeout(servers.PATIENCE):
        while True:
            found = ok(await http.get(f"{url()}/v1/responses/{id_}"))
            if found["status"] in ("completed", "failed", "incomplete", "cancelled"):
                return strict.response(found)
            await asyncio.sleep(0.05)


class Asked:
    """One turn that was asked for of a process that may be killed meanwhile. ``id``: once somebody knows it."""

    def __init__(self, prompt, conversation, *, stream, **fields):
        self.prompt, self.conversation, self.seen = prompt, conversation, Seen() if stream else None
        self.fields = fields
        self.id = None

    async def ask(self, http, url):
        given = {"conversation": self.conversation} if self.conversation else {}
        body = {"model": "m", "input": self.prompt, "background": True, **given, **self.fields}
        try:
            if self.seen:
                await read(http, self.seen, "POST", f"{url}/v1/responses", json=body | {"stream": True})
                self.id = self.seen.id
            else:
                self.id = ok(await http.post(f"{url}/v1/responses", json=body))["id"]
        except httpx.TransportError:
            self.id = self.seen and self.seen.id

    async def check(self, http, url):
        """It has ended once, as everybody sees it alike; a conversation has all of it, or nothing."""
        texts, last = [self.prompt, answer([("user", self.prompt)])], None
        if self.id:
            last = await ended(http, url, self.id)
            assert texts[1].startswith(text_of(last))
            assert last["status"] == "completed" or (last["status"] == "failed" and self.seen), last
        if self.seen and self.id:
            await follow(http, self.seen, self.id, url)
            assert strict.grammar(self.seen.events) == last
        if self.conversation:
            page = ok(await http.get(f"{url()}/v1/conversations/{self.conversation}/items", params={"order": "asc"}))
            told = [item["content"][0]["text"] for item in page["data"]]
            wanted = [texts, []] if last is None else [texts] if last["status"] == "completed" else [[]]
            assert told in wanted
            if self.id:  # else its lock may live on, as long as a lease
                again = {"model": "m", "input": "Again", "conversation": self.conversation}
                assert text_of(ok(await http.post(f"{url()}/v1/responses", json=again)))
        return last and last["status"]


KILLS = [("vllm", "0.5", 50), ("generic", "0.5", 50), ("vllm", "10", 4)] if FULL else [("vllm", "0.5", 3)]


@pytest.mark.parametrize(("kind", "lease", "kills"), KILLS)
async def test_a_process_that_is_killed_at_any_moment_leaves_every_response_with_one_end(
    fleet, store, http, chance, kind, lease, kills
):
    """Where the backend goes on with a text, that end is the one that was to come."""
    site = fleet(2, f"--run-lease={lease}", "--background-timeout=60", f"--upstream-kind={kind}")
    ends = []
    async with site:

        def url():
            return site.any_url(chance)

        async def turn(at, victim):
            made = ok(await http.post(f"{victim}/v1/conversations", json={}))["id"] if at % 2 else None
            asked = Asked(f"{at} [words=12 pause={chance.choice((5, 30, 60))}]", made, stream=at % 3)
            return asked, asyncio.create_task(asked.ask(http, victim))

        for kill in range(kills):
            member = site.members[kill % 2]
            asked = [await turn(at, member.url) for at in range(6)]
            await asyncio.sleep(chance.uniform(0, 0.5))
            await member.kill()
            await asyncio.gather(*(task for _, task in asked))
            starting = asyncio.create_task(member.start())
            ends += await asyncio.gather(*(one.check(http, url) for one, _ in asked))
            assert kind == "generic" or not {*ends} & {"failed"}
            await starting
        with store.admin() as admin:
            servers.until(lambda: not admin.zcard("sc:runs"))
            keys = list(admin.scan_iter("sc:{????????????????}:*", count=1000))
            assert keys and not [key for key in keys if re.search(rb":[jw]:", key)]
            left = {key: admin.pttl(key) for key in keys}  # -2: it has gone meanwhile, -1: it never would
            assert all(-1 != left[key] <= 1000 * (15 if key.endswith(b":k") else 86400 * 40) for key in keys)
    assert ends.count("completed") > len(ends) / 4 and ends.count(None) < len(ends) / 2


TOOL_KILLS = [("vllm", 40), ("generic", 40)] if FULL else [("vllm", 1)]


@pytest.mark.parametrize(("kind", "kills"), TOOL_KILLS)
async def test_no_tool_runs_twice_whenever_its_process_is_killed(fleet, store, http, chance, kind, kills):
    async def run(given):
        await asyncio.sleep(chance.choice((0, 0.02, 0.2)))
        return given["n"]

    options = ("--run-lease=0.5", "--background-timeout=60", f"--upstream-kind={kind}", "--mcp-allow=127.0.0.1")
    async with McpServer(Tool("note", run), stateless=True, json_response=True) as server, fleet(2, *options) as site:
        tool = {"type": "mcp", "server_label": "notes", "server_url": server.url, "require_approval": "never"}

        def url():
            return site.any_url(chance)

        def turn(at, victim):
            prompt = f"{at} [words=6 pause={chance.choice((1, 10, 30))} calls=2 rounds=2]"
            asked = Asked(prompt, None, stream=at % 3, tools=[tool])
            return asked, asyncio.create_task(asked.ask(http, victim))

        async def check(asked):
            if not asked.id:
                return
            last = await ended(http, url, asked.id)
            if asked.seen:
                await follow(http, asked.seen, asked.id, url)
                assert strict.grammar(asked.seen.events) == last
            made = [item for item in last["output"] if item.get("output") is not None]
            assert all(json.loads(item["arguments"]) == {"n": item["output"]} for item in made)
            assert {item["output"] for item in made} <= {given["n"] for _, given in server.calls}
            assert last["status"] == "completed" or kind == "generic", last

        for kill in range(kills):
            member = site.members[kill % 2]
            asked = [turn(6 * kill + at, member.url) for at in range(6)]
            await asyncio.sleep(chance.uniform(0, 1))
            await member.kill()
            await asyncio.gather(*(task for _, task in asked))
            starting = asyncio.create_task(member.start())
            await asyncio.gather(*(check(one) for one, _ in asked))
            await starting
        given = [arguments["n"] for _, arguments in server.calls]
        assert given and len(given) == len({*given})
        with store.admin() as admin:
            servers.until(lambda: not admin.zcard("sc:runs") and not admin.keys("sc:*:[jw]:*"))


async def test_a_rolling_restart_under_fifty_streams_breaks_none(fleet, http, chance):
    async with fleet(2, "--drain-delay=600", "--grace=10") as site, Front(site) as front:
        done, over = [], asyncio.Event()

        async def foreground(at):
            seen, prompt = Seen(), f"{at} [words=10 pause={chance.choice((60, 120))}]"
            body = {"model": "m", "input": prompt, "stream": True}
            assert await read(http, seen, "POST", f"{front.url}/v1/responses", json=body) == 200
            return checked(seen, prompt)

        async def background(at):
            seen, prompt = Seen(), f"{at} [words=10 pause={chance.choice((60, 120))}]"
            body = {"model": "m", "input": prompt, "stream": True, "background": True}
            await read(http, seen, "POST", f"{front.url}/v1/responses", json=body, most=chance.randrange(2000, 20000))
            await follow(http, seen, seen.id, lambda: front.url, lambda: chance.randrange(2000, 20000))
            return checked(seen, prompt)

        async def client(at):
            while not over.is_set():
                last = await (foreground if at % 2 else background)(f"{at} {len(done)}")
                assert ok(await http.get(f"{front.url}/v1/responses/{last['id']}")) == last
                done.append(last)

        async with asyncio.TaskGroup() as clients:
            for at in range(50):
                clients.create_task(client(at))
            try:
                for member in site.members:
                    ending = asyncio.create_task(member.end())
                    await front.rests(member.url)
                    member.process.ask_to_end()  # the delay is over
                    await ending
                    await member.start()
                    await front.knows(member.url)
            finally:
                over.set()
        for member in site.members:  # else they would take their time
            await member.kill()
    assert len(done) > 50
    assert front.refused == 0
