"""The project and the engine of tests/app, and a way to run a command on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.cli import root
from tests.app.conftest import host, loaded, project

__all__ = ["host", "loaded", "project"]

Bridge = Callable[..., Result]


@pytest.fixture
def bridge(project: Path) -> Bridge:
    """`bridge(*arguments, input=None)` on the project; bugs are raised."""

    def run(*arguments: str, input: str | bytes | None = None) -> Result:  # noqa: A002 -- click's name
        config = [] if arguments[0] == "init" else ["-c", str(project / "bridge.yaml")]
        result = CliRunner().invoke(root, [*arguments, *config], input=input, prog_name="bridge")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run
