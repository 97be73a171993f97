"""The form of log lines. The access log is tested where requests are: in live/ and routes/."""

import json
import logging

from proxy.observe import configure_logging


def test_text_log_lines_carry_their_fields(logs, capsys):
    configure_logging("text", "info")
    logging.getLogger("statecar.access").info(
        "request", extra={"fields": {"status": 200, "path": "/x", "odd": "a\nb=c"}}
    )
    assert capsys.readouterr().err.split(" ", 1)[1] == 'INFO request status=200 path=/x odd="a\\nb=c"\n'


def test_what_others_say_begins_no_log_line_of_its_own(logs, capsys):
    configure_logging("text", "info")
    logging.getLogger("statecar").warning("told: %s", "a\r\n2026 INFO forged\x1b[2J\x85\u2028ü\n")
    said = capsys.readouterr().err.split(" ", 1)[1]
    assert said == "WARNING told: a\\r\\n2026 INFO forged\\x1b[2J\\x85\\u2028ü\n"


def test_json_log_lines_are_one_object_each_with_trace_and_fields(logs, capsys):
    configure_logging("json", "info")
    try:
        raise KeyError("lost")
    except KeyError:
        logging.getLogger("statecar").exception("broken\nhere", extra={"fields": {"status": 500, "odd": object}})
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["logger"], line["message"], line["status"]) == (
        "error",
        "statecar",
        "broken\nhere",
        500,
    )
    assert "KeyError: 'lost'" in line["exception"]


def test_the_level_is_ours_and_others_speak_from_warning_on(logs, capsys):
    configure_logging("text", "debug")
    logging.getLogger("proxy.state").debug("ours")
    logging.getLogger("aiohttp").info("theirs")
    logging.getLogger("aiohttp").warning("their warning")
    configure_logging("text", "error")
    logging.getLogger("statecar").warning("our warning")
    logging.getLogger("statecar").error("our error")
    said = [line.split(" ", 2)[2] for line in capsys.readouterr().err.splitlines()]
    assert said == ["ours", "their warning", "our error"]


def test_of_uvicorn_only_what_an_operator_must_know_is_heard(logs, capsys):
    configure_logging("text", "info")
    uvicorn = logging.getLogger("uvicorn.error")
    uvicorn.info("Started server process [1]")
    uvicorn.info("Child process [7] died")
    uvicorn.warning("Unsupported upgrade request.")
    uvicorn.warning("No supported WebSocket library detected. Please …")
    uvicorn.warning("Invalid HTTP request received.")
    uvicorn.error("Traceback …\nasyncio.exceptions.CancelledError\n")
    said = [line.split(" ", 2)[2] for line in capsys.readouterr().err.splitlines()]
    assert said == ["Child process [7] died", "Invalid HTTP request received."]
