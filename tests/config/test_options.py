"""The files that hold options load, and say what the code says. ``python -m tests.config`` writes statecar.yaml."""

import re
from dataclasses import fields

import pytest

import proxy
from proxy.options import SettingsError
from proxy.settings import Settings, options_yaml
from tests.config import files

NAMES = {f.name for f in fields(Settings)}
MINIMAL = ("vllm", "ollama", "openai")


def loaded(name, *flags):
    return Settings.resolve(["--config", str(files.CONFIG / f"{name}.yaml"), *flags], {})


def test_the_file_of_all_options_is_current():
    assert (files.CONFIG / "statecar.yaml").read_text("utf-8") == options_yaml()


def test_the_file_of_all_options_changes_nothing():
    assert loaded("statecar", "--upstream", "demo") == Settings(
        upstream="demo", config=str(files.CONFIG / "statecar.yaml")
    )


def test_the_file_of_all_options_leaves_the_upstream_to_be_given():
    with pytest.raises(SettingsError, match="no upstream"):
        loaded("statecar")


def test_the_file_of_all_options_has_every_one_with_its_help():
    text = options_yaml()
    assert re.findall(r"^(\w+):", text, re.MULTILINE) == [f.name for f in fields(Settings) if f.name != "config"]
    said = " ".join(line.removeprefix("# ") for line in text.splitlines())
    for f in fields(Settings):
        assert f.name == "config" or f.metadata["option"].help in said


@pytest.mark.parametrize("name", MINIMAL)
def test_a_minimal_file_loads_and_names_its_kind(name):
    settings = loaded(name)
    assert settings.upstream_kind == name
    assert settings.upstream.startswith("http") and settings.upstream.endswith("/v1")


@pytest.mark.parametrize("path", sorted(files.CONFIG.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_option_that_a_file_speaks_of_is_one(path):
    text = path.read_text("utf-8")
    assert {name.removeprefix("STATECAR_").lower() for name in re.findall(r"STATECAR_[A-Z_]*[A-Z]", text)} <= NAMES
    if path.stem in MINIMAL:
        assert set(re.findall(r"^(?:# )?([a-z_]+): ", text, re.MULTILINE)) <= NAMES


def test_the_images_are_of_this_version():
    deployment, _ = files.sidecar()
    image = f"statecar:{proxy.__version__}"
    assert files.compose()["services"]["statecar"]["image"] == image
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == image
