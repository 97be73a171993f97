"""Which manners an upstream has: by its host, by option, and by what it refused (wire §11, §12.2)."""

from dataclasses import replace

import pytest

from proxy.errors import UpstreamError
from proxy.settings import Settings
from proxy.translate.dialects import Dialect, for_upstream, remedy


def dialect(url="http://localhost:8000/v1", **options):
    return for_upstream(url, Settings(upstream=url, **options))


@pytest.mark.parametrize(
    ("url", "openai"),
    [
        ("https://api.openai.com/v1", True),
        ("https://openai.com/v1", True),
        ("https://x.openai.azure.com/openai/v1", True),
        ("https://x.azure.us/v1", True),
        ("https://API.OpenAI.com/v1", True),
        ("https://openai.com.example/v1", False),
        ("https://myopenai.com/v1", False),
        ("http://localhost:8000/v1", False),
        ("http+unix://%2Frun%2Fx.sock/v1", False),
    ],
)
def test_openai_is_known_by_its_host(url, openai):
    found = dialect(url)
    assert (found.openai_like, found.plain_stops) == (openai, openai)
    assert found.max_tokens_field == ("max_completion_tokens" if openai else "max_tokens")
    assert found.reasoning_replay == ("never" if openai else "tool_turns")


def test_the_kind_may_be_said():
    assert dialect(upstream_kind="openai").openai_like
    assert not dialect("https://api.openai.com/v1", upstream_kind="generic").openai_like


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("max_tokens_field", "max_completion_tokens", "max_tokens_field"),
        ("system_messages", "keep", "system_messages"),
        ("reasoning_replay", "always", "reasoning_replay"),
        ("tool_call_ids", "mistral9", "tool_call_ids"),
        ("repair_tool_history", True, "repair_tool_history"),
        ("unsupported_tools", "reject", "unsupported_tools"),
        ("send_stream_options", False, "stream_options"),
        ("parse_think_tags", True, "think_tags"),
    ],
)
def test_an_option_sets_its_field_and_no_other(option, value, field):
    assert dialect(**{option: value}) == replace(dialect(), **{field: value})


@pytest.mark.parametrize(
    ("option", "fields"),
    [
        ("auto", ("reasoning_content", "reasoning")),
        ("both", ("reasoning_content", "reasoning")),
        ("reasoning", ("reasoning",)),
        ("reasoning_content", ("reasoning_content",)),
    ],
)
def test_reasoning_goes_back_under_the_names_of_the_option(option, fields):
    assert dialect(reasoning_field=option).reasoning_fields == fields


def test_vendor_keys_are_those_of_the_option():
    assert dialect(vendor_keys=("a", "b")).vendor_keys == {"a", "b"}
    assert {"top_k", "chat_template_kwargs", "seed", "stop"} <= dialect().vendor_keys


MISTRAL = "Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9."


@pytest.mark.parametrize(
    ("error", "cured"),
    [
        (UpstreamError("Unknown field: stream_options", status=400), {"stream_options": False}),
        (
            UpstreamError("Extra inputs are not permitted", status=422, param="stream_options"),
            {"stream_options": False},
        ),
        (UpstreamError("include_usage is not supported", status=400), {"stream_options": False}),
        (UpstreamError(MISTRAL, status=400), {"tool_call_ids": "mistral9"}),
    ],
)
def test_a_refusal_that_names_the_quirk_is_worth_one_more_try(error, cured):
    """Rows 47 and 48; a second one is not, as nothing would be different."""
    better = remedy(error, Dialect())
    assert better == replace(Dialect(), **cured)
    assert remedy(error, better) is None


@pytest.mark.parametrize(
    "error",
    [
        UpstreamError("no such model", status=404),
        UpstreamError("stream_options", status=500),
        UpstreamError("stream_options"),
        UpstreamError("messages must not be empty", status=400),
    ],
)
def test_any_other_refusal_is_final(error):
    assert remedy(error, Dialect()) is None
