"""Which manners an upstream has: by its kind, by option, and by what it refused (wire §11, §12.2)."""

import json
from dataclasses import replace

import pytest

from proxy.errors import OVERFLOW, UpstreamError
from proxy.refusals import from_upstream
from proxy.settings import Settings
from proxy.translate.dialects import (
    PROFILES,
    Dialect,
    for_kind,
    kind_by_host,
    lesson_of,
    remedies,
    taught,
)

LOCAL = "http://localhost:8000/v1"


def dialect(kind="generic", **options):
    return for_kind(kind, Settings(upstream=LOCAL, **options))


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://openai.com/v1", "openai"),
        ("https://API.OpenAI.com/v1", "openai"),
        ("https://x.openai.azure.com/openai/v1", "azure"),
        ("https://x.azure.us/v1", "azure"),
        ("https://x.services.ai.azure.com/models", "azure"),
        ("https://api.deepseek.com/v1", "deepseek"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://api.mistral.ai/v1", "mistral"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "gemini"),
        ("https://europe-west1-aiplatform.googleapis.com/v1/projects/p/locations/l/endpoints/openapi", "gemini"),
        ("https://aiplatform.googleapis.com/v1", "gemini"),
        ("https://storage.googleapis.com/v1", None),
        ("https://openai.com.example/v1", None),
        ("https://myopenai.com/v1", None),
        (LOCAL, None),
        ("http+unix://%2Frun%2Fx.sock/v1", None),
    ],
)
def test_a_service_is_known_by_its_host(url, kind):
    assert kind_by_host(url) == kind


def test_every_kind_that_may_be_said_has_a_profile_under_its_name():
    kinds = set(Settings.__dataclass_fields__["upstream_kind"].type.__args__) - {"auto"}
    assert kinds == PROFILES.keys()
    assert all(for_kind(kind, Settings(upstream=LOCAL)).kind == kind for kind in kinds)


def kinds_that(has):
    return {kind for kind, profile in PROFILES.items() if has(profile)}


OPENAI = {"openai", "azure"}


@pytest.mark.parametrize(
    ("has", "kinds"),
    [
        (lambda d: d.openai_like, OPENAI),
        (lambda d: d.custom_tools, OPENAI),
        (lambda d: d.developer_role, OPENAI),
        (lambda d: d.max_tokens_field == "max_completion_tokens", OPENAI),
        (lambda d: d.system_messages == "keep", OPENAI),
        (lambda d: d.plain_stops, OPENAI | {"vllm"}),
        (lambda d: d.reasoning_replay == "never", OPENAI | {"mistral", "gemini"}),
        (lambda d: d.reasoning_replay == "always", set()),
        (lambda d: d.tool_call_ids == "mistral9", {"mistral"}),
        (lambda d: not d.stream_options, {"mistral"}),
        (lambda d: d.signed_calls, {"gemini"}),
        (lambda d: "reasoning" not in d.reasoning_fields, {"sglang", "llamacpp", "deepseek"}),
        (lambda d: "reasoning_content" not in d.reasoning_fields, {"ollama", "openrouter"}),
        (lambda d: not (d.strict_tools and d.parallel_tool_calls), set()),
    ],
)
def test_a_profile_says_what_is_known_of_its_kind(has, kinds):
    assert kinds_that(has) == kinds


@pytest.mark.parametrize("kind", sorted(PROFILES))
@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("max_tokens_field", "max_completion_tokens", "max_tokens_field"),
        ("max_tokens_field", "max_tokens", "max_tokens_field"),
        ("system_messages", "merge", "system_messages"),
        ("system_messages", "user", "system_messages"),
        ("reasoning_replay", "always", "reasoning_replay"),
        ("tool_call_ids", "mistral9", "tool_call_ids"),
        ("tool_call_ids", "any", "tool_call_ids"),
        ("repair_tool_history", True, "repair_tool_history"),
        ("unsupported_tools", "reject", "unsupported_tools"),
        ("send_stream_options", False, "stream_options"),
        ("parse_think_tags", True, "think_tags"),
    ],
)
def test_an_option_sets_its_field_and_no_other_whatever_the_kind(kind, option, value, field):
    usual = dialect(kind)
    assert dialect(kind, **{option: value}) == replace(usual, **{field: value})


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
    if option != "auto":
        assert dialect("ollama", reasoning_field=option).reasoning_fields == fields


def test_vendor_keys_are_those_of_the_option():
    assert dialect(vendor_keys=("a", "b")).vendor_keys == {"a", "b"}
    assert {"top_k", "chat_template_kwargs", "seed", "stop"} <= dialect().vendor_keys


