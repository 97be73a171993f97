"""What the chart renders, run: statecar with exactly that environment, its probes, the notes as printed, and Valkey."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests import servers
from tests.chart.rendering import DEMO, NAMESPACE, ROOT, SITUATIONS, Rendered, merged, notes, setting

pytestmark = [pytest.mark.live, pytest.mark.skipif(sys.platform == "win32", reason="no POSIX shell")]

KUBECTL = """\
#!/bin/sh
# Stands in for a cluster: hands out the Secrets in $SECRETS, and what it is to forward is there already.
case "$3" in get) key=${7#*.data.}; base64 < "$SECRETS/$5/${key%\\}}" ;; esac
"""
RUNNING = ["default", "demo", "redis-external", "redis-bundled"]
ALONE = {"upstream": {"url": "http://127.0.0.1:9/v1"}, "store": {"url": "memory://"}}  # nothing listens there
KEYS = {
    "api-key": "upstream-key",
    "api-keys": "sk-first,sk-second\n",
    "seal-keys": "0123456789abcdef",
    "encryption-keys": "fedcba9876543210",
    "tenant-secret": "hush",
}


class Pod:
    """statecar as its container would run it: the rendered environment, PATH and nothing else."""

    def __init__(self, folder, values, secrets=None, store=None):
        self.values = merged(values, setting("config.port", servers.free_port()))
        self.rendered, self.secrets = Rendered(self.values), secrets or {}
        env = self.rendered.environment(self.secrets)
        if store:
            env["STATECAR_STORE"] = re.sub(*store, env["STATECAR_STORE"])
        self.url = f"http://127.0.0.1:{env['STATECAR_PORT']}"
        self.log = folder / "log"
        with self.log.open("w") as stderr:
            command = [sys.executable, "-m", "proxy", "serve"]
            self.process = subprocess.Popen(command, env=env | {"PATH": os.environ["PATH"]}, cwd=ROOT, stderr=stderr)

    def get(self, path):
        try:
            return httpx.get(self.url + path, timeout=servers.PATIENCE, trust_env=False)
        except httpx.TransportError:
            return None

    def ready(self):
        """Asks as the rendered readiness probe does, until it is answered with 200."""
        path = self.rendered.container["readinessProbe"]["httpGet"]["path"]
        deadline = time.monotonic() + servers.PATIENCE
        while not ((answer := self.get(path)) and answer.status_code == 200):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return self

    def up(self):
        """Asks until it is answered at all."""
        while self.get("/health") is None:
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)

    def end(self):
        assert self.process.wait(servers.PATIENCE) == 0, self.log.read_text()


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """The bundled Valkey by its rendered command and configuration, on a port and in a folder of this machine."""
    folder = tmp_path_factory.mktemp("valkey")
    rendered = Rendered(merged(SITUATIONS["redis-bundled"], DEMO))
    valkey = rendered("StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    config, port = rendered("ConfigMap", "r-statecar-valkey")["data"]["valkey.conf"], servers.free_port()
    config = config.replace("dir /data", f"dir {folder}").replace("port 6379", f"port {port}")
    config = config.replace("bind * -::*", "bind 127.0.0.1")
    file = folder / "valkey.conf"
    file.write_text(config)
    env = rendered.environment(container=valkey)
    program, place = valkey["command"]
    assert (program, Path(place).name) == ("valkey-server", "valkey.conf")
    args = [re.sub(r"\$\((\w+)\)", lambda name: env[name[1]], arg) for arg in valkey["args"]]
    process = subprocess.Popen([servers.valkey_binary(), str(file), *args], stdout=subprocess.DEVNULL)
    yield port
    process.terminate()
    assert process.wait(servers.PATIENCE) == 0
    assert (folder / "appendonlydir").is_dir()


@pytest.fixture(scope="module")
def pods(tmp_path_factory, valkey, bundled):
    """Pods by situation, started together. Each must end with 0."""
    folder = tmp_path_factory.mktemp
    own = {"statecar-redis": {"url": valkey.url}, "statecar-keys": KEYS}
    tenants = setting("auth.tenant", "header:X-Tenant")
    data = setting("config.data_dir", str(folder("data")))
    pods = {
        "default": Pod(folder("default"), merged(SITUATIONS["default"], DEMO, data)),
        "demo": Pod(folder("demo"), SITUATIONS["demo"]),
        "alone": Pod(folder("alone"), ALONE),
        "redis-external": Pod(folder("external"), merged(SITUATIONS["redis-external"], DEMO, tenants), own),
        "redis-bundled": Pod(
            folder("bundled"),
            merged(SITUATIONS["redis-bundled"], DEMO),
            store=("r-statecar-valkey:6379", f"127.0.0.1:{bundled}"),
        ),
    }
    yield pods
    for pod in pods.values():
        pod.up()  # before that a signal may come too early to be handled
        pod.process.send_signal(signal.SIGTERM)
    for pod in pods.values():
        pod.end()


@pytest.mark.parametrize("name", RUNNING)
def test_a_rendered_pod_becomes_ready_and_answers_all_its_probes(pods, name):
    pod = pods[name].ready()
    container = pod.rendered.container
    (port,) = container["ports"]
    assert pod.url.endswith(f":{port['containerPort']}")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == port["name"]
        assert pod.get(container[probe]["httpGet"]["path"]).status_code == 200


@pytest.mark.parametrize("asks", [True, False])
def test_a_pod_without_its_upstream_is_ready_if_it_need_not_ask_it(pods, asks):
    pod = pods["alone"]
    rendered = Rendered(merged(ALONE, setting("probes.readinessAsksUpstream", asks)))
    pod.up()
    answer = pod.get(rendered.container["readinessProbe"]["httpGet"]["path"])
    assert answer.status_code == (503 if asks else 200), answer.text


def test_metrics_are_where_the_monitor_asks_for_them(pods):
    pod = pods["demo"].ready()
    monitored = Rendered(merged(pod.values, setting("metrics.serviceMonitor.enabled", True)))("ServiceMonitor")
    answer = pod.get(monitored["spec"]["endpoints"][0]["path"])
    assert answer.status_code == 200 and "statecar_build_info" in answer.text


def test_the_embedded_store_keeps_its_data_where_the_volume_is(pods):
    pod = pods["default"].ready()
    mounts = {one["name"]: one["mountPath"] for one in pod.rendered.container["volumeMounts"]}
    assert (Path(mounts["data"]) / "appendonlydir").is_dir()


def test_the_test_pod_is_content_with_what_is_ready_and_with_nothing_else(pods):
    pod = pods["demo"].ready()
    command = pod.rendered("Pod")["spec"]["containers"][0]["command"]
    service = pod.rendered("Service")
    asked = f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert command[:2] == ["python", "-c"] and command[-1].startswith(asked)
    for url, code in ((pod.url + command[-1].removeprefix(asked), 0), (pod.url + "/nothing/there", 1)):
        assert subprocess.run([sys.executable, *command[1:-1], url], capture_output=True).returncode == code


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl")
@pytest.mark.parametrize("name", RUNNING)
def test_the_notes_lead_to_a_conversation_of_two_turns(pods, name, tmp_path):
    pod = pods[name].ready()
    tools, secrets = tmp_path / "tools", tmp_path / "secrets"
    tools.mkdir()
    for tool, text in (("kubectl", KUBECTL), ("sleep", "#!/bin/sh\n")):
        (tools / tool).write_text(text)
        (tools / tool).chmod(0o755)
    for secret, content in pod.secrets.items():
        (secrets / secret).mkdir(parents=True)
        for key, value in content.items():
            (secrets / secret / key).write_text(value)
    env = {"PATH": f"{tools}:{os.environ['PATH']}", "SECRETS": str(secrets)}
    script = commands(pod.values).replace("http://127.0.0.1:8080", pod.url)
    done = subprocess.run(["sh", "-euc", script], env=env, capture_output=True, text=True)
    assert "Your name is Ada." in done.stdout, (done.stdout, done.stderr, script)
    assert "resp_" in done.stderr, "what the first turn answers is shown too, as an error would be"
    named = subprocess.run(["sh", "-euc", script], env=env | {"MODEL": "no such model"}, capture_output=True, text=True)
    assert '"model":"no such model"' in named.stderr + named.stdout


def commands(values):
    """What the notes print to be typed: their indented lines, up to the second turn."""
    text = notes(values).partition("3. Two turns")
    return "\n".join(
        line.strip() for part in text for line in part.split("\nFrom outside")[0].splitlines() if line[:2] == "  "
    )


def test_the_bundled_valkey_is_guarded_and_never_evicts(pods, bundled):
    pod = pods["redis-bundled"].ready()
    assert "maxmemory-policy" not in pod.log.read_text()  # what statecar warns of
    with socket.create_connection(("127.0.0.1", bundled)) as stranger:
        stranger.sendall(b"PING\r\n")
        assert stranger.recv(64).startswith(b"-NOAUTH")


def test_the_notes_name_the_namespace_and_warn_of_what_loses_or_shares_state():
    assert f"--namespace {NAMESPACE}" in notes(DEMO)
    for values, words in (
        (setting("store.url", "memory://"), "every restart of the pod loses all state"),
        (setting("auth.tenant", "off"), "everybody sees everybody's state"),
        (setting("auth.tenant", "header:X-T"), "only a gateway that sets it itself"),
        (setting("auth.tenant", "claim:team"), "what the claim team of a token says"),
        (setting("auth.keysFileSecret", "s"), "the tenant that the key file gives that key"),
        ({"valkey": {"enabled": True, "persistence": {"enabled": False}}}, "a restart of Valkey loses all state"),
        ({"valkey": {"enabled": True, "networkPolicy": {"enabled": False}}}, "every pod of the cluster can read it"),
        (setting("upstream.apiKey", "k"), "at the cost of the upstream key given here"),
        (setting("ingress.enabled", True), "WARNING: ingress.enabled without auth.apiKeys"),
        (setting("httpRoute.enabled", True), "WARNING: httpRoute.enabled without auth.apiKeys"),
        (setting("service.type", "NodePort"), "WARNING: service.type=NodePort without auth.apiKeys"),
        (setting("service.type", "LoadBalancer"), "service.type=LoadBalancer publishes every path: /metrics"),
        (setting("config.response_ttl", 3600), "kept 3600 seconds"),
        (setting("config.response_ttl", 0), "kept for ever"),
    ):
        assert words in notes(merged(DEMO, values)) and words not in notes(DEMO), words
    guarded = merged(DEMO, {"auth": {"apiKeys": ["k"]}, "service": {"type": "LoadBalancer"}})
    by_tokens = merged(DEMO, {"config": {"jwt_issuer": ["https://i"], "jwt_audience": ["a"]}})
    for values in (by_tokens, merged(DEMO, setting("auth.keysFileSecret", "s"))):
        assert "No auth.apiKeys" not in notes(values) and "Put a key or a token into KEY" in notes(values)
    assert "without auth.apiKeys" not in notes(guarded) and "administration paths included" in notes(guarded)
    assert "its store answers:" in notes(merged(ALONE, setting("probes.readinessAsksUpstream", False)))
    assert "its upstream and its store answer:" in notes(ALONE)
    assert "every group of its upstreams and its store answer:" in notes(
        merged(SITUATIONS["fleet"], setting("probes.readinessAsksUpstream", True))
    )
    assert "#" not in commands(DEMO), "an interactive zsh takes no comments"
    assert "No auth.apiKeys" in notes(DEMO) and "No auth.apiKeys" not in notes(SITUATIONS["ingress"])
    shown = notes(merged(DEMO, setting("upstream.url", "https://user:hunter2@models/v1")))
    assert "hunter2" not in shown and "https://***@models/v1" in shown
    assert all(shlex.split(line) for line in commands(SITUATIONS["ingress"]).splitlines())
