"""Set-up of all tests: how examples are chosen, and what stood in for a Kafka broker."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import settings

# `make test` tries the same examples each time: a change passes or fails by what it changes.
# `make search` looks for new ones, with fresh seeds.
settings.register_profile("repeat", derandomize=True, database=None)
settings.register_profile("search", print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))

KAFKA_SUBSTITUTE = pytest.StashKey[str]()
"""Why the small Kafka-protocol server stood in."""


class _FromWorkers:
    """Hears it from the processes that run the tests side by side."""

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