def test_keys_that_are_left_out_are_not_in_a_body():
    body = {"model": "m", "reasoning_effort": "low", "messages": []}
    assert Dialect().trimmed(body) == body
    assert Dialect(left_out=frozenset({"reasoning_effort", "user"})).trimmed(body) == {"model": "m", "messages": []}


# -- remedies


ALL = replace(PROFILES["openai"], reasoning_replay="tool_turns")
"""Sends everything that somebody is known to refuse."""

MISTRAL = "Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9."
JINJA = (
    "Unable to generate parser for this template. Automatic parser generation failed: \n------------\n"
    "While executing CallExpression at line 85, column 32 in source:\n...first %}↵            "
    "{{- raise_exception('System message must be at the beginnin...\nError: Jinja Exception: "
    "System message must be at the beginning."
)
NO_DEVELOPER = {"developer_role": False}
MERGED = {"system_messages": "merge"}
CONTENT_ONLY, REASONING_ONLY = ("reasoning_content",), ("reasoning",)

REFUSALS = {
    "an older gateway": (400, {"message": "Unknown field: stream_options"}, {"stream_options": False}),
    "a param": (
        422,
        {"message": "Extra inputs are not permitted", "param": "stream_options"},
        {"stream_options": False},
    ),
    "Azure with data sources": (
        400,
        {"message": "Validation error at #/stream_options: Extra inputs are not permitted"},
        {"stream_options": False},
    ),
    "Groq, stream_options": (
        400,
        {"message": "property 'stream_options' is unsupported, did you mean 'stream'?"},
        {"stream_options": False},
    ),
    "a gateway that does not stream": (
        400,
        {"message": "The 'stream_options' parameter is only allowed when 'stream' is enabled."},
        {"stream_options": False},
    ),
    "what lies in it": (400, {"message": "include_usage is not supported"}, {"stream_options": False}),
    "Mistral, ids": (400, {"message": MISTRAL}, {"tool_call_ids": "mistral9"}),
    "DashScope": (
        400,
        {
            "message": "developer is not one of ['system', 'assistant', 'user', 'tool', 'function']"
            " - 'messages.[0].role'"
        },
        NO_DEVELOPER,
    ),
    "DeepSeek, role": (
        422,
        {
            "message": "Failed to deserialize the JSON body into the target type: messages[0].role: unknown variant"
            " `developer`, expected one of `system`, `user`, `assistant`, `tool` at line 1 column 74"
        },
        NO_DEVELOPER,
    ),
    "OpenAI, o1-mini": (
        400,
        {"message": "Unsupported value: 'messages[0].role' does not support 'developer' with this model."},
        NO_DEVELOPER,
    ),
    "a gateway": (
        400,
        {
            "message": "invalid parameter 'messages[0].role': invalid role 'developer', must be one of: system, user,"
            " assistant, tool"
        },
        NO_DEVELOPER,
    ),
    "Qwen's template, role": (
        400,
        {"message": "chat template rejected the request: Unexpected message role."},
        NO_DEVELOPER,
    ),
    "llama.cpp": (400, {"message": JINJA}, MERGED),
    "llama.cpp, plain": (500, {"message": "Jinja Exception: System message must be at the beginning."}, MERGED),
    "Mistral's template": (
        400,
        {
            "message": "After the optional system message, conversation roles must alternate"
            " user/assistant/user/assistant/..."
        },
        MERGED,
    ),
    "Mistral, order": (400, {"message": "Unexpected role 'system' after role 'assistant'"}, MERGED),
    "DeepSeek": (
        400,
        {"message": "The `reasoning_content` in the thinking mode must be passed back to the API."},
        {"reasoning_replay": "always", "reasoning_fields": CONTENT_ONLY},
    ),
    "Groq": (
        400,
        {
            "message": "'messages.1' : for 'role:assistant' the following must be satisfied[('messages.1' : property"
            " 'reasoning_content' is unsupported)]"
        },
        {"reasoning_fields": REASONING_ONLY},
    ),
    "Groq, other models": (
        400,
        {"message": "messages[2].reasoning: reasoning is not supported with this model"},
        {"reasoning_fields": CONTENT_ONLY},
    ),
    "Cerebras": (
        400,
        {
            "message": "messages.2.assistant.reasoning_content: property 'messages.2.assistant.reasoning_content' is"
            " unsupported"
        },
        {"reasoning_fields": REASONING_ONLY},
    ),
    "OpenAI, limit": (
        400,
        {
            "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use"
            " 'max_completion_tokens' instead.",
            "param": "max_tokens",
        },
        {"max_tokens_field": "max_completion_tokens"},
    ),
    "Azure": (
        400,
        {"message": "Unrecognized request argument supplied: parallel_tool_calls"},
        {"parallel_tool_calls": False},
    ),
    "Gemini": (
        400,
        {"message": 'Invalid JSON payload received. Unknown name "parallel_tool_calls": Cannot find field.'},
        {"parallel_tool_calls": False},
    ),
    "a strict gateway": (
        400,
        {"message": "tools.0.function.strict: Extra inputs are not permitted"},
        {"strict_tools": False},
    ),
    "OpenAI, custom": (
        400,
        {"message": "Invalid value: 'custom'. Supported values are: 'function'.", "param": "tools[0].type"},
        {"custom_tools": False},
    ),
    "a validator": (
        400,
        {"message": "'function' is a required property, expected an object - 'tools.7'"},
        {"custom_tools": False},
    ),
    "Foundry Local": (
        400,
        {"message": "Invalid request: [json.exception.out_of_range.403] key 'function' not found"},
        {"custom_tools": False},
    ),
    "FastAPI, type": (422, {"message": "body.tools.1.type: Input should be 'function'"}, {"custom_tools": False}),
    "FastAPI, function": (422, {"message": "body.tools.1.function: Field required"}, {"custom_tools": False}),
    "LiteLLM": (
        400,
        {
            "message": "litellm.UnsupportedParamsError: Anthropic doesn't support tool calling without `tools=` param"
            " specified. Pass `tools=` param OR set `litellm.modify_params = True`"
        },
        {"idle_tools": True},
    ),
    "Bedrock": (
        400,
        {"message": "The toolConfig field must be defined when using toolUse and toolResult content blocks."},
        {"idle_tools": True},
    ),
    "in words": (400, {"message": "Custom tools are not supported with this model."}, {"custom_tools": False}),
    "OpenAI, effort": (
        400,
        {"message": "Unrecognized request argument supplied: reasoning_effort"},
        {"left_out": frozenset({"reasoning_effort"})},
    ),
    "transformers serve": (
        422,
        {"message": "Unexpected fields in the request: {'verbosity', 'prompt_cache_key'}"},
        {"left_out": frozenset({"verbosity", "prompt_cache_key"})},
    ),
}


