"""The access log: which requests have a line, and what stands in it."""

import asyncio
import json
import logging

import pytest

from proxy.observe import Finished, Observed, configure_logging, log_request

PATH = "/v1/responses"


def request(status=200, first=0.0123, path=PATH, **facts):
    return Finished("req_1", "POST", path, status, first, 0.5, {"request_id": "req_1", "begun": True} | facts)


@pytest.fixture
def line(capsys):
    """Gives the line of a request, None for none."""

    def made(request, level="info"):
        configure_logging("json", level)
        log_request(request)
        told = capsys.readouterr().err
        return json.loads(told) if told else None

    return made


def test_a_line_has_what_was_noted_of_a_request_and_of_its_turn(line):
    turn = {"model": "m", "response": "resp_1", "input_tokens": 0, "output_tokens": None, "usage_missing": False}
    told = line(request(tenant="abc", passed_on=False, route=PATH, turn=turn))
    assert told.pop("time").endswith("Z")
    assert told == {
        "level": "info",
        "logger": "statecar.access",
        "message": "request",
        "request_id": "req_1",
        "method": "POST",
        "path": PATH,
        "status": 200,
        "first_ms": 12.3,
        "ms": 500.0,
        "tenant": "abc",
        "model": "m",
        "response": "resp_1",
        "input_tokens": 0,
    }


def test_a_client_that_left_had_no_first_byte(line):
    told = line(request(status=499, first=None, left=True))
    assert told["status"] == 499
    assert not {"first_ms", "left"} & told.keys()


@pytest.mark.parametrize(
    ("level", "status", "shown"), [("info", 200, False), ("debug", 200, True), ("info", 503, True)]
)
def test_a_probe_that_finds_nothing_wrong_is_for_debugging(line, level, status, shown):
    assert (line(request(status=status, probe=True), level) is not None) is shown


@pytest.mark.parametrize(("begun", "status"), [(False, 500), (True, 202)])
async def test_an_answer_that_broke_has_the_status_that_was_sent(begun, status):
    async def broken(scope, receive, send):
        if begun:
            await send({"type": "http.response.start", "status": 202, "headers": []})
        raise RuntimeError

    async def sent(_):
        pass

    told = []
    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    with pytest.raises(RuntimeError):
        await asyncio.create_task(Observed(broken, [told.append])(scope, None, sent))
    assert [request.status for request in told] == [status]


def test_a_long_path_is_cut(line):
    assert line(request(path="/" + "x" * 255))["path"] == "/" + "x" * 255
    assert line(request(path="/" + "\u20ac" * 60_000))["path"] == "/" + "\u20ac" * 255 + "..."


def test_a_line_fits_into_one_write_of_a_pipe(line, monkeypatch):
    """What is longer may mix with the lines of other workers."""
    lengths = []
    monkeypatch.setattr(logging.StreamHandler, "emit", lambda self, record: lengths.append(len(self.format(record))))
    turn = {"model": "\u20ac" * 128, "response": "resp_" + "0" * 48}
    line(request(path="/" + "\u20ac" * 60_000, tenant="0" * 8, response="\u20ac" * 128, turn=turn))
    assert lengths[0] < 4096
