"""Searches at stand-ins of SearXNG, Brave and Tavily on real sockets: what is asked, what is read, what goes wrong."""

import asyncio
import gzip
import logging
import re
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest

from proxy.hosted import bindings
from proxy.hosted.web_search import BODY_LIMIT
from proxy.settings import Settings
from tests.backend import CLOSE, RESET, Backend, json_reply, reply
from tests.servers import free_port

KEY = "key-of-the-operator"
PAGE = {
    "title": "Oslo &amp; more",
    "url": "https://a.example/oslo",
    "content": "Cold.",
    "publishedDate": "2026-11-20T01",
}
SEARXNG = {"query": "q", "number_of_results": 0, "results": [PAGE], "answers": [], "unresponsive_engines": []}
BRAVE = {
    "type": "search",
    "web": {
        "results": [
            {
                "title": "Oslo",
                "url": "https://a.example/oslo",
                "description": "It&#x27;s cold.",
                "extra_snippets": ["Wet."],
            }
        ]
    },
}
TAVILY = {
    "query": "q",
    "answer": None,
    "results": [{"title": "Oslo", "url": "https://a.example/oslo", "content": "Cold."}],
}
ANSWERS = {"searxng": SEARXNG, "brave": BRAVE, "tavily": TAVILY}


def base(backend, path=""):
    return backend.url.removesuffix("/v1") + path


async def search(backend, service="searxng", tool=None, *, query="oslo", path="", **options):
    """The outcome of one search at ``backend`` as that service."""
    settings = Settings(upstream="demo", web_search=f"{service}+{base(backend, path)}", web_search_key=KEY, **options)
    binding = bindings.open_bindings(settings)["web_search"]
    try:
        return await binding.run(None, {"type": "web_search", **(tool or {})}, {"query": query})
    finally:
        await binding.aclose()


def asked(backend):
    """The parameters of the last request, each once."""
    return {name: value for name, (value,) in parse_qs(urlsplit(backend.requests[-1].target).query).items()}


async def test_searxng_is_asked_as_its_api_has_it():
    async with Backend() as backend:
        backend.script(json_reply(SEARXNG))
        outcome = await search(backend, query=" weather\n in  oslo ", path="/searx/?language=no&engines=brave,bing")
        request = backend.requests[0]
        assert (request.method, urlsplit(request.target).path) == ("GET", "/searx/search")
        assert asked(backend) == {"q": "weather in oslo", "format": "json", "language": "no", "engines": "brave,bing"}
        assert request.values("authorization") == [f"Bearer {KEY}"]
    page = {"url": "https://a.example/oslo", "title": "Oslo & more", "text": "(2026-11-20) Cold."}
    assert outcome == {"output": "", "error": None, "found": [page], "outputs": [], "action": None}


async def test_brave_is_asked_as_its_api_has_it():
    place = {"type": "approximate", "city": "Örebro", "region": "Örebro län", "country": "SE", "timezone": None}
    async with Backend() as backend:
        backend.script(json_reply(BRAVE))
        outcome = await search(backend, "brave", {"user_location": place, "search_context_size": "low"}, path="/gate")
        request = backend.requests[0]
        assert urlsplit(request.target).path == "/gate/res/v1/web/search"
        fixed = {"text_decorations": "false", "result_filter": "web"}
        assert asked(backend) == {"q": "oslo", "count": "5", "country": "SE", **fixed}
        assert request.values("x-subscription-token") == [KEY]
        assert request.values("x-loc-city")[0].encode("latin-1").decode() == "Örebro"
        assert request.values("x-loc-country") == ["SE"] and not request.values("x-loc-timezone")
    assert outcome["found"] == [{"url": "https://a.example/oslo", "title": "Oslo", "text": "It's cold. Wet."}]


async def test_tavily_is_asked_as_its_api_has_it():
    tool = {"user_location": {"type": "approximate", "country": "de"}, "filters": {"allowed_domains": ["a.example"]}}
    async with Backend() as backend:
        backend.script(json_reply(TAVILY))
        outcome = await search(backend, "tavily", tool, query="q" * 500)
        request = backend.requests[0]
        assert (request.method, request.target) == ("POST", "/search")
        sent = {"query": "q" * 400, "max_results": 10, "search_depth": "basic", "include_domains": ["a.example"]}
        assert request.json == sent | {"country": "germany"}
        assert request.values("authorization") == [f"Bearer {KEY}"]
    assert outcome["found"] == [{"url": "https://a.example/oslo", "title": "Oslo", "text": "Cold."}]


@pytest.mark.parametrize("country", ["XX", "de-DE", "", None])
@pytest.mark.parametrize("service", ["brave", "tavily"])
async def test_a_country_that_a_service_does_not_know_is_not_asked_for(service, country):
    async with Backend() as backend:
        backend.script(json_reply(ANSWERS[service]))
        await search(backend, service, {"user_location": {"type": "approximate", "country": country}})
        given = backend.requests[0].json if service == "tavily" else asked(backend)
        assert "country" not in given


