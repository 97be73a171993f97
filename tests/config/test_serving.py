"""Each file is started as it stands, only with its upstream and its store at other addresses, and holds a talk."""

import asyncio
import re
import subprocess
import sys

import httpx
import pytest

from tests import servers
from tests.callers import Caller
from tests.config import files

pytestmark = pytest.mark.live

SECRET = {"store-url": "redis://redis:6379/0", "api-keys": "sk-one,sk-two", "seal-keys": "0123456789abcdef"}


async def ready(process):
    """The URL of a process that answers /ready with 200."""
    return await asyncio.to_thread(process.url)


async def recalls(url, key=None):
    """Whether a second turn knows what the first one said."""
    async with Caller(url, key) as caller:
        first = await caller.create("My name is Ada.")
        again = await caller.create("What is my name?", previous_response_id=first["id"])
        return "Your name is Ada." in again["output"][-1]["content"][0]["text"]


@pytest.mark.parametrize("name", ["vllm", "ollama", "openai"])
async def test_a_minimal_file_serves_a_talk(name, serve, demo_url, valkey):
    flags = ("--config", str(files.CONFIG / f"{name}.yaml"), f"--upstream={demo_url}", f"--store={valkey.url}")
    assert await recalls(await ready(serve({}, "serve", *flags)))


@pytest.fixture
def compose_valkey(tmp_path):
    """A Valkey with the command line that compose.yaml gives it."""
    binary, *flags = files.compose()["services"]["valkey"]["command"]
    assert binary == "valkey-server"
    server = servers.Server.on_port(servers.valkey_binary(), tmp_path, *flags)
    yield server
    server.stop()


async def test_compose_serves_a_talk_with_nothing_set(serve, compose_valkey):
    service = files.compose()["services"]["statecar"]
    env = dict(service["environment"])
    assert env["STATECAR_STORE"].startswith("redis://valkey:6379/")
    env["STATECAR_STORE"] = env["STATECAR_STORE"].replace("redis://valkey:6379", compose_valkey.url)
    process = serve(env, *service["command"])
    url = await ready(process)
    assert await recalls(url)
    assert "WARN" not in process.stderr  # of evictions, say

    python, *check = service["healthcheck"]["test"][1:]
    assert python == "python"
    code = [part.replace("127.0.0.1:8080", url.removeprefix("http://")) for part in check]
    assert code != check
    assert (await asyncio.to_thread(subprocess.run, [sys.executable, *code], timeout=servers.PATIENCE)).returncode == 0
    compose_valkey.stop()
    down = await asyncio.to_thread(subprocess.run, [sys.executable, *code], stderr=subprocess.PIPE)
    assert down.returncode != 0 and b"503" in down.stderr


async def test_the_sidecar_serves_a_talk(serve, demo_url, valkey):
    container = files.sidecar()[0]["spec"]["template"]["spec"]["containers"][0]
    env = files.environment(container, SECRET)
    assert env["STATECAR_STORE"] == SECRET["store-url"]
    url = await ready(serve(env | {"STATECAR_UPSTREAM": demo_url, "STATECAR_STORE": valkey.url}, "serve"))
    assert await recalls(url, "sk-two")
    async with Caller(url, "sk-three") as stranger:
        assert (await stranger.ask()).status_code == 401
    async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False) as http:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert (await http.get(container[probe]["httpGet"]["path"])).status_code == 200


def test_the_sidecar_needs_no_secret_but_the_store():
    container = files.sidecar()[0]["spec"]["template"]["spec"]["containers"][0]
    assert "STATECAR_API_KEY" not in files.environment(container, {"store-url": "redis://r"})
    with pytest.raises(KeyError):
        files.environment(container, {})


def test_statecar_has_time_to_end_its_streams():
    service = files.compose()["services"]["statecar"]
    closing = 15  # seconds that connections and the store get after the grace
    assert seconds(service["stop_grace_period"]) >= int(service["environment"]["STATECAR_GRACE"]) + closing
    pod = files.sidecar()[0]["spec"]["template"]["spec"]
    (statecar,), (vllm,) = pod["containers"], pod["initContainers"]
    env = files.environment(statecar, SECRET)
    draining = int(env["STATECAR_DRAIN_DELAY"]) + int(env["STATECAR_GRACE"])
    assert pod["terminationGracePeriodSeconds"] > draining + closing
    assert vllm["restartPolicy"] == "Always"  # so that it is stopped after statecar


def test_an_update_waits_for_the_model_server_to_start():
    spec = files.sidecar()[0]["spec"]
    vllm, statecar = spec["template"]["spec"]["initContainers"][0], spec["template"]["spec"]["containers"][0]
    probes = (vllm["startupProbe"], statecar["startupProbe"])
    assert spec["progressDeadlineSeconds"] > sum(probe["periodSeconds"] * probe["failureThreshold"] for probe in probes)


def seconds(text):
    number = re.fullmatch(r"(\d+)s", text)
    assert number
    return int(number[1])


def test_the_sidecars_service_leads_to_statecar_alone():
    deployment, service = files.sidecar()
    pod = deployment["spec"]["template"]
    (port,) = service["spec"]["ports"]
    named = {p["name"]: c["name"] for c in pod["spec"]["containers"] for p in c["ports"]}
    assert named[port["targetPort"]] == "statecar"
    (vllm,) = pod["spec"]["initContainers"]
    assert "--host=127.0.0.1" in vllm["args"] and "ports" not in vllm
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def hardened(container):
    context = container["securityContext"]
    return not context["allowPrivilegeEscalation"] and context["capabilities"] == {"drop": ["ALL"]}


def test_containers_may_do_no_more_than_they_need():
    pod = files.sidecar()[0]["spec"]["template"]["spec"]
    assert all(map(hardened, pod["containers"] + pod["initContainers"]))
    statecar = pod["containers"][0]["securityContext"]
    assert statecar["runAsNonRoot"] and statecar["runAsUser"] and statecar["readOnlyRootFilesystem"]
    assert not pod["automountServiceAccountToken"] and not pod["enableServiceLinks"]

    services = files.compose()["services"]
    for name in ("statecar", "valkey"):
        service = services[name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and not service["user"].startswith("0")
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert services["statecar"]["tmpfs"] == ["/tmp"]
    assert services["statecar"]["init"]
    assert "ports" not in services["valkey"]
    assert services["statecar"]["ports"][0].startswith("127.0.0.1:")


def test_compose_takes_its_backend_from_a_variable():
    given = files.compose(UPSTREAM="http://host.docker.internal:8000/v1")["services"]["statecar"]
    assert given["environment"]["STATECAR_UPSTREAM"] == "http://host.docker.internal:8000/v1"
    none = files.compose(UPSTREAM="")["services"]["statecar"]
    assert none["environment"]["STATECAR_UPSTREAM"] == ""  # for STATECAR_UPSTREAMS in the file of variables
    assert given["extra_hosts"] == ["host.docker.internal:host-gateway"]
    assert files.compose()["services"]["ollama"]["profiles"] == ["ollama"]
