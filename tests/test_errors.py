"""Backends' errors in every shape that was seen, as ours (wire §2.5), and the bodies of our own (wire §2.1)."""

import pytest

from proxy import errors
from proxy.errors import StatecarError, UpstreamError
from proxy.refusals import from_upstream, passed_on

INVALID, OVERFLOW = "invalid_request_error", "context_length_exceeded"
VLLM_OVERFLOW = (
    "This model's maximum context length is 4096 tokens. However, your prompt contains at least 4097 input tokens,"
    " which exceeds this limit even without any output tokens. Please reduce the length of the input prompt."
)
LLAMA_OVERFLOW = "request (18012 tokens) exceeds the available context size (4096 tokens), try increasing it"
MISTRAL = "Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9."


def shape(id_, status, payload, *expected):
    """``expected``: message, status, type, param, code."""
    return pytest.param(status, payload, expected, id=id_)


SHAPES = [
    shape(
        "vLLM",
        404,
        {"error": {"message": "The model `x` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}},
        *("The model `x` does not exist.", 404, INVALID, "model", None),
    ),
    shape(
        "vLLM, a wrong body",
        400,
        {"error": {"message": "1 validation error", "type": "Bad Request", "param": None, "code": 400}},
        *("1 validation error", 400, INVALID, None, None),
    ),
    shape(
        "vLLM, too long",
        400,
        {"error": {"message": VLLM_OVERFLOW, "type": "BadRequestError", "param": "input_tokens", "code": 400}},
        *(VLLM_OVERFLOW, 400, INVALID, "input_tokens", OVERFLOW),
    ),
    shape(
        "vLLM, within a stream",
        200,
        {"error": {"message": "Grammar error", "type": "BadRequestError", "param": None, "code": 400}},
        *("Grammar error", 400, INVALID, None, None),
    ),
    shape(
        "vLLM, no key: a string",
        401,
        {"error": "Unauthorized"},
        *("Unauthorized", 401, INVALID, None, None),
    ),
    shape("vLLM, an unknown path", 404, {"detail": "Not Found"}, *("Not Found", 404, INVALID, None, None)),
    shape(
        "old vLLM",
        400,
        {"object": "error", "message": "bad", "type": "BadRequestError", "param": None, "code": 400},
        *("bad", 400, INVALID, None, None),
    ),
    shape(
        "old vLLM, within a stream",
        200,
        {"object": "error", "message": "bad", "type": "BadRequestError", "param": None, "code": 40001},
        *("bad", 502, "server_error", None, None),
    ),
    shape(
        "llama.cpp",
        500,
        {"error": {"code": 500, "message": "Failed to parse input", "type": "server_error"}},
        *("Failed to parse input", 500, "server_error", None, None),
    ),
    shape(
        "llama.cpp, too long",
        400,
        {"error": {"code": 400, "message": LLAMA_OVERFLOW, "type": "exceed_context_size_error", "n_ctx": 4096}},
        *(LLAMA_OVERFLOW, 400, INVALID, None, OVERFLOW),
    ),
    shape(
        "llama.cpp, not found",
        404,
        {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}},
        *("File Not Found", 404, INVALID, None, None),
    ),
    shape(
        "llama.cpp, before September 2025: a text",
        200,
        {"error": "failed to decode"},
        *("failed to decode", 502, "server_error", None, None),
    ),
    shape(
        "transformers: plain text",
        500,
        "Internal Server Error",
        *("Internal Server Error", 500, "server_error", None, None),
    ),
    shape(
        "transformers: what is broken JSON",
        200,
        {"error": '{"error": "json parser could not parse'},
        *('{"error": "json parser could not parse', 502, "server_error", None, None),
    ),
    shape(
        "FastAPI, a list",
        422,
        {"detail": [{"loc": ["body", "messages", 0], "msg": "Field required", "type": "missing"}, "and more"]},
        *("body.messages.0: Field required; and more", 422, INVALID, None, None),
    ),
    shape(
        "transformers: unexpected fields",
        422,
        {"detail": "Unexpected fields in the request: {'foo'}"},
        *("Unexpected fields in the request: {'foo'}", 422, INVALID, None, None),
    ),
    shape(
        "Mistral, without a wrapper",
        400,
        {"object": "error", "message": MISTRAL, "type": "invalid_function_call", "code": "3280"},
        *(MISTRAL, 400, "invalid_function_call", None, "3280"),
    ),
    shape(
        "OpenAI",
        400,
        {"error": {"message": "no", "type": INVALID, "param": "tools", "code": "invalid_value"}},
        *("no", 400, INVALID, "tools", "invalid_value"),
    ),
    shape(
        "OpenAI, no quota",
        429,
        {"error": {"message": "pay", "type": "insufficient_quota", "param": None, "code": "insufficient_quota"}},
        *("pay", 429, "insufficient_quota", None, "insufficient_quota"),
    ),
    shape(
        "OpenAI, too fast",
        429,
        {"error": {"message": "slow", "type": "tokens", "param": None, "code": "rate_limit_exceeded"}},
        *("slow", 429, "tokens", None, "rate_limit_exceeded"),
    ),
    shape(
        "OpenAI, a wrong key",
        401,
        {"error": {"message": "key", "type": INVALID, "param": None, "code": "invalid_api_key"}},
        *("key", 401, INVALID, None, "invalid_api_key"),
    ),
    shape(
        "OpenRouter, within a stream",
        200,
        {"id": "gen-1", "error": {"code": 429, "message": "slow", "metadata": {"provider_name": "x"}}, "choices": []},
        *("slow", 429, "rate_limit_error", None, None),
    ),
    shape(
        "llama.cpp, an image for a text model",
        500,
        {"error": {"code": 500, "message": "image input is not supported - hint: …", "type": "server_error"}},
        *("image input is not supported - hint: …", 400, INVALID, None, None),
    ),
    shape(
        "a status as a text",
        200,
        {"error": {"code": "503", "message": "busy"}},
        *("busy", 503, "server_error", None, None),
    ),
    shape("a bare message", 403, {"message": "no entry"}, *("no entry", 403, INVALID, None, None)),
    shape("nothing", 502, "", *("The upstream answered 502 without a message.", 502, "server_error", None, None)),
    shape("null", 500, None, *("The upstream answered 500 without a message.", 500, "server_error", None, None)),
    shape("a list", 400, ["x"], *("The upstream answered 400 without a message.", 400, INVALID, None, None)),
    shape(
        "no text where texts belong",
        400,
        {"error": {"message": ["x"], "type": 5, "param": {"a": 1}, "code": {}}, "detail": [{"loc": 3}, 5]},
        *("3: ; 5", 400, INVALID, None, None),
    ),
    shape(
        "digits of another kind",
        200,
        {"error": {"message": "x", "code": "²²²"}},
        *("x", 502, "server_error", None, "²²²"),
    ),
]


@pytest.mark.parametrize(("status", "payload", "expected"), SHAPES)
def test_every_shape_of_a_backends_error_becomes_ours(status, payload, expected):
    error = from_upstream(payload, status)
    assert (error.message, error.status, error.type, error.param, error.code) == expected
    assert error.body() == {
        "error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    }


def test_a_long_message_is_cut():
    assert len(from_upstream("x" * 5000, 500).message) == 2000


def test_only_what_steers_retries_and_quotas_is_passed_on():
    """Wire §1.5."""
    headers = {"Retry-After": "7", "x-should-retry": "false", "X-RateLimit-Limit": "1", "openai-version": "1"}
    error = from_upstream("", 429, {**headers, "Content-Length": "5", "Set-Cookie": "a=b", "retry-after-ms": "70"})
    assert error.headers == {**{name.lower(): value for name, value in headers.items()}, "retry-after-ms": "70"}


@pytest.mark.parametrize(
    ("error", "status", "type_", "code"),
    [
        (StatecarError("x"), 500, "server_error", None),
        (errors.InvalidRequest("x"), 400, INVALID, None),
        (errors.Unauthorized("x"), 401, INVALID, "invalid_api_key"),
        (errors.NotFound("x"), 404, INVALID, None),
        (errors.MethodNotAllowed("x"), 405, INVALID, "method_not_supported"),
        (errors.TooLarge("x"), 413, INVALID, None),
        (errors.UpgradeRequired("x"), 426, INVALID, None),
        (errors.NotBuilt("x"), 501, "server_error", "not_implemented"),
        (errors.StoreUnavailable("x"), 503, "server_error", "store_unavailable"),
        (errors.LockLost("x"), 500, "server_error", None),
        (UpstreamError("x"), 502, "server_error", None),
        (errors.UpstreamUnreachable("x"), 502, "server_error", "upstream_unreachable"),
        (errors.UpstreamTimeout("x"), 504, "server_error", "upstream_timeout"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_every_error_has_its_status_and_a_whole_body(error, status, type_, code):
    assert error.status == status
    assert error.body() == {"error": {"message": "x", "type": type_, "param": None, "code": code}}
    assert str(error) == "x"


def test_a_store_that_is_down_asks_to_come_again():
    assert errors.StoreUnavailable().headers == {"retry-after": "1"}


def test_param_and_code_of_an_error_may_be_its_own():
    error = errors.InvalidRequest("x", param="input[1]", code="empty_string", headers={"a": "b"})
    assert (error.param, error.code, error.headers) == ("input[1]", "empty_string", {"a": "b"})


@pytest.mark.parametrize("value", ["日", "Zoë", "a\x7fb"])
def test_a_header_that_could_not_be_sent_is_left_out(value):
    assert passed_on({"openai-organization": value, "openai-version": "1"}) == {"openai-version": "1"}
