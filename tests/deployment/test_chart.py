"""Helm chart: what it renders is valid for Kubernetes and its operators, and the configuration in it for the bridge."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import jsonschema_rs
import pytest
import yaml

from bridge.app.composition import load_config
from bridge.app.operations.engines import ENGINE_OPERATIONS, Scaling
from bridge.app.reload.changes import RESTART
from bridge.cli import root
from bridge.config.model.bridge import BridgeConfig
from tests.deployment import keda
from tests.deployment import manifests as rendering
from tests.deployment.manifests import CHART, CLUSTER, ROOT, manifests
from tests.kit.go_tools import ToolMissing, module_files

pytestmark = [pytest.mark.chart, pytest.mark.timeout(1200)]  # the first one builds helm

PROMETHEUS_OPERATOR = ("github.com/prometheus-operator/prometheus-operator", "v0.85.0")
KUBERNETES = ("1.30", "1.34")
"""Oldest and newest minor version of Kubernetes that the manifests are checked for."""

CONFIG = """
engine: {type: scheduler, endpoint: "https://shop.westeurope.durabletask.io", task_hub: shop}
brokers: {local: {type: kafka, bootstrap_servers: "kafka:9092"}}
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}}
routes:
  - {name: start, from: orders, schedule: {orchestration: fulfil_order, instance_id: "order-{{ payload.id }}"}}
