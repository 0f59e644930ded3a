"""Project and engine of tests/app, and a runner for commands on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.cli import root
from tests.app.conftest import host, impatient, loaded, project

__all__ = ["host", "impatient", "loaded", "project"]

Bridge = Callable[..., Result]


@pytest.fixture
def bridge(project: Path) -> Bridge:
    """Run `bridge(*arguments, input=None)` on the project; unexpected exceptions are raised."""

    def run(*arguments: str, input: str | bytes | None = None) -> Result:  # noqa: A002 -- click's name
        config = [] if arguments[0] == "init" else ["-c", str(project / "bridge.yaml")]
        result = CliRunner().invoke(root, [*arguments, *config], input=input, prog_name="bridge")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run
