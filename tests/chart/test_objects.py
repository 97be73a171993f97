"""What matters in the rendered objects."""

import hashlib
import json
import re
import shlex
from dataclasses import fields
from itertools import pairwise
from typing import get_args, get_origin

import pytest
import yaml

from proxy import upstreams
from proxy.settings import Settings
from tests.chart import options
from tests.chart.rendering import (
    CHART,
    DEMO,
    ROOT,
    SITUATIONS,
    Rendered,
    documents,
    helm3,
    helm4,
    helm_python,
    merged,
    render_anew,
    setting,
)

REDIS = setting("store.url", "redis://:hunter2@redis:6379/0")
BUNDLED = setting("valkey.enabled", True)
PASSWORD = "of-letters.and_9~"
SECRETS = {  # what others would have made
    "statecar-redis": {"url": "redis://redis:6379/0"},
    "statecar-keys": {
        "api-key": "upstream",
        "api-keys": "one,two",
        "seal-keys": "0123456789abcdef",
        "encryption-keys": "fedcba9876543210",
        "tenant-secret": "hush",
    },
}

both = pytest.mark.parametrize("render", [helm3, helm4])
situations = pytest.mark.parametrize("values", SITUATIONS.values(), ids=SITUATIONS)


# -- options and variables


def other(f):
    """A value of the option that is not its default."""
    if f.name in ELSEWHERE:
        return ELSEWHERE[f.name]
    if get_origin(f.type) is tuple:
        return LISTS.get(f.name, ["one", "two"])
    if get_origin(f.type) is not None:
        return next(choice for choice in get_args(f.type) if choice != f.default)
    by_type = {bool: lambda: not f.default, int: lambda: f.default + 1_000_000, float: lambda: f.default + 0.25}
    by_name = {"port": 9090, "host": "::", "own_prefix": "/own", "data_dir": "/data", "config": "/dev/null", **TEXTS}
    return by_name[f.name] if f.name in by_name else by_type[f.type]()


LISTS = {
    "mcp_private": ["10.0.0.0/8", "fd00::/8"],
    "connector": ["notes=https://notes/mcp", "old=sse+http://old/sse"],
    "jwt_issuer": ["https://id.example", "https://other.example"],
    "jwt_algorithms": ["ES256", "EdDSA"],
    "attribute": ["team=header:X-Team", "role=claim:roles"],
}
TEXTS = {
    "web_search": "searxng+http://searxng:8080",
    "file_search": "mcp:notes/find",
    "code_interpreter": "mcp:old/run",
    "session_header": "x-affinity",
    "keys_file": "/etc/keys.yaml",
    "jwt_jwks": "https://id.example/jwks",
    "principal": "header:X-User",
}
ELSEWHERE = {
    "upstream": "http://vllm:8000/v1",
    "upstream_kind": "vllm",
    "upstream_api_key": "upstream",
    "api_key": ["one", "two"],
    "seal_key": ["0123456789abcdef", "fedcba9876543210"],
    "encryption_key": ["fedcba9876543210", "0123456789abcdef"],
    "tenant": "header:X-Tenant",
    "tenant_secret": "hush",
    "connector_authorization": ["notes=hidden-one", "old=hidden-two"],
    "web_search_key": "hidden-three",
    "store": "redis+cluster://:hunter2@redis:6379",
    "drain_delay": 7,
    "grace": 77,
    "metrics": False,
}


@both
def test_every_option_can_be_set_and_arrives_as_it_was_meant(render):
    assert options.ELSEWHERE.keys() == ELSEWHERE.keys()
    given = {f.name: other(f) for f in fields(Settings) if not f.metadata["option"].parse}
    paths = {name: options.ELSEWHERE.get(name, f"config.{name}") for name in given}
    env = Rendered(merged(*(setting(paths[name], value) for name, value in given.items())), render).environment()
    assert env.keys() == {f"STATECAR_{name.upper()}" for name in given}
    settings = Settings.resolve([], env)
    for f in fields(Settings):
        arrived = getattr(settings, f.name)
        if f.name in given:
            assert arrived == type(arrived)(given[f.name]), f.name
            assert arrived != f.default, f.name


