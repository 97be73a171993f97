"""What cannot work does not render, and says why."""

import json
import re

import pytest

from tests.chart.rendering import (
    CHART,
    DEMO,
    SITUATIONS,
    Refused,
    helm3,
    helm4,
    merged,
    render_anew,
    setting,
)

both = pytest.mark.parametrize("render", [helm3, helm4])

REDIS = setting("store.url", "redis://redis:6379/0")
SCALED = setting("autoscaling.enabled", True)

# values, and words of the refusal
SENSELESS = {
    "no upstream": ({"upstream": {"url": ""}}, ["upstream.url is missing", "--set upstream.url=http://vllm:8000/v1"]),
    "embedded for three": (setting("replicaCount", 3), ["replicaCount is 3", "embedded is private to one pod"]),
    "memory for two": (
        merged(setting("replicaCount", 2), setting("store.url", "memory://")),
        ["replicaCount is 2", "memory:// is private to one pod", "valkey.enabled=true"],
    ),
    "embedded scaled": (SCALED, ["autoscaling.enabled needs a shared store", "embedded is private"]),
    "memory scaled": (merged(SCALED, setting("store.url", "memory://")), ["autoscaling.enabled needs a shared store"]),
    "two stores": (merged(REDIS, setting("valkey.enabled", True)), ["store.url and valkey.enabled", "one store"]),
    "url and Secret": (merged(REDIS, setting("store.existingSecret", "s")), ["store.url and store.existingSecret"]),
    "two passwords": (
        {"valkey": {"enabled": True, "password": "sixteen-or-longer", "existingSecret": "b"}},
        ["valkey.password and valkey.existingSecret"],
    ),
    "two upstream keys": (
        {"upstream": {"apiKey": "a", "existingSecret": "b"}},
        ["upstream.apiKey and upstream.existingSecret"],
    ),
    "a Secret without keys": (setting("auth.existingSecret", "s"), ["existingSecretKeys names none of its keys"]),
    "a key without a Secret": (
        setting("auth.existingSecretKeys.apiKeys", "k"),
        ["existingSecretKeys.apiKeys names a key", "auth.existingSecret names no Secret"],
    ),
    "keys twice": (
        {"auth": {"apiKeys": ["k"], "existingSecret": "s", "existingSecretKeys": {"apiKeys": "k"}}},
        ["auth.apiKeys and auth.existingSecretKeys.apiKeys"],
    ),
    "two key files": (
        {"auth": {"keysFileSecret": "s"}, "config": {"keys_file": "/k"}},
        ["auth.keysFileSecret and config.keys_file"],
    ),
    "a connector's Secret without keys": (
        setting("tools.existingSecret", "s"),
        ["tools.existingSecret names a Secret", "existingSecretKeys.webSearchKey=web-search-key"],
    ),
    "a search key twice": (
        {"tools": {"webSearchKey": "k", "existingSecret": "s", "existingSecretKeys": {"webSearchKey": "k"}}},
        ["tools.webSearchKey and tools.existingSecretKeys.webSearchKey"],
    ),
    "killed too early": (
        {"shutdown": {"terminationGracePeriodSeconds": 69}},
        ["terminationGracePeriodSeconds is 69", "give 70 or more"],
    ),
    "killed too early over redis": (
        merged(REDIS, {"shutdown": {"graceSeconds": 300, "terminationGracePeriodSeconds": 60}}),
        ["graceSeconds (300)", "give 320 or more"],
    ),
    "nothing to scale by": (
        merged(SCALED, REDIS, setting("autoscaling.targetCPUUtilizationPercentage", None)),
        ["autoscaling.targetCPUUtilizationPercentage or autoscaling.metrics"],
    ),
    "a share of nothing": (
        merged(SCALED, REDIS, setting("resources.requests.cpu", None)),
        ["share of resources.requests.cpu"],
    ),
    "more than most": (
        merged(SCALED, REDIS, setting("autoscaling.minReplicas", 20)),
        ["autoscaling.minReplicas (20) is above autoscaling.maxReplicas (10)"],
    ),
    "monitoring nothing": (
        {"metrics": {"enabled": False, "serviceMonitor": {"enabled": True}}},
        ["serviceMonitor.enabled needs metrics.enabled=true"],
    ),
    "alerts of nothing": (
        {"metrics": {"enabled": False, "prometheusRule": {"enabled": True}}},
        ["prometheusRule.enabled needs metrics.enabled=true"],
    ),
    "all of one must stay": (
        {"pdb": {"enabled": True, "minAvailable": 1}},
        ["pdb.minAvailable is 1, of 1 pods", "its node not be drained"],
    ),
    "all of the autoscaler's must stay": (
        merged(SCALED, REDIS, {"pdb": {"enabled": True, "minAvailable": "51%"}}),
        ["pdb.minAvailable is 51%, of 2 pods at least"],
    ),
    "none may go": ({"pdb": {"enabled": True, "maxUnavailable": 0}}, ["pdb.maxUnavailable of 1 or more"]),
    "a budget of nothing": ({"pdb": {"enabled": True, "maxUnavailable": None}}, ["or a pdb.minAvailable"]),
    "balancing no load": (
        setting("service.loadBalancerClass", "example.com/lb"),
        ["service.loadBalancerClass is for service.type=LoadBalancer", "it is ClusterIP"],
    ),
    "open ranges": (
        {"service": {"type": "NodePort", "loadBalancerSourceRanges": ["192.0.2.0/24"]}},
        ["service.loadBalancerSourceRanges is for", "it is NodePort"],
    ),
    "cut off from the upstream": (
        {"networkPolicy": {"enabled": True}, "upstream": {"url": "http://vllm:8000/v1"}},
        ["cut statecar off from its upstream", "networkPolicy.egress.upstream"],
    ),
    "cut off from the store": (
        merged(REDIS, setting("networkPolicy.enabled", True)),
        ["cut statecar off from its store", "networkPolicy.egress.store"],
    ),
    "identity providers cut off": (
        merged(
            DEMO, {"networkPolicy": {"enabled": True}, "config": {"jwt_issuer": ["https://i"], "jwt_audience": ["a"]}}
        ),
        ["cut statecar off from its identity providers", "networkPolicy.egress.extra"],
    ),
    "tools cut off": (
        merged(DEMO, setting("networkPolicy.enabled", True), setting("config.mcp_allow", ["*"])),
        ["cut statecar off from the servers of hosted tools", "networkPolicy.egress.tools"],
    ),
}

