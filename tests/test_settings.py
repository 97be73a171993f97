"""Options: where they come from, what is refused, what is shown."""

import pickle
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from proxy.options import SettingsError, in_yaml
from proxy.settings import Settings, default_data_dir, options_reference
from proxy.values import redacted

FIELDS = {f.name: f for f in fields(Settings)}
SAMPLES = {
    "host": ("0.0.0.0", "::", "localhost"),
    "own_prefix": ("/a", "/b", "/c/d"),
    "upstream": ("http://a:1/v1", "https://b/v1", "http+unix://%2Frun%2Fc.sock/v1"),
    "session_header": ("x-a", "x-b", "x-c"),
    "upstreams": (
        '[{"replicas": ["http://a:1/v1"]}]',
        '[{"models": ["m*"], "replicas": ["http://b:1/v1", "http://b:2/v1"]}]',
        '[{"name": "c", "replicas": ["http://c:1/v1"]}]',
    ),
    "upstream_api_key": ("key-a", "key-b", "key-c"),
    "keys_file": ("/a", "b.yaml", "/c/d.json"),
    "jwt_issuer": ("https://a", "http://b:1/x", "plain", "https://d/?x=y"),
    "jwt_audience": ("a", "https://b", "*", "d"),
    "jwt_jwks": ("https://a/keys", "http://b:1/", "https://c/keys?x=y"),
    "jwt_algorithms": ("RS256", "ES256", "EdDSA", "PS512"),
    "principal": ("header:X-User", "claim:email", "claim:https://a/user"),
    "attribute": ("a=header:X-A", "b=claim:b.c", "c.d=claim:x", "d=header:D"),
    "tenant": ("off", "header:X-Team", "claim:org"),
    "tenant_secret": ("secret-a", "secret-b", "secret-c"),
    "mcp_allow": ("mcp.example.com", "*.example.com:8443", "*", "[::1]:9000"),
    "mcp_private": ("10.0.0.0/8", "fd00::/8", "127.0.0.1/32", "192.168.1.0/24"),
    "connector": ("a=https://a/mcp", "b=http://b:1/mcp?x=y", "c=sse+https://c/sse", "d=http://d/"),
    "connector_authorization": ("a=token-a", "b=token=b", "c=Basic c", "d=token-d"),
    "web_search": ("searxng+http://a:8080", "searxng+https://b/x/?language=de", "searxng+http://c"),
    "web_search_key": ("key-a", "key-b", "key-c"),
    "file_search": ("mcp:a/search", "mcp:a/b.c/d", "mcp:a/x"),
    "code_interpreter": ("mcp:a/run", "mcp:a/python", "mcp:a/x"),
    "store": ("memory://", "redis://r:6379/1", "unix:///run/r.sock"),
    "data_dir": ("/a", "/b", "/c"),
    "access_rules": (
        "[{permit: {actions: [read, delete], principal: ada}, when: user is owner}]",
        '[{"forbid": {"actions": "update", "resource": "response::*"}, "unless": ["user in owners teams"]}]',
        "[{permit: {actions: create}}, {forbid: {actions: [read]}, description: closed}]",
    ),
}

CONNECTOR = ["--connector", "a=http://a/mcp"]
TOKENS = ["--jwt-issuer=https://a", "--jwt-audience=a"]
NEEDED = {
    "access_rules": ["--principal=header:X-User", "--attribute=teams=header:X-Teams"],
    "file_search": CONNECTOR,
    "code_interpreter": CONNECTOR,
    "jwt_issuer": ["--jwt-audience=a", "--jwt-jwks=https://a/keys"],
    "jwt_audience": TOKENS[:1],
    "jwt_jwks": TOKENS,
    "jwt_scopes": TOKENS,
    "tenant": TOKENS,
    "principal": TOKENS,
    "attribute": TOKENS,
    "connector_authorization": ["--connector", ",".join(f"{name}=http://{name}/mcp" for name in "abcd")],
}
"""Flags without which an option is refused."""