@both
def test_groups_of_upstreams_arrive_as_they_stand(render):
    groups = [{"models": ["qwen*"], "replicas": ["http://vllm-0:8000/v1", {"url": "http://vllm-1:8000/v1"}]}]
    given = setting("config.upstreams", groups)
    assert Settings.resolve([], Rendered(given, render).environment()).upstreams == upstreams.groups(groups)


@situations
def test_every_variable_of_a_situation_is_an_option_with_a_right_value(values):
    env = Rendered(values).environment(SECRETS)
    assert {name for name in env if name.startswith("STATECAR_")} <= {
        f"STATECAR_{f.name.upper()}" for f in fields(Settings)
    }
    assert {name for name in env if not name.startswith("STATECAR_")} <= {
        "VALKEY_PASSWORD",
        "TZ",
        "POD_PREFIX",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    }
    settings = Settings.resolve([], env | {"STATECAR_CONFIG": ""})
    assert settings.host in ("0.0.0.0", "::") and (settings.upstream or settings.upstreams) and settings.store


def test_values_that_are_not_set_leave_statecar_its_defaults():
    settings = Settings.resolve([], Rendered(DEMO).environment())
    changed = {f.name for f in fields(Settings) if getattr(settings, f.name) != f.default}
    assert changed == {"upstream", "host", "data_dir", "log_format", "drain_delay"}


# -- secrets


CONFIG = {"full": "the-car", "redis-bundled": "r-statecar", "ingress": "r-statecar", "hpa": "r-statecar"}


@pytest.mark.parametrize("name", CONFIG)
def test_a_secret_is_in_no_object_but_a_secret(name):
    rendered = Rendered(SITUATIONS[name])
    secret = rendered("Secret")
    env = rendered.environment()
    hidden = [env[one] for one in ("STATECAR_UPSTREAM_API_KEY", "STATECAR_API_KEY", "STATECAR_SEAL_KEY") if one in env]
    hidden += [env[one] for one in ("STATECAR_TENANT_SECRET", "VALKEY_PASSWORD") if one in env]
    hidden += [env[one] for one in ("STATECAR_CONNECTOR_AUTHORIZATION", "STATECAR_WEB_SEARCH_KEY") if one in env]
    hidden += [env["STATECAR_STORE"]] if "STATECAR_STORE" not in rendered("ConfigMap", CONFIG[name])["data"] else []
    assert hidden and secret["type"] == "Opaque"
    rest = yaml.safe_dump([one for one in rendered.all if one is not secret])
    for value in hidden:
        for part in value.split(","):
            assert part not in rest


def test_secrets_of_others_are_referred_to_and_none_is_made():
    rendered = Rendered(SITUATIONS["redis-external"])
    assert rendered("Secret") is None
    env = rendered.environment(SECRETS)
    assert env["STATECAR_STORE"] == "redis://redis:6379/0"
    assert env["STATECAR_UPSTREAM_API_KEY"] == "upstream" and env["STATECAR_API_KEY"] == "one,two"
    keys = {"connectorAuthorization": "tokens", "webSearchKey": "search"}
    env = Rendered(merged(DEMO, {"tools": {"existingSecret": "own", "existingSecretKeys": keys}})).environment(
        {"own": {"tokens": "notes=one", "search": "two"}}
    )
    assert (env["STATECAR_CONNECTOR_AUTHORIZATION"], env["STATECAR_WEB_SEARCH_KEY"]) == ("notes=one", "two")


