"""One id for all that belongs to a request: its answer, its log lines, its calls of the upstream (wire §1.5, §11.1)."""

import asyncio
import json
import re

import pytest

from proxy.observe import configure_logging
from tests.backend import completion, json_reply, stream, talk

REFUSED = json_reply({"error": {"message": "extra fields not permitted: stream_options"}}, status=400)


def ids_sent(backend):
    sent = [request.values("x-request-id") for request in backend.requests if request.target.endswith("/completions")]
    assert all(len(values) == 1 for values in sent)
    return [value for (value,) in sent]


def lines(capsys):
    """The log lines since this was last called."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize("given", ["trace-1", "a.b:c_d", "x" * 119, "x" * 128])
async def test_the_ids_of_upstream_calls_begin_with_the_requests_and_differ(caller, backend, given):
    headers = {"x-request-id": given}
    backend.script(REFUSED)
    backend.script(stream(*talk("Hello")))
    answer = await caller.http.post("/responses", json={"model": given, "input": "x", "stream": True}, headers=headers)
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, given)
    await caller.http.post("/responses", json={"model": given, "input": "x"}, headers=headers)
    sent = ids_sent(backend)
    assert len(set(sent)) == len(sent) == 3
    for id_ in sent:
        assert re.fullmatch(f"{given[:119]}-[0-9a-f]{{8}}", id_)
        assert len(id_) <= 128


@pytest.mark.parametrize("given", ["", "a b", "x" * 129])
async def test_an_id_of_ours_where_the_caller_has_no_sane_one(caller, backend, given):
    answer = await caller.http.post("/responses", json={"model": "m", "input": "x"}, headers={"x-request-id": given})
    (sent,) = ids_sent(backend)
    assert re.fullmatch(r"req_[0-9a-f]{32}-[0-9a-f]{8}", sent)
    assert sent.startswith(answer.headers["x-request-id"])


async def test_every_call_for_a_request_has_its_id(calling, backend):
    """A summary and the answer; a count by generation."""
    caller = await calling("--count-by-generation")
    backend.script(json_reply(completion("All of it.")))
    talked = [{"role": role, "content": "x" * 100} for role in ("user", "assistant", "user")]
    body = {"model": "m", "input": [*talked, {"type": "compaction_trigger"}]}
    for number, path in enumerate(("/responses", "/responses/compact", "/responses/input_tokens"), 1):
        given = body if path == "/responses" else {**body, "input": talked}
        answer = await caller.http.post(path, json=given, headers={"x-request-id": f"my-{number}"})
        assert answer.status_code == 200, answer.text
    assert [id_[:-9] for id_ in ids_sent(backend)] == ["my-1", "my-2", "my-3"]


async def test_headers_of_what_is_passed_on_stay_as_they_came(caller, backend):
    backend.script(json_reply({"object": "list"}, headers=("x-request-id: theirs",)))
    answer = await caller.http.post("/chat/completions", json={}, headers={"x-request-id": "mine"})
    assert answer.headers.get_list("x-request-id") == ["theirs"]
    assert ids_sent(backend) == ["mine"]


async def test_every_line_of_a_request_has_its_id_and_debug_shows_the_upstream_calls(caller, backend, capsys):
    configure_logging("json", "debug")
    backend.script(REFUSED)
    backend.script(stream(*talk("Hello")))
    body = {"model": "m-lines", "input": "x", "stream": True}
    answer = await caller.http.post("/responses", json=body, headers={"x-request-id": "mine"})
    assert answer.status_code == 200
    told = lines(capsys)
    assert {line["request_id"] for line in told} == {"mine"}
    assert {"statecar.turn", "statecar.access"} == {line["logger"] for line in told}
    calls = [line for line in told if line["message"] == "upstream call"]
    assert [(line["level"], line["status"], line["kind"]) for line in calls] == [
        ("debug", 400, "generic"),
        ("debug", 200, "generic"),
    ]
    assert [line["call"] for line in calls] == ids_sent(backend)
    assert all(line["first_ms"] > 0 for line in calls)


async def test_lines_of_requests_at_once_keep_their_ids_apart(calling, capsys, tmp_path):
    """Those of the store, which is not there."""
    caller = await calling("--tenant=off", store=f"unix://{tmp_path}/nobody")
    configure_logging("json", "debug")

    async def one(number):
        headers = {"x-request-id": f"mine-{number}"}
        return await caller.http.post("/responses", json={"model": "m", "input": "x"}, headers=headers)

    await asyncio.gather(*map(one, range(4)))
    told = [(line["request_id"], line["logger"]) for line in lines(capsys)]
    for number in range(4):
        assert (f"mine-{number}", "statecar.access") in told
    assert {id_ for id_, logger in told if logger == "proxy.state.client"} == {f"mine-{number}" for number in range(4)}
    assert {id_ for id_, _ in told} == {f"mine-{number}" for number in range(4)}


async def test_the_servers_own_line_about_a_request_that_broke_has_its_id(caller, capsys, monkeypatch):
    def broken(body):
        raise KeyError(body["input"])

    monkeypatch.setattr("proxy.routes.responses.create_response", broken)
    configure_logging("json", "info")
    answer = await caller.http.post("/responses", json={"input": "planted"}, headers={"x-request-id": "mine"})
    assert answer.status_code == 500
    (error,) = [line for line in lines(capsys) if line["level"] == "error"]
    assert (error["logger"], error["request_id"]) == ("uvicorn.error", "mine")
    assert "planted" not in str(error)
    assert error["exception"].endswith("\nKeyError")
