"""What lives on by use, and what expires at any moment of a turn (wire §10.3). Nothing waits: keys are deleted."""

import asyncio

import pytest

from tests.backend import STREAM_END, STREAM_HEAD, chunked, sse, talk
from tests.callers import error_of, ok, refusal, unframed
from tests.live import strict
from tests.routes.test_background import eventually, seen

OPTIONS = ("--response-ttl=800", "--conversation-ttl=800", "--event-log-ttl=50", "--run-lease=0.5")
HALF = STREAM_HEAD + chunked(sse(*talk("Hel")[:2]))
REST = chunked(sse(*talk("lo")[1:])) + STREAM_END


@pytest.fixture
async def caller(calling, own):
    return await calling(*OPTIONS, store=own.url)


@pytest.fixture
def admin(own):
    with own.admin() as admin:
        yield admin


def keys(admin, id_, kinds="lmrxcik"):
    """The keys of a lineage, of these kinds: of its responses and conversation, not of runs."""
    return [key for key in admin.scan_iter(f"sc:{{{id_[5:21]}}}:*", count=1000) if chr(key[22]) in kinds]


def record_of(response):
    return f"sc:{{{response['id'][5:21]}}}:r:{response['id'][21:49]}".encode()


def expire(admin, id_, kinds="lmrxcik"):
    gone = keys(admin, id_, kinds)
    assert gone
    admin.delete(*gone)


def said(request):
    """The messages that the model was asked with."""
    return [(message["role"], message["content"]) for message in request.json["messages"]]


ASKED = {
    "go on with it": lambda http, id_: http.post("/responses", json=_turn(previous_response_id=id_)),
    "go on with it in the background": lambda http, id_: http.post(
        "/responses", json=_turn(previous_response_id=id_, background=True)
    ),
    "get it": lambda http, id_: http.get(f"/responses/{id_}"),
    "stream it": lambda http, id_: http.get(f"/responses/{id_}?stream=true"),
    "what it saw": lambda http, id_: http.get(f"/responses/{id_}/input_items"),
    "cancel it": lambda http, id_: http.post(f"/responses/{id_}/cancel"),
    "delete it": lambda http, id_: http.delete(f"/responses/{id_}"),
    "talk": lambda http, id_: http.post("/responses", json=_turn(conversation=id_)),
    "get the talk": lambda http, id_: http.get(f"/conversations/{id_}"),
    "list the talk": lambda http, id_: http.get(f"/conversations/{id_}/items"),
    "add to the talk": lambda http, id_: http.post(
        f"/conversations/{id_}/items", json={"items": [{"role": "user", "content": "Hi"}]}
    ),
    "change the talk": lambda http, id_: http.post(f"/conversations/{id_}", json={"metadata": {}}),
    "delete the talk": lambda http, id_: http.delete(f"/conversations/{id_}"),
}


def _turn(**fields):
    return {"model": "m", "input": "Hi"} | fields


async def test_what_has_expired_is_answered_as_what_never_was(caller, admin):
    response = (await caller.create("Hi", background=True))["id"]
    await seen(caller, response, "completed")
    conversation = await caller.conversation()
    await caller.create("Hi", conversation=conversation)
    for id_ in (response, conversation):
        expire(admin, id_)
    for asked, ask in ASKED.items():
        id_ = conversation if "talk" in asked else response
        told = refusal(await ask(caller.http, id_))
        never = f"{id_[:5]}{'0' * 16}{id_[21:]}"
        assert told == refusal(await ask(caller.http, never)), asked
        wanted = (400, "previous_response_not_found", "previous_response_id") if "go on" in asked else (404, None)
        assert told[: len(wanted)] == wanted, asked


WAYS = {"plain": {}, "streamed": {"stream": True}, "background": {"background": True}}


async def begun(caller, backend, way, **fields):
    """A turn whose upstream has said half, what lets it go on, and what gives its response then."""
    go = asyncio.Event()
    backend.script(HALF, go, REST)
    count = len(backend.requests)
    asking = asyncio.create_task(caller.ask("Next", **WAYS[way], **fields))
    await backend.received(count + 1)

    async def end():
        go.set()
        answer = await asking
        if way == "streamed":
            return strict.stream(unframed(answer.content))
        made = ok(answer)
        return await seen(caller, made["id"], "completed") if way == "background" else made

    return end


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("gone", ["r", "l", "lmrx"], ids=["record", "log", "all"])
async def test_a_parent_that_expires_in_mid_turn_leaves_the_child_its_whole_context(caller, backend, admin, way, gone):
    first = await caller.create("First")
    end = await begun(caller, backend, way, previous_response_id=first["id"])
    expire(admin, first["id"], gone)
    last = await end()
    assert (last["status"], last["output"][0]["content"][0]["text"]) == ("completed", "Hello")
    page = await caller.get(f"/responses/{last['id']}/input_items", order="asc")
    assert [item["content"][0]["text"] for item in page["data"]] == ["First", "Hi", "Next"]
    await caller.create("Last", previous_response_id=last["id"])
    told = [("user", "First"), ("assistant", "Hi"), ("user", "Next"), ("assistant", "Hello"), ("user", "Last")]
    assert said(backend.requests[-1]) == told


