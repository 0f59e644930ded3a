"""Says at the end of a run when the Kafka tests had no real broker."""

from __future__ import annotations

from typing import Any

import pytest

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
