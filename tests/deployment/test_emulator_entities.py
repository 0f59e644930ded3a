"""Configuration files of the official Service Bus emulator follow its schema.

The rules are those of `ServiceBus-Emulator/Schema/Config-schema.json` in the repository
Azure/azure-service-bus-emulator-installer (commit 36ef6da), with the limits that it states only in descriptions.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tests.brokers.servicebus import harness
from tests.deployment.test_compose import SERVICES
from tests.servicebus.server import emulator

ROOT = Path(__file__).parents[2]
FILES = ("tests/brokers/servicebus/entities.json", "config/servicebus/emulator.json")

MINUTE, HOUR = 60, 3_600
NAME = {"type": "string", "pattern": r"^[A-Za-z0-9]$|^[A-Za-z0-9][A-Za-z0-9_\-./]*[A-Za-z0-9]$"}
DURATION = {"type": "string", "pattern": r"^P(?!$)(\d+Y)?(\d+M)?(\d+D)?(T(\d+H)?(\d+M)?(\d+S)?)?$"}
FORWARD = {"type": "string", "pattern": f"^$|{NAME['pattern']}"}
FLAG = {"type": "boolean"}


def _object(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    """Create a strict object schema: unlike the emulator's schema, it forbids unknown properties."""
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


def _many(items: dict[str, Any], least: int, most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


OF_TOPICS = {
    "DefaultMessageTimeToLive": DURATION,
    "DuplicateDetectionHistoryTimeWindow": DURATION,
    "RequiresDuplicateDetection": FLAG,
}
OF_RECEIVERS = {
    "DeadLetteringOnMessageExpiration": FLAG,
    "DefaultMessageTimeToLive": DURATION,
    "ForwardDeadLetteredMessagesTo": FORWARD,
    "ForwardTo": FORWARD,
    "LockDuration": DURATION,
    "MaxDeliveryCount": {"type": "integer", "minimum": 1, "maximum": 10},
    "RequiresSession": FLAG,
}
RULE = {
    "oneOf": [
        _object(
            ("FilterType", "CorrelationFilter"),
            FilterType={"const": "Correlation"},
            CorrelationFilter={"type": "object", "minProperties": 1},
            Action={"type": "object"},
        ),
        _object(
            ("FilterType", "SqlFilter"),
            FilterType={"const": "Sql"},
            SqlFilter=_object((), SqlExpression={"type": "string"}),
            Action={"type": "object"},
        ),
    ]
}
SUBSCRIPTION = _object(
    ("Name",),
    Name=NAME,
    Properties=_object((), **OF_RECEIVERS),
    Rules=_many(_object(("Name", "Properties"), Name=NAME, Properties=RULE), 0, 1_000),
)
NAMESPACE = _object(
    ("Name", "Queues", "Topics"),
    Name={"const": "sbemulatorns"},
    Queues=_many(_object(("Name",), Name=NAME, Properties=_object((), **(OF_RECEIVERS | OF_TOPICS))), 0, 50),
    Topics=_many(
        _object(
            ("Name", "Subscriptions"),
            Name=NAME,
            Properties=_object((), **OF_TOPICS),
            Subscriptions=_many(SUBSCRIPTION, 1, 50),
        ),
        0,
        50,
    ),
)
LOGGING = _object(("Type",), Type={"enum": ["File", "Console", "File,Console", "Console,File"]})
SCHEMA = _object(
    ("UserConfig",),
    UserConfig=_object(("Namespaces", "Logging"), Namespaces=_many(NAMESPACE, 1, 1), Logging=LOGGING),
)
VALIDATOR = jsonschema_rs.validator_for(SCHEMA)
BOUNDS = {
    "LockDuration": (5, 5 * MINUTE),
    "DefaultMessageTimeToLive": (5 * MINUTE, HOUR),
    "DuplicateDetectionHistoryTimeWindow": (5, 5 * MINUTE),
}
"""Limits of durations, in seconds."""


def _mistakes(document: dict[str, Any]) -> list[str]:
    found = [f"{list(error.instance_path)}: {error.message}" for error in VALIDATOR.iter_errors(document)]
    if found:
        return found
    [namespace] = document["UserConfig"]["Namespaces"]
    if len(namespace["Queues"]) + len(namespace["Topics"]) > 50:
        found.append("more than 50 queues and topics")
    subscriptions = [one for topic in namespace["Topics"] for one in topic["Subscriptions"]]
    for entity in (*namespace["Queues"], *namespace["Topics"], *subscriptions):
        for name, (least, most) in BOUNDS.items():
            duration = entity.get("Properties", {}).get(name)
            if duration is not None and not least <= emulator.seconds(duration) <= most:
                found.append(f"{entity['Name']}: {name} {duration} is not from {least} to {most} seconds")
    return found


@pytest.mark.parametrize("file", FILES)
def test_it_keeps_the_schema(file: str) -> None:
    assert _mistakes(json.loads((ROOT / file).read_text())) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LockDuration", "PT5.0S"),
        ("LockDuration", "PT4S"),
        ("LockDuration", "PT6M"),
        ("DefaultMessageTimeToLive", "P14D"),
        ("DuplicateDetectionHistoryTimeWindow", "PT10M"),
        ("MaxDeliveryCount", 11),
        ("MaxDeliveryCount", 0),
        ("RequiresSession", "true"),
        ("RequireSession", True),
    ],
)
def test_the_schema_would_find_mistakes(name: str, value: object) -> None:
    document = json.loads((ROOT / FILES[0]).read_text())
    document["UserConfig"]["Namespaces"][0]["Queues"][0]["Properties"][name] = value
    assert len(_mistakes(document)) == 1


def test_the_entities_are_those_that_the_contract_suite_names(tmp_path: Path) -> None:
    written = tmp_path / "entities.json"
    harness.write_entities(written)
    assert written.read_text() == (ROOT / FILES[0]).read_text()


def test_the_emulator_keeps_receivers_of_idle_sessions() -> None:
    """Receivers of idle sessions stay open since 2.0.1, according to the emulator's maintainers."""
    version = SERVICES["servicebus"]["image"].partition("@")[0].rsplit(":", 1)[1]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert tuple(map(int, version.split("."))) >= (2, 0, 1)
