"""WebSockets: turns one after the other, what a connection remembers, and how it ends (wire §13)."""

import asyncio
import json
import logging
import signal

import pytest
from websockets.exceptions import InvalidStatus

from proxy.routes.frames import MOST
from tests import servers
from tests.backend import (
    CLOSE,
    PATIENCE,
    STREAM_END,
    STREAM_HEAD,
    chunk,
    chunked,
    json_reply,
    sse,
    stream,
    talk,
)
from tests.callers import Caller
from tests.routes.test_background import eventually
from tests.sockets import opened

BEGUN = STREAM_HEAD + chunked(sse(chunk({"role": "assistant", "content": ""})))
HALF = BEGUN + chunked(sse(chunk({"content": "Hel"})))
REST = chunked(sse(*talk("lo")[1:])) + STREAM_END
MISSING = (400, "previous_response_not_found", "previous_response_id")
ORPHAN = [{"type": "function_call_output", "call_id": "call_none", "output": "x"}]


@pytest.fixture(autouse=True)
def talkative(backend):
    """A backend that says "Hi", in a stream."""
    backend.default = (stream(*talk("Hi")),)


@pytest.fixture
async def socket(url):
    async with opened(url) as socket:
        yield socket


def asked(backend):
    """The texts of the messages that the upstream was last sent."""
    return [message["content"] for message in backend.requests[-1].json["messages"]]


# -- frames


async def test_frames_are_answered_in_the_order_in_which_they_came(socket, backend):
    go = asyncio.Event()
    backend.script(HALF, go, REST)
    for n in range(30):
        await socket.send(f"{n}", stream_id=f"lane {n % 3}", stream=False, metadata={"n": f"{n}"})
    begun = await socket.until("response.output_text.delta")
    assert len(backend.requests) == 1
    go.set()
    told = [await socket.events(begun), *[await socket.events() for _ in range(29)]]
    assert [turn[-1]["response"]["metadata"]["n"] for turn in told] == [f"{n}" for n in range(30)]
    for n, turn in enumerate(told):
        assert {event["stream_id"] for event in turn} == {f"lane {n % 3}"}
    assert len(backend.requests) == 30


async def test_without_a_lane_events_name_none(socket):
    assert not [event for event in await socket.ask() if "stream_id" in event]


WRONG = [
    ("nope", "invalid_request_error", None),
    ("", "invalid_request_error", None),
    ("[]", "invalid_type", None),
    ({"type": "session.update", "stream_id": "a"}, "invalid_value", "type"),
    (b'{"type":"response.create","model":"m","input":"x"}', "invalid_request_error", None),
    ({"type": "session.update", "stream_id": "b"}, "invalid_value", "type"),
    ("nope", "invalid_request_error", None),
    ({"model": "m"}, "missing_required_parameter", "type"),
    ({"type": "response.create", "input": "x"}, "missing_required_parameter", "model"),
    ({"type": "response.create", "model": "m", "stream_id": "a"}, "missing_required_parameter", "input"),
    (
        {"type": "response.create", "model": "m", "input": "x", "background": True},
        "unsupported_parameter",
        "background",
    ),
    (
        {"type": "response.create", "model": "m", "input": [{"type": "message", "role": "x"}]},
        "invalid_value",
        "input[0].role",
    ),
    ("[" * 5000 + "]" * 5000, "invalid_request_error", None),
]


async def test_a_wrong_frame_is_answered_with_an_error_and_the_connection_goes_on(socket, backend):
    for frame, code, param in WRONG:
        await socket.ws.send(json.dumps(frame) if isinstance(frame, dict) else frame)
        [told] = await socket.events()
        assert (told["status"], told["error"]["code"], told["error"]["param"]) == (400, code, param), told
        lane = frame.get("stream_id") if isinstance(frame, dict) else None
        assert told.get("stream_id") == lane
    assert backend.requests == []
    await socket.create()


