"""The files under config/ as values, and what their variables and secrets stand for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

CONFIG = Path(__file__).parent.parent.parent / "config"

_VARIABLE = re.compile(r"\$\{([A-Z_]+)(?:(:?)-([^}]*))?\}")


def compose(**given: str) -> Any:
    """compose.yaml as Compose reads it with these variables. KeyError for one without value and default."""

    def filled(match: re.Match[str]) -> str:
        name, colon, default = match.groups()
        return default if default is not None and (colon and not given.get(name) or name not in given) else given[name]

    return yaml.safe_load(_VARIABLE.sub(filled, (CONFIG / "compose.yaml").read_text("utf-8")))


def sidecar() -> tuple[Any, Any]:
    """sidecar.yaml: the Deployment and the Service."""
    deployment, service = yaml.safe_load_all((CONFIG / "sidecar.yaml").read_text("utf-8"))
    return deployment, service


def environment(container: Any, secret: dict[str, str]) -> dict[str, str]:
    """What Kubernetes gives a container, out of one secret. KeyError for a key that it must have."""
    env: dict[str, str] = {}
    for entry in container["env"]:
        if "value" in entry:
            env[entry["name"]] = entry["value"]
        elif (ref := entry["valueFrom"]["secretKeyRef"])["key"] in secret or not ref.get("optional"):
            env[entry["name"]] = secret[ref["key"]]
    return env


def rules() -> Any:
    """prometheus-rules.yaml."""
    return yaml.safe_load((CONFIG / "prometheus-rules.yaml").read_text("utf-8"))


def dashboard() -> Any:
    """grafana-dashboard.json."""
    return json.loads((CONFIG / "grafana-dashboard.json").read_text("utf-8"))
