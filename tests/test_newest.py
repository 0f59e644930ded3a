"""`make newest` installs every declared dependency without an upper bound."""

from __future__ import annotations

import tomllib

import pytest
from packaging.requirements import Requirement

from tests.newest import ROOT, UPPER, declared, unbounded


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("durabletask>=1.12,<1.13", "durabletask>=1.12"),
        ("aiokafka[lz4]>=0.14,<0.15", "aiokafka[lz4]>=0.14"),
        ("uvloop>=0.21; sys_platform != 'win32'", 'uvloop>=0.21; sys_platform != "win32"'),
        ("ruff~=0.12", "ruff"),
    ],
)
def test_upper_bounds_are_dropped(given: str, expected: str) -> None:
    assert unbounded(given) == expected


def test_every_dependency_is_installed() -> None:
    found = [Requirement(unbounded(each)) for each in declared(tomllib.loads((ROOT / "pyproject.toml").read_text()))]
    assert {"durabletask", "aiokafka", "azure-servicebus", "confluent-kafka", "pytest", "uv"} <= {
        one.name for one in found
    }
    assert not [one for one in found for bound in one.specifier if bound.operator in UPPER]