async def test_steering_is_refused_with_what_was_sent(socket):
    steer = {"input": "Faster", "previous_response_id": "resp_1"}
    await socket.ws.send(json.dumps({"type": "response.steer", "stream_id": "a", **steer}))
    told = await socket.event()
    assert (told["type"], told["stream_id"], told["sequence_number"]) == ("response.steer.failed", "a", 0)
    assert (told["error"]["type"], told["error"]["code"]) == ("invalid_request_error", "steering_not_supported")
    assert told["steer"] == steer


# -- what a connection remembers


async def test_a_response_that_is_not_stored_is_continued_on_its_connection_alone(url, socket, backend):
    first = await socket.create("One", store=False)
    second = await socket.create("Two", store=False, previous_response_id=first["id"])
    assert asked(backend) == ["One", "Hi", "Two"]
    assert second["previous_response_id"] == first["id"]
    assert await socket.refused("Three", previous_response_id=first["id"]) == MISSING  # only the newest is kept
    third = await socket.create("Three", store=False, previous_response_id=second["id"])
    assert asked(backend) == ["One", "Hi", "Two", "Hi", "Three"]
    async with opened(url) as other:
        assert await other.refused("Four", previous_response_id=third["id"]) == MISSING
        await other.create("Four", store=False)
    await socket.create("Four", previous_response_id=third["id"])


async def test_what_was_not_stored_goes_into_the_store_with_what_continues_it(url, backend):
    async with Caller(url) as caller, opened(url, caller.key) as socket:
        root = await caller.create("Zero")
        first = await socket.create("One", store=False, previous_response_id=root["id"])
        second = await socket.create("Two", previous_response_id=first["id"])
        assert (await caller.get(f"/responses/{second['id']}")) == second
        assert (await caller.http.get(f"/responses/{first['id']}")).status_code == 404
        page = await caller.get(f"/responses/{second['id']}/input_items", order="asc")
        assert [item["content"][0]["text"] for item in page["data"]] == ["Zero", "Hi", "One", "Hi", "Two"]
        backend.default = (json_reply({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}),)
        await caller.create("Three", previous_response_id=second["id"])
        assert asked(backend) == ["Zero", "Hi", "One", "Hi", "Two", "Hi", "Three"]
        await caller.create("Branch", previous_response_id=root["id"])
        assert asked(backend) == ["Zero", "Hi", "Branch"]


