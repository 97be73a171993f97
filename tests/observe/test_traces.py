"""Traces: which spans there are, what they say, and what goes upstream (docs/operations/tracing.md)."""

import asyncio
import json
import re
import secrets
import threading
from collections import Counter, defaultdict

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from proxy.app import create_app
from proxy.observe import spans, traces
from proxy.observe.conventions import Answered, asked, model
from proxy.settings import Settings
from tests.backend import CLOSE, STREAM_HEAD, Backend, chunk, chunked, json_reply, serving, sse, stream, talk
from tests.callers import Caller, unframed
from tests.mcp_servers import McpServer
from tests.routes.conftest import alive, own
from tests.routes.hosted import ALLOWED, FIND, called, docs, said
from tests.routes.test_background import eventually, seen
from tests.routes.test_detach import DETACH
from tests.routes.test_recovery import abandon
from tests.sockets import opened

__all__ = ["own"]

USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 4,
    "total_tokens": 13,
    "prompt_tokens_details": {"cached_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
SPOKEN = stream(
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Hi"}),
    chunk({}, "stop"),
    {**chunk({}), "choices": [], "usage": USAGE},
    "[DONE]",
)
BIG, SEED, PORT = 2**64 - 1, "gen_ai.request.seed", "server.port"
BUSY = json_reply({"error": {"message": "secret words"}}, status=503)


class Kept(InMemorySpanExporter):
    """What was exported, by name and as trees."""

    async def of(self, trace_id, *names):
        """The found of a trace, by name, once those are among them, each as often as it is named."""

        async def look():
            found = defaultdict(list)
            for span in self.get_finished_spans():
                if f"{span.context.trace_id:032x}" == trace_id:
                    found[span.name].append(span)
            missing = Counter(names) - Counter({name: len(some) for name, some in found.items()})
            return None if missing else found

        return await eventually(look)


@pytest.fixture
def kept(monkeypatch):
    """What is exported."""
    kept = Kept()
    monkeypatch.setattr(traces, "open_exporter", lambda: kept)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "64")
    return kept


@pytest.fixture
async def traced(calling, kept):
    return await calling("--traces=on")


def trace():
    """(id of a trace, the header that a caller goes on with it)."""
    id_ = secrets.token_hex(16)
    return id_, {"traceparent": f"00-{id_}-{secrets.token_hex(8)}-01"}


def lines(caplog):
    """Those of the access log."""
    return [record for record in caplog.records if record.name == "statecar.access"]


def parent(span, found):
    """The name of a span's parent; "" for one that is not here."""
    return next((name for name, some in found.items() for one in some if _is_parent(one, span)), "")


def _is_parent(one, span):
    return span.parent is not None and one.context.span_id == span.parent.span_id


def tree(found):
    """The name of every span's parent, by its own name."""
    return {name: {parent(span, found) for span in some} for name, some in found.items()}


def sent(request):
    """(trace, span) of the only traceparent that an upstream was sent."""
    (text,) = request.values("traceparent")
    _, trace_id, span_id, _ = text.split("-")
    return trace_id, span_id


async def post(caller, headers, **fields):
    return await caller.http.post("/responses", json={"model": "m", "input": "Hi"} | fields, headers=headers)


