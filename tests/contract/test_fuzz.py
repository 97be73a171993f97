"""Every operation tried with requests of all kinds (``make fuzz`` tries more), and that each verdict can fall."""

import json
from contextlib import contextmanager, nullcontext

import httpx
import pytest

from proxy import sse
from proxy.translate.response import skeleton
from tests import mcp_servers
from tests.contract.document import operations
from tests.contract.fuzz import SERVER, Case, Fuzz, fuzz, own

pytestmark = pytest.mark.live


def test_no_request_finds_a_fault(start):
    with mcp_servers.sample() as notes:
        process = start(*SERVER, f"--connector=notes={notes}")
        report = fuzz(process.url(), cases=500, seed=1)
    assert not report.faults, "\n\n".join(report.faults.values())
    assert report.cases.keys() == {operation.name for operation in operations()}
    assert report.existing.total() * 2 > report.named.total()
    assert report.streams and report.foreign
    assert ", search_notes: completed in " in process.stderr


# -- the verdicts, on answers of a server that is none

HEADERS = {"content-type": "application/json", "x-request-id": "req_1"}
CONVERSATION = {"id": "conv_m", "object": "conversation", "created_at": 1, "metadata": {}}
GET = Case("GET", "/v1/conversations/@conv.mine.0")
CREATE = Case("POST", "/v1/responses", b"{}")


def error(message="No.", **more):
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None} | more}


def answer(status, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.Response(status, content=content, headers=HEADERS | headers)


class Ids:
    """Holdings that cost nothing."""

    def __init__(self, http):
        self.mine, self.send = self, http.send

    def filled(self, *texts, foreign=True):
        ids = {"@conv.mine.0": "conv_m", "@conv.foreign.0": "conv_f" if foreign else "conv_u"}
        for place, id_ in ids.items():
            texts = [text.replace(place, id_) for text in texts]
        return list(texts), ["conv_f", "conv_u"]


def named(name):
    return next(operation for operation in operations() if operation.name == name)


@contextmanager
def trying(respond):
    with httpx.Client(base_url="http://x", transport=httpx.MockTransport(respond)) as http:
        yield Fuzz(http, seed=1, shrink=True), Ids(http)


def judge(name, case, respond):
    with trying(respond) as (tried, ids):
        tried.judge(named(name), case, ids)


def test_a_promised_answer_passes():
    judge("getConversation", GET, lambda request: answer(200, CONVERSATION))
    judge("getConversation", GET, lambda request: answer(404, error()))
    foreign = Case("GET", "/v1/conversations/@conv.foreign.0")
    judge("getConversation", foreign, lambda request: answer(404, error(f"{request.url.path} not found")))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (answer(500, error()), "a 500"),
        (answer(418, error()), "not documented"),
        (answer(200, {"id": "conv_m"}), "required property"),
        (answer(200, CONVERSATION | {"more": 1}), "unexpected"),
        (answer(404, {"error": {"message": "No."}}), "required property"),
        (answer(404, {"detail": "No."}), "required property"),
        (answer(404, error("")), "non-empty|short"),
        (answer(200, CONVERSATION, **{"x-request-id": ""}), "x-request-id"),
        (answer(200, CONVERSATION, **{"content-type": "text/html"}), "text/html"),
    ],
)
def test_another_answer_is_a_fault(given, told):
    with pytest.raises(AssertionError, match=told):
        judge("getConversation", GET, lambda request: given)


def test_an_answer_that_is_no_json_is_a_fault():
    with pytest.raises(json.JSONDecodeError):
        judge("getConversation", GET, lambda request: answer(200, b"{"))


def test_a_foreign_id_that_is_told_from_a_missing_one_is_a_fault():
    case = Case("GET", "/v1/conversations/@conv.foreign.0")
    for differing in (error("Not yours: conv_f."), error(code="forbidden")):
        with pytest.raises(AssertionError):
            judge(
                "getConversation",
                case,
                lambda request, error_=differing: answer(404, error_ if "conv_f" in str(request.url) else error()),
            )
    with pytest.raises(AssertionError):
        judge("getConversation", case, lambda request: answer(404 if "conv_f" in str(request.url) else 400, error()))


@pytest.mark.parametrize(
    "body",
    [b"", b"data: [DONE]\n\n", b'event: response.created\ndata: {"type":"response.created"}\n\ndata: [DONE]\n\n'],
)
def test_a_stream_that_is_not_whole_is_a_fault(body):
    with pytest.raises((AssertionError, IndexError)):
        judge("createResponse", CREATE, lambda request: answer(200, body, **{"content-type": "text/event-stream"}))


END = {"type": "response.failed", "sequence_number": 7, "response": skeleton({"model": "m"}, "resp_1", 1)}
DELTA = {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "output_index": 0, "delta": "x"}


@pytest.mark.parametrize(
    ("events", "is_whole"),
    [
        ([], True),
        ([END], True),
        ([DELTA | {"sequence_number": 6}, END], True),
        ([DELTA | {"sequence_number": 5}, END], False),
        ([DELTA | {"sequence_number": 7}], False),
        ([END, DELTA | {"sequence_number": 8}], False),
        ([END | {"sequence_number": 0}], False),
    ],
)
def test_a_part_of_a_stream_may_begin_anywhere_and_must_be_whole_from_there(events, is_whole):
    body = b"".join([*map(sse.encode, events), sse.DONE])
    stream = answer(200, body, **{"content-type": "text/event-stream"})
    case = Case("GET", "/v1/responses/@conv.mine.0?stream=true&starting_after=4")
    with nullcontext() if is_whole else pytest.raises((AssertionError, IndexError)):
        judge("getResponse", case, lambda request: stream)


def test_an_answer_that_does_not_come_is_a_fault():
    def respond(request):
        raise httpx.ReadTimeout("nothing")

    with trying(respond) as (tried, ids), pytest.raises(httpx.ReadTimeout) as caught:
        tried._batch(own(named("getConversation")), named("getConversation"), ids, 1, 1)
    assert "Case(method='GET'" in caught.value.__notes__[0]


def test_a_fault_is_kept_with_its_smallest_example():
    def respond(request):
        if b"metadata" in request.content:
            return answer(500, error())
        return answer(200, CONVERSATION)

    operation = named("createConversation")
    with trying(respond) as (tried, ids), pytest.raises(AssertionError) as caught:
        tried._batch(own(operation), operation, ids, 200, 1)
    assert "body=b'{\"metadata\": {}}'" in caught.value.__notes__[0]
