"""Every supported situation, rendered by both Helms, is what Kubernetes takes."""

import functools
import json
import subprocess

import pytest
import yaml

from tests.chart.rendering import (
    CHART,
    DEMO,
    ROOT,
    SITUATIONS,
    Refused,
    Rendered,
    documents,
    helm3,
    helm3_binary,
    helm4,
    helm_python,
    render_anew,
)

kubernetes_validate = pytest.importorskip("kubernetes_validate")
yamllint_config = pytest.importorskip("yamllint.config")
yamllint_linter = pytest.importorskip("yamllint.linter")

# Kinds that no Kubernetes knows by itself, and where they come from.
CUSTOM = {
    "HTTPRoute": "gateway.networking.k8s.io/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "ServiceMonitor": "monitoring.coreos.com/v1",
}

LINES = {"line-length": "disable", "document-start": "disable", "comments-indentation": "disable"}
BY_HAND = {**LINES, "braces": {"max-spaces-inside": 0}}
BY_HELM = {**LINES, "indentation": {"indent-sequences": "whatever"}, "braces": "disable", "truthy": "disable"}

both = pytest.mark.parametrize("render", [helm3, helm4])
situations = pytest.mark.parametrize("values", SITUATIONS.values(), ids=SITUATIONS)


@both
@situations
@pytest.mark.parametrize("kubernetes", ["1.28", "1.32", "1.37"])
def test_every_object_is_valid(values, render, kubernetes):
    for one in documents(render(values)):
        if one["kind"] in CUSTOM:
            assert one["apiVersion"] == CUSTOM[one["kind"]]
        else:
            validate(json.dumps(one, sort_keys=True), kubernetes)


@functools.cache
def validate(document, kubernetes):
    """Once for each text: the two Helms make the same, and situations have much in common."""
    kubernetes_validate.validate(json.loads(document), kubernetes, strict=True)


def test_an_object_with_a_wrong_field_would_be_found():
    deployment = Rendered(DEMO)("Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerport"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.32", strict=True)


@situations
def test_both_helms_make_the_same(values):
    assert documents(helm3(values)) == documents(helm4(values))


def test_every_template_is_in_some_situation():
    kinds = {one["kind"] for values in SITUATIONS.values() for one in documents(helm4(values))}
    assert kinds == {
        *CUSTOM, "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Ingress", "NetworkPolicy",
        "PersistentVolumeClaim", "Pod", "PodDisruptionBudget", "Secret", "Service", "ServiceAccount", "StatefulSet",
    }  # fmt: skip


@pytest.mark.parametrize("kubernetes", ["1.25.0", "1.37.0-gke.1"])
def test_it_installs_on(kubernetes):
    assert helm3(DEMO, kubernetes)


def test_an_older_kubernetes_is_refused():
    with pytest.raises(Refused, match="incompatible with Kubernetes"):
        helm3(DEMO, "1.24.0")


def test_helm_3_finds_nothing_to_lint():
    binary = helm3_binary() or pytest.skip("no Helm 3")
    done = subprocess.run([binary, "lint", "--strict", CHART, "--set", "upstream.url=demo"], capture_output=True)
    assert done.returncode == 0, done.stdout.decode()


def test_helm_4_finds_nothing_to_lint():
    report = helm_python.lint(str(CHART), DEMO, strict=True)
    assert report["errors"] == [] and all(message["severity"] == 1 for message in report["messages"])


@pytest.mark.parametrize(
    "file", [CHART / "Chart.yaml", CHART / "values.yaml", *(CHART / "ci").glob("*.yaml")], ids=lambda file: file.name
)
def test_what_is_written_by_hand_is_tidy(file):
    assert lint(file.read_text("utf-8"), BY_HAND) == []


@both
@situations
def test_what_is_rendered_is_tidy(values, render):
    assert lint(render(values), BY_HELM) == []


def lint(text, rules):
    config = yamllint_config.YamlLintConfig(json.dumps({"extends": "default", "rules": rules}))
    return [str(problem) for problem in yamllint_linter.run(text, config)]


def test_the_schema_is_one():
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft7Validator.check_schema(schema)


def test_rendering_twice_gives_the_same():
    for values in (SITUATIONS["full"], SITUATIONS["redis-bundled"]):
        assert render_anew(json.dumps(values)) == render_anew(json.dumps(values))


@situations
def test_nothing_of_another_release_is_named(values):
    for one in documents(helm4(values)):
        assert one["metadata"]["name"].startswith(("r-", "the-car", "statecar-runner")), one["metadata"]["name"]


def test_every_situation_says_what_it_is():
    for file in (CHART / "ci").glob("*.yaml"):
        assert file.read_text("utf-8").startswith("# "), file.name
    assert ROOT.joinpath("helm/.helmignore").read_text("utf-8").startswith("/ci/")
    assert yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))["kubeVersion"]
