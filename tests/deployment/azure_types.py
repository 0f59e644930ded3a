"""`python -m tests.deployment.azure_types CHECKOUT > tests/deployment/azure-types.json`: types of Azure's resources.

They are JSON Schemas.
CHECKOUT: git directory of https://github.com/Azure/bicep-types-az, whose types Bicep itself checks templates with.
Members that only Azure sets are left out. Each value may also be EXPRESSION: it is known at the deployment only.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

EXPRESSION = "${...}"
TYPES = {
    "Microsoft.App/containerApps@2025-07-01": "app_0",
    "Microsoft.App/managedEnvironments@2025-07-01": "app_0",
    "Microsoft.Authorization/roleAssignments@2022-04-01": "authorization",
    "Microsoft.ContainerRegistry/registries@2023-07-01": "containerregistry_0",
    "Microsoft.DurableTask/schedulers@2026-02-01": "durabletask_0",
    "Microsoft.DurableTask/schedulers/taskHubs@2026-02-01": "durabletask_0",
    "Microsoft.ManagedIdentity/userAssignedIdentities@2024-11-30": "msi",
    "Microsoft.OperationalInsights/workspaces@2025-07-01": "operationalinsights",
    "Microsoft.ServiceBus/namespaces@2024-01-01": "servicebus",
    "Microsoft.ServiceBus/namespaces/queues@2024-01-01": "servicebus",
    "Microsoft.ServiceBus/namespaces/topics@2024-01-01": "servicebus",
    "Microsoft.ServiceBus/namespaces/topics/subscriptions@2024-01-01": "servicebus",
}
"""Types of resources by the folder of the checkout that has them."""

_REQUIRED, _READ_ONLY = 1, 2
_SCALARS = {"StringType": "string", "IntegerType": "number", "BooleanType": "boolean"}  # Bicep has one type of numbers


class Types:
    """Types of one file, as definitions of a JSON Schema below a prefix."""

    def __init__(self, prefix: str, types: list[dict[str, Any]], definitions: dict[str, Any]) -> None:
        self._prefix = prefix
        self._types = types
        self._definitions = definitions

    def resource(self, name: str) -> dict[str, Any]:
        """Schema of a resource. Raises: LookupError."""
        for each in self._types:
            if each["$type"] == "ResourceType" and each["name"] == name:
                return self._schema(each["body"])
        raise LookupError(f"there is no {name}")

    def _schema(self, reference: dict[str, str]) -> dict[str, Any]:
        number = int(reference["$ref"].removeprefix("#/"))
        found = self._types[number]
        match found["$type"]:
            case "ObjectType":
                key = f"{self._prefix}{number}"
                if key not in self._definitions:
                    self._definitions[key] = {}  # a type may have members of itself
                    self._definitions[key] = self._object(found)
                return {"$ref": f"#/$defs/{key}"}
            case "ArrayType":
                return _or_expression({"type": "array", "items": self._schema(found["itemType"])})
            case "UnionType":
                parts = [self._types[int(each["$ref"].removeprefix("#/"))] for each in found["elements"]]
                return {"enum": [EXPRESSION, *(each["value"] for each in parts if "value" in each)]}
            case "StringLiteralType":
                return {"enum": [EXPRESSION, found["value"]]}
            case kind if kind in _SCALARS:
                return _or_expression({"type": _SCALARS[kind]})
        return {}

    def _object(self, found: dict[str, Any]) -> dict[str, Any]:
        settable = {name: each for name, each in found["properties"].items() if not each["flags"] & _READ_ONLY}
        more = found.get("additionalProperties")
        schema = {
            "type": "object",
            "properties": {name: self._schema(each["type"]) for name, each in settable.items()},
            "required": [name for name, each in settable.items() if each["flags"] & _REQUIRED],
            "additionalProperties": False if more is None else self._schema(more),
        }
        return _or_expression(schema)


def _or_expression(schema: dict[str, Any]) -> dict[str, Any]:
    return {"if": {"const": EXPRESSION}, "else": schema}


def extracted(checkout: Path) -> dict[str, Any]:
    """JSON Schemas of TYPES by name, with their common definitions."""
    definitions: dict[str, Any] = {}
    schemas = {}
    for name, folder in TYPES.items():
        provider, version = re.fullmatch(r"([^/]+)/[^@]+@(.+)", name).groups()
        path = f"generated/{folder}/{provider.lower()}/{version}/types.json"
        shown = subprocess.run(["git", "show", f"HEAD:{path}"], cwd=checkout, capture_output=True, check=True)
        schemas[name] = Types(f"{provider}-{version}-", json.loads(shown.stdout), definitions).resource(name)
    return {"$defs": definitions, "resources": schemas}


if __name__ == "__main__":
    print(json.dumps(extracted(Path(sys.argv[1])), indent=None, separators=(",", ":"), sort_keys=True))
