"""Files of deploy/observability fit the services of docker-compose.yml."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from bridge.app.composition import load_config
from tests.deployment.test_compose import COMPOSE, ROOT, SERVICES

DEPLOY = ROOT / "deploy" / "observability"


def _read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def _mounted(service: str, path: str) -> Path:
    """Return the file of the repository that a service sees at a path."""
    for volume in SERVICES[service]["volumes"]:
        source, target = volume.removesuffix(":ro").split(":")
        if source.startswith(".") and PurePosixPath(path).is_relative_to(target):
            return ROOT / source / PurePosixPath(path).relative_to(target)
    raise AssertionError(f"{service} has no {path}")


def _arguments(service: str) -> dict[str, str]:
    return dict(argument.removeprefix("--").split("=", 1) for argument in SERVICES[service]["command"])


def test_every_service_reads_its_configuration() -> None:
    assert _mounted("prometheus", _arguments("prometheus")["config.file"]) == DEPLOY / "prometheus.yaml"
    assert _mounted("jaeger", _arguments("jaeger")["config"]) == DEPLOY / "jaeger.yaml"
    for rules in _read("prometheus.yaml")["rule_files"]:
        assert _mounted("prometheus", rules).is_file()
    [provider] = _read("grafana/provisioning/dashboards/dashboards.yaml")["providers"]
    dashboards = list(_mounted("grafana", provider["options"]["path"]).glob("*.json"))
    home = _mounted("grafana", SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert dashboards == [home]


def test_prometheus_scrapes_the_bridge_by_a_name_that_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config([ROOT / "config/bridge.yaml"], [ROOT / "config/overlays/compose.yaml"]).config
    [job] = _read("prometheus.yaml")["scrape_configs"]
    [target] = [target for each in job["static_configs"] for target in each["targets"]]
    host, port = target.split(":")
    assert host in SERVICES
    assert host in config.ops.http.allowed_hosts
    assert int(port) == config.ops.http.port


def test_data_sources_are_services() -> None:
    sources = {each["uid"]: each for each in _read("grafana/provisioning/datasources/datasources.yaml")["datasources"]}
    assert {uid: each["type"] for uid, each in sources.items()} == {"prometheus": "prometheus", "jaeger": "jaeger"}
    for uid, source in sources.items():
        port = source["url"].removeprefix(f"http://{uid}:")
        assert port in {published.rsplit(":", 1)[1] for published in SERVICES[uid]["ports"]}, source["url"]
    # The interval of the dashboards is that of the scrapes
    assert sources["prometheus"]["jsonData"]["timeInterval"] == _read("prometheus.yaml")["global"]["scrape_interval"]


def test_traces_of_the_bridge_arrive() -> None:
    [variable] = [name for name in SERVICES["bridge"]["environment"] if name.startswith("OTEL_")]
    assert variable == "OTEL_EXPORTER_OTLP_ENDPOINT"
    receiver = _read("jaeger.yaml")["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    assert receiver == "0.0.0.0:4318"
    for text in ((ROOT / "docker-compose.yml").read_text(), (ROOT / "docs/operations.md").read_text()):
        assert f"{variable}=http://jaeger:4318 docker compose --profile observability up" in text


def test_what_is_kept_is_bounded() -> None:
    assert {"storage.tsdb.retention.time", "storage.tsdb.retention.size"} <= _arguments("prometheus").keys()
    [backend] = _read("jaeger.yaml")["extensions"]["jaeger_storage"]["backends"].values()
    assert backend["memory"]["max_traces"] <= 20_000
    assert set(COMPOSE["volumes"]) == {"bridge-data", "grafana-data", "kafka-data", "postgres-data", "prometheus-data"}


def test_the_dashboard_is_json_with_a_fixed_uid() -> None:
    dashboard = json.loads((DEPLOY / "grafana/dashboards/durable-bridge.json").read_text())
    assert dashboard["uid"] == "durable-bridge"
    assert dashboard["id"] is None
