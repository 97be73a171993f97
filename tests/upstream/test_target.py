"""What is asked of a group beside chat: other endpoints, and requests that are passed on as they are."""

from contextlib import asynccontextmanager

import pytest

from proxy.errors import ModelNotFound, UpstreamError
from proxy.settings import Settings
from proxy.upstream import open_pool
from proxy.upstreams import groups
from tests.backend import CLOSE, Backend, json_reply, reply
from tests.servers import free_port


@asynccontextmanager
async def pool_of(*entries, **options):
    pool = open_pool(Settings(upstreams=groups(list(entries)), **{"upstream_eject_after": 1, **options}))
    try:
        yield pool
    finally:
        await pool.aclose()


@pytest.fixture
async def two():
    async with Backend() as a, Backend() as b:
        yield a, b


def dead():
    return f"http://127.0.0.1:{free_port()}/v1"


async def forwarded(target, body=b"{}", method="POST"):
    async with target.forward(method, b"/v1/embeddings", [], body) as answer:
        return answer.status, b"".join([part async for part in answer.chunks()])


async def test_replicas_of_one_host_have_names_of_their_own(two):
    a, b = two
    a.default = (reply(status=503),)
    host, calls, news = a.url.removesuffix("v1"), [], []
    given = groups([{"models": ["m"], "replicas": [f"{host}x/v1", f"{host}y/v1"]}, {"name": "b", "replicas": [b.url]}])
    pool = open_pool(
        Settings(upstreams=given, upstream_eject_after=1),
        heard=lambda name, *_: calls.append(name),
        told=lambda what, _, name: news.append((what, name)),
    )
    await forwarded(pool.pick("m"))
    names = {host.removeprefix("http://") + path for path in ("x/v1", "y/v1")}
    assert set(calls) == {name for what, name in news if what == "ejected"} == names
    assert pool.targets()[1].name == b.url.removeprefix("http://").removesuffix("/v1")
    await pool.aclose()


FAILURES = {"closed": (CLOSE,), "429": (reply(status=429),), "503": (reply(status=503),)}


@pytest.mark.parametrize("name", FAILURES)
async def test_a_request_that_is_passed_on_goes_to_another_where_one_cannot(two, name):
    a, b = two
    a.default, b.default = FAILURES[name], (reply(b"yes"),)
    async with pool_of({"replicas": [a.url, b.url]}) as pool:
        for _ in range(4):
            assert await forwarded(pool.pick("m")) == (200, b"yes")
    assert (len(a.requests) > 1) == (name == "429")  # else it is out by then
    assert {request.body for request in (*a.requests, *b.requests)} == {b"{}"}


async def opened(target, key):
    async with target.open(b"{}", [("authorization", key)] if key else [], stream=False):
        pass


async def passed(target, key, *, keep=True):
    headers = [(b"Authorization", key.encode())] if key else []
    request = target.forward("POST", b"/v1/embeddings", headers, b"{}", keep_authorization=keep)
    async with request as answer:
        assert answer.status == 200


@pytest.mark.parametrize("ask", [opened, passed])
@pytest.mark.parametrize(
    ("status", "key", "options", "pauses"),
    [
        (429, "Bearer a", {}, False),
        (503, "Bearer a", {}, True),
        (429, "", {}, True),
        (429, "Bearer a", {"api_key": "sk-ours"}, True),
    ],
)
async def test_a_429_for_a_callers_own_key_is_no_pause_for_others(two, ask, status, key, options, pauses):
    async with pool_of({"replicas": [each.url for each in two], **options}, upstream_eject_after=9) as pool:
        await ask(pool.pick("m", "s"), "Bearer b")
        (at,) = [each for each in two if each.requests]
        (other,) = [each for each in two if each is not at]
        at.script(reply(status=status, headers=("retry-after: 50",)))
        await ask(pool.pick("m", "s"), key)
        assert len(other.requests) == 1
        await ask(pool.pick("m", "s"), "Bearer b")
        assert (len(other.requests) == 2) == pauses


async def test_a_key_that_stays_here_is_not_what_a_429_is_for(two):
    async with pool_of({"replicas": [each.url for each in two]}) as pool:
        await passed(pool.pick("m", "s"), "Bearer a", keep=False)
        (at,) = [each for each in two if each.requests]
        at.script(reply(status=429, headers=("retry-after: 50",)))
        for _ in range(2):
            await passed(pool.pick("m", "s"), "Bearer a", keep=False)
        assert len(at.requests) == 2