"""
LAG: dict[str, Any] = {
    "type": "kafka",
    "metadata": {
        "bootstrapServers": "kafka:9092",
        "consumerGroup": "orders",
        "topic": "orders",
        "lagThreshold": "2000",
        "offsetResetPolicy": "earliest",
        "limitToPartitionsWithLag": "true",
        "excludePersistentLag": "true",
    },
}
BUS: dict[str, Any] = {
    "type": "azure-servicebus",
    "metadata": {"namespace": "shop", "queueName": "payments", "messageCount": "500"},
    "authenticationRef": {"name": "servicebus"},
}
CPU: dict[str, Any] = {"type": "cpu", "metricType": "Utilization", "metadata": {"value": "70"}}
SPLIT: dict[str, Any] = {
    "image": {"repository": "registry.example/shop", "digest": f"sha256:{'0' * 64}"},
    "roles": {"all": {"enabled": False}, "intake": {"enabled": True}, "worker": {"enabled": True, "replicas": 3}},
    "secretFiles": ["bridge-credentials", "bridge.tokens"],
    "volumes": [{"name": "blobs", "persistentVolumeClaim": {"claimName": "blobs"}}],
    "volumeMounts": [{"name": "blobs", "mountPath": "/var/lib/blobs"}],
    "envFrom": [{"secretRef": {"name": "bridge"}}],
    "serviceAccount": {"annotations": {"azure.workload.identity/client-id": "00000000-0000-0000-0000-000000000000"}},
    "podLabels": {"azure.workload.identity/use": "true"},
    "networkPolicy": {
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "egress": [{"ports": [{"port": 443}, {"port": 9092}]}],
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "grafanaDashboard": {"enabled": True},
    "autoscaling": {
        "intake": {"enabled": True, "min": 0, "max": 8, "triggers": [LAG, BUS]},
        "worker": {"enabled": True, "work": {"enabled": True, "of": "process", "token": {"secret": "keda"}}},
    },
}
ALONE: dict[str, Any] = {"persistence": {"enabled": True, "storageClass": "fast"}}


@pytest.fixture(scope="module")
def helm() -> Path:
    """Path of helm; the tests are skipped on a machine that has none and cannot build it."""
    try:
        return rendering.helm()
    except ToolMissing as missing:
        pytest.skip(str(missing))


def run(helm: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(helm), *arguments], capture_output=True, text=True, check=False, cwd=ROOT)


def given(directory: Path, values: dict[str, Any], config: str = CONFIG) -> list[str]:
    """Arguments with the values of a release. config: content of its bridge.yaml."""
    file = directory / "values.yaml"
    file.write_text(yaml.safe_dump(values | ({"config": {"bridge.yaml": config}} if config else {})))
    return ["--values", str(file)]


def rendered(helm: Path, directory: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Objects of a release called `shop`."""
    done = run(helm, "template", "shop", str(CHART), *CLUSTER, "--namespace", "shop", *given(directory, values))
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def found(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """Objects of a kind, by name."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


class _Loader(yaml.SafeLoader):
    """Loader that takes `=` for a text, as Kubernetes does."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: str(node.value))


def schema(directory: Path, kind: str) -> Any:
    """JSON Schema of a kind in files with custom resource definitions."""
    for path in sorted(directory.glob("*.yaml")):
        crd = yaml.load(path.read_text(), _Loader)
        if crd["spec"]["names"]["kind"] == kind:
            [version] = [each for each in crd["spec"]["versions"] if each["storage"]]
            return version["schema"]["openAPIV3Schema"]
    raise AssertionError(f"there is no {kind} in {directory}")


@pytest.mark.parametrize("values", [{}, SPLIT, ALONE], ids=["default", "split", "alone"])
def test_the_chart_passes_helm_lint(helm: Path, tmp_path: Path, values: dict[str, Any]) -> None:
    done = run(helm, "lint", "--strict", str(CHART), *given(tmp_path, values))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", [{}, SPLIT, ALONE], ids=["default", "split", "alone"])
def test_kubernetes_takes_the_objects(helm: Path, tmp_path: Path, values: dict[str, Any]) -> None:
    validator = Path(sys.executable).parents[1] / "tools" / "bin" / "kubernetes-validate"
    if not validator.exists():
        pytest.skip("kubernetes-validate is installed by `make deploy-check`")
    own = [
        each
        for each in rendered(helm, tmp_path, values)
        if "." not in each["apiVersion"].split("/")[0] or "k8s.io" in each["apiVersion"]
    ]
    assert {each["kind"] for each in own} >= {"Deployment", "Service", "ConfigMap", "ServiceAccount", "NetworkPolicy"}
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all(own))
    for version in KUBERNETES:
        done = subprocess.run(
            [str(validator), "--strict", "--version", version, str(file)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_operators_take_their_objects(helm: Path, tmp_path: Path) -> None:
    objects = rendered(helm, tmp_path, SPLIT)
    try:
        crds = keda.module() / "config" / "crd" / "bases"
        operator = module_files(*PROMETHEUS_OPERATOR) / "example" / "prometheus-operator-crd"
    except ToolMissing as missing:
        pytest.skip(str(missing))
    for directory, kinds in (
        (crds, ("ScaledObject", "TriggerAuthentication")),
        (operator, ("ServiceMonitor", "PrometheusRule")),
    ):
        for kind in kinds:
            each_of_kind = found(objects, kind)
            assert each_of_kind
            for each in each_of_kind.values():
                jsonschema_rs.validator_for(schema(directory, kind)).validate(each)
    scaled = found(objects, "ScaledObject")
    deployments = found(objects, "Deployment")
    assert set(scaled) == set(deployments)
    for name, each in scaled.items():
        assert each["spec"]["scaleTargetRef"]["name"] == name
        assert "replicas" not in deployments[name]["spec"]
    [rules] = found(objects, "PrometheusRule").values()
    assert rules["spec"] == yaml.safe_load((ROOT / "deploy" / "observability" / "alerts.yaml").read_text())


def test_the_pods_run_the_bridge_with_a_valid_configuration(
    helm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POD_IP", "10.0.0.7")
    objects = rendered(helm, tmp_path, SPLIT)
    maps = found(objects, "ConfigMap")
    for name in maps:
        (tmp_path / name).mkdir()
        for file, text in maps[name]["data"].items():
            (tmp_path / name / file).write_text(text)
    overlay = tmp_path / "shop-durable-bridge-chart" / "kubernetes.yaml"
    loaded = load_config([tmp_path / "shop-durable-bridge-config"], [overlay])
    # `kubectl port-forward` connects to loopback, probes and Prometheus to the address of the pod
    assert loaded.config.ops.http.host == "0.0.0.0"
    assert "10.0.0.7" in loaded.config.ops.http.allowed_hosts
    for service in found(objects, "Service"):
        names = {f"{service}{rest}" for rest in ("", ".shop", ".shop.svc", ".shop.svc.cluster.local")}
        assert names <= set(loaded.config.ops.http.allowed_hosts)
    deployments = found(objects, "Deployment")
    assert set(deployments) == {"shop-durable-bridge-intake", "shop-durable-bridge-worker"}
    for name, deployment in deployments.items():
        pod = deployment["spec"]["template"]["spec"]
        [container] = pod["containers"]
        assert container["image"] == f"registry.example/shop@sha256:{'0' * 64}"
        assert container["args"][0] == ("worker" if name.endswith("worker") else "serve")
        assert ("--no-worker" in container["args"]) == name.endswith("intake")
        assert pod["terminationGracePeriodSeconds"] > loaded.config.ops.drain
        mounted = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
        volumes = {each["name"]: each for each in pod["volumes"]}
        assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", each) for each in volumes)
        assert volumes[mounted["/run/secrets/bridge.tokens"]]["secret"]["secretName"] == "bridge.tokens"
        assert set(mounted.values()) == set(volumes)
        for option, kind in (("--config", "shop-durable-bridge-config"), ("--overlay", "shop-durable-bridge-chart")):
            path = Path(container["args"][container["args"].index(option) + 1])
            at = str(path) if option == "--config" else str(path.parent)
            assert volumes[mounted[at]]["configMap"]["name"] == kind
        paths = {each: container[each]["httpGet"]["path"] for each in container if each.endswith("Probe")}
        assert paths == {"startupProbe": "/startupz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    for budget in found(objects, "PodDisruptionBudget").values():
        assert budget["spec"]["selector"]["matchLabels"].items() <= (
            deployments[budget["metadata"]["name"]]["spec"]["template"]["metadata"]["labels"].items()
        )


@pytest.mark.parametrize("of", ["engine", "process"])
def test_kedas_scalers_take_the_triggers_and_ask_the_workers(helm: Path, tmp_path: Path, of: str) -> None:
    values = deepcopy(SPLIT)
    values["autoscaling"]["worker"]["work"]["of"] = of
    objects = rendered(helm, tmp_path, values)
    triggers = {
        name: each["spec"]["triggers"] for name, each in found(objects, "ScaledObject").items()
    }  # fmt: skip
    [authentication] = found(objects, "TriggerAuthentication").values()
    token = frozenset(each["parameter"] for each in authentication["spec"]["secretTargetRef"])
    [work] = triggers["shop-durable-bridge-worker"]
    assert work["authenticationRef"]["name"] == authentication["metadata"]["name"]
    try:
        assert list(keda.problems(work, token)) == []
        for each in triggers["shop-durable-bridge-intake"]:
            assert list(keda.problems(each)) == []
        for change in ({"topics": "orders"}, {"offsetResetPolicy": "newest"}, {"lagThreshold": 5}):
            assert len(list(keda.problems(LAG | {"metadata": LAG["metadata"] | change}))) == 1
    except ToolMissing as missing:
        pytest.skip(str(missing))
    address = urlsplit(work["metadata"]["url"])
    # KEDA takes the path of the address to each pod, without a query
    assert not address.query
    place = address.path.removeprefix("/api/v1/")
    assert place in {operation.path for operation in ENGINE_OPERATIONS}
    assert ("aggregationType" in work["metadata"]) == (place == "scaling:process") == (of == "process")
    assert work["metadata"]["valueLocation"] in Scaling.__annotations__
    service, namespace = address.hostname.split(".")
    assert namespace == "shop"
    chosen = found(objects, "Service")[service]["spec"]
    worker = found(objects, "Deployment")["shop-durable-bridge-worker"]["spec"]["template"]
    assert chosen["selector"].items() <= worker["metadata"]["labels"].items()
    assert address.port == chosen["ports"][0]["port"]
    overlay = yaml.safe_load(found(objects, "ConfigMap")["shop-durable-bridge-chart"]["data"]["kubernetes.yaml"])
    assert address.hostname in overlay["ops"]["http"]["allowed_hosts"]
    [policy] = found(objects, "NetworkPolicy").values()
    namespaces = [each.get("namespaceSelector", {}).get("matchLabels") for each in policy["spec"]["ingress"][0]["from"]]
    assert {"kubernetes.io/metadata.name": "keda"} in namespaces
    # Prometheus reads each pod through one Service
    [monitor] = found(objects, "ServiceMonitor").values()
    [missing_label] = monitor["spec"]["selector"]["matchExpressions"]
    labels = [each["metadata"]["labels"] for each in found(objects, "Service").values()]
    assert len([each for each in labels if missing_label["key"] not in each]) == 1


def test_alerts_and_dashboard_select_the_job_of_the_chart(helm: Path, tmp_path: Path) -> None:
    objects = rendered(helm, tmp_path, SPLIT)
    [monitor] = found(objects, "ServiceMonitor").values()
    [endpoint] = monitor["spec"]["endpoints"]
    [label] = endpoint["relabelings"]
    [rules] = found(objects, "PrometheusRule").values()
    dashboard = found(objects, "ConfigMap")["shop-durable-bridge-dashboard"]["data"]
    jobs = {job for text in (json.dumps(rules), json.dumps(dashboard)) for job in re.findall(r"job=\W+([\w-]+)", text)}
    assert label["targetLabel"] == "job"
    assert jobs == {label["replacement"]}


def test_tls_reaches_whoever_calls_the_port(helm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_IP", "fd00::7")
    values = deepcopy(SPLIT) | {"ops": {"tls": {"secret": "bridge-tls"}, "host": "::"}}
    objects = rendered(helm, tmp_path, values)
    (tmp_path / "chart.yaml").write_text(
        found(objects, "ConfigMap")["shop-durable-bridge-chart"]["data"]["kubernetes.yaml"]
    )
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    tls = load_config([tmp_path / "bridge.yaml"], [tmp_path / "chart.yaml"]).config.ops.http.tls
    assert tls is not None
    for deployment in found(objects, "Deployment").values():
        pod = deployment["spec"]["template"]["spec"]
        [container] = pod["containers"]
        probes = [each["httpGet"] for name, each in container.items() if name.endswith("Probe")]
        assert [each["scheme"] for each in probes] == ["HTTPS"] * 3
        [mount] = [each["name"] for each in container["volumeMounts"] if each["mountPath"] == "/run/secrets/bridge-tls"]
        [volume] = [each for each in pod["volumes"] if each["name"] == mount]
        assert volume["secret"]["secretName"] == "bridge-tls"
        assert str(tls.certificate).startswith("/run/secrets/bridge-tls/")
    [monitor] = found(objects, "ServiceMonitor").values()
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"]["serverName"] == "shop-durable-bridge.shop.svc"
    [work] = found(objects, "ScaledObject")["shop-durable-bridge-worker"]["spec"]["triggers"]
    assert work["metadata"]["url"].startswith("https://")


def test_keda_falls_back_where_it_counts(helm: Path, tmp_path: Path) -> None:
    """The admission of KEDA refuses a fallback for triggers by CPU or memory alone."""
    for triggers, expected in (([CPU], False), ([CPU, LAG], True)):
        values = {"autoscaling": {"all": {"enabled": True, "triggers": triggers}}}
        [scaled] = found(rendered(helm, tmp_path, values), "ScaledObject").values()
        assert ("fallback" in scaled["spec"]) == expected


def test_pods_are_replaced_where_a_reload_is_refused(helm: Path, tmp_path: Path) -> None:
    def checksums(config: dict[str, Any], values: dict[str, Any]) -> set[str]:
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(values | {"config": {"bridge.yaml": yaml.safe_dump(config)}}))
        done = run(helm, "template", "shop", str(CHART), *CLUSTER, "--values", str(file))
        assert done.returncode == 0, done.stderr
        deployments = found([each for each in yaml.safe_load_all(done.stdout) if each], "Deployment").values()
        return {each["spec"]["template"]["metadata"]["annotations"]["checksum/restart"] for each in deployments}

    base = yaml.safe_load(CONFIG)
    before = checksums(base, SPLIT)
    restarts = {name for name in BridgeConfig.model_fields if checksums(base | {name: {"changed": 1}}, SPLIT) != before}
    assert restarts == {name.partition(".")[0] for name in RESTART}
    assert checksums(base | {"engine": base["engine"] | {"task_hub": "other"}}, SPLIT) != before
    for values in ({"drainSeconds": 60}, {"ops": {"allowedHosts": ["bridge.example"]}}):
        assert checksums(base, SPLIT | values) != before


def test_the_network_policy_admits_what_the_chart_uses(helm: Path, tmp_path: Path) -> None:
    without: dict[str, Any] = {"networkPolicy": SPLIT["networkPolicy"] | {"from": []}}
    [policy] = found(rendered(helm, tmp_path, SPLIT | without), "NetworkPolicy").values()
    [ingress] = policy["spec"]["ingress"]
    namespaces = [each["namespaceSelector"]["matchLabels"] for each in ingress["from"] if "namespaceSelector" in each]
    names = [each["kubernetes.io/metadata.name"] for each in namespaces]
    assert sorted(names) == ["keda", "monitoring"]
    dns, own, _ = policy["spec"]["egress"]
    assert {(each["port"], each["protocol"]) for each in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert own == SPLIT["networkPolicy"]["egress"][0]
    [policy] = found(rendered(helm, tmp_path, {}), "NetworkPolicy").values()
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert policy["spec"]["ingress"][0]["from"] == [{"podSelector": {}}]


def test_a_role_may_have_places_of_its_own(helm: Path, tmp_path: Path) -> None:
    values = deepcopy(SPLIT) | {"nodeSelector": {"pool": "small"}, "fullnameOverride": "orders"}
    values["roles"]["worker"]["nodeSelector"] = {"pool": "large"}
    values["podSecurityContext"] = {"runAsUser": None, "runAsGroup": None, "fsGroup": None}
    pods = {
        name: each["spec"]["template"]["spec"]
        for name, each in found(rendered(helm, tmp_path, values), "Deployment").items()
    }
    selectors = {name: each["nodeSelector"]["pool"] for name, each in pods.items()}
    assert selectors == {"orders-intake": "small", "orders-worker": "large"}
    for each in pods.values():
        assert each["securityContext"]["runAsNonRoot"]
        assert "runAsUser" not in each["securityContext"]


def test_grafana_gets_the_dashboard(helm: Path, tmp_path: Path) -> None:
    dashboard = found(rendered(helm, tmp_path, SPLIT), "ConfigMap")["shop-durable-bridge-dashboard"]
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    source = ROOT / "deploy" / "observability" / "grafana" / "dashboards" / "durable-bridge.json"
    assert json.loads(dashboard["data"]["durable-bridge.json"]) == json.loads(source.read_text())


@pytest.mark.parametrize("values", [{}, SPLIT], ids=["default", "split"])
def test_the_notes_name_what_exists(helm: Path, tmp_path: Path, values: dict[str, Any]) -> None:
    chart = shutil.copytree(CHART, tmp_path / "durable-bridge")
    # Helm shows the notes only after an installation in a cluster
    shown = '{"kind": "Notes", "text": {{ include (print .Template.BasePath "/NOTES.txt") . | toJson }}}'
    (chart / "templates" / "shown.yaml").write_text(shown)
    one = ("--show-only", "templates/shown.yaml")
    done = run(helm, "template", "shop", str(chart), *CLUSTER, "--namespace", "shop", *one, *given(tmp_path, values))
    assert done.returncode == 0, done.stderr
    notes = yaml.safe_load(done.stdout)["text"]
    deployments = found(rendered(helm, tmp_path, values), "Deployment")
    assert set(re.findall(r"deployment/(\S+)", notes)) <= set(deployments)
    for command in re.findall(r"-- bridge (\w+)", notes):
        assert root.get_command(click.Context(root), command)
    [container] = next(iter(deployments.values()))["spec"]["template"]["spec"]["containers"]
    for option in ("--config", "--overlay"):
        assert container["args"][container["args"].index(option) + 1] in notes.split()


def test_the_daemons_reach_each_other_whatever_else_may(helm: Path, tmp_path: Path) -> None:
    objects = rendered(helm, tmp_path, SPLIT)
    [policy] = found(objects, "NetworkPolicy").values()
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in found(objects, "Deployment").values()]
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        admitted = [
            each["podSelector"]["matchLabels"]
            for rule in policy["spec"][direction]
            if "ops" in [port.get("port") for port in rule["ports"]]
            for each in rule.get(peers, ())
            if each.get("podSelector", {}).get("matchLabels")
        ]
        assert len(admitted) == 1, direction
        assert all(admitted[0].items() <= labels.items() for labels in pods)
    overlay = yaml.safe_load(found(objects, "ConfigMap")["shop-durable-bridge-chart"]["data"]["kubernetes.yaml"])
    assert overlay["ops"]["http"]["peers"] == {"url": "${POD_IP}"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"roles": {"all": {"enabled": False}}}, "no role is enabled"),
        ({"roles": {"worker": {"enabled": True}}}, "enable it alone"),
        ({"roles": {"all": {"replicas": 2}}, "persistence": {"enabled": True}}, "one pod has alone"),
        ({"replicas": 2}, "replicas"),
        ({"image": {"digest": "sha256:short"}}, "digest"),
        ({"autoscaling": {"all": {"enabled": True}}}, "autoscaling.all.triggers is empty"),
        ({"autoscaling": {"all": {"enabled": True, "min": 0, "triggers": [LAG]}}}, "would stop with the last pod"),
        ({"autoscaling": {"all": {"enabled": True, "min": 9, "triggers": [LAG]}}}, "above its max"),
        ({"autoscaling": {"worker": {"enabled": True, "work": {"enabled": True}}}}, "token.secret is empty"),
        ({"autoscaling": {"all": {"work": {"enabled": True}}}}, "work"),
    ],
)
def test_values_that_cannot_work_are_refused(helm: Path, tmp_path: Path, values: dict[str, Any], said: str) -> None:
    done = run(helm, "template", "shop", str(CHART), *CLUSTER, *given(tmp_path, values))
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.parametrize("values", [{}, SPLIT], ids=["default", "split"])
@pytest.mark.parametrize("section", ["engine: {type: embedded}", "engines: {old: {type: embedded, path: x}}"])
def test_an_engine_that_would_be_lost_with_its_pod_is_refused(
    helm: Path, tmp_path: Path, values: dict[str, Any], section: str
) -> None:
    config = CONFIG.replace(
        'engine: {type: scheduler, endpoint: "https://shop.westeurope.durabletask.io", task_hub: shop}', section
    )
    done = run(helm, "template", "shop", str(CHART), *CLUSTER, *given(tmp_path, values, config))
    assert "bridge.yaml has an embedded engine" in done.stderr
    done = run(helm, "template", "shop", str(CHART), *CLUSTER, *given(tmp_path, ALONE, config))
    assert done.returncode == 0, done.stderr


def test_a_release_without_configuration_is_refused(helm: Path, tmp_path: Path) -> None:
    done = run(helm, "template", "shop", str(CHART), *CLUSTER, *given(tmp_path, {}, config=""))
    assert "there is no configuration" in done.stderr


@pytest.mark.usefixtures("helm")
def test_the_plain_manifests_are_those_of_the_chart() -> None:
    """`make manifests` writes them."""
    for path, text in manifests().items():
        assert path.read_text() == text