def test_the_bundled_valkey_and_statecar_take_one_password():
    for values in (
        {"password": PASSWORD},
        {"existingSecret": "{{ .Release.Name }}-own", "existingSecretKey": "pw"},
    ):
        rendered = Rendered(merged(DEMO, BUNDLED, {"valkey": values}))
        secrets = {"r-own": {"pw": PASSWORD}}
        valkey = rendered("StatefulSet")["spec"]["template"]["spec"]["containers"][0]
        assert rendered.environment(secrets, valkey) == {"VALKEY_PASSWORD": PASSWORD}
        assert valkey["args"] == ["--requirepass", "$(VALKEY_PASSWORD)"]
        store = rendered.environment(secrets)["STATECAR_STORE"]
        assert store == f"redis://:{PASSWORD}@r-statecar-valkey:6379/0"
    open_one = Rendered(merged(DEMO, BUNDLED))
    assert open_one.environment()["STATECAR_STORE"] == "redis://r-statecar-valkey:6379/0"
    assert "args" not in open_one("StatefulSet")["spec"]["template"]["spec"]["containers"][0]


# -- what is rolled out, and when


@pytest.mark.parametrize(
    ("changed", "checksum"),
    [
        (setting("config.workers", 2), "checksum/config"),
        (setting("upstream.kind", "vllm"), "checksum/config"),
        (setting("auth.apiKeys", ["new"]), "checksum/secret"),
        (setting("store.url", "redis://other:6379/0"), "checksum/secret"),
    ],
)
def test_a_change_rolls_the_pods(changed, checksum):
    def annotations(values):
        return Rendered(values)("Deployment")["spec"]["template"]["metadata"]["annotations"]

    before, after = annotations(merged(DEMO, REDIS)), annotations(merged(DEMO, REDIS, changed))
    assert {name for name in before if before[name] != after[name]} == {checksum}


def test_only_its_own_changes_roll_valkey():
    def template(**values):
        return Rendered(merged(DEMO, BUNDLED, values))("StatefulSet")["spec"]["template"]

    before = template()
    assert before == template(config={"workers": 3}, auth={"apiKeys": ["new"]})
    assert "helm.sh/chart" not in before["metadata"]["labels"]
    assert before != template(valkey={"maxmemory": "1gb"})
    assert before != template(valkey={"password": PASSWORD}) != template(valkey={"password": PASSWORD + "2"})


def test_no_annotation_is_a_plain_hash_of_a_secret():
    values = merged(DEMO, BUNDLED, setting("valkey.password", PASSWORD))
    rendered, text = Rendered(values), render_anew(json.dumps(values))["statecar/templates/secret.yaml"]
    guesses = [PASSWORD, f"modelsr-statecar-valkey{PASSWORD}", *rendered("Secret")["data"].values(), text, text.strip()]
    plain = {hashlib.sha256(guess.encode()).hexdigest() for guess in guesses}
    for kind in ("Deployment", "StatefulSet"):
        annotations = rendered(kind)["spec"]["template"]["metadata"]["annotations"]
        assert annotations["checksum/secret"] not in plain
    assert "checksum/secret" not in Rendered(DEMO)("Deployment")["spec"]["template"]["metadata"]["annotations"]


@situations
def test_selectors_are_name_and_instance_and_match_one_kind_of_pod(values):
    rendered = Rendered(values)
    deployment, valkey, test = rendered("Deployment"), rendered("StatefulSet"), rendered("Pod")
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert selector.keys() == {"app.kubernetes.io/name", "app.kubernetes.io/instance"}
    assert rendered("Service", deployment["metadata"]["name"])["spec"]["selector"] == selector
    assert selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert not selector.items() <= test["metadata"]["labels"].items()
    if valkey:
        own = valkey["spec"]["selector"]["matchLabels"]
        assert own.items() <= valkey["spec"]["template"]["metadata"]["labels"].items()
        assert rendered("Service", valkey["metadata"]["name"])["spec"]["selector"] == own != selector
    for one in rendered.all:
        labels = one["metadata"].get("labels", {})
        assert "helm.sh/chart" in labels or one["metadata"]["name"] in ("r-file", "the-car-second")


