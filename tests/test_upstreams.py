"""The option that describes groups of upstreams: what it holds, and what is refused, with where and what is right."""

import pickle

import pytest

from proxy.options import SettingsError, in_yaml
from proxy.settings import Settings
from proxy.upstreams import Fallback, Group, Replica, groups

WHOLE = """
- name: chat
  models: ["qwen3*", "llama-?"]
  aliases: {gpt-4o: qwen3-32b}
  replicas:
    - http://vllm-0:8000/v1/
    - {url: "http://vllm-1:8000/v1", api_key: "own", headers: {X-Team: b}, max_requests: 7, idle_timeout: 9}
  api_key: "@%s"
  headers: {x-team: a, x-more: c}
  kind: vllm
  connect_timeout: 0.5
  first_byte_timeout: 60
  idle_timeout: 30
  max_requests: 8
  health_path: /health
  fallbacks: [small, {group: "*", model: tiny}]
- {name: small, models: small, replicas: [http://small/v1]}
- replicas: ["https://api.example.com/v1"]
"""


def test_a_group_gives_its_replicas_what_they_have_not_of_their_own(tmp_path):
    (tmp_path / "key").write_text("shared\n")
    chat, small, rest = groups(in_yaml(WHOLE % (tmp_path / "key")))
    shared = {"connect_timeout": 0.5, "first_byte_timeout": 60.0, "health_path": "/health"}
    assert chat == Group(
        name="chat",
        models=("qwen3*", "llama-?"),
        aliases=(("gpt-4o", "qwen3-32b"),),
        replicas=(
            Replica(
                "http://vllm-0:8000/v1",
                api_key="shared",
                headers=(("x-team", "a"), ("x-more", "c")),
                idle_timeout=30.0,
                max_requests=8,
                **shared,
            ),
            Replica(
                "http://vllm-1:8000/v1",
                api_key="own",
                headers=(("X-Team", "b"), ("x-more", "c")),
                idle_timeout=9.0,
                max_requests=7,
                **shared,
            ),
        ),
        kind="vllm",
        fallbacks=(Fallback("small"), Fallback("*", "tiny")),
    )
    assert small == Group(name="small", models=("small",), replicas=(Replica("http://small/v1"),))
    assert rest == Group(name="*", replicas=(Replica("https://api.example.com/v1"),))


def test_no_key_is_shown():
    settings = Settings.resolve(
        ["--upstreams=[{replicas: [{url: http://a/v1, api_key: hush, headers: {x: hush}}]}]"], {}
    )
    assert "hush" not in repr(settings)
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("{}", ["must be a list of groups"]),
        ("[]", ["must be a list of groups"]),
        ("[a]", ["upstreams[0]: must be a mapping", "replicas"]),
        ("[{replica: [http://a/v1]}]", ["upstreams[0]: no such key: replica; is replicas meant?"]),
        ("[{models: [a]}]", ["upstreams[0].replicas: must be a list", "at least one"]),
        ("[{replicas: http://a/v1}]", ["upstreams[0].replicas: must be a list"]),
        ("[{replicas: [http://a/v1, demo]}]", ["upstreams[0].replicas[1]='demo'", "must be the base URL"]),
        ("[{replicas: ['http://a:1']}]", ["upstreams[0].replicas[0]='http://a:1'", "is http://a:1/v1 meant?"]),
        ("[{replicas: [http://a/v1, http://a/v1/]}]", ["upstreams[0].replicas: http://a/v1 is there twice"]),
        ("[{replicas: [{uri: http://a/v1}]}]", ["upstreams[0].replicas[0]: no such key: uri; is url meant?"]),
        ("[{replicas: [http://a/v1]}, {replicas: [http://b/v1]}]", ["upstreams[1].name: there are two groups '*'"]),
        (
            "[{replicas: [http://a/v1]}, {name: b, models: [c], replicas: [http://b/v1]}]",
            ["upstreams[1]: is never asked, as '*' before it serves every model", "put it before that one"],
        ),
        ("[{replicas: [http://a/v1], kind: vlm}]", ["upstreams[0].kind='vlm': must be one of auto, vllm"]),
        ("[{replicas: [http://a/v1], models: {a: b}}]", ["upstreams[0].models: must be a list of shell patterns"]),
        ("[{replicas: [http://a/v1], aliases: [a]}]", ["upstreams[0].aliases: must map"]),
        ("[{replicas: [http://a/v1], aliases: {a: [b]}}]", ["upstreams[0].aliases.a: must be a text"]),
        ("[{replicas: [http://a/v1], fallbacks: [b]}]", ["upstreams[0].fallbacks[0]: 'b' is no other group", "none"]),
        ("[{replicas: [http://a/v1], name: a, fallbacks: [a]}]", ["'a' is no other group"]),
        ("[{replicas: [http://a/v1], fallbacks: [{model: b}]}]", ["upstreams[0].fallbacks[0].group: must be a text"]),
        ("[{replicas: [http://a/v1], idle_timeout: 0}]", ["upstreams[0].idle_timeout='0'", "number of seconds"]),
        ("[{replicas: [http://a/v1], idle_timeout: nan}]", ["upstreams[0].idle_timeout='nan'"]),
        ("[{replicas: [http://a/v1], max_requests: -1}]", ["upstreams[0].max_requests='-1'", "whole number"]),
        ("[{replicas: [http://a/v1], health_path: health}]", ["upstreams[0].health_path='health'", "must be a path"]),
        ("[{replicas: [http://a/v1], headers: {authorization: x}}]", ["headers.authorization", "give api_key"]),
        ("[{replicas: [http://a/v1], headers: {'a b': x}}]", ["'a b' is no name of a header"]),
        ('[{replicas: [http://a/v1], headers: {a: "b\\nc"}}]', ["headers.a: must be one line"]),
        ("[{replicas: [http://a/v1], api_key: '@/does/not/exist'}]", ["upstreams[0].api_key: cannot read"]),
        ("[{replicas: [http://a/v1], api_key: [a]}]", ["upstreams[0].api_key: must be one key"]),
        ("[", ["no YAML"]),
    ],
)
def test_what_is_wrong_is_named_with_its_place(given, told):
    with pytest.raises(SettingsError) as error:
        Settings.resolve(["--upstreams", given], {})
    assert str(error.value).startswith("--upstreams: ")
    assert "\n" not in str(error.value)
    for text in told:
        assert text in str(error.value)


@pytest.mark.parametrize("given", [["--upstream=demo", "--upstreams=[{replicas: [http://a/v1]}]"], []])
def test_one_of_both_options_is_needed(given):
    with pytest.raises(SettingsError, match="--upstream"):
        Settings.resolve(given, {})