@pytest.mark.parametrize("way", WAYS)
async def test_a_conversation_that_expires_in_mid_turn_is_not_made_anew(caller, backend, admin, way):
    conversation = await caller.conversation()
    await caller.create("First", conversation=conversation)
    end = await begun(caller, backend, way, conversation=conversation)
    expire(admin, conversation)
    last = await end()
    assert (last["status"], last["conversation"]) == ("completed", {"id": conversation})
    assert refusal(await caller.http.get(f"/conversations/{conversation}"))[0] == 404
    assert not keys(admin, conversation, "cik")
    await caller.create("Last", previous_response_id=last["id"])
    assert [text for _, text in said(backend.requests[-1])] == ["First", "Hi", "Next", "Hello", "Last"]
    assert not [key for key in keys(admin, conversation) if admin.ttl(key) < 0]


async def test_what_a_queued_run_goes_on_from_may_expire_meanwhile(calling, own, backend, admin):
    caller = await calling(*OPTIONS, "--worker-runs=1", store=own.url)
    first = await caller.create("First")
    end = await begun(caller, backend, "background")
    queued = await caller.create("Next", background=True, previous_response_id=first["id"])
    assert queued["status"] == "queued"
    expire(admin, first["id"])
    await end()
    last = await seen(caller, queued["id"], "completed")
    assert [text for _, text in said(backend.requests[-1])] == ["First", "Hi", "Next"]
    page = await caller.get(f"/responses/{last['id']}/input_items", order="asc")
    assert len(page["data"]) == 3


async def test_a_run_that_expires_is_gone_and_its_readers_are_let_go(caller, backend, admin):
    go = asyncio.Event()
    backend.script(HALF, go, REST)
    async with caller.opened("Hi", background=True) as opened:
        id_ = (await opened.frame())["response"]["id"]
        await opened.until("response.output_text.delta")
        expire(admin, id_, "jw")
        go.set()
        rest = [one for one in await opened.rest() if isinstance(one, dict)]
    assert not [one for one in rest if one["type"] == "response.completed"]
    assert refusal(await caller.http.get(f"/responses/{id_}"))[0] == 404

    async def unlisted():
        return not admin.zcard("sc:runs")

    await eventually(unlisted)
    assert not keys(admin, id_, "rl")


async def test_a_stream_whose_events_have_expired_says_so_and_the_response_stays(caller, admin):
    id_ = (await caller.events("Hi", background=True))[0]["response"]["id"]
    path = f"/responses/{id_}?stream=true"
    events = unframed((await caller.http.get(path)).content)
    expire(admin, id_, "e")
    answer = await caller.http.get(f"{path}&starting_after=2")
    assert (answer.status_code, error_of(answer)["param"]) == (400, "stream")
    assert await caller.get(f"/responses/{id_}") == events[-1]["response"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_parent_lives_on_from_the_moment_it_is_used(caller, backend, admin, way):
    first = await caller.create("First")
    second = await caller.create("Second", previous_response_id=first["id"])
    branch = await caller.create("Branch", previous_response_id=first["id"])
    for key in keys(admin, first["id"]):
        admin.expire(key, 100)
    end = await begun(caller, backend, way, previous_response_id=branch["id"])
    left = {key: admin.ttl(key) for key in keys(admin, first["id"])}
    records = {one["id"]: left.pop(record_of(one)) for one in (first, second, branch)}
    assert records[branch["id"]] > 790
    assert max(records[first["id"]], records[second["id"]]) <= 100, "ancestors' records expire on their own"
    assert len(left) > 2 and min(left.values()) > 990, "every log on its path lives on, and what they share"
    await end()


@pytest.mark.parametrize("way", WAYS)
async def test_a_conversation_lives_on_by_a_turn_and_not_by_a_look(caller, backend, admin, way):
    conversation = await caller.conversation()
    await caller.create("First", conversation=conversation)
    for key in keys(admin, conversation, "ci"):
        admin.expire(key, 100)
    await caller.get(f"/conversations/{conversation}")
    await caller.texts(conversation)
    assert max(admin.ttl(key) for key in keys(admin, conversation, "ci")) <= 100
    end = await begun(caller, backend, way, conversation=conversation)
    (lock,) = keys(admin, conversation, "k")
    assert 0 < admin.pttl(lock) <= 15_000
    await end()
    assert min(admin.ttl(key) for key in keys(admin, conversation, "ci")) > 790
    assert not keys(admin, conversation, "k")


async def test_everything_of_a_run_has_an_end_and_outlives_the_longest_run(caller, backend, admin):
    end = await begun(caller, backend, "background")
    runs = [key for key in admin.scan_iter("sc:{*}:*") if chr(key[22]) in "je"]
    assert runs and min(admin.ttl(key) for key in runs) > 3600
    last = await end()
    assert 0 < admin.ttl(record_of(last)) <= 800
    assert not [key for key in admin.scan_iter("sc:{*}:*") if chr(key[22]) in "jw"]