def test_the_number_of_pods_is_the_autoscalers_when_there_is_one():
    assert "replicas" not in Rendered(SITUATIONS["hpa"])("Deployment")["spec"]
    assert Rendered(SITUATIONS["redis-external"])("Deployment")["spec"]["replicas"] == 3
    scaler = Rendered(SITUATIONS["hpa"])("HorizontalPodAutoscaler")["spec"]
    assert [one["type"] for one in scaler["metrics"]] == ["Resource", "Pods", "External"]
    assert scaler["metrics"][2]["external"]["metric"]["selector"]["matchLabels"] == {"service": "r-statecar"}


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_rollout_never_has_fewer_pods_unless_the_store_or_the_gpu_is_in_them(name):
    strategy = Rendered(SITUATIONS[name])("Deployment")["spec"]["strategy"]
    if name in ("default", "demo"):
        assert strategy == {"type": "Recreate"}
    else:
        assert strategy["rollingUpdate"]["maxUnavailable"] == (1 if name == "sidecar" else 0)


def test_the_strategy_has_no_rest_of_another():
    strategy = Rendered(merged(DEMO, REDIS, setting("updateStrategy.type", "Recreate")))("Deployment")["spec"][
        "strategy"
    ]
    assert strategy == {"type": "Recreate"}


def test_a_rollout_waits_for_a_model_that_loads():
    assert "progressDeadlineSeconds" not in Rendered(DEMO)("Deployment")["spec"]
    rendered = Rendered(SITUATIONS["sidecar"])
    loading = rendered.pod["containers"][1]["startupProbe"]
    assert (
        rendered("Deployment")["spec"]["progressDeadlineSeconds"]
        > loading["periodSeconds"] * loading["failureThreshold"]
    )


@pytest.mark.parametrize("share", [{"minAvailable": 1}, {"minAvailable": "50%"}, {"maxUnavailable": "1%"}])
def test_a_budget_lets_one_of_two_pods_go_and_any_that_is_not_ready(share):
    values = merged(DEMO, REDIS, {"replicaCount": 2, "pdb": {"enabled": True, **share}})
    budget = Rendered(values)("PodDisruptionBudget")["spec"]
    assert budget.items() >= share.items() and budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    older = documents(helm3(values, "1.26.0"))
    assert [one["spec"].keys() - budget.keys() for one in older if one["kind"] == "PodDisruptionBudget"] == [set()]
    assert "unhealthyPodEvictionPolicy" not in yaml.safe_dump(older)


@pytest.mark.parametrize(
    ("release", "values"),
    [
        ("r" * 53, {}),
        ("r", {"nameOverride": "n" * 55}),
        ("r" * 53, {"nameOverride": "n" * 55}),
        ("r", {"fullnameOverride": "f" * 63}),
    ],
)
def test_long_names_end_in_a_hash_and_so_differ(release, values):
    def names(values, release):
        with helm_python.Chart.load(str(CHART)) as chart:
            files = chart.render(merged(DEMO, BUNDLED, values), name=release, namespace="models")
        return {
            (one["kind"], one["metadata"]["name"])
            for text in files.values()
            if "kind:" in text
            for one in documents(text)
        }

    mine = names(values, release)
    other = {name: value[:-1] + "x" for name, value in values.items()}
    theirs = names(other, release if other else release[:-1] + "x")
    assert not mine & theirs
    for kind, name in mine:
        assert len(name) <= (52 if kind == "StatefulSet" else 63) and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)