def cured_of(refusal, dialect):
    """With every remedy that there is."""
    for each in remedies(refusal, dialect, {}):
        dialect = each(dialect)
    return dialect


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_that_names_a_quirk_is_worth_one_more_try_for_each_thing_it_names_and_no_more(name):
    status, error, cured = REFUSALS[name]
    before = replace(ALL, max_tokens_field="max_tokens") if "max_tokens_field" in cured else ALL
    refusal = UpstreamError(**error, status=status)
    better = cured_of(refusal, before)
    assert better == replace(before, **cured)
    assert remedies(refusal, better, {}) == []


@pytest.mark.parametrize("name", REFUSALS)
def test_a_server_error_has_no_remedy_but_those_of_chat_templates(name):
    _, error, cured = REFUSALS[name]
    template = cured in (MERGED, NO_DEVELOPER)
    assert bool(remedies(UpstreamError(**error, status=500), ALL, {})) == template
    assert remedies(UpstreamError(**error, status=404), ALL, {}) == []


def test_a_limit_refused_under_its_new_name_is_sent_under_the_old_one():
    """Mistral's words (422) as they come."""
    body = {"detail": [{"loc": ["body", "max_completion_tokens"], "msg": "Extra inputs are not permitted"}]}
    refusal = from_upstream(body, 422)
    assert cured_of(refusal, ALL) == replace(ALL, max_tokens_field="max_tokens")


def test_everything_that_a_refusal_names_has_a_remedy_of_its_own():
    keys = ("stream_options", "parallel_tool_calls", "max_completion_tokens", "verbosity")
    body = {"detail": [{"loc": ["body", key], "msg": "Extra inputs are not permitted"} for key in keys]}
    assert [lesson_of(ALL, each(ALL)) for each in remedies(from_upstream(body, 422), ALL, {})] == [
        {"stream_options": False},
        {"max_tokens_field": "max_tokens"},
        {"parallel_tool_calls": False},
        {"left_out": ["verbosity"]},
    ]