async def test_domains_are_asked_for_and_what_comes_of_others_is_left_out():
    urls = [
        "https://a.example/1",
        "https://www.A.example./2",
        "https://xa.example/3",
        "https://a.example.evil/4",
        "https://user@evil.example/a.example",
        "https://b.example:8443/5",
        "https://[::1",
    ]
    tool = {"filters": {"allowed_domains": ["a.example", "https://B.example/path"]}}
    results = [{"url": url, "title": "t", "content": "c", "description": "c"} for url in urls]
    for service, answer in (("searxng", {"results": results}), ("brave", {"web": {"results": results}})):
        async with Backend() as backend:
            backend.script(json_reply(answer))
            outcome = await search(backend, service, tool)
            assert asked(backend)["q"] == "oslo (site:a.example OR site:b.example)"
        assert [page["url"] for page in outcome["found"]] == [urls[0], urls[1], urls[5]]

    blocked = {"filters": {"allowed_domains": ["a.example"], "blocked_domains": ["www.a.example"]}}
    for service, answer in (("searxng", {"results": results}), ("tavily", {"results": results})):
        async with Backend() as backend:
            backend.script(json_reply(answer))
            outcome = await search(backend, service, blocked)
            assert [page["url"] for page in outcome["found"]] == [urls[0]]
            if service == "tavily":
                assert backend.requests[0].json["exclude_domains"] == ["www.a.example"]

    async with Backend() as backend:
        backend.script(json_reply({"results": results}))
        many = {"filters": {"allowed_domains": [f"{n}.example" for n in range(100)]}}
        outcome = await search(backend, "searxng", many)
        assert asked(backend)["q"] == "oslo", "a query that would be too long is asked without them"
    assert outcome["output"] == "No results." and outcome["error"] is None


@pytest.mark.parametrize(("size", "count", "length"), [("low", 5, 400), (None, 10, 1000), ("high", 20, 4000)])
async def test_the_context_size_bounds_the_results(size, count, length):
    results = [{"url": f"https://a.example/{n // 2}", "title": "", "content": "é" * 5000} for n in range(80)]
    async with Backend() as backend:
        backend.script(json_reply({"results": results}))
        outcome = await search(backend, tool={"search_context_size": size}, tool_output_limit=1_000_000)
    assert [page["url"][-2:].strip("/") for page in outcome["found"]] == [str(n) for n in range(count)], "no page twice"
    assert {len(page["text"]) for page in outcome["found"]} == {length}


async def test_the_output_limit_bounds_all_results_together_in_bytes():
    results = [{"url": f"https://a.example/{n}", "title": "t" * 50, "content": "é" * 300} for n in range(9)]
    results.insert(1, {"url": "https://a.example/" + "x" * 5000, "title": "", "content": "too long a name"})
    async with Backend() as backend:
        backend.script(json_reply({"results": results}))
        outcome = await search(backend, tool_output_limit=2000)
    shown = "\n\n".join(f"[{n}] {p['title']}\n{p['url']}\n{p['text']}" for n, p in enumerate(outcome["found"], 1))
    assert 1900 < len(shown.encode()) <= 2000
    assert [page["url"] for page in outcome["found"]] == [f"https://a.example/{n}" for n in (0, 1, 2)]
    assert outcome["found"][2]["text"].endswith("é…")


ODD = [
    ("searxng", {"results": []}, "No results."),
    (
        "searxng",
        {"results": [], "unresponsive_engines": [["brave", "too many requests"], ["bing", "timeout"]]},
        "These search engines did not answer: brave: too many requests, bing: timeout.\n\nNo results.",
    ),
    ("searxng", {"results": [], "answers": ["42", {"answer": " 43 "}, {"x": 1}]}, "42\n43\n\nNo results."),
    (
        "searxng",
        {"results": [{"title": "no url"}, {"url": "ftp://x"}, {"url": 5}, {"url": None}, {"url": "http://"}]},
        "No results.",
    ),
    ("brave", {"type": "search", "query": {}}, "No results."),
    ("brave", {"type": "search", "web": None}, "No results."),
    ("tavily", {"results": [], "answer": "It is cold."}, "It is cold.\n\nNo results."),
]


@pytest.mark.parametrize(("service", "answer", "expected"), ODD)
async def test_no_results_are_no_failure(service, answer, expected):
    async with Backend() as backend:
        backend.script(json_reply(answer))
        outcome = await search(backend, service)
    assert outcome == {"output": expected, "error": None, "found": [], "outputs": [], "action": None}


