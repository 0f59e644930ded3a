"""The engine contract against the server of durabletask-go."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio

from bridge.config.model.engines import SchedulerEngineConfig
from bridge.engines.remote.capabilities import Capability
from bridge.engines.scheduler import SchedulerEngine
from tests.engines.contract import EngineContract, EngineFixture, harness
from tests.engines.self_hosted.server import STORES, server
from tests.kit.go_tools import ToolMissing

pytestmark = [pytest.mark.prove, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="harness", params=STORES)
async def remote(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    try:
        running = server(request.param, tmp_path_factory.mktemp(request.param))
        with running as found:
            config = SchedulerEngineConfig(type="scheduler", endpoint=found.endpoint, max_request="512KiB")
            engine = SchedulerEngine("default", config)
            await engine.start()
            try:
                await engine.probe()
                async with harness(engine) as made:
                    yield made
            finally:
                await engine.stop()
    except ToolMissing as missing:
        pytest.skip(str(missing))


LACKING: dict[Capability, tuple[str, ...]] = {
    Capability.ENTITIES: ("test_entities_take_a_message_once", "test_signal_entity"),
    Capability.QUERIES: ("test_query_and_purge",),
    Capability.HISTORIES: (
        "test_a_bare_instance_of_another_client_is_restarted_too",
        "test_an_event_restarts_a_finished_instance_and_reaches_it",
        "test_generations_keep_the_origin_and_what_was_seen",
        "test_history",
        "test_many_at_once_are_each_seen_once",
        "test_on_existing_raise",
        "test_on_finished_restart",
        "test_raise_to_finished_instance",
        "test_repeated_raise_that_was_delivered_is_done",
        "test_restart_after_more_messages_than_are_remembered",
        "test_restart_knows_every_message_of_before",
        "test_restart_replaces_a_finished_instance",
        "test_start_or_raise",
        "test_start_or_raise_sees_each_message_once",
        "test_what_does_not_wait_is_restarted_once_for_an_event",
    ),
    Capability.PROTOCOL: (
        "test_delay",
        "test_start_at",
        "test_unknown_orchestrations_are_left_to_other_workers",
        "test_version",
    ),
}
"""Tests of the contract that need a capability which the server lacks. The bridge refuses rules that need it."""


RACES = ("test_wait_ends_at_its_timeout",)
"""Tests with a race: the server may answer that the wait is cancelled just before its deadline ends."""


class TestContract(EngineContract):
    async def test_the_bridge_learns_what_the_server_lacks(self, harness: EngineFixture) -> None:
        assert harness.engine.client.lacking == LACKING.keys()


for _name in (name for names in (*LACKING.values(), RACES) for name in names):
    # The class has the name, so that a test that is gone from the contract is noticed
    assert callable(getattr(EngineContract, _name))
    setattr(TestContract, _name, None)