def test_labels_of_the_values_win_but_over_those_that_pods_are_selected_by():
    mine = {"team": "{{ .Release.Name }}", "app.kubernetes.io/part-of": "platform"}
    rendered = Rendered(merged(DEMO, BUNDLED, {"commonLabels": mine, "podLabels": {"team": "models"}}))
    deployment = rendered("Deployment")
    assert deployment["metadata"]["labels"]["team"] == "r"
    pod = deployment["spec"]["template"]["metadata"]["labels"]
    assert pod["team"] == "models" and pod["app.kubernetes.io/part-of"] == "platform"
    assert pod["app.kubernetes.io/component"] == "proxy"
    hidden = setting("podLabels", {"{{ `app.kubernetes.io/name` }}": "other"})  # what no schema can see
    pod = Rendered(merged(DEMO, hidden))("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert pod["app.kubernetes.io/name"] == "statecar"


def test_a_release_named_like_a_number_has_labels_that_are_texts():
    with helm_python.Chart.load(str(CHART)) as chart:
        files = chart.render(merged(DEMO, {"fullnameOverride": "car"}), name="1234", namespace="models")
    (deployment,) = documents(files["statecar/templates/deployment.yaml"])
    for labels in (deployment["metadata"]["labels"], deployment["spec"]["selector"]["matchLabels"]):
        assert labels["app.kubernetes.io/instance"] == "1234"


def test_the_pod_of_valkey_has_labels_and_annotations_of_its_own():
    own = {"podLabels": {"team": "{{ .Release.Name }}"}, "podAnnotations": {"a": "b"}}
    template = Rendered(merged(DEMO, BUNDLED, {"valkey": own}))("StatefulSet")["spec"]["template"]["metadata"]
    assert template["labels"]["team"] == "r" and template["labels"]["app.kubernetes.io/component"] == "valkey"
    assert template["annotations"]["a"] == "b" and "checksum/config" in template["annotations"]


def test_where_names_are_looked_up_and_what_runs_the_pod_can_be_said():
    pod = Rendered(SITUATIONS["full"]).pod
    given = {name: SITUATIONS["full"][name] for name in ("hostAliases", "dnsConfig", "dnsPolicy", "runtimeClassName")}
    assert given.items() <= pod.items()
    assert not given.keys() & Rendered(DEMO).pod.keys()


# -- the store inside


def test_a_key_file_is_mounted_as_a_directory_whose_changes_reach_the_pod():
    values = {"auth": {"keysFileSecret": "{{ .Release.Name }}-team-keys", "keysFileKey": "k.json"}}
    rendered = Rendered(merged(DEMO, values))
    volume = next(one for one in rendered.pod["volumes"] if one["name"] == "keys")
    assert volume["secret"] == {"secretName": "r-team-keys"}
    mount = next(one for one in rendered.container["volumeMounts"] if one["name"] == "keys")
    assert mount == {"name": "keys", "mountPath": "/etc/statecar/keys", "readOnly": True}  # no subPath
    assert rendered.environment()["STATECAR_KEYS_FILE"] == "/etc/statecar/keys/k.json"


def test_the_embedded_store_lies_on_a_volume_that_outlives_the_release():
    rendered = Rendered(merged(DEMO, setting("config.data_dir", "/srv/state")))
    claim = rendered("PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "storageClassName" not in claim["spec"]
    volume = next(one for one in rendered.pod["volumes"] if one["name"] == "data")
    assert volume["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    mount = next(one for one in rendered.container["volumeMounts"] if one["name"] == "data")
    assert mount["mountPath"] == rendered.environment()["STATECAR_DATA_DIR"] == "/srv/state"


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"existingClaim": "{{ .Release.Name }}-mine"}, None),
        ({"storageClass": "-"}, ""),
        ({"storageClass": "fast", "retain": False, "annotations": {"a": "b"}}, "fast"),
    ],
)
def test_the_claim_can_be_another(values, found):
    rendered = Rendered(merged(DEMO, setting("store.embedded.persistence", values)))
    claim = rendered("PersistentVolumeClaim")
    if found is None:
        volume = next(one for one in rendered.pod["volumes"] if one["name"] == "data")
        assert claim is None and volume["persistentVolumeClaim"] == {"claimName": "r-mine"}
    else:
        assert claim["spec"]["storageClassName"] == found


