"""The form of log lines, and what becomes of them when nobody can read them."""

import asyncio
import io
import json
import logging
import os
import re
import subprocess
import sys
from contextvars import ContextVar

import pytest

from proxy.observe import configure_logging
from proxy.observe import logs as logs_module
from proxy.observe.logs import at_work_on, line_format

log = logging.getLogger("statecar")


def said(capsys):
    """The lines without their times."""
    return [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]


def test_text_log_lines_carry_their_fields(capsys):
    configure_logging("text", "info")
    log.info("request", extra={"fields": {"status": 200, "path": "/x", "odd": "a\nb=c"}})
    assert capsys.readouterr().err.split(" ", 1)[1] == 'INFO request status=200 path=/x odd="a\\nb=c"\n'


def test_what_others_say_begins_no_log_line_of_its_own(capsys):
    configure_logging("text", "info")
    log.warning("told: %s", "a\r\n2026 INFO forged\x1b[2J\x85\u2028ü\n")
    told = capsys.readouterr().err.split(" ", 1)[1]
    assert told == "WARNING told: a\\r\\n2026 INFO forged\\x1b[2J\\x85\\u2028ü\n"


def test_json_log_lines_are_one_ascii_object_each_with_trace_and_fields(capsys):
    configure_logging("json", "info")
    fields = {"status": 500, "path": "/\u2028\x9bü"}
    try:
        raise KeyError("lost")
    except KeyError:
        log.exception("broken\nhere", extra={"fields": fields})
    (told,) = capsys.readouterr().err.splitlines()
    assert told.isascii()
    line = json.loads(told)
    assert list(line) == ["time", "level", "logger", "message", "status", "path", "exception"]
    assert (line["level"], line["logger"], line["message"]) == ("error", "statecar", "broken\nhere")
    assert (line["status"], line["path"]) == (500, fields["path"])
    assert line["exception"].startswith("Traceback") and line["exception"].endswith("\nKeyError")


@pytest.mark.parametrize("value", [object(), "\ud83d", 1 << 70, {1: 2}])
def test_no_value_costs_a_line(capsys, value):
    configure_logging("json", "info")
    log.info("odd", extra={"fields": {"value": value}})
    assert json.loads(capsys.readouterr().err)["message"] == "odd"


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_trace_tells_kinds_and_places_and_no_words(capsys, form):
    configure_logging(form, "info")
    words = "planted"
    try:
        try:
            int(words)
        except ValueError as exc:
            parts = ExceptionGroup(words, [LookupError(words), exc])
            raise json.JSONDecodeError(words, words, 0) from parts
    except ValueError as exc:
        exc.__cause__.__cause__ = exc  # a circle
        log.exception("broken")
    told = capsys.readouterr().err
    assert words not in told
    for kind in ("ValueError", "ExceptionGroup", "LookupError", "json.decoder.JSONDecodeError", "test_logs.py"):
        assert kind in told
    assert (told.count("\n") == 1) is (form == "json")


def test_what_asyncio_shows_of_a_task_is_not_told(capsys):
    configure_logging("text", "info")
    messages = [
        "Task exception was never retrieved\nfuture: <Task finished exception=KeyError('planted')>",
        "Exception in callback received('planted') at x.py:1\nhandle: <Handle>",
    ]
    for message in messages:
        logging.getLogger("asyncio").error(message)
    assert said(capsys) == ["ERROR Task exception was never retrieved", "ERROR Exception in callback received"]


def test_the_level_is_ours_and_others_speak_from_warning_on(capsys):
    configure_logging("text", "debug")
    logging.getLogger("proxy.state").debug("ours")
    logging.getLogger("httpx").info("theirs")
    logging.getLogger("httpx").warning("their warning")
    configure_logging("text", "error")
    log.warning("our warning")
    log.error("our error")
    assert said(capsys) == ["DEBUG ours", "WARNING their warning", "ERROR our error"]


def test_of_uvicorn_only_what_an_operator_must_know_is_heard(capsys):
    configure_logging("text", "info")
    uvicorn = logging.getLogger("uvicorn.error")
    uvicorn.info("Started server process [1]")
    uvicorn.info("Child process [7] died")
    uvicorn.warning("Unsupported upgrade request.")
    uvicorn.warning("No supported WebSocket library detected. Please …")
    uvicorn.warning("Invalid HTTP request received.")
    uvicorn.error("ASGI callable returned without completing response.")
    uvicorn.error("Traceback …\nasyncio.exceptions.CancelledError\n")
    assert said(capsys) == ["WARNING Child process [7] died", "WARNING Invalid HTTP request received."]


