"""Every quirk of wire §12 through the whole proxy: what the client sees, and what the backend was asked.

Streamed with the server's kind known, where it is one of ours; plain with nothing known of the server.
"""

import re
from pathlib import Path

import pytest

from proxy.translate.dialects import PROFILES
from tests.callers import error_of, unframed
from tests.replay import valid
from tests.replay.quirks import fits, scripts
from tests.replay.recordings import SCRIPTS, load
from tests.translate.replies import brief

MODES = {"streamed": True, "plain": False}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("script", scripts(), ids=lambda script: script.name)
async def test_a_quirk_does_not_show(script, mode, house):
    stream = MODES[mode]
    manners = (f"--upstream-kind={script.dialect}",) if stream and script.dialect in PROFILES else ()
    home = await house(*manners, *script.options, alone=script.alone, prefix=script.prefix)
    last = None
    for turn in script.turns:
        last = await play(home, turn, stream, last)


async def play(home, turn, stream, before):
    """One turn of a script, everything checked; gives its response."""
    for answer in turn.answers[:-1]:
        home.backend.script(*answer)
    home.backend.default = turn.answers[-1]
    home.backend.requests.clear()
    request = {"model": "m", "input": "Hi", "stream": stream, **turn.request}
    if turn.continues:
        request["previous_response_id"] = before["id"]
    answer = await home.caller.http.post("/responses", json=request)
    check_asked(home.backend.requests, turn.expect)
    if "error" in turn.expect:
        check_error(answer, turn.expect["error"])
        return None
    if "failure" in turn.expect and not stream and not turn.expect.get("output"):
        assert error_of(answer)["message"] == turn.expect["failure"]["message"]
        return None
    assert answer.status_code == 200, answer.text
    return check_stream(answer, turn.expect) if stream else check_response(answer.json(), turn.expect)


def check_stream(answer, expect):
    if "done" in expect:
        assert answer.text.count("data: [DONE]") == expect["done"]
    events = unframed(answer.content, done=expect.get("done", True))
    last = valid.stream(events)
    if "events" in expect:
        assert [brief(event) for event in events] == expect["events"]
    return check_response(last, expect)


def check_response(response, expect):
    valid.response(response)
    assert response["status"] == expect["status"]
    assert fits(response["usage"], expect.get("usage", response["usage"]))
    assert fits(response["error"], expect.get("failure"))
    if "output" in expect:
        assert fits(
            [short(item) for item in response["output"]], [{"status": "completed"} | o for o in expect["output"]]
        )
    return response


def check_error(answer, expect):
    found = error_of(answer) | {"status": answer.status_code}
    assert fits(found, {"param": None, "code": None} | expect), found


def check_asked(requests, expect):
    """The request that was answered; of an error the first, as a second try may follow it."""
    request = requests[0] if "error" in expect else requests[-1]
    body = request.json
    assert request.target == "/v1/chat/completions"
    assert fits(body, expect.get("sent", {})), body
    assert not body.keys() & set(expect.get("absent", ()))
    assert sorted(body) == expect.get("keys", sorted(body))
    calls = [call["id"] for message in body["messages"] for call in message.get("tool_calls", ())]
    assert calls == [message["tool_call_id"] for message in body["messages"] if message["role"] == "tool"]


def short(item):
    """An item in the words of a script."""
    if item["type"] == "function_call":
        return {key: item[key] for key in ("type", "name", "arguments", "call_id", "status")}
    (part,) = item["content"]
    return {"type": item["type"], "status": item["status"], **{k: part[k] for k in ("text", "refusal") if k in part}}


def test_every_row_has_a_script():
    table = Path(__file__).parents[2] / "docs" / "reference" / "wire.md"
    rows = re.findall(r"^\| (\d+) \|", table.read_text("utf-8").partition("### 12.1")[2], re.MULTILINE)
    assert {script.row for script in scripts()} >= set(map(int, rows)) == set(range(1, 49))


def test_each_script_names_its_source():
    for script in scripts():
        kind, source = re.fullmatch("(recorded: |written from )(.+)", script.source).groups()
        assert kind == "written from " or load(source)


def test_names_are_not_used_twice():
    names = [script.name for script in scripts()]
    assert len(names) == len(set(names))
    assert {script.name.partition(", ")[2].partition(":")[0] for script in scripts()} == {
        path.stem for path in (SCRIPTS / "quirks").glob("*.json")
    }