# path, value, and how the schema's refusal names it
MALFORMED = [
    ("upstream.url", "vllm:8000/v1", "url"),
    ("upstream.url", "http://vllm:8000", "url"),
    ("upstream.kind", "gpt", "kind"),
    ("upstream.key", "k", "key"),
    ("store.url", "mysql://db", "url"),
    ("store.url", "redis+ring://s", "url"),
    ("store.embedded.persistence.size", "big", "size"),
    ("replicaCount", -1, "replicaCount"),
    ("replicas", 1, "replicas"),
    ("image.digest", "latest", "digest"),
    ("valkey.password", "with:colon", "password"),
    ("valkey.maxmemory", "most", "maxmemory"),
    ("auth.apiKeys", ["one,two"], "apiKeys"),
    ("auth.sealKeys", ["short"], "sealKeys"),
    ("auth.encryptionKeys", ["short"], "encryptionKeys"),
    ("auth.tenant", "none", "tenant"),
    ("auth.keysFileKey", "../keys", "keysFileKey"),
    ("config.prot", 1, "prot"),
    ("config.grace", 5, "grace"),
    ("config.port", 70000, "port"),
    ("config.workers", 0, "workers"),
    ("config.workers", "two", "workers"),
    ("config.access_log", "yes", "access_log"),
    ("config.late_errors", "none", "late_errors"),
    ("config.sse_keepalive_seconds", -1, "sse_keepalive_seconds"),
    ("config.vendor_keys", "top_k", "vendor_keys"),
    ("service.type", "Headless", "type"),
    ("ingress.hosts", [{"host": "h", "path": "/"}], "path"),
    ("httpRoute.paths", ["v1"], "paths"),
    ("pdb.maxUnavailable", "some", "maxUnavailable"),
    ("pdb.minAvailable", "2", "minAvailable"),
    ("valkey.password", "too-short", "password"),
    ("podLabels", {"app.kubernetes.io/name": "other"}, "app.kubernetes.io/name"),
    ("commonLabels", {"app.kubernetes.io/instance": "other"}, "app.kubernetes.io/instance"),
    ("podLabels", {"number": 1}, "number"),
    ("nameOverride", "Car", "nameOverride"),
    ("fullnameOverride", "the_car", "fullnameOverride"),
    ("fullnameOverride", "f" * 64, "fullnameOverride"),
    ("updateStrategy.type", "OnDelete", "type"),
    ("service.ipFamilies", ["IPv5"], "ipFamilies"),
    ("dnsPolicy", "Cluster", "dnsPolicy"),
    ("tmp", None, "tmp"),
    ("metrics", None, "metrics"),
    ("metrics.serviceMonitor", None, "serviceMonitor"),
    ("service.port", None, "port"),
    ("updateStrategy", None, "updateStrategy"),
]