async def test_a_stored_turn_is_a_tree_from_the_request_to_the_upstream_and_the_store(traced, kept, backend):
    backend.script(SPOKEN)
    id_, headers = trace()
    answer = await post(traced, headers | {"tracestate": "a=b"}, stream=True, temperature=0.5, max_output_tokens=20)
    response = re.search(r"resp_\w+", answer.text)[0]
    found = await kept.of(id_, "POST /v1/responses", "turn", "chat m", "EVALSHA save")
    parents = tree(found)
    assert (parents["POST /v1/responses"], parents["turn"]) == ({""}, {"POST /v1/responses"})
    assert parents["chat m"] == parents["EVALSHA save"] == {"turn"}
    assert set().union(*parents.values()) == {"", "turn", "POST /v1/responses"}
    (server,), (turn,), (chat,) = found["POST /v1/responses"], found["turn"], found["chat m"]
    assert f"{server.parent.span_id:016x}" == headers["traceparent"].split("-")[2]
    assert server.kind.name == "SERVER"
    told = dict(server.attributes)
    assert told["http.response.status_code"] == 200 and told["http.route"] == told["url.path"] == "/v1/responses"
    assert turn.attributes["gen_ai.response.id"] == response
    assert turn.attributes["statecar.response.status"] == "completed"
    assert chat.kind.name == "CLIENT"
    first = chat.attributes["gen_ai.response.time_to_first_chunk"]
    assert first > 0
    host, port = backend.url.removeprefix("http://").removesuffix("/v1").split(":")
    assert dict(chat.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "generic",
        "gen_ai.request.model": "m",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 20,
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": first,
        "gen_ai.usage.input_tokens": 9,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "gen_ai.usage.reasoning.output_tokens": 1,
        "http.response.status_code": 200,
        "server.address": host,
        "server.port": int(port),
    }
    (save,) = found["EVALSHA save"]
    assert save.attributes["db.system.name"] == "redis" and save.attributes["db.stored_procedure.name"] == "save"
    request = await backend.received(1)
    assert sent(request) == (id_, f"{chat.context.span_id:016x}")
    assert request.values("tracestate") == ["a=b"]
    assert {span.resource.attributes["service.name"] for some in found.values() for span in some} == {"statecar"}


async def test_every_try_is_a_span_of_its_own_and_failures_are_told_without_words(traced, kept, backend):
    model = f"m-{secrets.token_hex(6)}"
    backend.script(json_reply({"error": {"message": "Unknown field: stream_options"}}, status=400))
    backend.script(BUSY)
    id_, headers = trace()
    assert (await post(traced, headers, model=model, stream=True)).status_code == 503
    found = await kept.of(id_, "POST /v1/responses")
    tries = found[f"chat {model}"]
    assert [one.attributes["error.type"] for one in tries] == ["400", "503"]
    assert [sent(request) for request in backend.requests] == [(id_, f"{one.context.span_id:016x}") for one in tries]
    for one in (tries[-1], *found["turn"], *found["POST /v1/responses"]):
        assert one.status.status_code.name == "ERROR" and one.attributes["error.type"]
    assert "secret" not in "".join(span.to_json() for some in found.values() for span in some)


async def test_a_call_that_goes_on_to_another_replica_is_two_spans(kept, valkey, backend):
    async with Backend() as other:
        for each in (backend, other):
            each.script(BUSY)
        options = [f"--store={valkey.url}", f"--upstreams=[{{replicas: ['{backend.url}', '{other.url}']}}]"]
        options += ["--upstream-health-interval=0", "--upstream-kind=vllm", "--traces=on"]
        app = create_app(Settings.resolve(options, {}))
        async with alive(app), serving(app) as url, Caller(url) as caller:
            id_, headers = trace()
            conversation = await caller.conversation()
            await post(caller, headers, conversation=conversation)
            found = await kept.of(id_, "POST /v1/responses")
        chats = found["chat m"]
        ports = {chat.attributes["server.port"] for chat in chats}
        assert ports == {int(each.url.removesuffix("/v1").rpartition(":")[2]) for each in (backend, other)}
        spoken = [sent(each.requests[-1]) for each in (backend, other)]
        assert sorted(spoken) == sorted((id_, f"{chat.context.span_id:016x}") for chat in chats)
        assert {chat.attributes["gen_ai.provider.name"] for chat in chats} == {"vllm"}
        assert {chat.attributes["gen_ai.conversation.id"] for chat in chats} == {conversation}
        assert "EVALSHA lease" not in found


