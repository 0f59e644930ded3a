"""Project and engine of tests/app, and a runner for commands on them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner, Result

from bridge.cli import root
from tests.app.conftest import host, impatient, loaded, project

__all__ = ["host", "impatient", "loaded", "project"]

Bridge = Callable[..., Result]


@pytest.fixture(autouse=True)
def _log_apart() -> Iterator[None]:
    """Keep logs of daemons in other threads out of the output of commands."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.__stderr__))
    yield
    structlog.reset_defaults()


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