UPSTREAMS = ("upstream", "upstreams")
"""One of them is needed, and no more."""


def samples(name):
    """Three texts for an option, and their values."""
    kind = FIELDS[name].type
    if parse := FIELDS[name].metadata["option"].parse:
        return SAMPLES[name], [parse(in_yaml(text)) for text in SAMPLES[name]]
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        texts = [choices[i % len(choices)] for i in range(3)]
        return texts, texts
    if kind is bool:
        return ["false", "on", "0"], [False, True, False]
    if kind in (int, float):
        return ["11", "12", "13"], [kind(11), kind(12), kind(13)]
    if get_origin(kind) is tuple:
        a, b, c, d = SAMPLES.get(name) or (letter * 16 for letter in "abcd")  # as long as a seal key must be
        return [a, f"{b},{c}", d], [(a,), (b, c), (d,)]
    texts = SAMPLES[name]
    return texts, [Path(text) if kind is Path else text for text in texts]


def flag(name, text):
    if FIELDS[name].type is bool:
        return [f"--{'no-' * (text in ('false', '0'))}{name.replace('_', '-')}"]
    return [f"--{name.replace('_', '-')}", text]


def resolve(argv=(), env=None, yaml=None, *, tmp_path=None):
    argv = list(argv)
    if yaml is not None:
        (tmp_path / "statecar.yaml").write_text(yaml)
        argv += ["--config", str(tmp_path / "statecar.yaml")]
    return Settings.resolve(argv, env or {})


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "config"])
def test_a_flag_wins_over_the_variable_the_variable_over_the_file_the_file_over_the_default(name, tmp_path):
    (in_file, in_env, in_flag), (file_value, env_value, flag_value) = samples(name)
    base = [] if name in UPSTREAMS else ["--upstream", "demo", *NEEDED.get(name, ())]
    env = {f"STATECAR_{name.upper()}": in_env}
    yaml = f"{name}: {in_file}\n"
    default = getattr(Settings(upstream="demo"), name)

    assert getattr(resolve(base + flag(name, in_flag), env, yaml, tmp_path=tmp_path), name) == flag_value
    assert getattr(resolve(base, env, yaml, tmp_path=tmp_path), name) == env_value
    assert getattr(resolve(base, {}, yaml, tmp_path=tmp_path), name) == file_value
    if name not in (*UPSTREAMS, "jwt_issuer", "jwt_audience"):  # what is needed with which no default will do
        assert getattr(resolve(base), name) == default
        assert (
            getattr(resolve(base, {f"STATECAR_{name.upper()}": ""}, f"{name}:\n", tmp_path=tmp_path), name) == default
        )


