"""The files for Kubernetes and Compose fit the schemas of both. Needs the dependency group ``chart``."""

import subprocess
import sys

import pytest

from tests.config import files

check_jsonschema = pytest.importorskip("check_jsonschema")
kubernetes_validate = pytest.importorskip("kubernetes_validate")


@pytest.mark.parametrize("version", ["1.29", "1.32", "1.37"])  # the first has sidecars that are stopped last
def test_the_sidecar_is_what_kubernetes_takes(version):
    for document in files.sidecar():
        kubernetes_validate.validate(document, version, strict=True)


def test_compose_is_what_its_schema_says():
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, str(files.CONFIG / "compose.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_file_is_tidy_yaml():
    rules = "{extends: default, rules: {line-length: {max: 120}, document-start: disable}}"
    paths = [str(path) for path in sorted(files.CONFIG.glob("*.yaml"))]
    done = subprocess.run(
        [sys.executable, "-m", "yamllint", "--strict", "-d", rules, *paths], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