async def test_who_breaks_off_what_is_passed_on_is_out_in_the_end(two):
    broken = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"
    async with pool_of({"replicas": [each.url for each in two]}, upstream_eject_after=3) as pool:
        (group,) = [each.group for each in pool.served]

        async def cut(session, times):
            for _ in range(times):
                async with pool.pick("m", session).forward("POST", b"/v1/embeddings", [], b"{}") as answer:
                    with pytest.raises(UpstreamError):
                        assert [part async for part in answer.chunks()] == []

        async def left(session, times):
            for _ in range(times):
                async with pool.pick("m", session).forward("POST", b"/v1/embeddings", [], b"{}") as answer:
                    assert answer.status == 200

        await forwarded(pool.pick("m", "s"))
        (at,) = [each for each in two if each.requests]
        for _ in range(2):
            at.script(broken, CLOSE)
        await cut("s", 2)
        await forwarded(pool.pick("m", "s"))
        at.default = (broken, CLOSE)
        await cut("s", 2)
        await left("s", 3)
        assert not any(replica.is_out for replica in group.replicas)
        await cut("s", 1)
        assert [replica.is_out for replica in group.replicas] == [each is at for each in two]


async def test_an_answer_that_nobody_betters_is_passed_on_as_it_is(two):
    for backend in two:
        backend.default = (reply(b"later", status=503, headers=("x-why: load",)),)
    async with pool_of({"replicas": [each.url for each in two]}) as pool:
        assert await forwarded(pool.pick("m")) == (503, b"later")
    assert [len(backend.requests) for backend in two] == [1, 1]


async def test_a_body_that_comes_in_parts_is_sent_once(two):
    async def parts():
        yield b"{"
        yield b"}"

    for backend in two:
        backend.default = (reply(b"later", status=503),)
    async with pool_of({"replicas": [each.url for each in two]}) as pool:
        assert await forwarded(pool.pick("m"), parts()) == (503, b"later")
    assert sum(len(backend.requests) for backend in two) == 1


async def test_a_body_that_comes_in_parts_goes_to_another_where_one_cannot_be_reached(two):
    async def parts():
        yield b"{"
        yield b"}"

    two[0].default = (reply(b"yes"),)
    async with pool_of({"replicas": [dead(), two[0].url]}) as pool:
        for _ in range(4):
            assert await forwarded(pool.pick("m"), parts()) == (200, b"yes")
    assert {request.body for request in two[0].requests} == {b"{}"}


@pytest.mark.parametrize("status", [404, 500, 501, 503])
async def test_an_endpoint_that_a_server_has_not_says_nothing_of_the_server(two, status):
    for backend in two:
        backend.default = (json_reply({}, status=status),)
    async with pool_of({"replicas": [each.url for each in two]}) as pool:
        for _ in range(4):
            with pytest.raises(UpstreamError) as told:
                await pool.pick("m", "s").ask("POST", "/tokenize", {})
            assert told.value.status == status
        assert sorted(len(backend.requests) for backend in two) == [0, 4]


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_what_is_read_of_a_server_ejects_nobody(two, status):
    for backend in two:
        backend.default = (reply(status=status),)
    async with pool_of({"replicas": [each.url for each in two]}) as pool:
        for _ in range(4):
            assert await forwarded(pool.pick("m"), None, "GET") == (status, b"")
        assert not any(replica.is_out for replica in pool.served[0].group.replicas)


async def test_a_question_is_asked_of_another_where_one_is_gone(two):
    two[0].default = (json_reply({"count": 1}),)
    async with pool_of({"replicas": [dead(), two[0].url]}) as pool:
        for session in "abcdef":
            assert await pool.pick("m", session).ask("POST", "/tokenize", {}) == {"count": 1}


async def test_the_first_group_that_matches_serves_a_model_and_the_first_of_all_what_names_none():
    entries = (
        {"name": "a", "models": ["m-[0-9]", "x"], "replicas": ["http://a/v1"]},
        {
            "name": "b",
            "models": ["m-*"],
            "aliases": {"x": "y", "z": "m-1"},
            "replicas": ["http://b/v1"],
            "api_key": "k",
        },
    )
    async with pool_of(*entries) as pool:
        picked = {model: pool.pick(model) for model in ("m-1", "m-10", "x", "z", "")}
        assert {model: (target.group, target.model) for model, target in picked.items()} == {
            "m-1": ("a", "m-1"),
            "m-10": ("b", "m-10"),
            "x": ("a", "x"),
            "z": ("b", "m-1"),
            "": ("a", ""),
        }
        assert pool.serves("nothing") is None
        with pytest.raises(ModelNotFound):
            pool.pick("M-1")


async def test_one_replica_alone_has_the_name_that_it_had_as_an_upstream():
    """What its refusals taught stays known when groups are made of it."""
    async with pool_of({"replicas": ["http://a/v1"]}) as pool:
        alone = open_pool(Settings(upstream="http://a/v1"))
        assert pool.pick("m").identity == alone.pick("m").identity == "http://a/v1"
        assert alone.is_single
        await alone.aclose()
    ab, ba = ["http://a/v1", "http://b/v1"], ["http://b/v1", "http://a/v1"]
    async with pool_of({"replicas": ab}) as one, pool_of({"replicas": ba}) as other:
        assert one.pick("m").identity == other.pick("m").identity != "http://a/v1"
