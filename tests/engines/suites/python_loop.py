"""Suites of microsoft/durabletask-python over the bridge's loop for remote workers, with the installed SDK."""

from __future__ import annotations

from pathlib import Path

from tests.engines.suites import python_sdk

NAME = "python-loop"


def version(checkout: Path) -> str:
    return python_sdk.version(checkout)


def run(checkout: Path, work: Path) -> dict[str, str]:
    """Return the outcome of every test by its id. Raises: RuntimeError when a suite does not complete."""
    return python_sdk.run(checkout, work, "loop_stand_in")
