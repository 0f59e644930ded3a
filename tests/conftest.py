"""Set-up of all tests: choice of examples, distribution over processes, and a report of the substitute for Kafka."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.kit import forkserver, logs
from tests.kit.examples import FEW
from tests.kit.schedule import COSTS, Costs, Schedule, compile_part, file_of, is_left_out

# Collection makes millions of objects that live to the end: without their garbage collections it takes 40 % less time.
gc.disable()

# `make test` uses the same examples each time: its result depends only on the change.
# `make search` looks for new examples, with fresh seeds.
# Neither measures time: how long an example takes says more of the machine's load than of the change.
UNTIMED: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeat", max_examples=FEW, derandomize=True, database=None, **UNTIMED)
settings.register_profile("search", print_blob=True, **UNTIMED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))

SPREAD = (
    "tests/acceptance/test_bad_config.py",
    "tests/acceptance/test_daemons_of_machines.py",
    "tests/app/test_scaling.py",
    "tests/brokers/servicebus/test_receiver.py",
    "tests/brokers/servicebus/test_refusals.py",
    "tests/cli/test_engine.py",
    "tests/cli/test_engine_backup.py",
    "tests/docs/test_commands.py",
    "tests/engines/test_port.py",
    "tests/jobs/test_commands.py",
    "tests/jobs/test_on_engine.py",
    "tests/secrets/test_files.py",
    "tests/secrets/test_rooms.py",
    "tests/sqlite_engine/test_backups.py",
    "tests/sqlite_engine/test_encryption.py",
    "tests/workflow/kill/test_kill.py",
)
"""Long files whose tests share nothing: they run one by one, on any process. Other files run on one process each."""

TOGETHER = (
    "tests/brokers/test_structure.py",
    "tests/docs/test_names.py",
    "tests/engines/test_client.py",
    "tests/language/test_class_names.py",
    "tests/test_private_members.py",
    "tests/wire/test_inventory.py",
)
"""Files with rules for all modules of the bridge: they run on one process, which parses each module once."""

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--costs", action="store_true", help="measure the files and renew tests/kit/costs.json")


def pytest_configure(config: pytest.Config) -> None:
    logs.configure()
    config.pluginmanager.register(_FromWorkers(config))
    if config.getoption("costs"):
        config.pluginmanager.register(Costs(config))
    if (address := getattr(config, "workerinput", {}).get("fork_server")) is not None:
        forkserver.share(address)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Share one server of forks. A measurement needs one for each process, which adds its processor time."""
    if not node.config.getoption("costs"):
        node.workerinput["fork_server"] = forkserver.fork_server().address


def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    compile_part(config.rootpath, config.args, config.option.markexpr)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Schedule:
    return Schedule(config, log, SPREAD, TOGETHER)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the files of which no test is in the run: each process would import them."""
    is_given = collection_path in {config.rootpath / file_of(each) for each in config.args}
    if is_given or not collection_path.name.startswith("test_"):
        return None
    return is_left_out(collection_path, config.option.markexpr) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: COSTS.get(file_of(item.nodeid), 0.0))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)  # as in the daemon
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    with logs.restored():
        result = yield
    if nextitem is not None and file_of(nextitem.nodeid) != file_of(item.nodeid):
        # What a file leaves behind, such as modules and syntax trees, would take a second of each later collection
        gc.collect()
        gc.freeze()
    return result


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    why = config.stash.get(KAFKA_SUBSTITUTE, None)
    if why is not None:
        terminalreporter.section("Kafka")
        terminalreporter.line(f"{why}: the Kafka tests ran on the small test server, not on a real broker")