HTML = reply(b"<html>Sign in</html>", headers=("content-type: text/html; charset=utf-8",))
GIANT = reply(b'{"results": "' + b"x" * BODY_LIMIT + b'"}', headers=("content-type: application/json",))
BOMB = reply(gzip.compress(b"x" * (BODY_LIMIT + 1)), headers=("content-encoding: gzip",))
CUT = reply(b'{"results": [', headers=("content-length: 1000",), length=False)
FAULTS = [
    ("searxng", [reply(status=500)], 500, "SearXNG answered 500."),
    ("searxng", [reply(status=403)], 403, "json must be among the search.formats"),
    ("brave", [reply(status=401)], 401, "Brave answered 401 (wrong key)."),
    ("tavily", [json_reply({"detail": {"error": f"bad {KEY}"}}, status=429)], 429, "429 (too many requests)."),
    ("searxng", [HTML], 502, "SearXNG answered text/html, not a JSON object."),
    ("brave", [json_reply([])], 502, "Brave answered application/json, not a JSON object."),
    ("searxng", [json_reply({"results": 5})], 502, "something else than results"),
    ("searxng", [json_reply({"results": [5]})], 502, "something else than results"),
    ("searxng", [json_reply({"error": "x"})], 502, "something else than results"),
    ("brave", [json_reply({"web": {"results": "x"}})], 502, "something else than results"),
    ("tavily", [json_reply({"error": "x"})], 502, "something else than results"),
    ("searxng", [GIANT], 502, f"more than {BODY_LIMIT} bytes"),
    ("searxng", [BOMB], 502, f"more than {BODY_LIMIT} bytes"),
    ("searxng", [RESET], 502, "broke off its answer"),
    ("searxng", [CUT, CLOSE], 502, "broke off its answer"),
    ("searxng", [b"nonsense\r\n\r\n"], 502, "broke off its answer"),
    ("tavily", [reply(status=307, headers=("location: https://evil.example/",))], 502, "another origin (evil.example)"),
    ("tavily", [reply(status=307, headers=("location: https://127.0.0.1/",))], 502, "another origin (127.0.0.1)"),
]


@pytest.mark.parametrize(("service", "steps", "code", "message"), FAULTS, ids=lambda value: str(value)[:30])
async def test_a_failed_search_is_an_outcome_that_says_why(service, steps, code, message, caplog):
    async with Backend() as backend:
        backend.script(*steps)
        with caplog.at_level(logging.DEBUG):
            outcome = await search(backend, service, query="private matters")
    assert message in outcome["output"] and outcome["output"].startswith("The web search failed: ")
    assert outcome["error"] == {"type": "http_error", "code": code, "message": outcome["output"]}
    assert outcome["found"] == []
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("statecar"))
    assert message in ours, "the operator can read it too"
    assert KEY not in ours + str(outcome) and "private" not in ours


async def test_engines_that_are_silent_are_not_told_of_beside_results():
    async with Backend() as backend:
        backend.script(json_reply({**SEARXNG, "unresponsive_engines": [["bing", "timeout"]]}))
        outcome = await search(backend)
    assert outcome["output"] == "" and len(outcome["found"]) == 1


async def test_redirects_within_the_origin_are_followed_but_not_for_ever():
    async with Backend() as backend:
        backend.script(reply(status=302, headers=("location: /other?format=json",)))
        backend.script(json_reply(SEARXNG))
        assert (await search(backend))["found"]
        assert backend.requests[1].target == "/other?format=json"
        backend.default = (reply(status=302, headers=("location: /again",)),)
        assert "redirects without end" in (await search(backend))["output"]
        assert len(backend.requests) == 6


async def test_a_service_that_is_not_there_and_one_that_falls_silent(caplog):
    async with Backend() as backend:
        backend.script(asyncio.Event())
        outcome = await search(backend, tool_timeout=0.5)
        assert "broke off" in outcome["output"]
    outcome = await search(SimpleNamespace(url=f"http://127.0.0.1:{free_port()}/v1"))
    assert "SearXNG cannot be reached: the connection was refused" in outcome["output"]
    last = caplog.messages[-1]
    assert re.match(r"web_search at SearXNG, 127\.0\.0\.1:\d+: The web search failed: SearXNG cannot be reached", last)


async def test_a_search_without_a_query_is_refused_and_asks_nobody():
    async with Backend() as backend:
        for query in ("", " \n", None, 5, ["a"]):
            outcome = await search(backend, query=query)
            assert outcome["error"]["code"] == 400 and "'query'" in outcome["output"]
        assert not backend.requests


async def test_a_search_that_is_cancelled_leaves_no_connection():
    async with Backend() as backend:
        backend.script(asyncio.Event())
        task = asyncio.create_task(search(backend))
        request = await backend.received(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(10):
            await request.gone.wait()
