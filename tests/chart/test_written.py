"""What the chart repeats of the code and of its values is as the code has it."""

import json
import re
from pathlib import Path

import pytest
import yaml

import proxy
from proxy.settings import Settings
from tests.chart import options, readme

CHANGELOG = readme.CHART.parent / "CHANGELOG.md"
IMAGE_DEFAULTS = {"host", "port", "data_dir"}


@pytest.mark.parametrize("name", ["values.yaml", "values.schema.json", "README.md", "files/prometheus-rules.yaml"])
def test_what_is_written_is_current(name):
    file = readme.CHART / name
    assert file.read_text("utf-8") == readme.files()[file], "python -m tests.chart.readme writes it anew"


def test_versions_agree():
    chart = yaml.safe_load((readme.CHART / "Chart.yaml").read_text("utf-8"))
    newest = re.search(r"^## \[([^\]]+)\]", CHANGELOG.read_text("utf-8"), re.MULTILINE)
    assert chart["version"] == chart["appVersion"] == proxy.__version__ == newest[1]


def test_the_body_size_an_ingress_lets_through_is_that_of_statecar():
    values = yaml.safe_load((readme.CHART / "values.yaml").read_text("utf-8"))
    size = values["ingress"]["annotations"]["nginx.ingress.kubernetes.io/proxy-body-size"]
    assert size == f"{Settings.body_limit // 1024**2}m"


def test_every_value_is_in_the_schema_and_the_reverse():
    values = yaml.safe_load((readme.CHART / "values.yaml").read_text("utf-8"))
    schema = json.loads((readme.CHART / "values.schema.json").read_text("utf-8"))
    assert paths_of_schema(schema) == paths_of_values(values, schema)


def paths_of_schema(schema, path=""):
    if "properties" not in schema:
        return {path}
    found = {path: None} if path else {}
    for name, one in schema["properties"].items():
        found |= dict.fromkeys(paths_of_schema(one, f"{path}.{name}"))
    return set(found)


def paths_of_values(values, schema, path=""):
    if "properties" not in schema:
        return {path}
    assert schema["additionalProperties"] is False, path
    found = {path: None} if path else {}
    for name, one in values.items():
        found |= dict.fromkeys(paths_of_values(one, schema["properties"].get(name, {}), f"{path}.{name}"))
    return set(found)


def test_every_link_of_the_readme_leads_somewhere():
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", (readme.CHART / "README.md").read_text("utf-8"))
    assert linked and [path for path in linked if not (readme.CHART / path).exists()] == []


def test_a_value_without_a_comment_is_found():
    with pytest.raises(ValueError, match=r"a\.b has no"):
        list(readme.documented("a:\n  b: 1\n"))


def test_what_the_chart_sets_otherwise_is_what_the_image_sets():
    dockerfile = Path(readme.CHART.parent / "Dockerfile")
    if not dockerfile.exists():
        pytest.skip("no Dockerfile here")
    text = dockerfile.read_text("utf-8")
    for name in IMAGE_DEFAULTS:
        assert f"STATECAR_{name.upper()}={options.IN_A_POD[name]}" in text.replace('"', "")
