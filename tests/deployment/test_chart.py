"""Helm chart: what it renders is valid for Kubernetes and its operators, and the configuration in it for the bridge."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from bridge.app.composition import load_config
from tests.deployment import manifests as rendering
from tests.deployment.manifests import CHART, CLUSTER, ROOT, manifests
from tests.kit.go_tools import ToolMissing, module_files

pytestmark = [pytest.mark.chart, pytest.mark.timeout(1200)]  # the first one builds helm

KEDA = ("github.com/kedacore/keda/v2", "v2.17.2")
PROMETHEUS_OPERATOR = ("github.com/prometheus-operator/prometheus-operator", "v0.85.0")
KUBERNETES = ("1.30", "1.34")
"""Oldest and newest minor version of Kubernetes that the manifests are checked for."""

CONFIG = """
engine: {type: scheduler, endpoint: "https://shop.westeurope.durabletask.io", task_hub: shop}
brokers: {local: {type: kafka, bootstrap_servers: "kafka:9092"}}
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}}
routes:
  - {name: start, from: orders, schedule: {orchestration: order_saga, instance_id: "order-{{ payload.id }}"}}
"""
LAG = {
    "type": "kafka",
    "metadata": {
        "bootstrapServers": "kafka:9092",
        "consumerGroup": "orders",
        "topic": "orders",
        "lagThreshold": "2000",
    },
}
SPLIT: dict[str, Any] = {
    "image": {"repository": "registry.example/shop", "digest": f"sha256:{'0' * 64}"},
    "roles": {"all": {"enabled": False}, "intake": {"enabled": True}, "worker": {"enabled": True, "replicas": 3}},
    "secretFiles": ["bridge-credentials"],
    "envFrom": [{"secretRef": {"name": "bridge"}}],
    "serviceAccount": {"annotations": {"azure.workload.identity/client-id": "00000000-0000-0000-0000-000000000000"}},
    "podLabels": {"azure.workload.identity/use": "true"},
    "networkPolicy": {
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        "egress": [{"ports": [{"port": 443}, {"port": 9092}]}],
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "autoscaling": {"intake": {"enabled": True, "min": 1, "max": 8, "triggers": [LAG]}},
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
        keda = module_files(*KEDA) / "config" / "crd" / "bases"
        operator = module_files(*PROMETHEUS_OPERATOR) / "example" / "prometheus-operator-crd"
    except ToolMissing as missing:
        pytest.skip(str(missing))
    for directory, kinds in ((keda, ("ScaledObject",)), (operator, ("ServiceMonitor", "PrometheusRule"))):
        for kind in kinds:
            [each] = found(objects, kind).values()
            jsonschema_rs.validator_for(schema(directory, kind)).validate(each)
    [scaled] = found(objects, "ScaledObject").values()
    assert scaled["spec"]["scaleTargetRef"]["name"] in found(objects, "Deployment")
    assert "replicas" not in found(objects, "Deployment")["shop-durable-bridge-intake"]["spec"]
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
    assert loaded.config.ops.http.host == "10.0.0.7"
    [service] = found(objects, "Service")
    assert service in loaded.config.ops.http.allowed_hosts
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


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"roles": {"all": {"enabled": False}}}, "no role is enabled"),
        ({"roles": {"worker": {"enabled": True}}}, "enable it alone"),
        ({"roles": {"all": {"replicas": 2}}, "persistence": {"enabled": True}}, "one pod has alone"),
        ({"replicas": 2}, "replicas"),
        ({"image": {"digest": "sha256:short"}}, "digest"),
        ({"autoscaling": {"all": {"enabled": True}}}, "autoscaling.all.triggers is empty"),
    ],
)
def test_values_that_cannot_work_are_refused(helm: Path, tmp_path: Path, values: dict[str, Any], said: str) -> None:
    done = run(helm, "template", "shop", str(CHART), *CLUSTER, *given(tmp_path, values))
    assert done.returncode != 0
    assert said in done.stderr


def test_a_release_without_configuration_is_refused(helm: Path, tmp_path: Path) -> None:
    done = run(helm, "template", "shop", str(CHART), *CLUSTER, *given(tmp_path, {}, config=""))
    assert "there is no configuration" in done.stderr


@pytest.mark.usefixtures("helm")
def test_the_plain_manifests_are_those_of_the_chart() -> None:
    """`make manifests` writes them."""
    for path, text in manifests().items():
        assert path.read_text() == text
