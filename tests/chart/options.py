"""What the chart says of statecar's options, made from ``proxy.settings``: part of the values and of their schema."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args, get_origin

from proxy.settings import Settings

# The options that have a value of their own in the chart; every other one stands under `config`.
ELSEWHERE = {
    "upstream": "upstream.url",
    "upstream_kind": "upstream.kind",
    "upstream_api_key": "upstream.apiKey",
    "api_key": "auth.apiKeys",
    "seal_key": "auth.sealKeys",
    "encryption_key": "auth.encryptionKeys",
    "tenant": "auth.tenant",
    "tenant_secret": "auth.tenantSecret",
    "connector_authorization": "tools.connectorAuthorization",
    "web_search_key": "tools.webSearchKey",
    "store": "store.url",
    "drain_delay": "shutdown.drainDelaySeconds",
    "grace": "shutdown.graceSeconds",
    "metrics": "metrics.enabled",
}

# What a pod needs otherwise than statecar's own defaults have it.
IN_A_POD = {"host": "0.0.0.0", "port": 8080, "data_dir": "/var/lib/statecar", "log_format": "json"}

_TYPES = {str: "string", Path: "string", int: "integer", float: "number", bool: "boolean"}


def in_config():
    """The fields of Settings that stand under `config`."""
    return [f for f in fields(Settings) if f.name not in ELSEWHERE]


def values_section() -> str:
    """The `config` section of values.yaml: a comment and a default for each option."""
    lines = []
    for f in in_config():
        option = f.metadata["option"]
        default = "" if f.default in (MISSING, "", ()) else f" (default {_text(f.default)})"
        choices = f": {', '.join(get_args(f.type))}" if get_origin(f.type) not in (None, tuple) else ""
        lines.append(f"  # -- {option.help[0].upper()}{option.help[1:]}{choices}{default}.\n")
        lines.append(f"  {f.name}: {json.dumps(IN_A_POD.get(f.name)) if f.name in IN_A_POD else 'null'}\n")
    return "".join(lines)


def schema_section() -> dict[str, Any]:
    """The schema of `config`: every option by name, with its type and bounds; null for statecar's default."""
    properties = {f.name: {"description": f.metadata["option"].help} | _schema(f) for f in in_config()}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _schema(f: Any) -> dict[str, Any]:
    option = f.metadata["option"]
    if option.parse:
        return {"type": ["array", "string", "null"]}  # a structure in place, or @FILE
    if get_origin(f.type) is tuple:
        return {"type": ["array", "null"], "items": {"type": "string", "pattern": "^[^,]+$"}}
    if f.type not in _TYPES:
        choices = get_args(f.type)  # YAML takes on and off for booleans
        return {"enum": [*choices, *((True, False) if choices == ("on", "off") else ()), None]}
    schema: dict[str, Any] = {"type": [_TYPES[f.type], "null"]}
    if f.type in (int, float):
        schema["minimum"] = 1 if f.name == "port" else option.low  # a port that nobody knows beforehand serves no pod
        if option.high != float("inf"):
            schema["maximum"] = option.high
    return schema


def _text(default: Any) -> str:
    match default:
        case bool():
            return str(default).lower()
        case tuple():
            return ", ".join(default)
        case float():
            return f"{default:g}"
    return str(default)
