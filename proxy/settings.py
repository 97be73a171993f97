"""Every option, once: a field gives the flag, the variable, the YAML key, the type, the default and the help.

A value comes from the first place that has one: flag, ``STATECAR_*`` variable, ``--config`` file, default. All three
places hold text that is read by the same rules. An error is one line that names the option, its value and what is right.
"""
# ruff: noqa: E501  one line is one option

import argparse
import difflib
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

from proxy import options, rules, values
from proxy.options import SettingsError
from proxy.options import option as _option
from proxy.rules import Rules
from proxy.upstreams import Group, Kind, groups
from proxy.values import DEMO, EMBEDDED

_VENDOR_KEYS = (
    "chat_template_kwargs,top_k,min_p,repetition_penalty,seed,stop,guided_json,guided_regex,guided_choice,"
    "guided_grammar,structured_outputs,thinking,provider,skip_special_tokens"
)


def default_data_dir() -> Path:
    """Where this user's programs keep data: ``$XDG_DATA_HOME`` or the platform's place, ``statecar`` below it."""
    try:
        home = Path.home()
    except RuntimeError:  # a container's numeric user without a home
        return Path("/var/lib/statecar")
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "statecar"
    return Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "statecar"


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """Resolved once at start, immutable, picklable. Times are seconds, sizes bytes; an empty text is "not given"."""

    # fmt: off
    host: str = _option("127.0.0.1", "serving", "address to listen on", check=values.host, metavar="HOST")
    port: int = _option(8080, "serving", "port to listen on; 0 takes a free one", high=65535)
    workers: int = _option(1, "serving", "processes that serve", low=1)
    config: str = _option("", "serving", "YAML file with any of these options, underscores for dashes", metavar="FILE")
    own_prefix: str = _option("", "serving", "path in front of our own /health, /ready, /metrics and /openapi.json, when the upstream's are wanted", check=values.own_prefix, metavar="PATH")
    body_limit: int = _option(64 * 1024 * 1024, "serving", "largest request body of the stateful endpoints, in bytes", low=1)
    drain_delay: float = _option(0.0, "serving", "seconds from SIGTERM, with /ready at 503, until no more connections are taken")
    grace: int = _option(30, "serving", "seconds that open streams get to end after SIGTERM and the drain delay")
    log_format: Literal["json", "text"] = _option("text", "serving", "form of the log lines on stderr")
    log_level: Literal["debug", "info", "warning", "error"] = _option("info", "serving", "least important log lines shown")
    access_log: bool = _option(True, "serving", "one log line for each request")
    metrics: bool = _option(True, "serving", "Prometheus metrics at /metrics; off leaves that path to the upstream")
    traces: Literal["off", "on"] = _option("off", "serving", "OpenTelemetry spans, sent where the OTEL_* variables say; needs the extra statecar[otel]")

    upstream: str = _option("", "upstream", "base URL of the chat-completions server, up to and including /v1 (http, https, http+unix://%2Fpath.sock/v1), or demo; needed where upstreams is not given", check=values.upstream, metavar="URL")
    upstreams: tuple[Group, ...] = _option((), "upstream", "groups of chat-completions servers, and which models each serves, instead of upstream (docs/operations/fleet.md); @FILE reads it", parse=groups, metavar="YAML")
    upstream_api_key: str = _option("", "upstream", "key sent upstream instead of the caller's; @FILE reads it", secret=True, metavar="KEY")
    upstream_kind: Kind = _option("auto", "upstream", "whose manners the upstream has; auto goes by its host name, then asks it")
    lesson_ttl: int = _option(86400, "upstream", "seconds what the upstream's refusals taught is kept, for each model", low=1)
    upstream_stream: Literal["auto", "always", "never"] = _option("auto", "upstream", "whether the upstream is streamed when the caller is not")
    upstream_connect_timeout: float = _option(5.0, "upstream", "seconds to connect", low=0.001)
    upstream_first_byte_timeout: float = _option(600.0, "upstream", "seconds until the answer begins", low=0.001)
    upstream_idle_timeout: float = _option(300.0, "upstream", "seconds of silence within an answer", low=0.001)
    upstream_affinity: Literal["on", "off"] = _option("on", "upstream", "whether the turns of a conversation go to the same replica of a group, whose cache knows them; off goes by load alone")
    upstream_load_factor: float = _option(1.25, "upstream", "times its share of the open requests that a replica gets before others are asked in its place", low=1, high=100)
    session_header: str = _option("x-session-id", "upstream", "header that tells upstreams which requests belong together, and that callers may set; off for none", check=values.session_header, metavar="NAME")
    cache_salt: Literal["off", "tenant"] = _option("off", "upstream", "what keeps prompt caches of vLLM and SGLang apart; tenant sends a salt of its own for each")
    prompt_cache_key: Literal["off", "session"] = _option("off", "upstream", "what OpenAI and Azure are told as prompt_cache_key where a request has none; session: what belongs together")
    upstream_retries: int = _option(2, "upstream", "other replicas of its group that a request is tried at before its answer has begun")
    upstream_health_interval: float = _option(5.0, "upstream", "seconds between health checks of replicas that others can stand in for; 0 checks none")
    upstream_eject_after: int = _option(3, "upstream", "failures in a row after which a replica that others can stand in for is not asked for a while", low=1)
    upstream_eject_seconds: float = _option(10.0, "upstream", "seconds that such a replica is not asked; twice as many each time, up to 16 times as many, while calls go on failing", low=0.001)

    api_key: tuple[str, ...] = _option((), "access", "keys of which callers must present one; repeatable; @FILE reads one a line", secret=True, metavar="KEY")
    keys_file: str = _option("", "access", "YAML or JSON file of keys, each with a tenant, a user, scopes, models and an end, and of tenants' limits; read again when it changes", metavar="FILE")
    jwt_issuer: tuple[str, ...] = _option((), "access", "identity providers whose tokens (JWT) callers may present, as their iss claim has it; repeatable", check=values.issuer, metavar="URL")
    jwt_audience: tuple[str, ...] = _option((), "access", "audiences of which a token must name one; * takes every token of the issuers; repeatable", metavar="NAME")
    jwt_jwks: str = _option("", "access", "URL of the issuers' public keys, instead of the one that their discovery documents name", check=values.jwks, metavar="URL")
    jwt_algorithms: tuple[str, ...] = _option(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"), "access", "signatures that tokens may have", check=values.algorithm, metavar="NAMES")
    jwt_leeway: float = _option(30.0, "access", "seconds that an issuer's clock may be apart from ours")
    jwt_scopes: bool = _option(False, "access", "tokens may do only what their scope or scp claim names: responses, conversations, passthrough")
    tenant: str = _option("auth", "access", "who shares state: auth (same Authorization, same subject of tokens), off (everyone), header:NAME (a gateway's header), claim:NAME (a token's claim)", check=values.tenant, metavar="HOW")
    principal: str = _option("", "access", "where users of a tenant are named: header:NAME (a gateway's header) or claim:NAME; of a token its sub claim", check=values.principal, metavar="HOW")
    attribute: tuple[str, ...] = _option((), "access", "what access rules know of users, as NAME=header:NAME (words between commas) or NAME=claim:NAME; repeatable", check=values.attribute, metavar="NAME=HOW")
    tenant_requests_per_minute: int = _option(0, "access", "most requests of a tenant that ask a model, in any minute, over all processes; 0 is no limit")
    tenant_tokens_per_minute: int = _option(0, "access", "most tokens of a tenant, input and output, in any minute; 0 is no limit")
    tenant_concurrent_turns: int = _option(0, "access", "most requests of a tenant at work at once; 0 is no limit")
    tenant_stored_bytes: int = _option(0, "access", "most bytes of responses and conversations that a tenant has stored; 0 is no limit")
    seal_key: tuple[str, ...] = _option((), "access", "keys, of 16 characters or more, that seal what clients carry for us, and a caller's key until its background response has ended; repeatable, the first seals, all open; @FILE reads one a line", secret=True, check=values.seal_key, metavar="KEY")
    tenant_secret: str = _option("", "access", "secret that tenants are hashed with, instead of one kept in the store; @FILE reads it", secret=True, metavar="KEY")
    access_rules: Rules = _option((), "access", "which users of a tenant may create, read, update and delete which responses and conversations: a list of permit and forbid rules, the first that matches decides; none: what is one's own, nobody's, or of somebody with a shared attribute; @FILE reads it", parse=rules.parsed, metavar="YAML")

    store: str = _option(EMBEDDED, "state", "embedded (a private Valkey, kept on disk), memory:// (the same without a disk), or a URL: redis, rediss, unix, redis+cluster, rediss+cluster, redis+sentinel, rediss+sentinel", check=values.store, metavar="URL")
    data_dir: Path = _option(default_data_dir, "state", "directory of the embedded store", metavar="DIR", shown="~/.local/share/statecar")
    store_connections: int = _option(32, "state", "most connections to the store, for each worker", low=1)
    response_ttl: int = _option(30 * 86400, "state", "seconds a response is kept; 0 keeps it for ever")
    conversation_ttl: int = _option(30 * 86400, "state", "seconds a conversation is kept after its last use; 0 keeps it for ever")
    encryption_key: tuple[str, ...] = _option((), "state", "keys, of 16 characters or more, that what callers and models say is encrypted with in the store; repeatable, the first encrypts, all open; @FILE reads one a line", secret=True, check=values.seal_key, metavar="KEY")
    compression: Literal["off", "zstd"] = _option("off", "state", "how what callers and models say is compressed in the store; zstd needs Python 3.14 or statecar[zstd]", check=values.compression)
    background_timeout: float = _option(3600.0, "state", "seconds a background or detached response may take before it ends as failed", low=1)
    max_runs: int = _option(1000, "state", "most background and detached responses queued or running, of all; 0 is no limit")
    max_tenant_runs: int = _option(100, "state", "most background and detached responses queued or running of one tenant; 0 is no limit")
    worker_runs: int = _option(100, "state", "most background responses that a worker makes at a time; others wait", low=1)
    max_followers: int = _option(1000, "state", "most streams of background responses that a worker sends at a time, a connection to the store each", low=1)
    run_lease: float = _option(10.0, "state", "seconds after which another process takes up the background or detached response of one that died", low=0.5)
    event_log_ttl: int = _option(3600, "state", "seconds the events of a background stream are kept after its end; 0 keeps them for ever")
    event_log_limit: int = _option(64 * 1024 * 1024, "state", "bytes of events after which a background stream ends as failed", low=1)
    on_disconnect: Literal["cancel", "detach"] = _option("cancel", "state", "what becomes of a stored turn whose client leaves; detach makes it on, to be had by its id")
    store_down: Literal["fail", "stateless"] = _option("fail", "state", "what becomes of turns that need no state while the store is down; stateless serves them as with store: false")
    conversation_lock_wait: float = _option(0.0, "state", "seconds a turn waits for another turn of its conversation")

    mcp_allow: tuple[str, ...] = _option((), "hosted tools", "servers that requests may name in mcp tools: NAME, *.NAME, * or an address, each with :PORT or without; repeatable; none lets requests name none", check=values.mcp_host, metavar="HOST")
    mcp_private: tuple[str, ...] = _option((), "hosted tools", "networks that are not public and that allowed names may resolve to, as 10.0.0.0/8; repeatable", check=values.network, metavar="NETWORK")
    connector: tuple[str, ...] = _option((), "hosted tools", "MCP servers that requests may name by connector_id, as NAME=https://host/mcp; sse+https:// is the old SSE transport; repeatable", check=values.connector, metavar="NAME=URL")
    connector_authorization: tuple[str, ...] = _option((), "hosted tools", "token that a connector is sent, as NAME=TOKEN; repeatable; @FILE reads one a line", secret=True, check=values.connector_token, metavar="NAME=TOKEN")
    tool_timeout: float = _option(60.0, "hosted tools", "seconds a hosted tool call, or the list of a server's tools, may take", low=0.1)
    tool_output_limit: int = _option(64 * 1024, "hosted tools", "bytes of a hosted tool's output that the model is given; the rest is cut off", low=1)
    max_tool_rounds: int = _option(16, "hosted tools", "most times the model is asked in one response; the last time without hosted tools, so that it answers", low=2)

    web_search: str = _option("", "hosted tools", "what runs web_search: searxng+http://HOST:PORT, brave, tavily (the latter two also with +URL of a gateway), or mcp:CONNECTOR/TOOL", check=values.web_search, metavar="HOW")
    web_search_key: str = _option("", "hosted tools", "key of the search service; @FILE reads it", secret=True, metavar="KEY")
    file_search: str = _option("", "hosted tools", "what runs file_search: mcp:CONNECTOR/TOOL", check=values.mcp_tool, metavar="HOW")
    code_interpreter: str = _option("", "hosted tools", "what runs code_interpreter: mcp:CONNECTOR/TOOL", check=values.mcp_tool, metavar="HOW")

    sse_keepalive_seconds: float = _option(15.0, "streams", "seconds of silence after which a comment is sent, over a WebSocket a ping; 0 sends none")
    sse_comments: bool = _option(True, "streams", "comments after the first item too; off for clients that choke on them")
    client_stall_timeout: float = _option(300.0, "streams", "seconds a client may take nothing of its stream, or leave a ping unanswered, before it counts as gone; 0 waits")
    early_stream_after_seconds: float = _option(25.0, "streams", "seconds of upstream silence after which a stream begins without it; 0 waits")
    websocket: Literal["on", "off"] = _option("on", "streams", "whether responses can be asked for over a WebSocket; off answers 426, and clients use HTTP")
    max_websockets: int = _option(1000, "streams", "most WebSockets that a worker holds open", low=1)
    websocket_max_seconds: float = _option(3600.0, "streams", "seconds after which a WebSocket begins no more turns and is closed", low=0.1)
    websocket_memory: int = _option(256 * 1024 * 1024, "streams", "bytes of responses with store=false that a worker keeps for its WebSockets, the newest of each")
    late_errors: Literal["failed", "both"] = _option("failed", "streams", "how an error in mid-stream is told; both sends an error event before response.failed")

    system_messages: Literal["auto", "merge", "keep", "user"] = _option("auto", "translation", "later system messages: merged at the top, kept in place, or sent as user messages; auto keeps them for OpenAI and Azure and merges them for others")
    reasoning_replay: Literal["auto", "always", "tool_turns", "never"] = _option("auto", "translation", "which earlier reasoning goes back to the model; auto: that of the running tool calls, none to OpenAI, Azure, Mistral and Gemini")
    reasoning_field: Literal["auto", "reasoning_content", "reasoning", "both"] = _option("auto", "translation", "field that carries reasoning upstream; auto: the one the upstream's kind reads, both where it is not known")
    max_tokens_field: Literal["auto", "max_tokens", "max_completion_tokens"] = _option("auto", "translation", "field that carries max_output_tokens upstream")
    unsupported_tools: Literal["auto", "drop", "reject"] = _option("auto", "translation", "what becomes of tools that cannot be offered upstream")
    tool_call_ids: Literal["auto", "any", "mistral9"] = _option("auto", "translation", "form of tool call ids sent upstream; auto: nine characters for Mistral")
    repair_tool_history: bool = _option(False, "translation", "answer unanswered tool calls with an empty output instead of refusing them")
    parse_think_tags: bool = _option(False, "translation", "take <think> text out of the answer as reasoning")
    send_stream_options: bool = _option(True, "translation", "ask the upstream for usage in streams, if its kind takes that")
    count_by_generation: bool = _option(False, "translation", "count input tokens by asking for an answer of one token, where the upstream has no tokenizer")
    vendor_keys: tuple[str, ...] = _option(tuple(_VENDOR_KEYS.split(",")), "translation", "request fields passed upstream as they are", metavar="NAMES")
    # fmt: on

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{f.name}={options.public(f, getattr(self, f.name))!r}' for f in fields(self))})"

    @classmethod
    def resolve(
        cls, argv: Sequence[str], env: Mapping[str, str], command: str = "statecar serve", *, serves: bool = True
    ) -> "Settings":
        """Settings from the flags (without the program's name and command) and the environment.

        ``command``: whose help an error names. ``serves``: whether an upstream is needed. Raises SettingsError; SystemExit(0) after ``--help``.
        """
        flags = vars(_parser(command).parse_args(argv))
        given = {f.name: (options.variable(f), text) for f in fields(cls) if (text := _in_env(f, env))}
        given |= {name: (options.flag(name), value) for name, value in flags.items()}
        if "config" in given:
            given = _in_file(given["config"][1]) | given
        if not serves and not {"upstream", "upstreams"} & given.keys():
            given["upstream"] = "--upstream", DEMO
        if "upstream" not in given and "upstreams" not in given:
            raise SettingsError(
                "no upstream: give --upstream or STATECAR_UPSTREAM, the base URL up to and including /v1, or demo; or"
                " groups of them (--upstreams)"
            )
        if "upstream" in given and "upstreams" in given:
            raise SettingsError(
                f"{given['upstream'][0]} and {given['upstreams'][0]}: give one of them; a group of one replica is the"
                " same as an upstream"
            )
        settings = cls(**{f.name: options.value_of(f, *given[f.name]) for f in fields(cls) if f.name in given})
        _check_access(settings)
        _check_bindings(settings)
        return settings


def _check_access(settings: Settings) -> None:
    """What one option of access alone cannot tell. Raises SettingsError."""
    told = [("tenant", settings.tenant), ("principal", settings.principal)]
    told += [("attribute", entry.partition("=")[2]) for entry in settings.attribute]
    if not settings.jwt_issuer:
        of_tokens = [name for name, how in told if how.startswith("claim:")]
        of_tokens += [name for name in ("jwt_audience", "jwt_jwks", "jwt_scopes") if getattr(settings, name)]
        if of_tokens:
            raise SettingsError(f"{options.flag(of_tokens[0])}: needs tokens: name who issues them (--jwt-issuer URL)")
        if settings.attribute and not settings.principal:
            raise SettingsError("--attribute: says something of users: say where they are named (--principal HOW)")
    elif not settings.jwt_audience:
        raise SettingsError(
            "--jwt-issuer: needs --jwt-audience, for which service tokens are made: an issuer's others open no door here"
        )
    if not settings.jwt_jwks and (plain := [one for one in settings.jwt_issuer if "://" not in one]):
        raise SettingsError(f"--jwt-issuer={plain[0]!r}: is no URL, so --jwt-jwks must say where its keys are")
    names = [entry.partition("=")[0] for entry in settings.attribute]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(f"--attribute: {twice[0]!r} is named twice")
    _check_rules(settings, names)


def _check_rules(settings: Settings, attributes: Sequence[str]) -> None:
    """Rules that nobody could ever meet. Raises SettingsError."""
    if settings.keys_file or not settings.access_rules:
        return
    if not (settings.principal or settings.jwt_issuer):
        raise SettingsError(
            "--access-rules: speak of users: say where they are named (--principal HOW, --jwt-issuer URL or --keys-file FILE)"
        )
    asked = {condition.attribute for rule in settings.access_rules for condition in rule.conditions} - {""}
    if unknown := sorted(asked - set(attributes)):
        told = f"there are {', '.join(attributes)}" if attributes else "there are none"
        raise SettingsError(f"--access-rules: {unknown[0]!r} is no attribute of users; {told} (--attribute NAME=HOW)")


def _check_bindings(settings: Settings) -> None:
    """What one option alone cannot tell. Raises SettingsError."""
    service = settings.web_search.partition("+")[0]
    if service in ("brave", "tavily") and not settings.web_search_key:
        raise SettingsError(f"--web-search={settings.web_search!r}: needs the service's key: give --web-search-key")
    connectors = [entry.partition("=")[0] for entry in settings.connector]
    known = f"there are {', '.join(connectors)}" if connectors else "there are none"
    if twice := sorted({name for name in connectors if connectors.count(name) > 1}):
        raise SettingsError(f"--connector: {twice[0]!r} is named twice")
    if not {entry.partition("=")[0] for entry in settings.connector_authorization} <= set(connectors):
        raise SettingsError(f"--connector-authorization: a name is no connector; {known} (--connector NAME=URL)")
    for name in ("web_search", "file_search", "code_interpreter"):
        how = getattr(settings, name)
        named = how.removeprefix("mcp:").partition("/")[0]
        if how.startswith("mcp:") and named not in connectors:
            raise SettingsError(
                f"{options.flag(name)}={how!r}: {named!r} is no connector; {known} (--connector NAME=URL)"
            )


def options_reference() -> str:
    """Every option in Markdown, a table for each group: flag, variable, default, meaning."""
    lines: list[str] = []
    group = ""
    for f in fields(Settings):
        if options.of(f).group != group:
            group = options.of(f).group
            lines += [f"\n## {group.capitalize()}\n", "| flag | variable | default | meaning |", "|---|---|---|---|"]
        default = f"`{options.default_of(f)}`" if options.default_of(f) else ""
        choices = f": {', '.join(f'`{c}`' for c in get_args(f.type))}" if options.is_choice(f) else ""
        meaning = options.of(f).help.replace("<think>", "`<think>`").replace("|", "\\|") + choices
        lines.append(f"| `{options.flag(f.name)}` | `{options.variable(f)}` | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def options_yaml() -> str:
    """Every option as a ``--config`` file that changes nothing; what has no fixed default stands empty."""
    lines = [_HEAD]
    group = ""
    for f in fields(Settings):
        if f.name == "config":  # a file names no other
            continue
        if options.of(f).group != group:
            group = options.of(f).group
            lines.append(f"\n# ---- {group} ----")
        told = textwrap.wrap(f"{options.of(f).help}{options.unfixed(f)}", 118, break_on_hyphens=False)
        if options.is_choice(f):
            told.append(f"one of: {', '.join(get_args(f.type))}")
        lines += ["", *(f"# {line}" for line in told), f"{f.name}:{options.written(f)}"]
    return "\n".join(lines) + "\n"


_HEAD = """\
# Every option at its default, by its YAML key: statecar serve --config FILE, or STATECAR_CONFIG=FILE. A file needs only
# the options it changes; a flag or a variable (STATECAR_ and the key in capitals) wins over it. A key without a value
# counts as not given. Times are seconds, sizes bytes; a repeatable option takes a list. Secrets need not stand here: an
# option that takes @FILE reads them from there, and a store's URL with a password can be given as STATECAR_STORE."""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one SettingsError."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message} (see {self.prog} --help)")


def _parser(command: str) -> argparse.ArgumentParser:
    parser = Parser(
        command,
        usage="%(prog)s --upstream URL [options]",
        description="Serve the Responses and Conversations APIs in front of a chat-completions server.",
        epilog="A flag wins over its variable, that over the --config file, that over the default.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    groups = {
        name: parser.add_argument_group(name) for name in dict.fromkeys(options.of(f).group for f in fields(Settings))
    }
    for f in fields(Settings):
        option = options.of(f)
        default = f"default {options.default_of(f)}".replace(",", ", ") if options.default_of(f) else "none"
        how: dict[str, Any] = {"help": f"{option.help} [{options.variable(f)}, {default}]".replace("%", "%%")}
        if f.type is bool:
            how["action"] = argparse.BooleanOptionalAction
        else:
            how["metavar"] = f"{{{','.join(get_args(f.type))}}}" if options.is_choice(f) else option.metavar or "N"
            how["action"] = "append" if options.is_list(f) else "store"
        groups[option.group].add_argument(options.flag(f.name), **how)
    return parser


def _in_env(f: Field[Any], env: Mapping[str, str]) -> str:
    text = env.get(options.variable(f), "")
    # Kubernetes puts STATECAR_PORT=tcp://… into every pod beside a Service named statecar: no port number of ours.
    return "" if f.name == "port" and text.startswith("tcp://") else text


def _in_file(path: Any) -> dict[str, tuple[str, Any]]:
    """The file's options as (where, text or list of texts). A key without a value counts as not given."""
    try:
        content = options.in_yaml(Path(path).read_text("utf-8")) or {}
    except OSError as exc:
        raise SettingsError(f"--config={str(path)!r}: {exc.strerror}") from None
    except ValueError as exc:
        raise SettingsError(f"--config={str(path)!r}: {exc}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"--config={str(path)!r}: must be a mapping of options to values, as port: 8080")
    names = [f.name for f in fields(Settings) if f.name != "config"]
    for key in content:
        if key not in names:
            near = difflib.get_close_matches(str(key).replace("-", "_"), names, 1)
            raise SettingsError(
                f"--config={str(path)!r}: no such option: {key}{f', is {near[0]} meant?' if near else ''}"
            )
    return {key: (f"{key} in {path}", value) for key, value in content.items() if value not in ("", "~", "null")}