async def test_what_else_the_upstream_is_asked_for_a_request_is_a_span(calling, kept, backend):
    caller = await calling("--traces=on", "--upstream-kind=vllm")
    backend.script(json_reply({"count": 3, "tokens": [1, 2, 3], "max_model_len": 9}))
    id_, headers = trace()
    counted = await caller.http.post("/responses/input_tokens", json={"model": "m", "input": "Hi"}, headers=headers)
    assert counted.json()["input_tokens"] == 3
    found = await kept.of(id_, "POST /v1/responses/input_tokens")
    (question,) = found["POST"]
    assert question.attributes["url.full"] == f"{backend.url.removesuffix('/v1')}/tokenize"
    assert parent(question, found) == "POST /v1/responses/input_tokens"
    assert sent(backend.requests[0]) == (id_, f"{question.context.span_id:016x}")


async def test_an_upstream_that_breaks_off_fails_its_span_and_the_turn(traced, kept, backend):
    backend.script(STREAM_HEAD + chunked(sse(*talk("Hel")[:2])), CLOSE)
    id_, headers = trace()
    await post(traced, headers, stream=True)
    found = await kept.of(id_, "POST /v1/responses")
    (chat,), (turn,) = found["chat m"], found["turn"]
    assert chat.attributes["error.type"] == "broken" and turn.attributes["error.type"] == "response_failed"
    assert turn.attributes["statecar.response.status"] == "failed"


@pytest.mark.parametrize("detaches", [False, True], ids=["background", "detached"])
async def test_a_run_belongs_to_the_trace_of_its_request(traced, kept, backend, detaches):
    id_, headers = trace()
    if detaches:
        answer = (await post(traced, headers | DETACH)).json()
    else:
        backend.script(SPOKEN)
        answer = unframed((await post(traced, headers, background=True, stream=True)).content)[-1]["response"]
    found = await kept.of(id_, "POST /v1/responses", "turn", "EVALSHA save")
    (turn,) = found["turn"]
    assert (parent(turn, found), turn.attributes["gen_ai.response.id"]) == ("POST /v1/responses", answer["id"])
    assert tree(found)["chat m"] == tree(found)["EVALSHA save"] == {"turn"}
    assert "EVALSHA run_append" not in found
    assert turn.attributes.get("statecar.background") == (None if detaches else True)


async def test_a_run_that_another_process_takes_up_is_linked_to_its_request(serve, kept, own, backend):
    options = ("--tenant=off", "--upstream-api-key=k", "--traces=on")
    async with Caller(await serve(*options, "--run-lease=90", "--worker-runs=1", store=own.url)) as caller:
        backend.script(asyncio.Event())
        id_, headers = trace()
        run = (await post(caller, headers, background=True)).json()
        await backend.received(1)
        abandon(own, run)
        async with Caller(await serve(*options, "--run-lease=0.5", store=own.url)) as other:
            await seen(other, run["id"], "completed")

            async def taken_up():
                found = (await kept.of(id_, "turn", "POST /v1/responses"))["turn"]
                return next((span for span in found if span.attributes.get("statecar.takeover")), None)

            turn = await eventually(taken_up)
            (server,) = (await kept.of(id_, "POST /v1/responses"))["POST /v1/responses"]
            assert turn.parent.span_id == server.context.span_id
            assert [link.context.span_id for link in turn.links] == [server.context.span_id]
            assert sent(backend.requests[-1])[0] == id_


async def test_calls_of_tools_are_spans(serve, kept, backend):
    async with McpServer() as server, Caller(await serve(ALLOWED, "--traces=on")) as caller:
        backend.script(called(FIND))
        backend.script(said("Found."))
        id_, headers = trace()
        assert (await post(caller, headers, tools=[docs(server)])).status_code == 200
        found = await kept.of(id_, "POST /v1/responses")
        (tool,) = found["execute_tool search"]
        (meta,) = server.metas
        assert meta["traceparent"] == f"00-{id_}-{found['turn'][0].context.span_id:016x}-01"
        told = dict(tool.attributes)
        assert told.pop("gen_ai.tool.call.id").startswith("mcp_")
        assert told == {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "search",
            "gen_ai.tool.type": "extension",
            "statecar.mcp.server_label": "docs",
        }
        assert (parent(tool, found), len(found["chat m"])) == ("turn", 2)
        assert found["turn"][0].attributes["statecar.rounds"] == 2


