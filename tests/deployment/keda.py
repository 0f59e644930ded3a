"""KEDA's descriptions of its objects and scalers, of its Go module."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tests.kit.go_tools import module_files

KEDA = ("github.com/kedacore/keda/v2", "v2.21.0")


def module() -> Path:
    """Directory of the module. Raises: ToolMissing."""
    return module_files(*KEDA)


@cache
def _scalers() -> dict[str, list[dict[str, Any]]]:
    found = json.loads((module() / "schema" / "generated" / "scalers-schema.json").read_text())
    return {scaler["type"]: scaler["parameters"] for scaler in found["scalers"]}


def problems(trigger: Mapping[str, Any], authentication: frozenset[str] = frozenset()) -> Iterator[str]:
    """Differences between a trigger and the description of its scaler.

    authentication: parameters that a TriggerAuthentication gives. Raises: ToolMissing.
    """
    kind = trigger["type"]
    if kind not in _scalers():
        yield f"KEDA has no scaler {kind}"
        return
    parameters = {each["name"]: each for each in _scalers()[kind]}
    given = trigger["metadata"]
    for name, value in given.items():
        known = parameters.get(name)
        if known is None or not (known.get("metadataVariableReadable") or known.get("envVariableReadable")):
            yield f"{kind} reads no {name} from its metadata"
        elif not isinstance(value, str):
            yield f"{kind}: {name} is no text"
        elif "allowedValue" in known and value not in known["allowedValue"]:
            yield f"{kind}: {name} is none of {known['allowedValue']}"
    for name, each in parameters.items():
        needed = not each.get("optional") and "default" not in each
        if needed and name not in given and f"{name}FromEnv" not in given and name not in authentication:
            yield f"{kind} needs {name}"
    for name in authentication:
        if not parameters.get(name, {}).get("triggerAuthenticationVariableReadable"):
            yield f"{kind} reads no {name} from a TriggerAuthentication"
