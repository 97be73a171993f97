"""What the doctor finds: of the demo backend, of one that lacks much, and where there is nothing to find."""

import asyncio
import json
import os

import pytest

from proxy import cli
from proxy.doctor import examine
from proxy.doctor.checks import CHECKS
from proxy.errors import UpstreamError, UpstreamUnreachable
from proxy.settings import Settings
from tests.backend import DONE, PATIENCE, chunk, completion, json_reply, serving, sse
from tests.mcp_servers import McpServer, Tool
from tests.searxng import SearXNG, page
from tests.servers import free_port


@pytest.fixture(autouse=True)
def no_options_from_outside(monkeypatch):
    for name in [name for name in os.environ if name.startswith("STATECAR_")]:
        monkeypatch.delenv(name)


def run(capsys, *argv):
    """(exit code, stdout, stderr) of the command."""
    with pytest.raises(SystemExit) as done:
        cli.main(("doctor", *argv))
    return done.value.code, *capsys.readouterr()


def test_the_demo_backend_can_do_nearly_everything(capsys):
    code, out, _ = run(capsys, "--upstream=demo", "--json")
    report = json.loads(out)
    assert (code, report["ok"]) == (0, True)
    assert (report["upstream"], report["kind"], report["model"]) == ("demo", "generic", "demo")
    verdicts = {row["name"]: row["verdict"] for row in report["rows"]}
    assert list(verdicts) == [check.name for check in CHECKS]
    assert {name for name, verdict in verdicts.items() if verdict != "ok"} == {"reasoning", "logprobs"}


def test_people_get_a_table(capsys):
    code, out, err = run(capsys, "--upstream=demo", "--model=demo")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[:3] == [
        "upstream  demo",
        "kind      generic (by the option)",
        "model     demo",
    ]
    assert "usage                   ok         2 in, 6 out" in lines
    assert lines[-1] == "statecar works with it."
    assert len(lines) == len(CHECKS) + 6


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--upstream=http://127.0.0.1:1/v1"], 1, "http://127.0.0.1:1/v1: The upstream is not reachable"),
        ([], 2, "no upstream: give --upstream"),
        (["--upstream=demo", "--modle=x"], 2, "--modle=x"),
        (["--upstream=http://127.0.0.1:1"], 2, "http://127.0.0.1:1/v1 meant?"),
    ],
)
def test_what_cannot_be_tried_is_one_line(capsys, argv, code, words):
    found, out, err = run(capsys, *argv)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert err.startswith("statecar: ") and words in err
    assert "(see " not in err or "(see statecar doctor --help)" in err