def test_no_remedy_changes_two_things():
    """A caller whose words a refusal repeats could add a second one to what is really refused."""
    words = ["reasoning_content", "reasoning", "reasoning_effort", "verbosity", "service_tier", "safety_identifier"]
    refusal = UpstreamError("".join(f"Unknown field: {word}. " for word in words), status=400)
    changes = [each(ALL) for each in remedies(refusal, ALL, {})]
    assert [changed.reasoning_fields for changed in changes[:2]] == [REASONING_ONLY, CONTENT_ONLY]
    assert [changed.left_out for changed in changes[2:]] == [{word} for word in words[2:]]


def test_the_same_remedies_are_given_again():
    refusal = UpstreamError("Unknown fields: stream_options, verbosity", status=400)
    assert remedies(refusal, ALL, {}) == remedies(refusal, ALL, {})


@pytest.mark.parametrize(
    ("message", "value", "is_cured"),
    [
        ("The service_tier 'priority' is not allowed for this project.", "priority", False),
        ('service_tier "Priority" is not supported', "Priority", False),
        ("The service_tier 'priority' is not allowed for this project.", "flex", True),
        ("Unknown parameter: service_tier", "priority", True),
        ("[{'type': 'extra_forbidden', 'loc': ('body', 'service_tier'), 'input': 'auto'}]", "auto", True),
    ],
)
def test_a_hint_that_is_refused_for_its_value_is_for_its_caller_to_mend(message, value, is_cured):
    found = remedies(UpstreamError(message, status=400), ALL, {"service_tier": value})
    assert [each(ALL) for each in found] == [replace(ALL, left_out=frozenset({"service_tier"}))] * is_cured


def test_what_is_too_long_is_no_quirk_whatever_else_is_named():
    body = {"message": "This model's maximum context length is 9 tokens. Sent: unknown field reasoning"}
    refusal = from_upstream(body, 400)
    assert refusal.code == OVERFLOW
    assert remedies(refusal, ALL, {}) == []


@pytest.mark.parametrize(
    "message",
    [
        "no such model",
        "Invalid 'messages': stream_options talk",
        "Invalid schema for tool 'set_include_usage'",
        "messages must not be empty",
        "max_tokens=100000 cannot be greater than max_model_len=4096. Please request fewer output tokens."
        " (parameter=max_tokens, value=100000)",
        "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
        "max_tokens is too large: 100000. This model supports at most 4096 completion tokens.",
        "This model's maximum context length is 4096 tokens. However, your prompt contains at least 4097 input tokens",
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely.",
        "The tool specified in `tool_choice` does not match any of the specified `tools`",
        "Invalid value for 'parallel_tool_calls': 'parallel_tool_calls' is only allowed when 'tools' are specified.",
        "Unsupported value: 'reasoning_effort' does not support 'none' with this model. Supported values are:"
        " 'minimal', 'low', 'medium', and 'high'.",
        "Invalid schema for function 'f': In context=('properties', 'fields'), 'additionalProperties' is required to"
        " be supplied and to be false.",
        "Invalid schema for function 'f': In context=('properties', 'unsupported strict'), 'type' is missing",
        "Grammar error: Invalid type: nonsense",
        "tiny is not a multimodal model",
        "Requested sample logprobs of 500, which is greater than max allowed: 20 (parameter=logprobs, value=500)",
        "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
        "Invalid 'tools[0].function.name': string does not match pattern.",
    ],
)
def test_any_other_refusal_is_final(message):
    """Most of them as real servers were recorded."""
    for field in ("max_tokens", "max_completion_tokens"):
        assert remedies(UpstreamError(message, status=400), replace(ALL, max_tokens_field=field), {}) == []


# -- lessons


@pytest.mark.parametrize("name", REFUSALS)
def test_a_lesson_survives_the_store(name):
    status, error, _ = REFUSALS[name]
    before = replace(ALL, max_tokens_field="max_tokens")
    after = cured_of(UpstreamError(**error, status=status), before)
    lesson = json.loads(json.dumps(lesson_of(before, after)))
    assert lesson and taught(before, lesson) == after
    assert lesson_of(before, before) == {}


def test_a_lesson_does_not_freeze_the_options():
    lesson = lesson_of(Dialect(), Dialect(stream_options=False))
    assert taught(dialect(system_messages="user"), lesson) == dialect(system_messages="user", send_stream_options=False)


@pytest.mark.parametrize(
    "lesson",
    [
        {"of_a_later_version": True},
        {"kind": "openai"},
        {"vendor_keys": []},
        {"stream_options": "no"},
        {"tool_call_ids": False},
        {"left_out": "user"},
    ],
)
def test_what_another_version_has_learnt_and_this_one_cannot_use_is_passed_over(lesson):
    assert taught(Dialect(), lesson | {"developer_role": True}) == Dialect(developer_role=True)