async def test_thoughts_calls_and_their_outputs_are_remembered(socket, backend):
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    backend.script(
        stream(chunk({"reasoning_content": "Hm."}), chunk({"tool_calls": [call]}), chunk({}, "tool_calls"), "[DONE]")
    )
    tools = [{"type": "function", "name": "f", "parameters": {}}]
    first = await socket.create("One", store=False, tools=tools)
    output = [{"type": "function_call_output", "call_id": "call_1", "output": "21"}]
    await socket.create(output, store=False, tools=tools, previous_response_id=first["id"])
    user, assistant, tool = backend.requests[-1].json["messages"]
    assert (user["content"], tool["content"], tool["tool_call_id"]) == ("One", "21", "call_1")
    assert assistant["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert assistant["reasoning_content"] == "Hm."


@pytest.mark.parametrize("how", ["refused here", "refused upstream", "failed in mid-stream", "wrong"])
async def test_a_continuation_that_fails_makes_the_connection_forget(socket, backend, how):
    first = await socket.create("One", store=False)
    if how == "refused here":
        assert (await socket.refused(ORPHAN, previous_response_id=first["id"], store=False))[0] == 400
    elif how == "wrong":
        assert (await socket.refused("x", previous_response_id=first["id"], temperature="hot"))[0] == 400
    elif how == "refused upstream":
        backend.script(json_reply({"error": {"message": "busy"}}, status=429, headers=("retry-after: 7",)))
        [told] = await socket.ask("Two", previous_response_id=first["id"], store=False)
        assert (told["status"], told["error"]["code"]) == (429, "rate_limit_error")
        assert told["error"]["headers"] == {"retry-after": "7"}
    else:
        backend.script(HALF, CLOSE)
        *_, last = await socket.ask("Two", previous_response_id=first["id"], store=False)
        assert (last["type"], last["response"]["output"][0]["content"][0]["text"]) == ("response.failed", "Hel")
    assert await socket.refused("Three", previous_response_id=first["id"], store=False) == MISSING
    await socket.create("One again", store=False)


async def test_a_failure_elsewhere_forgets_nothing(socket):
    first = await socket.create("One", store=False)
    assert (await socket.refused("Two", previous_response_id="resp_none")) == MISSING
    assert (await socket.refused(ORPHAN))[0] == 400
    await socket.create("Two", previous_response_id=first["id"])


async def test_what_all_connections_remember_is_bounded(serve):
    url = await serve("--websocket-memory=1500")
    async with opened(url) as one, opened(url) as other:
        first = await other.create("One", store=False)
        long = await one.create("x" * 1500, store=False)
        assert await one.refused(previous_response_id=long["id"]) == MISSING
        second = await other.create("Two", store=False, previous_response_id=first["id"])
        await one.create("x" * 1000, store=False)
        assert await other.refused(previous_response_id=second["id"]) == MISSING


@pytest.mark.parametrize("store", [True, False])
async def test_a_warm_up_is_a_response_without_output_that_can_be_continued(url, backend, store):
    async with Caller(url) as caller, opened(url, caller.key) as socket:
        events = await socket.ask("Be brief.", generate=False, store=store)
        assert [event["type"].removeprefix("response.") for event in events] == ["created", "in_progress", "completed"]
        made = events[-1]["response"]
        assert (made["output"], made["usage"]["total_tokens"]) == ([], 0)
        assert backend.requests == []
        assert (await caller.http.get(f"/responses/{made['id']}")).status_code == (200 if store else 404)
        await socket.create("Hello", store=store, previous_response_id=made["id"])
        assert asked(backend) == ["Be brief.", "Hello"]


async def test_stored_turns_meet_those_over_http(url, backend):
    async with Caller(url) as caller, opened(url, caller.key, "/v1/openai/v1//responses/") as socket:
        conversation = await caller.conversation()
        first = await socket.create("One", conversation=conversation)
        assert await caller.texts(conversation) == ["One", "Hi"]
        assert await caller.get(f"/responses/{first['id']}") == first
        async with opened(url) as stranger:
            assert await stranger.refused(previous_response_id=first["id"]) == MISSING
            assert (await stranger.refused(conversation=conversation))[0] == 404


# -- how it ends


@pytest.mark.parametrize("phase", ["before the answer", "in mid-stream"])
async def test_a_client_that_leaves_takes_its_turn_along(calling, backend, phase):
    caller = await calling("--conversation-lock-wait=10")
    conversation = await caller.conversation()
    backend.script(*([HALF] if phase == "in mid-stream" else []), asyncio.Event())
    async with opened(str(caller.http.base_url.copy_with(path="")).rstrip("/"), caller.key) as socket:
        await socket.send("Leaving", conversation=conversation)
        await socket.send("Waiting", conversation=conversation)
        request = await backend.received(1)
        if phase == "in mid-stream":
            await socket.until("response.output_text.delta")
    async with asyncio.timeout(PATIENCE):
        await request.gone.wait()
    await caller.events("Next", conversation=conversation)
    assert await caller.texts(conversation) == ["Next", "Hi"]
    assert len(backend.requests) == 2


async def test_who_may_not_call_is_told_by_an_http_status(serve):
    url = await serve("--api-key=good")
    for key, status in (("bad", 401), ("", 401)):
        with pytest.raises(InvalidStatus) as caught:
            await refused_upgrade(url, key)
        assert caught.value.response.status_code == status
        assert json.loads(caught.value.response.body)["error"]["code"] == "invalid_api_key"
        assert caught.value.response.headers["x-request-id"]
    async with opened(url, "good") as socket:
        assert socket.ws.response.headers["x-request-id"]
        await socket.create()


async def test_a_page_of_another_site_gets_no_socket(url):
    """A browser lets every page open one, and what listens on localhost often wants no key."""
    ambient = {"authorization": "Basic dTpw"}  # a browser may send this by itself
    async with opened(url, origin=url, **ambient) as socket:
        await socket.create()
    for origin in ("https://evil.example", "null", "http://[", f"{url}0"):
        with pytest.raises(InvalidStatus) as caught:
            await refused_upgrade(url, "", origin=origin, **ambient)
        assert caught.value.response.status_code == 403


@pytest.mark.parametrize("key", [{}, {"authorization": "", "api-key": "k"}], ids=["bearer", "api-key"])
async def test_who_presents_a_key_is_no_page_whatever_its_origin(url, key):
    async with opened(url, origin="http://localhost/", **key) as socket:
        await socket.create()


async def refused_upgrade(url, key, path="/v1/responses", **headers):
    async with opened(url, key, path, **headers):
        pass


async def test_more_connections_than_may_be_are_told_to_come_again(serve):
    url = await serve("--max-websockets=1")
    async with opened(url) as socket:
        with pytest.raises(InvalidStatus) as caught:
            await refused_upgrade(url, "k")
        assert (caught.value.response.status_code, caught.value.response.headers["retry-after"]) == (503, "5")
        await socket.create()
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await refused_upgrade(url, "k")
            except InvalidStatus:
                continue
            break


async def test_only_responses_are_served_so(url):
    for path, status in (("/v1/conversations", 426), ("/v1/responses/compact", 426), ("/v1/realtime", 501)):
        with pytest.raises(InvalidStatus) as caught:
            await refused_upgrade(url, "k", path)
        assert caught.value.response.status_code == status


async def test_a_connection_ends_after_its_time_and_not_within_a_turn(serve, backend):
    url = await serve("--websocket-max-seconds=1")
    go = asyncio.Event()
    backend.script(HALF, go, REST)
    async with opened(url) as socket:
        await socket.send("One")
        await socket.send("Two")
        begun = await socket.until("response.output_text.delta")
        asyncio.get_running_loop().call_later(1.1, go.set)
        events = await socket.events(begun)
        assert events[-1]["type"] == "response.completed"
        [told] = await socket.events()
        assert (told["status"], told["error"]["code"]) == (400, "websocket_connection_limit_reached")
        assert await socket.closed() == 1001


@pytest.mark.parametrize(
    ("frames", "text", "limit"),
    [(MOST + 1, "x" * 10, 10**6), (2, "x" * 1200, 2000), (2, "x" * 800 + "\U0001f600", 4000)],
    ids=["many", "large", "wide"],
)
async def test_more_frames_than_may_wait_end_the_connection(serve, backend, frames, text, limit):
    url = await serve(f"--body-limit={limit}")
    backend.script(HALF, asyncio.Event())
    async with opened(url) as socket:
        await socket.send()
        await socket.until("response.output_text.delta")
        for _ in range(frames):
            asked = {"type": "response.create", "model": "m", "input": text}
            await socket.ws.send(json.dumps(asked, ensure_ascii=False))
        [told] = await socket.events()
        assert told["error"]["code"] == "too_many_frames"
        assert await socket.closed() == 1008
        await backend.requests[0].gone.wait()


async def test_a_frame_that_is_too_large_ends_the_connection_and_its_turn(serve, backend):
    url = await serve("--body-limit=2000")
    async with opened(url) as socket:
        for _ in range(3):
            await socket.create("x" * 1500)
        backend.script(HALF, asyncio.Event())
        await socket.send()
        await socket.until("response.output_text.delta")
        await socket.send("x" * 2500)
        assert await socket.closed() == 1009
    async with asyncio.timeout(PATIENCE):
        await backend.requests[-1].gone.wait()


SOON = ("--sse-keepalive-seconds=0.02", "--early-stream-after-seconds=0.02")


async def test_silence_before_the_first_item_is_filled_as_in_a_stream(serve, backend):
    url = await serve(*SOON)
    go = asyncio.Event()
    backend.script(go, stream(*talk("Hi")))
    async with opened(url) as socket:
        await socket.send()
        begun = [await socket.event() for _ in range(6)]
        assert [event["type"] for event in begun[1:]] == ["response.in_progress"] * 5
        go.set()
        await socket.events(begun)
        backend.script(go := asyncio.Event(), json_reply({"error": {"message": "busy"}}, status=429))
        await socket.send()
        begun = [await socket.event() for _ in range(3)]
        go.set()
        *_, last = await socket.events(begun)
        assert last["response"]["error"]["code"] == "rate_limit_exceeded"


async def test_a_client_that_takes_nothing_counts_as_gone(serve, backend):
    url = await serve("--client-stall-timeout=0.3", "--sse-keepalive-seconds=0")
    backend.script(BEGUN, *[chunked(sse(*[chunk({"content": "x" * 1000})] * 50))] * 400, asyncio.Event())
    async with opened(url) as socket:
        await socket.send()
        request = await backend.received(1)
        socket.ws.transport.pause_reading()
        async with asyncio.timeout(PATIENCE):
            await request.gone.wait()
        socket.ws.transport.abort()


async def test_a_client_that_answers_no_ping_counts_as_gone(serve, backend):
    url = await serve("--client-stall-timeout=0.5", "--sse-keepalive-seconds=0.1", "--early-stream-after-seconds=0")
    backend.script(asyncio.Event())
    async with opened(url) as socket:
        await socket.send()
        request = await backend.received(1)
        await asyncio.sleep(0.8)  # the client's own answers to pings keep it
        assert not request.gone.is_set()
        socket.ws.transport.pause_reading()
        async with asyncio.timeout(PATIENCE):
            await request.gone.wait()
        socket.ws.transport.abort()


async def test_the_time_to_end_ends_idle_connections_at_once_and_turns_well(serve, backend):
    url = await serve("--grace=1")
    go = asyncio.Event()
    async with opened(url) as idle, opened(url) as busy, opened(url) as stuck:
        await idle.create()
        backend.script(HALF, go, REST)
        await busy.send()
        begun = await busy.until("response.output_text.delta")
        backend.script(HALF, asyncio.Event())
        await stuck.send()
        await stuck.send()
        half = await stuck.until("response.output_text.delta")
        signal.raise_signal(signal.SIGTERM)
        assert await idle.closed() == 1001
        go.set()
        assert (await busy.events(begun))[-1]["type"] == "response.completed"
        assert await busy.closed() == 1001
        last = (await stuck.events(half))[-1]["response"]
        assert (last["status"], last["error"]["code"]) == ("failed", "server_error")
        assert last["output"][0]["status"] == "incomplete"
        assert await stuck.closed() == 1012


async def test_both_forms_of_a_late_error(serve, backend):
    url = await serve("--late-errors=both")
    backend.script(HALF, CLOSE)
    async with opened(url) as socket:
        await socket.send()
        begun = await socket.until("error")
        assert begun[-1]["status"] == 500
        assert begun[-1]["error"]["code"] == "server_error"
        assert (await socket.event())["type"] == "response.failed"


@pytest.fixture
def own_store(tmp_path_factory):
    server = servers.Server.on_socket(servers.valkey_binary(), tmp_path_factory.mktemp("s"))
    yield server
    server.stop()


async def test_a_store_that_dies_in_mid_turn_fails_what_needs_it_and_nothing_else(own_store, serve, backend):
    url = await serve(store=own_store.url)
    async with opened(url) as socket:
        first = await socket.create("One", store=False)
        go = asyncio.Event()
        backend.script(HALF, go, REST)
        await socket.send()
        begun = await socket.until("response.output_text.delta")
        own_store.stop()
        go.set()
        *_, last = await socket.events(begun)
        assert (last["type"], last["response"]["error"]["code"]) == ("response.failed", "server_error")
        while (told := (await socket.ask())[-1])["type"] == "response.failed":  # for a second it counts as there
            pass
        assert (told["status"], told["error"]["code"]) == (503, "store_unavailable")
        await socket.create("Two", store=False, previous_response_id=first["id"])
        assert asked(backend) == ["One", "Hi", "Two"]
        own_store.start()
        async with asyncio.timeout(servers.PATIENCE):
            while (await socket.ask())[-1]["type"] == "error":
                pass


async def test_with_the_store_away_turns_may_go_on_unstored(own_store, serve):
    url = await serve("--store-down=stateless", store=own_store.url)
    async with opened(url) as socket:
        await socket.create("One")
        own_store.stop()
        while (told := (await socket.ask("One"))[-1])["type"] == "response.failed":
            pass
        assert told["response"]["store"] is False
        second = await socket.create("Two", store=False, previous_response_id=told["response"]["id"])
        assert (await socket.refused(previous_response_id="resp_" + "0" * 48))[:2] == (503, "store_unavailable")
        assert (await socket.refused(conversation="conv_" + "0" * 48))[:2] == (503, "store_unavailable")
        third = await socket.create("Three", previous_response_id=second["id"])
        assert third["store"] is False, "what the connection remembers needs no state"
    own_store.start()  # or the end of the server would wait for it


# -- what operators see


async def test_every_turn_has_its_line_and_is_counted(serve, backend, caplog):
    caplog.set_level(logging.INFO, "statecar.access")
    url = await serve()
    async with Caller(url) as caller, opened(url, **{"x-request-id": "abc"}) as socket:
        await socket.create()
        await socket.refused(ORPHAN)
        await socket.ws.send("{}")
        await socket.events()
        await socket.create(generate=False)
        backend.script(HALF, asyncio.Event())
        await socket.send()
        await socket.until("response.output_text.delta")
        await counted(caller, "statecar_open_websockets 1.0", "statecar_open_streams 1.0")
        upstream = backend.requests[-1].values("x-request-id")[0]
        await socket.ws.close()
        await backend.requests[-1].gone.wait()
        lines = await eventually(lambda: written(caplog, 6))
        assert [(line["request_id"], line["status"]) for line in lines] == [
            ("abc-1", 200),
            ("abc-2", 400),
            ("abc-3", 400),
            ("abc-4", 200),
            ("abc-5", 499),
            ("abc", 101),
        ]
        assert upstream.startswith("abc-5-")
        assert lines[0]["response_status"] == "completed"
        await counted(
            caller,
            'statecar_turns_total{model="m",status="completed"} 1.0',
            'statecar_turns_total{model="",status="completed"} 1.0',
            'statecar_turns_total{model="",status="refused"} 1.0',
            'statecar_turns_total{model="m",status="left"} 1.0',
            'statecar_requests_total{method="WEBSOCKET",route="/v1/responses",status="101"} 1.0',
            "statecar_open_websockets 0.0",
            "statecar_open_streams 0.0",
            'statecar_usage_missing_total{model="m"} 1.0',
        )


async def written(caplog, count):
    """The access log's lines of WebSockets, as fields, once there are so many."""
    told = [record.fields for record in caplog.records if record.name == "statecar.access"]
    lines = [line for line in told if line["method"] == "WEBSOCKET"]
    return lines if len(lines) >= count else None


async def counted(caller, *lines):
    """Waits until the metrics say all this: what was fed is counted a little later."""

    async def told():
        metrics = await caller.http.get(str(caller.http.base_url).removesuffix("v1/") + "metrics")
        return {*lines} <= {*metrics.text.splitlines()}

    await eventually(told)