def test_the_file_may_be_named_by_its_variable(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("upstream: demo\nport: 1234\n")
    assert Settings.resolve([], {"STATECAR_CONFIG": str(path)}).port == 1234


WRONG_FLAGS = {
    ("--port", "x"): ["--port='x'", "whole number from 0 to 65535"],
    ("--port", "65536"): ["--port='65536'", "from 0 to 65535"],
    ("--port", "1.5"): ["--port='1.5'"],
    ("--workers", "0"): ["--workers='0'", "1 or more"],
    ("--response-ttl", "-1"): ["--response-ttl='-1'", "0 or more"],
    ("--upstream-idle-timeout", "0"): ["--upstream-idle-timeout='0'"],
    ("--sse-keepalive-seconds", "nan"): ["'nan'", "number of 0 or more"],
    ("--sse-keepalive-seconds", "inf"): ["'inf'"],
    ("--log-format", "xml"): ["--log-format='xml'", "json, text"],
    ("--host", "http://x"): ["--host='http://x'"],
    ("--host", ""): ["--host=''"],
    ("--own-prefix", "x"): ["--own-prefix='x'", "starts with /"],
    ("--own-prefix", "/x/"): ["--own-prefix='/x/'"],
    ("--tenant", "header:"): ["--tenant='header:'", "header:NAME"],
    ("--tenant", "header:a b"): ["--tenant='header:a b'"],
    ("--tenant", "claim:org"): ["--tenant: needs tokens", "(--jwt-issuer URL)"],
    ("--principal", "X-User"): ["--principal='X-User'", "header:NAME"],
    ("--principal", "claim:sub"): ["--principal: needs tokens"],
    ("--attribute", "teams=X-Teams"): ["--attribute=['teams=X-Teams']", "teams=claim:groups"],
    ("--attribute", "a=header:A"): ["--attribute: says something of users", "--principal HOW"],
    ("--attribute", "a=claim:a"): ["--attribute: needs tokens"],
    ("--attribute", "a=header:A,a=header:B", "--principal", "header:U"): ["--attribute: 'a' is named twice"],
    ("--access-rules", "[{permit: {actions: read}}]"): ["--access-rules: speak of users", "--principal HOW"],
    ("--access-rules", "[{permit: {actions: reed}}]"): ["--access-rules: [0].permit.actions: ", "not 'reed'"],
    (
        *("--access-rules", "[{permit: {actions: read}, when: user in owners team}]"),
        *("--principal", "header:U", "--attribute", "teams=header:T"),
    ): ["--access-rules: 'team' is no attribute of users; there are teams", "--attribute NAME=HOW"],
    ("--jwt-audience", "a"): ["--jwt-audience: needs tokens"],
    ("--jwt-scopes",): ["--jwt-scopes: needs tokens"],
    ("--jwt-issuer", "https://a"): ["--jwt-issuer: needs --jwt-audience"],
    ("--jwt-issuer", "https://u:hush@a"): ["--jwt-issuer=", "u:***@a", "without a password"],
    ("--jwt-issuer", "ftp://a"): ["--jwt-issuer=['ftp://a']", "https://login.example.com/realms/main"],
    ("--jwt-issuer", "a", "--jwt-audience", "a"): ["--jwt-issuer='a'", "--jwt-jwks must say"],
    ("--jwt-jwks", "keys.json"): ["--jwt-jwks='keys.json'", "https://login.example.com/keys"],
    ("--jwt-algorithms", "HS256"): ["--jwt-algorithms=['HS256']", "a shared secret are never accepted"],
    ("--jwt-algorithms", "none"): ["--jwt-algorithms=['none']", "RS256"],
    ("--store", "mysql://h"): ["--store='mysql://h'", "redis://localhost:6379/0"],
    ("--store", "redis://"): ["--store='redis://'"],
    ("--store", "unix://"): ["--store='unix://'"],
    ("--store", "redis://h:port"): ["--store='redis://h:port'"],
    ("--store", "redis+sentinel://a,b"): [
        "--store='redis+sentinel://a,b'",
        "redis+sentinel://a:26379,b:26379/mymaster/0",
    ],
    ("--store", "rediss+sentinel://a,/m"): ["rediss+sentinel://a:26379,b:26379/mymaster/0"],
    ("--upstream", "localhost:8000"): ["--upstream='localhost:8000'", "http://localhost:8000/v1"],
    ("--upstream", "http://h:8000"): ["--upstream='http://h:8000'", "http://h:8000/v1 meant?"],
    ("--upstream", "http://h/v1?x=1"): ["--upstream='http://h/v1?x=1'"],
    ("--upstream", "http+unix://run/x.sock/v1"): ["percent-encoded"],
    ("--upstream", "http+unix:///run/x.sock/v1"): ["percent-encoded"],
    ("--upstream", ""): ["--upstream=''", "base URL"],
    ("--api-key", ""): ["--api-key:", "not empty"],
    ("--api-key", "@/does/not/exist"): ["--api-key:", "cannot read /does/not/exist"],
    ("--web-search", "google"): [
        "--web-search='google'",
        "searxng+http://HOST:PORT, brave, tavily, or mcp:CONNECTOR/TOOL",
    ],
    ("--web-search", "searxng"): ["--web-search='searxng'", "searxng+http://HOST:PORT"],
    ("--web-search", "searxng+ftp://h"): ["--web-search='searxng+ftp://h'"],
    ("--web-search", "searxng+http://user:pw@h:x"): ["user:***@h:x"],
    ("--web-search", "brave+http://h?x=1"): ["the base URL of brave has no query"],
    ("--web-search", "brave"): ["--web-search='brave'", "--web-search-key"],
    ("--web-search", "tavily+http://h"): ["--web-search='tavily+http://h'", "--web-search-key"],
    ("--web-search", "mcp:a/search"): ["'a' is no connector", "there are none (--connector NAME=URL)"],
    ("--file-search", "mcp:a"): ["--file-search='mcp:a'", "mcp:CONNECTOR/TOOL"],
    ("--file-search", "mcp:b/x", "--connector", "a=http://a/mcp"): ["'b' is no connector; there are a"],
    ("--code-interpreter", "python"): ["--code-interpreter='python'", "mcp:CONNECTOR/TOOL"],
    ("--seal-key", "fifteen letters"): ["--seal-key:", "16 characters"],
    ("--mcp-allow", "https://a"): ["--mcp-allow=['https://a']", "*.NAME"],
    ("--mcp-allow", "a.*"): ["--mcp-allow=['a.*']"],
    ("--mcp-allow", "a:0"): ["--mcp-allow=['a:0']"],
    ("--mcp-allow", "127.1"): ["--mcp-allow=['127.1']"],
    ("--mcp-allow", "1::2::3"): ["--mcp-allow=['1::2::3']"],
    ("--mcp-private", "10.0.0.1/8"): ["--mcp-private=['10.0.0.1/8']", "as 10.0.0.0/8"],
    ("--connector", "https://a/mcp"): ["--connector=['https://a/mcp']", "NAME=URL"],
    ("--connector", "a b=https://a/mcp"): ["letters, digits"],
    ("--connector", "a=ftp://a"): ["NAME=URL"],
    ("--connector", "a=https://u:p@a/mcp"): ["connector_authorization"],
    ("--connector", "a=http://a/1", "--connector", "a=http://a/2"): ["--connector: 'a' is named twice"],
    ("--connector-authorization", "token"): ["--connector-authorization:", "NAME=TOKEN"],
    ("--connector-authorization", "b=x", "--connector", "a=http://a"): ["a name is no connector; there are a"],
    ("--data-dir", ""): ["--data-dir=''", "directory"],
    ("--nonsense", "1"): ["--nonsense"],
    ("--por", "1"): ["--por"],
    ("stray",): ["stray"],
    ("--config", "/does/not/exist.yaml"): ["--config='/does/not/exist.yaml'", "No such file"],
}


@pytest.mark.parametrize("argv", WRONG_FLAGS, ids=" ".join)
def test_a_wrong_flag_is_one_line_that_names_option_value_and_what_is_right(argv):
    with pytest.raises(SettingsError) as caught:
        Settings.resolve(["--upstream", "demo", *argv], {})
    line = str(caught.value)
    assert "\n" not in line
    for words in WRONG_FLAGS[argv]:
        assert words in line


WRONG_FILES = {
    "prot: 1": ["no such option: prot", "is port meant?"],
    "upstream-api-key: x": ["upstream-api-key", "is upstream_api_key meant?"],
    "config: other.yaml": ["no such option: config"],
    "port: [1, 2]": ["port in ", "must be one value"],
    "port: many": ["port in ", "'many'", "whole number"],
    "access_log: maybe": ["access_log in ", "'maybe'", "true or false"],
    "vendor_keys: {a: b}": ["vendor_keys in ", "list of texts"],
    "- port": ["must be a mapping"],
    "port: [": ["no YAML"],
    "port: 1\nworkers: 2\nport: 3": ["the same name twice in one mapping: again in line 3"],
    "upstreams: [{replicas: [http://a/v1],\n replicas: [http://b/v1]}]": ["again in line 2"],
}


@pytest.mark.parametrize("yaml", WRONG_FILES)
def test_a_wrong_file_is_one_line_that_names_file_and_option(yaml, tmp_path):
    with pytest.raises(SettingsError) as caught:
        resolve(["--upstream", "demo"], {}, yaml, tmp_path=tmp_path)
    line = str(caught.value)
    assert "\n" not in line
    assert "statecar.yaml" in line
    for words in WRONG_FILES[yaml]:
        assert words in line


def test_a_wrong_variable_is_named_as_such():
    with pytest.raises(SettingsError, match="^STATECAR_GRACE='soon': must be a whole number of 0 or more$"):
        Settings.resolve(["--upstream", "demo"], {"STATECAR_GRACE": "soon"})


def test_a_missing_upstream_says_how_to_give_one():
    with pytest.raises(SettingsError, match="--upstream or STATECAR_UPSTREAM"):
        Settings.resolve([], {})


def test_yaml_words_and_digits_stay_what_was_written(tmp_path):
    settings = resolve([], {}, "upstream: demo\ntenant: off\nupstream_api_key: 0123\nworkers: 2\n", tmp_path=tmp_path)
    assert (settings.tenant, settings.upstream_api_key, settings.workers) == ("off", "0123", 2)


@pytest.mark.parametrize(("text", "meant"), [("off", "off"), ("false", "off"), ("on", "on"), ("true", "on")])
def test_a_switch_may_have_become_a_boolean_on_its_way(text, meant):
    assert resolve(["--upstream=demo", f"--websocket={text}"]).websocket == meant


def test_keys_come_one_a_flag_in_a_comma_list_a_yaml_list_or_a_file(tmp_path):
    (tmp_path / "keys").write_text("f1\n\n  f2  \n")
    upstream = ["--upstream", "demo"]
    assert resolve([*upstream, "--api-key", "a", "--api-key", "b"]).api_key == ("a", "b")
    assert resolve(upstream, {"STATECAR_API_KEY": "a, b,"}).api_key == ("a", "b")
    assert resolve(upstream, {}, "api_key: [a, 'b']", tmp_path=tmp_path).api_key == ("a", "b")
    assert resolve([*upstream, "--api-key", f"@{tmp_path}/keys"]).api_key == ("f1", "f2")
    assert resolve([*upstream, "--api-key", "a"], {"STATECAR_API_KEY": f"file:{tmp_path}/keys"}).api_key == ("a",)


def test_a_key_file_without_a_key_opens_no_door(tmp_path):
    (tmp_path / "keys").write_text("\n\n")
    with pytest.raises(SettingsError, match="not empty"):
        resolve(["--upstream", "demo", "--api-key", f"@{tmp_path}/keys"])


def test_a_single_secret_may_lie_in_a_file_of_one_line(tmp_path):
    (tmp_path / "key").write_text("sk-1\n")
    assert resolve(["--upstream", "demo", "--upstream-api-key", f"@{tmp_path}/key"]).upstream_api_key == "sk-1"
    (tmp_path / "key").write_text("sk-1\nsk-2\n")
    with pytest.raises(SettingsError, match="must be one key"):
        resolve(["--upstream", "demo", "--upstream-api-key", f"@{tmp_path}/key"])


@pytest.mark.parametrize("name", ["upstream_api_key", "tenant_secret", "api_key", "seal_key"])
def test_what_surrounds_a_secret_is_no_part_of_it(tmp_path, name):
    key = "sixteen characters or more"
    (tmp_path / "key").write_text(f"{key}\n")
    flag, demo = f"--{name.replace('_', '-')}", ["--upstream", "demo"]
    given = [resolve(demo, {f"STATECAR_{name.upper()}": f" {key}\n"}), resolve([*demo, flag, f"@{tmp_path}/key\n"])]
    assert [getattr(settings, name) for settings in given] == [getattr(resolve([*demo, flag, key]), name)] * 2
    with pytest.raises(SettingsError, match="without line breaks"):
        resolve([*demo, flag, "sixteen characters\nor more"])


def test_a_list_may_be_emptied():
    assert resolve(["--upstream", "demo", "--vendor-keys", ""]).vendor_keys == ()


def test_the_port_that_kubernetes_announces_for_a_service_named_statecar_is_not_ours():
    assert resolve(["--upstream", "demo"], {"STATECAR_PORT": "tcp://10.0.0.1:80"}).port == 8080


def test_the_upstream_loses_a_slash_at_its_end():
    assert resolve(["--upstream", "http://h/v1/"]).upstream == "http://h/v1"


def test_secrets_are_shown_by_neither_repr_nor_errors_nor_help(capsys):
    given = {"upstream_api_key": "hush-1", "api_key": ("hush-2",), "tenant_secret": "hush-3"}
    store = "redis+sentinel://me:hush-5@a,b/m?sentinel_password=hush-6&ssl_ca_certs=x"
    settings = Settings(upstream="http://me:hush-4@h/v1", store=store, **given)
    assert "hush" not in repr(settings)
    assert "http://me:***@h/v1" in repr(settings)
    assert "redis+sentinel://me:***@a,b/m?sentinel_password=***&ssl_ca_certs=x" in repr(settings)
    for argv in (["--store", "mysql://u:hush@h"], ["--upstream-api-key", "@/hu/sh"]):
        with pytest.raises(SettingsError) as caught:
            resolve(["--upstream", "demo", *argv])
        assert "hush" not in str(caught.value)
    with pytest.raises(SystemExit):
        Settings.resolve(["--help"], {f"STATECAR_{name.upper()}": "hush" for name in given})
    assert "hush" not in capsys.readouterr().out


def test_redacting_leaves_a_url_without_password_alone():
    for url in ("redis://r:6379/0", "http://h:1/v1", "demo", "unix:///a@b:c", "redis://user@r:6379"):
        assert redacted(url) == url
    assert redacted("redis://:p:w@r:6379/0") == "redis://:***@r:6379/0"


def test_help_names_every_flag_variable_and_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as done:
        Settings.resolve(["--help"], {})
    assert done.value.code == 0
    text = capsys.readouterr().out
    for name in FIELDS:
        assert re.search(rf"--{name.replace('_', '-')}\b", text)
        assert f"[STATECAR_{name.upper()}, " in text
    for shown in (
        "default 8080",
        "default embedded",
        "default 0]",
        "default 600",
        "default true",
        "none]",
    ):
        assert shown in text


def test_the_table_has_a_row_for_every_option():
    rows = [line for line in options_reference().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [f"--{name.replace('_', '-')}" for name in FIELDS]
    assert [row.split("`")[3] for row in rows] == [f"STATECAR_{name.upper()}" for name in FIELDS]
    assert all(row.replace("\\|", "").count("|") == 5 for row in rows)


def test_settings_travel_to_workers():
    settings = replace(Settings(upstream="demo", api_key=("k",)), store="unix:///run/x.sock")
    copy = pickle.loads(pickle.dumps(settings))
    assert copy == settings
    assert copy.api_key == ("k",)


def test_data_lies_where_this_users_programs_keep_theirs(monkeypatch):
    monkeypatch.setattr("proxy.settings.sys.platform", "linux")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_data_dir() == Path("/home/me/.local/share/statecar")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_data_dir() == Path("/data/statecar")
    monkeypatch.setattr("proxy.settings.sys.platform", "darwin")
    assert default_data_dir() == Path("/home/me/Library/Application Support/statecar")