def test_the_doctor_has_help(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "--model" in out and "--json" in out


# -- a backend that lacks much

REFUSED = {
    "tools": (400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),
    "max_tokens": (400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
    "developer": (400, "developer is not one of ['system', 'user'] - 'messages.[0].role'"),
    "later": (500, "Jinja Exception: System message must be at the beginning."),
    "image_url": (400, "m is not a multimodal model"),
}


def quirk(body):
    roles = [message["role"] for message in body["messages"]]
    if "system" in roles[1:]:
        return "later"
    quirks = [name for name in ("tools", "max_tokens", "developer") if name in (*body, *roles)]
    return quirks[0] if quirks else "image_url" if "image_url" in json.dumps(body) else None


async def lacking(scope, receive, send):
    """Knows neither tools nor JSON, sends no usage, and its streams are one chunk."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    request = json.loads(body) if body else {}
    status, kind, answer = 404, b"application/json", b"{}"
    if request and (name := quirk(request)):
        status, answer = REFUSED[name][0], json.dumps({"error": {"message": REFUSED[name][1]}}).encode()
    elif request.get("stream"):
        status, kind, answer = 200, b"text/event-stream", sse(chunk({"content": "So so."}, "stop"), DONE)
    elif request:
        status, answer = 200, json.dumps(completion("So so.") | {"usage": None}).encode()
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": answer})


async def test_what_a_backend_lacks_is_told_one_by_one():
    async with serving(lacking) as url:
        report = await examine(Settings(upstream=f"{url}/v1"), "m")
    assert not report.ok
    found = {row.name: (row.verdict, row.why) for row in report.rows}
    limit = '; refused at first, then with {"max_tokens_field": "max_completion_tokens"}'
    no_tools = ("no", f"400: {REFUSED['tools'][1]}")
    no_json = ("ignored", f'no JSON: "So so."{limit}')
    assert found == {
        "text": ("ok", f'"So so."{limit}'),
        "stream": ("ignored", f"the text came in one piece{limit}"),
        "usage": ("no", f"none came{limit}"),
        "usage in streams": ("no", f"none came{limit}"),
        "max tokens": ("ignored", f"as max_completion_tokens{limit}"),
        "tools": no_tools,
        "tools in streams": no_tools,
        "a named tool": no_tools,
        "a required tool": no_tools,
        "parallel calls": no_tools,
        "one call at a time": no_tools,
        "JSON by a schema": no_json,
        "JSON": no_json,
        "reasoning": ("ignored", f"no thoughts came{limit}"),
        "logprobs": ("ignored", f"none came{limit}"),
        "images": ("no", "400: m is not a multimodal model"),
        "a later system message": ("no", "refused, but statecar can do without"),
        "the developer role": ("no", "refused, but statecar can do without"),
    }
    assert report.end.strip() == "statecar needs what it lacks: stream, usage, usage in streams."


async def test_what_is_configured_for_hosted_tools_is_tried():
    tools = McpServer(Tool("find", str), Tool("run", str))
    async with serving(lacking) as url, SearXNG({"*": [page("a")]}) as searxng, tools as server:
        settings = Settings(
            upstream=f"{url}/v1",
            upstream_kind="generic",
            connector=(f"lib={server.url}", f"off=http://127.0.0.1:{free_port()}/mcp"),
            web_search=f"searxng+{searxng.url}",
            file_search="mcp:lib/find",
            code_interpreter="mcp:lib/python",
        )
        report = await examine(settings, "m")
        assert server.calls == [], "nothing is run"
    assert [(row.name, row.verdict, row.why) for row in report.rows[len(CHECKS) :]] == [
        ("connector lib", "ok", "2 tools: find, run"),
        (
            "connector off",
            "no",
            "It could not be reached: the connection was refused, so nothing listens at that port.",
        ),
        ("web_search", "ok", "results for 'weather': 1"),
        ("file_search", "ok", "mcp:lib/find"),
        ("code_interpreter", "no", "lib lists no tool 'python'"),
    ]
    assert report.end.strip() == "statecar needs what it lacks: stream, usage, usage in streams."


# -- where there is nothing to find


@pytest.fixture
def settings(backend):
    return Settings(upstream=backend.url, upstream_kind="generic")


async def test_without_a_text_nothing_else_is_tried(backend, settings):
    backend.script(json_reply({"error": {"message": "The model `m` does not exist."}}, status=404))
    report = await examine(settings, "m")
    assert len(backend.requests) == 1
    assert (report.rows[0].verdict, report.rows[0].why) == ("no", "404: The model `m` does not exist.")
    assert {row.verdict for row in report.rows[1:]} == {"not tried"}
    assert not report.ok


async def test_an_answer_that_never_comes_is_given_up(backend, settings, monkeypatch):
    monkeypatch.setattr("proxy.doctor.examination.PATIENCE", 0.2)
    backend.script(asyncio.Event())
    report = await examine(settings, "m")
    assert report.rows[0].verdict == "no"
    assert "within 0.2 s" in report.rows[0].why


async def test_people_see_each_row_as_soon_as_it_is_found(backend, settings):
    backend.script(json_reply(completion("Hello.")))
    backend.script(asyncio.Event())
    lines = asyncio.Queue()
    examining = asyncio.create_task(examine(settings, "m", name="mine", tell=lines.put_nowait))
    async with asyncio.timeout(PATIENCE):
        assert (await lines.get()).splitlines()[0] == "upstream  mine"
        assert await lines.get() == 'text                    ok         "Hello."'
    assert not examining.done()
    examining.cancel()


async def test_what_an_upstream_says_cannot_command_a_terminal(backend, settings):
    evil = "\x1b]0;owned\x07\x9b2J\u202e"
    backend.script(json_reply({"data": [{"id": evil}]}))
    backend.script(json_reply({"error": {"message": f"No such model: {evil}"}}, status=404))
    lines = []
    report = await examine(settings, "", tell=lines.append)
    shown = r"\x1b]0;owned\x07\x9b2J\u202e"
    assert lines[0].splitlines()[2] == f"model     {shown}"
    assert lines[1].endswith(f"404: No such model: {shown}")
    assert report.model == evil
    backend.script(json_reply({"error": {"message": evil}}, status=401))
    with pytest.raises(UpstreamError) as caught:
        await examine(settings, "")
    assert shown in caught.value.message


async def test_an_empty_answer_is_no_text(backend, settings):
    backend.script(json_reply(completion("")))
    report = await examine(settings, "m")
    assert (report.rows[0].verdict, report.rows[0].why) == ("no", "the answer is empty")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (json_reply({"error": "Unauthorized"}, status=401), "answered 401: Unauthorized. Is --upstream-api-key right?"),
        (json_reply({"detail": "Not Found"}, status=404), "answered 404: Not Found. Is that the base URL, up to /v1?"),
        (json_reply({"data": []}), "The upstream lists no models: name one with --model."),
        (json_reply([]), "The upstream lists no models: name one with --model."),
    ],
)
async def test_a_model_must_be_found_or_named(backend, settings, answer, words):
    backend.script(answer)
    with pytest.raises(UpstreamError, match="model") as caught:
        await examine(settings, "")
    assert words in caught.value.message


async def test_the_key_is_sent_and_the_first_model_taken(backend):
    backend.script(json_reply({"data": [{"id": "first"}, {"id": "second"}]}))
    report = await examine(Settings(upstream=backend.url, upstream_api_key="sk-up", upstream_kind="generic"), "")
    assert report.model == "first"
    assert {request.json["model"] for request in backend.requests[1:]} == {"first"}
    assert {tuple(request.values("authorization")) for request in backend.requests} == {("Bearer sk-up",)}


async def test_no_upstream_is_no_report():
    with pytest.raises(UpstreamUnreachable):
        await examine(Settings(upstream="http://127.0.0.1:1/v1"), "")