async def test_turns_over_a_websocket_belong_to_its_trace_or_to_the_one_that_their_frame_names(serve, kept, backend):
    backend.default = (SPOKEN,)
    url = await serve("--traces=on")
    (id_, headers), (other, of_frame) = trace(), trace()
    async with opened(url, **headers) as socket:
        await socket.ask("Hi")
        await socket.ask("Hi", client_metadata={"ws_request_header_traceparent": of_frame["traceparent"]})
        found, others = await kept.of(id_, "GET /v1/responses", "turn"), await kept.of(other, "turn", "chat m")
    (handshake,) = found["GET /v1/responses"]
    assert handshake.attributes["http.response.status_code"] == 101
    assert tree(found)["turn"] == {"GET /v1/responses"} and tree(found)["chat m"] == {"turn"}
    (turn,) = others["turn"]
    assert [link.context.span_id for link in turn.links] == [handshake.context.span_id]
    assert tree(others)["chat m"] == {"turn"}
    assert [sent(request)[0] for request in backend.requests] == [id_, other]


async def test_what_is_passed_on_goes_on_with_the_trace(traced, kept, backend):
    id_, headers = trace()
    answer = await traced.http.get("/models?key=secret", headers=headers)
    assert answer.status_code == 200
    found = await kept.of(id_, "GET", "GET")
    server, passage = sorted(found["GET"], key=lambda span: span.kind.name == "CLIENT")
    assert passage.parent.span_id == server.context.span_id
    assert passage.attributes["url.full"] == f"{backend.url}/models"
    assert sent(backend.requests[0]) == (id_, f"{passage.context.span_id:016x}")
    assert "secret" not in server.to_json() + passage.to_json()


@pytest.mark.parametrize(
    ("fields", "headers", "kept_out"),
    [
        ({"seed": BIG, "temperature": 1, "max_output_tokens": BIG}, {}, {SEED, "gen_ai.request.max_tokens"}),
        ({"stop": ["\ud800x"] * 99, "model": "\ud800" * 999}, {}, set()),
        ({}, {"host": "a:\xb2"}, {PORT}),
        ({}, {"host": "a:" + "9" * 30, "user-agent": "\xff" * 9999}, {PORT}),
    ],
)
async def test_whatever_a_client_writes_is_answered_and_exported(
    traced, kept, backend, caplog, fields, headers, kept_out
):
    id_, named = trace()
    headers = headers | named | {"content-type": "application/json"}
    headers = [(key, value.encode("latin-1")) for key, value in headers.items()]
    body = json.dumps({"model": "m", "input": "Hi"} | fields).encode()
    answer = await traced.http.post(
        "/responses", content=body, headers=[*headers, ("content-type", "application/json")]
    )
    assert answer.status_code == 200
    found = await kept.of(id_, "POST /v1/responses", "turn")
    (chat,) = (some[0] for name, some in found.items() if name.startswith("chat "))
    (server,) = found["POST /v1/responses"]
    assert not kept_out & ({*chat.attributes} - {PORT} | {*server.attributes})
    assert type(chat.attributes.get("gen_ai.request.temperature", 1.0)) is float
    assert len(chat.to_json()) + len(server.to_json()) < 10_000
    encode_spans([span for some in found.values() for span in some])
    assert not caplog.records


