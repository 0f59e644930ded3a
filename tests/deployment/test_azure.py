"""Files for Azure: resources fit the types of their API versions, and the configuration in them is valid.

Bicep itself is not at hand. A parser checks the syntax, and `azure-types.json` has the types that Bicep uses.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import click
import jsonschema_rs
import pytest
import yaml

from bridge.app.composition import load_config
from bridge.cli import root
from tests.deployment import keda
from tests.deployment.azure_types import EXPRESSION
from tests.kit.go_tools import ToolMissing

pytestmark = [pytest.mark.chart, pytest.mark.timeout(600)]  # needs the environment of the tools

ROOT = Path(__file__).parents[2]
AZURE = ROOT / "deploy" / "azure"
TYPES = json.loads((Path(__file__).parent / "azure-types.json").read_text())
APP = "Microsoft.App/containerApps@2025-07-01"
ROLES = {
    "0ad04412-c4d5-4796-b79c-f76d14c8d402": "Durable Task Data Contributor",
    "4f6d3b9b-027b-4f4c-9142-0e5a2a2247e0": "Azure Service Bus Data Receiver",
    "69a216fc-b8fb-44d8-bc22-1f3c2cd27a39": "Azure Service Bus Data Sender",
    "090c5cfd-751d-490a-894a-3ce6f1109419": "Azure Service Bus Data Owner",
    "7f951dda-4ed3-4680-a7ca-43fe172d538d": "AcrPull",
}
VARIABLES = {"ENDPOINT": "https://shop.westeurope.durabletask.io", "TASKHUB": "shop", "SERVICEBUS_NAMESPACE": "shop"}


def parsed(source: str, directory: Path) -> dict[str, Any]:
    python = Path(sys.executable).parents[1] / "tools" / "bin" / "python"
    if not python.exists():
        pytest.skip("the parser of Bicep is installed by `make deploy-check`")
    file = directory / "main.bicep"
    file.write_text(source)
    command = [str(python), str(Path(__file__).parent / "bicep.py"), str(file)]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return found


@pytest.fixture(scope="module")
def bicep(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return parsed((AZURE / "main.bicep").read_text(), tmp_path_factory.mktemp("bicep"))


def schema(kind: str) -> Any:
    return jsonschema_rs.validator_for({**TYPES["resources"][kind], "$defs": TYPES["$defs"]})


def errors(found: Mapping[str, Any]) -> list[str]:
    """Differences of the resources of a Bicep file from their types."""
    wrong = list(found["problems"])
    rules = [rule for name, value in found["variables"].items() if name.endswith("Rules") for rule in _listed(value[0])]
    for resource in found["resources"]:
        for body in map(deepcopy, resource["bodies"]):
            for each in body if isinstance(body, list) else [body]:
                for own in ("parent", "scope", "dependsOn"):  # of Bicep
                    each.pop(own, None)
                if resource["existing"]:
                    wrong += [f"{resource['name']}: {name}" for name in each if name != "name"]
                    continue
                if resource["type"] == APP:
                    each["properties"]["template"]["scale"]["rules"] = rules
                wrong += [
                    f"{resource['name']}: {error.instance_path}: {error.message}"
                    for error in schema(resource["type"]).iter_errors(each)
                ]
    return wrong


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def test_the_resources_fit_their_types(bicep: dict[str, Any]) -> None:
    assert errors(bicep) == []
    assert len(bicep["resources"]) > 15


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("requiresSession", "requireSession"),
        ("disableLocalAuth: true", "disableLocalAuth: 'true'"),
        ("lifecycle: 'None'", "lifecycle: 'Never'"),
        ("    ipAllowlist: schedulerAddresses\n", ""),
        ("scope: taskHub", "scope: hub"),
        ("messageCount: string(", "messageCount: 5 // ("),
        ("  location: location\n}", "  location: location\n"),
    ],
)
def test_a_mistake_would_be_found(tmp_path: Path, old: str, new: str) -> None:
    source = (AZURE / "main.bicep").read_text()
    assert old in source
    assert errors(parsed(source.replace(old, new, 1), tmp_path))


def test_roles_are_azures_and_each_is_given() -> None:
    source = (AZURE / "main.bicep").read_text()
    ids = dict(
        re.findall(
            r"^var (\w+) = subscriptionResourceId\('Microsoft\.Authorization/roleDefinitions', '(.+)'\)$", source, re.M
        )
    )
    assert set(ids.values()) == set(ROLES)
    for name, id_ in ids.items():
        wanted = ROLES[id_].removeprefix("Azure ").replace(" ", "").lower().replace("acrpull", "registrypull")
        assert name.lower() == wanted
        assert f"roleDefinitionId: {name}\n" in source


def test_the_apps_start_commands_of_the_bridge_with_its_configuration(bicep: dict[str, Any]) -> None:
    for roles in bicep["variables"]["apps"]:
        for each in roles:
            command = root.get_command(click.Context(root), each["args"][0])
            assert command is not None
            assert set(each["args"][1:]) <= {name for one in command.params for name in one.opts}
        assert {each["messages"] for each in roles} | {each["work"] for each in roles} >= {True}
    assert bicep["variables"]["port"] == [8099]


def test_the_configuration_of_the_files_is_valid(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = (AZURE / "main.bicep").read_text()
    named = set(re.findall(r"\{ name: '([A-Z_]+)', value:", source))
    for name in named:
        monkeypatch.setenv(name, VARIABLES.get(name, "00000000-0000-0000-0000-000000000000"))
    loaded = load_config([AZURE / "bridge.yaml"], [AZURE / "container-apps.yaml"])
    assert set(re.findall(r"\$\{([A-Z_]+)", (AZURE / "bridge.yaml").read_text())) == named
    [grace] = re.findall(r"^var grace = (\d+)$", source, re.M)
    assert int(grace) > loaded.config.ops.drain
    sources = loaded.config.sources.values()
    queues = re.findall(r"\{ name: '(\w+)', sessions: (\w+) \}", source)
    assert {each.queue for each in sources if each.queue} == {"orders"}
    assert ("orders", "true") in queues
    assert "{ topic: 'shipments', name: 'bridge', sessions: false }" in source
    [threads] = re.findall(r"^param threads int = (\d+)$", source, re.M)
    assert loaded.config.engines["default"].worker.threads == int(threads)
    app = yaml.safe_load((AZURE / "container-app.yaml").read_text())
    [secret] = app["properties"]["configuration"]["secrets"]
    (tmp_path / "bridge.yaml").write_text(secret["value"])
    alone = load_config([tmp_path / "bridge.yaml"])
    template = app["properties"]["template"]
    assert template["terminationGracePeriodSeconds"] > alone.config.ops.drain
    assert {each["name"] for each in template["containers"][0]["env"]} == named


def test_the_app_fits_its_type() -> None:
    app = yaml.safe_load((AZURE / "container-app.yaml").read_text())
    assert f"{app.pop('type')}@" in APP
    assert EXPRESSION not in json.dumps(app)
    schema(APP).validate({"name": "shop", **app})


def test_kedas_scalers_take_the_rules(bicep: dict[str, Any]) -> None:
    """The platform alone has a scaler for the Durable Task Scheduler; KEDA describes that for Service Bus."""
    app = yaml.safe_load((AZURE / "container-app.yaml").read_text())
    rules = app["properties"]["template"]["scale"]["rules"]
    for name in ("queueRules", "subscriptionRules"):
        rules += bicep["variables"][name][0]
    found = [rule["custom"] for rule in rules if rule["custom"]["type"] != "azure-durabletask-scheduler"]
    assert len(found) == 3
    try:
        for trigger in found:
            assert list(keda.problems(trigger)) == []
    except ToolMissing as missing:
        pytest.skip(str(missing))