def test_a_rewrite_of_the_append_only_file_fits_into_valkeys_memory():
    rendered = Rendered(merged(DEMO, BUNDLED))
    most = re.search(r"maxmemory (\d+)mb", rendered("ConfigMap", "r-statecar-valkey")["data"]["valkey.conf"])
    limit = rendered("StatefulSet")["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
    assert 2 * int(most[1]) + 100 <= {"1Gi": 1024}[limit]


@pytest.mark.parametrize("name", ["demo", "redis-external", "redis-bundled", "hpa"])
def test_no_volume_of_data_without_an_embedded_store(name):
    rendered = Rendered(SITUATIONS[name])
    assert rendered("PersistentVolumeClaim") is None
    assert [one["name"] for one in rendered.pod["volumes"]] == ["tmp"]


# -- security


@situations
def test_every_pod_is_as_small_a_target_as_can_be(values):
    rendered = Rendered(values)
    pods = [rendered.pod, rendered("Pod")["spec"]]
    if valkey := rendered("StatefulSet"):
        pods.append(valkey["spec"]["template"]["spec"])
    for pod in pods:
        own = pod["containers"][0]
        both_contexts = pod["securityContext"] | own["securityContext"]
        assert both_contexts["runAsNonRoot"] is True and both_contexts["readOnlyRootFilesystem"] is True
        assert both_contexts["allowPrivilegeEscalation"] is False and both_contexts["capabilities"] == {"drop": ["ALL"]}
        assert both_contexts["seccompProfile"] == {"type": "RuntimeDefault"}
        assert both_contexts.get("runAsUser") in (None, 999, 10001)
        assert pod["enableServiceLinks"] is False
        if values is not SITUATIONS["full"]:
            assert pod["automountServiceAccountToken"] is False


def test_openshift_chooses_the_user():
    for pod in (
        Rendered(SITUATIONS["openshift"]).pod,
        Rendered(SITUATIONS["openshift"])("StatefulSet")["spec"]["template"]["spec"],
    ):
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & pod["securityContext"].keys()


def test_the_network_policy_admits_the_http_port_and_lets_out_to_what_is_needed():
    policy = Rendered(merged(DEMO, BUNDLED, setting("networkPolicy.enabled", True)))("NetworkPolicy", "r-statecar")[
        "spec"
    ]
    assert policy["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}]}]
    dns, valkey = policy["egress"]
    assert {(one["port"], one["protocol"]) for one in dns["ports"]} == {
        (53, "UDP"),
        (53, "TCP"),
        (5353, "UDP"),
        (5353, "TCP"),
    }
    assert valkey["ports"] == [{"port": 6379, "protocol": "TCP"}]
    full = Rendered(SITUATIONS["full"])("NetworkPolicy")["spec"]
    assert len(full["ingress"][0]["from"]) == 3 and len(full["egress"]) == 5
    assert full["ingress"][0]["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == "car-test"


def test_valkey_admits_statecar_only():
    rendered = Rendered(merged(DEMO, BUNDLED))
    policy = rendered("NetworkPolicy", "r-statecar-valkey")["spec"]
    (peer,) = policy["ingress"][0]["from"]
    assert peer["podSelector"] == rendered("Deployment")["spec"]["selector"]
    assert "egress" not in policy and policy["policyTypes"] == ["Ingress", "Egress"]


# -- the end of a pod


@situations
def test_a_pod_has_time_to_end(values):
    rendered = Rendered(values)
    closing = 35 if rendered("Deployment")["spec"]["strategy"]["type"] == "Recreate" else 15
    assert rendered.pod["terminationGracePeriodSeconds"] >= draining(rendered) + closing


def draining(rendered):
    """Seconds from SIGTERM until statecar ends its streams."""
    environment = rendered.environment(SECRETS)
    return int(environment["STATECAR_DRAIN_DELAY"]) + int(environment["STATECAR_GRACE"])


def test_a_model_server_in_the_pod_outlives_the_drain():
    rendered = Rendered(SITUATIONS["sidecar"])
    vllm = rendered.pod["containers"][1]
    sleep = int(vllm["lifecycle"]["preStop"]["exec"]["command"][1])
    assert draining(rendered) < sleep < rendered.pod["terminationGracePeriodSeconds"]
    assert rendered.environment(SECRETS)["STATECAR_UPSTREAM"].startswith("http://127.0.0.1:8000")


# -- the way in


def test_own_paths_move_with_their_prefix():
    rendered = Rendered(merged(SITUATIONS["full"], {"probes": {"readiness": {"httpGet": None}}}))
    probes = rendered.container
    assert "startupProbe" not in probes
    assert probes["livenessProbe"]["httpGet"] == {"path": "/statecar/health", "port": "http"}
    assert probes["readinessProbe"]["httpGet"] == {"path": "/statecar/ready?upstream=false", "port": "http"}
    assert rendered("ServiceMonitor")["spec"]["endpoints"][0]["path"] == "/statecar/metrics"
    assert rendered("Pod")["spec"]["containers"][0]["command"][-1] == "http://the-car:8080/statecar/ready"


def test_readiness_asks_the_upstream_unless_told_not_to():
    for asks, path in ((True, "/ready"), (False, "/ready?upstream=false")):
        container = Rendered(merged(DEMO, setting("probes.readinessAsksUpstream", asks))).container
        assert container["readinessProbe"]["httpGet"]["path"] == path
        assert container["livenessProbe"]["httpGet"]["path"] == "/health"


def test_a_load_balancer_can_be_narrowed_and_families_chosen():
    given = {
        "type": "LoadBalancer",
        "loadBalancerClass": "example.com/lb",
        "loadBalancerSourceRanges": ["192.0.2.0/24"],
    }
    families = {"ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"}
    service = Rendered(merged(DEMO, {"service": given | families}, setting("config.host", "::")))
    assert (given | families).items() <= service("Service")["spec"].items()
    assert service.environment()["STATECAR_HOST"] == "::"
    assert Rendered(DEMO)("Service")["spec"].keys() == {"type", "selector", "ports"}


def test_the_alerts_are_those_of_the_configuration_with_their_braces():
    rules = (ROOT / "config/prometheus-rules.yaml").read_text("utf-8")
    assert Rendered(SITUATIONS["full"])("PrometheusRule")["spec"] == yaml.safe_load(rules)
    linked = {"metrics": {"prometheusRule": {"enabled": True, "runbooks": "https://wiki.example/statecar"}}}
    made = Rendered(merged(SITUATIONS["full"], linked))("PrometheusRule")
    assert made["spec"] == yaml.safe_load(rules.replace("https://runbooks.invalid", "https://wiki.example/statecar"))
    assert "{{ $labels." in yaml.safe_dump(made["spec"], width=1000)
    assert made["metadata"]["labels"]["release"] == "prometheus"
    assert made["metadata"]["annotations"] == {"example.com/team": "models"}


def test_braces_of_others_are_written_as_the_readme_says():
    assert Rendered(SITUATIONS["full"])("ConfigMap", "the-car-second")["data"] == {"text": "{{ $labels.job }}"}
    (shown,) = re.findall(r"``(\{\{.*?\}\})``", (CHART / "README.md").read_text("utf-8"))
    assert shown in yaml.safe_dump(SITUATIONS["full"]["extraObjects"], width=1000)


def test_the_autoscaler_goes_by_what_a_busy_worker_uses():
    assert Rendered(SITUATIONS["hpa"]).container["resources"]["requests"]["cpu"] == "1"
    sizing = (ROOT / "docs/operations/sizing.md").read_text("utf-8")
    assert "one worker, 1 CPU and 256 MB" in sizing
    assert Rendered(DEMO).container["resources"]["requests"]["memory"] == "256Mi"


def test_every_secret_of_a_situation_is_made_by_a_command_in_its_file():
    text = (CHART / "ci/redis-external.yaml").read_text("utf-8")
    for secret, keys in SECRETS.items():
        command = text.partition(f"create secret generic {secret} ")[2].partition("create secret")[0]
        assert set(re.findall(r"--from-literal=([a-z-]+)=", command)) == keys.keys()


def test_an_ingress_leads_to_the_api_only_and_neither_buffers_nor_hurries():
    ingress = Rendered(SITUATIONS["ingress"])("Ingress")
    rule = ingress["spec"]["rules"][0]
    assert rule["host"] == "r.example.com" and [path["path"] for path in rule["http"]["paths"]] == ["/v1"]
    given = {name.rpartition("/")[2]: value for name, value in ingress["metadata"]["annotations"].items()}
    assert given["proxy-buffering"] == "off" and given["proxy-read-timeout"] == "3600"
    assert given["cluster-issuer"] == "letsencrypt"


def test_a_route_has_no_timeouts():
    route = Rendered(SITUATIONS["full"])("HTTPRoute")["spec"]["rules"][0]
    assert route["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    assert route["backendRefs"] == [{"name": "the-car", "port": 8080}]


def test_the_port_of_the_pod_is_the_one_statecar_listens_on():
    for values in (SITUATIONS["default"], SITUATIONS["full"]):
        rendered = Rendered(values)
        (port,) = rendered.container["ports"]
        assert str(port["containerPort"]) == rendered.environment()["STATECAR_PORT"]
        assert rendered.pod["containers"][0]["name"] == "statecar"


def test_images_can_come_from_another_registry_and_be_pinned():
    assert Rendered(DEMO).container["image"] == "statecar:0.1.0"
    tagged = Rendered(
        merged(DEMO, BUNDLED, setting("image.tag", "main"), setting("global.imageRegistry", "r.example.com"))
    )
    assert tagged.container["image"] == tagged("Pod")["spec"]["containers"][0]["image"] == "r.example.com/statecar:main"
    valkey = tagged("StatefulSet")["spec"]["template"]["spec"]["containers"][0]["image"]
    assert valkey.startswith("r.example.com/valkey/valkey:")
    digest = SITUATIONS["full"]["image"]["digest"]
    assert Rendered(SITUATIONS["full"]).container["image"] == f"registry.example.com/team/statecar@{digest}"


def test_every_template_has_one_kind_but_valkeys():
    several = {
        file.name for file in (CHART / "templates").glob("*.yaml") if file.read_text("utf-8").count("\nkind: ") > 1
    }
    assert several == {"valkey.yaml"}


def test_the_commands_of_the_readme_render():
    text = (CHART / "README.md").read_text("utf-8").replace("\\\n", "")
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("helm install")]
    assert len(commands) == 3
    for command in commands:
        pairs = [pair.split("=", 1) for flag, pair in pairwise(command) if flag == "--set"]
        values = merged(*(setting(path, yaml.safe_load(value)) for path, value in pairs))
        assert Rendered(values)("Deployment")["metadata"]["name"] == "r-statecar"


def test_statecar_in_another_chart_is_what_this_one_makes():
    text = (CHART / "README.md").read_text("utf-8")
    block = next(block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "extraContainers" in block)
    (shown,) = yaml.safe_load(block)["extraContainers"]
    made = Rendered(merged(DEMO, REDIS)).container
    assert shown["image"] == made["image"] and shown["ports"][0]["containerPort"] == made["ports"][0]["containerPort"]
    for probe in ("livenessProbe", "readinessProbe"):
        assert shown[probe]["httpGet"]["path"] == made[probe]["httpGet"]["path"]
        assert shown[probe]["timeoutSeconds"] == made[probe]["timeoutSeconds"]
    assert made["securityContext"].items() <= shown["securityContext"].items()
    delay = Rendered(merged(DEMO, REDIS)).environment()["STATECAR_DRAIN_DELAY"]
    assert {one["name"]: one.get("value") for one in shown["env"]} == {
        "STATECAR_UPSTREAM": "http://127.0.0.1:8000/v1",
        "STATECAR_STORE": None,
        "STATECAR_DRAIN_DELAY": delay,
    }
