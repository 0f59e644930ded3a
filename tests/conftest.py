"""Set-up of all tests: choice of examples, and a report of the substitute for a Kafka broker."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import settings

# `make test` uses the same examples each time: its result depends only on the change.
# `make search` looks for new examples, with fresh seeds.
settings.register_profile("repeat", derandomize=True, database=None)
settings.register_profile("search", print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))

KAFKA_SUBSTITUTE = pytest.StashKey[str]()
"""Reason for the use of the small Kafka protocol server."""


class _FromWorkers:
    """Plugin that collects the reason from the worker processes of the test run."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        why = getattr(node, "workeroutput", {}).get("kafka_substitute")
        if why is not None:
            self._config.stash[KAFKA_SUBSTITUTE] = why


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_FromWorkers(config))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    why = config.stash.get(KAFKA_SUBSTITUTE, None)
    if why is not None:
        terminalreporter.section("Kafka")
        terminalreporter.line(f"{why}: the Kafka tests ran on the small test server, not on a real broker")