@both
@pytest.mark.parametrize(("values", "words"), SENSELESS.values(), ids=SENSELESS)
def test_senseless_values_are_refused_with_the_reason(render, values, words):
    with pytest.raises(Refused) as refused:
        render(merged(DEMO, values))
    for word in words:
        assert word in str(refused.value)


@both
@pytest.mark.parametrize(("path", "value", "named"), MALFORMED, ids=lambda one: str(one)[:40])
def test_malformed_values_are_refused_by_name(render, path, value, named):
    with pytest.raises(Refused) as refused:
        render(merged(DEMO, setting(path, value)))
    assert re.search(rf"\b{named}\b", str(refused.value)) and "template" not in str(refused.value)


def paths(node, path=""):
    for name, one in node.get("properties", {}).items():
        yield f"{path}{name}"
        yield from paths(one, f"{path}{name}.")


EVERYTHING = merged(
    SITUATIONS["full"],
    SITUATIONS["ingress"],
    {"auth": {"apiKeys": [], "sealKeys": [], "encryptionKeys": [], "tenantSecret": ""}},
    {"store": {"url": ""}, "upstream": {"apiKey": ""}},
    {
        "pdb": {"minAvailable": None},
        "autoscaling": {"enabled": True, "metrics": SITUATIONS["hpa"]["autoscaling"]["metrics"]},
    },
)
INSIDE = SITUATIONS["default"]


def test_null_is_refused_by_name_or_leaves_the_thing_out():
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    outcomes = set()
    for path in paths(schema):
        values = merged(INSIDE if path.startswith("store.embedded") else EVERYTHING, setting(path, None))
        try:
            files = render_anew(json.dumps(values))
        except Refused as refused:
            outcomes.add("refused")
            reason = str(refused)
            assert path.rpartition(".")[2] in reason and "nil" not in reason, path
        else:
            outcomes.add("rendered")
            assert [text for text in files.values() if null_in(text)] == [], path
    assert outcomes == {"refused", "rendered"}


def null_in(text):
    return re.search(r": null$|<nil>|<no value>", text, re.MULTILINE)


ALLOWED = [
    ("upstream.url", "https://models.example.com/openai/v1"),
    ("upstream.url", "http+unix://%2Frun%2Fvllm.sock/v1"),
    ("upstream.url", "http://{{ .Release.Name }}-vllm:8000/v1"),
    ("store.url", "embedded"),
    ("store.url", "memory://"),
    ("store.url", "rediss://user:p%40ss@redis:6380/2?ssl_cert_reqs=none"),
    ("store.url", "rediss+cluster://redis:6380"),
    ("store.url", "rediss+sentinel://user:p%40ss@a:26379,b:26379/mymaster/0?sentinel_password=s"),
    ("store.url", "unix:///run/valkey/valkey.sock"),
    ("auth.sealKeys", ["@/etc/keys/seal"]),
    ("shutdown.terminationGracePeriodSeconds", 70),
    ("config.workers", None),
    ("config.upstream_connect_timeout", 0.5),
    ("probes.liveness", None),
    ("valkey", {"enabled": True, "maxmemory": 0, "persistence": {"enabled": False}}),
    ("pdb", {"enabled": True, "maxUnavailable": "30%"}),
]


@pytest.mark.parametrize(("path", "value"), ALLOWED, ids=lambda one: str(one)[:40])
def test_these_values_render(path, value):
    assert helm4(merged(DEMO, setting(path, value))) and helm3(merged(DEMO, setting(path, value)))


def test_one_replica_of_a_private_store_is_no_matter_how_it_is_said():
    for replicas in (0, 1):
        assert helm4(merged(SITUATIONS["default"], setting("replicaCount", replicas)))