@pytest.mark.parametrize("asked", [{"path": "responses", "input": "Hi"}, {"path": "chat/completions", "messages": []}])
async def test_a_client_that_leaves_is_no_failure_and_is_told(traced, kept, backend, caplog, asked):
    backend.script(STREAM_HEAD + chunked(sse(*talk("Hel")[:2])), asyncio.Event())
    id_, headers = trace()
    body = {"model": "m", "stream": True} | {name: value for name, value in asked.items() if name != "path"}
    with caplog.at_level("INFO", "statecar.access"):
        async with traced.http.stream("POST", asked["path"], json=body, headers=headers) as answer:
            await anext(answer.aiter_bytes())
        ours = asked["path"] == "responses"
        found = await kept.of(id_, *(["POST /v1/responses", "turn", "chat m"] if ours else ["POST", "POST"]))
        await eventually(lambda: asyncio.sleep(0, lines(caplog)))
    told = [span for some in found.values() for span in some]
    (server,) = (span for span in told if span.kind.name == "SERVER")
    assert server.attributes["statecar.client_left"] is True
    assert {span.status.status_code.name for span in told} == {"UNSET"}
    assert [line.fields["status"] for line in lines(caplog)] == [499]


async def test_without_traces_the_callers_headers_go_upstream_as_they_came(calling, kept, backend):
    caller = await calling()
    headers = trace()[1] | {"tracestate": "a=b"}
    for request in (post(caller, headers), caller.http.get("/models", headers=headers)):
        await request
    assert [request.values("traceparent") for request in backend.requests] == [[headers["traceparent"]]] * 2
    assert not kept.get_finished_spans()


async def test_what_is_not_sampled_is_not_exported_but_its_trace_goes_on(calling, kept, backend, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    caller = await calling("--traces=on")
    id_, headers = trace()
    await post(caller, headers)
    assert backend.requests[0].values("traceparent")[0].startswith(f"00-{id_}-")
    assert backend.requests[0].values("traceparent")[0].endswith("-00")
    assert not kept.get_finished_spans()


@pytest.mark.parametrize(("capture", "told"), [("", False), ("NO_CONTENT", False), ("span_only", True), ("true", True)])
async def test_content_is_told_only_when_it_is_asked_for(calling, kept, backend, monkeypatch, capture, told):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", capture)
    caller = await calling("--traces=on")
    backend.script(stream(*talk("A can", "ary.")))
    id_, headers = trace()
    await post(caller, headers, stream=True, input="A robin.")
    found = await kept.of(id_, "POST /v1/responses")
    (chat,) = found["chat m"]
    if told:
        (given,) = json.loads(chat.attributes["gen_ai.input.messages"])
        (answered,) = json.loads(chat.attributes["gen_ai.output.messages"])
        assert given == {"role": "user", "parts": [{"type": "text", "content": "A robin."}]}
        parts = [{"type": "text", "content": "A canary."}]
        assert answered == {"role": "assistant", "parts": parts, "finish_reason": "stop"}
    else:
        assert not re.search("canary|robin", "".join(span.to_json() for some in found.values() for span in some))


async def test_lines_of_the_access_log_name_the_trace(traced, kept, backend, caplog):
    id_, headers = trace()
    with caplog.at_level("INFO", "statecar.access"):
        await post(traced, headers)
        await eventually(lambda: asyncio.sleep(0, lines(caplog)))
    (line,) = lines(caplog)
    assert line.fields["trace_id"] == id_


async def test_probes_make_no_spans(traced, kept):
    for path in ("health", "ready", "metrics"):
        await traced.http.get(f"{str(traced.http.base_url).removesuffix('/v1/')}/{path}")
    id_, headers = trace()
    await traced.http.get("/responses/resp_none", headers=headers)
    await kept.of(id_, "GET /v1/responses/{response_id}")
    assert {f"{span.context.trace_id:032x}" for span in kept.get_finished_spans()} == {id_}


async def test_an_exporter_that_hangs_holds_up_no_request_and_no_end(kept, valkey, backend, monkeypatch, caplog):
    hangs, threads = threading.Event(), threading.active_count()
    monkeypatch.setattr(kept, "export", lambda found: hangs.wait())
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setattr(spans, "LAST_WORDS", 0.05)
    app = create_app(Settings.resolve([f"--store={valkey.url}", f"--upstream={backend.url}", "--traces=on"], {}))
    async with alive(app), serving(app) as url, Caller(url) as caller:
        for _ in range(30):
            await caller.create()
    assert "traces are incomplete" in caplog.text
    assert threading.active_count() < threads + 20
    hangs.set()


# -- the conventions


def test_a_body_says_what_was_asked_for():
    body = {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]},
            {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "assistant", "tool_calls": [{"id": "d", "custom": {"name": "g", "input": "x"}}]},
            {"role": "tool", "tool_call_id": "c", "content": "4"},
        ],
        "stop": "x",
        "seed": 7,
        "top_p": True,
    }  # fmt: skip
    told = asked(json.dumps(body).encode(), content=True)
    messages = json.loads(told.pop("gen_ai.input.messages"))
    assert told == {
        "gen_ai.request.stop_sequences": ["x"],
        "gen_ai.request.seed": 7,
    }
    assert [message["parts"] for message in messages] == [
        [{"type": "blob", "modality": "image", "mime_type": "image/png", "content": "AA=="}],
        [{"type": "tool_call", "id": "c", "name": "f", "arguments": "{}"}],
        [{"type": "tool_call", "id": "d", "name": "g", "arguments": "x"}],
        [{"type": "tool_call_response", "id": "c", "response": "4"}],
    ]