async def test_the_lines_of_a_task_and_of_those_it_starts_carry_its_request_id(capsys):
    async def request(id_):
        at_work_on(id_)
        await asyncio.create_task(later(id_))

    async def later(id_):
        await asyncio.sleep(0)
        log.info("at work on %s", id_)

    configure_logging("text", "info")
    await asyncio.gather(request("a"), request("b"))
    log.info("idle")
    assert said(capsys) == ["INFO at work on a request_id=a", "INFO at work on b request_id=b", "INFO idle"]


@pytest.mark.parametrize(
    ("terminal", "no_color", "colours"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_colours_are_for_terminals(monkeypatch, terminal, no_color, colours):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("NO_COLOR", no_color)
    configure_logging("text", "info")
    log.warning("x", extra={"fields": {"n": 1}})
    assert ("\x1b[" in stream.getvalue()) is colours
    assert stream.getvalue().count("\n") == 1


VALUES = [
    0,
    -1,
    1.5,
    1e300,
    1 << 70,
    True,
    None,
    "x",
    "",
    "a b",
    'q"',
    "k=v",
    "ü",
    "a\nb",
    "\ud83d",
    "x\n",
    (1,),
    {"a": 1},
    {1: 2},
]


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_line_of_fields_is_made_as_all_others_are(monkeypatch, form):
    told = {"request_id": "req_1"}
    monkeypatch.setattr(logs_module, "_at_work", ContextVar("at work", default=told))
    short, long = (line_format(form, colours=False) for _ in range(2))
    monkeypatch.setattr(long, "_short", None)
    for name in ("value", "request_id", "message", "stack", "level"):
        for value in VALUES:
            for message in ("request", "two words", "", "a\r"):
                for level in (logging.INFO, logging.WARNING):
                    record = {"name": "x", "levelno": level, "levelname": logging.getLevelName(level), "msg": message}
                    made = logging.makeLogRecord({**record, "fields": {name: value, "n": 1}})
                    assert outcome(short, made) == outcome(long, made), (name, value, message)


def outcome(form, record):
    """The line, or the kind of error that there is none for."""
    try:
        return re.sub(r"\d{4}-[-:.\dT]+Z", "now", form.format(record))
    except Exception as exc:
        return type(exc)


def test_a_level_of_ones_own_has_a_line_too():
    record = logging.makeLogRecord({"levelno": 33, "levelname": "ODD", "msg": "x"})
    assert line_format("text", colours=True).format(record)


# -- stderr as operators have it

WRITER = """
import logging, sys
from proxy.observe import configure_logging
count, closing = sys.argv[1:]
configure_logging("json", "info")
if closing == "later":
    sys.stderr.close()
print("ready", flush=True)
input()
for n in range(int(count)):
    logging.getLogger("statecar").info("x", extra={"fields": {"n": n, "path": "/" * 300}})
print("done", flush=True)
"""


def writer(count, closing="never", **rest):
    command = [sys.executable, "-c", WRITER, str(count), closing]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **rest)


def test_lines_of_several_processes_stay_whole_in_one_pipe():
    reading, writing = os.pipe()
    writers = [writer(1000, stderr=writing) for _ in range(2)]
    os.close(writing)
    assert [process.stdout.readline() for process in writers] == ["ready\n"] * 2
    for process in writers:
        print(file=process.stdin, flush=True)
    with open(reading) as pipe:
        numbers = [json.loads(line)["n"] for line in pipe]
    assert sorted(numbers) == sorted([*range(1000)] * 2)
    assert [process.communicate()[0] for process in writers] == ["done\n"] * 2


@pytest.mark.parametrize("kind", ["closed from the start", "closed later", "without a reader"])
def test_lines_that_cannot_be_written_are_lost_and_nothing_else(kind):
    if kind == "closed from the start":
        process = writer(3, preexec_fn=lambda: os.close(2))
    elif kind == "closed later":
        process = writer(3, "later")
    else:
        reading, writing = os.pipe()
        os.close(reading)
        process = writer(3, stderr=writing)
        os.close(writing)
    assert process.communicate("\n")[0] == "ready\ndone\n"
    assert process.returncode == 0


def test_no_file_or_socket_is_taken_for_a_standard_stream_that_was_closed():
    code = "import os, proxy.observe; proxy.observe.configure_logging('text', 'info'); os._exit(os.open('.', 0))"
    closed = subprocess.run([sys.executable, "-c", code], preexec_fn=lambda: os.closerange(0, 3))
    assert closed.returncode > 2


def test_a_line_that_cannot_be_made_shows_nothing_of_its_arguments(capsys):
    configure_logging("json", "info")
    log.info("%d tokens", "planted")
    assert capsys.readouterr().err == ""