def test_of_a_long_body_only_the_model_is_read():
    long = b'{"model":"a\\"b","messages":[{"role":"user","content":"' + b"x" * 1024 * 1024 + b'"}],"seed":1}'
    assert (model(long), asked(long, content=False)) == ('a"b', {})
    assert model(b'{"messages":[]}') == ""


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://a/v1", ("a", 80)),
        ("https://[::1]:8443/v1", ("::1", 8443)),
        ("http+unix://%2Frun%2Fb.sock/v1", ("/run/b.sock", None)),
        ("rediss://u:p@r", ("r", 6379)),
        ("unix:///run/v?db=1", ("/run/v", None)),
        ("redis+sentinel://a,b/main", (None, None)),
    ],
)
def test_a_servers_place_is_told_as_far_as_its_url_says_it(url, told):
    found = spans.place(url)
    assert (found.get("server.address"), found.get("server.port")) == told


def test_an_empty_variable_is_none(monkeypatch):
    for name in ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_HEADERS"):
        monkeypatch.setenv(name, "")
    spans.open_exporter().shutdown()


def test_an_answer_may_hold_anything():
    answered = Answered(keeps=True)
    answered.take([{"choices": "x", "usage": 7, "id": 3}, {"choices": [None, {"delta": [], "finish_reason": 1}]}])
    answered.take([{"usage": {"prompt_tokens": -1, "completion_tokens": "7", "prompt_tokens_details": []}}])
    assert answered.attributes() == {}
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a"'}}
    answered.take([chunk({"reasoning": "Hm"}), chunk({"tool_calls": [call]})])
    answered.take([chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}, "tool_calls")])
    answered.take([chunk({"tool_calls": [{"index": [], "function": {"name": "g"}}]})])
    answered.take([chunk({"tool_calls": [{"index": 1, "id": "d", "custom": {"name": "h", "input": "x"}}]})])
    (message,) = json.loads(answered.attributes()["gen_ai.output.messages"])
    custom = {"type": "tool_call", "id": "d", "name": "h", "arguments": "x"}
    made = {"type": "tool_call", "id": "c", "name": "f", "arguments": '{"a":1}'}
    assert message["parts"] == [{"type": "reasoning", "content": "Hm"}, made, custom]
    assert message["finish_reason"] == "tool_call"
