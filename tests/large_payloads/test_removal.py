"""Files of large payloads in every way in which instances end, begin again and go: none is left, none goes early."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from durabletask.client import OrchestrationStatus
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.engines.base import Engine
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import load
from bridge.workflow import DataConverter
from tests.kit.waiting import TIMEOUT, eventually
from tests.large_payloads import test_embedded, test_port
from tests.large_payloads.test_embedded import ROOT, completed, files_of, finished_flow, text_of

pytestmark = pytest.mark.long

MOST = 1_000_000
NAMES = ("tests.large_payloads.workflows",)


@dataclass
class Stored:
    """Engine with a worker, and the directory of the engine's file."""

    engine: Engine
    directory: Path

    def names(self) -> set[str]:
        return set(files_of(self.directory).names())

    def referred(self) -> set[str]:
        with closing(sqlite3.connect(self.directory / "engine.db")) as connection:
            return {name for (name,) in connection.execute("SELECT DISTINCT name FROM payload_references")}

    async def are_tidy(self, *ids: str) -> set[str]:
        """Wait until the files are those that the engine refers to; every payload of these instances is readable.

        Returns the names of the files.
        """
        await eventually(
            lambda: self.names() == self.referred(),
            lambda: f"left: {self.names() - self.referred()}, missing: {self.referred() - self.names()}",
        )
        for each in ids:
            assert await self.engine.client.get_orchestration_state(each) is not None
            assert await self.engine.client.get_protocol_history(each)
        return self.names()

    async def are_gone(self) -> None:
        await eventually(lambda: not self.names(), lambda: f"{len(self.names())} files")

    async def ended(self, id_: str, status: OrchestrationStatus) -> None:
        state = await self.engine.client.wait_for_orchestration_completion(id_, timeout=TIMEOUT)
        assert state is not None
        assert state.runtime_status is status, state.failure_details


@asynccontextmanager
async def stored(directory: Path, way: str, **config: Any) -> AsyncIterator[Stored]:
    async with AsyncExitStack() as open_:
        if way == "port":
            endpoint = await open_.enter_async_context(test_port.hosted(directory, **config))
            engine: Engine = await open_.enter_async_context(test_port.remote(endpoint))
        elif config:
            settings = EmbeddedEngineConfig.model_validate(
                {"type": "embedded", "payloads": {"max": 1_000_000}, **config}
            )
            host = await open_.enter_async_context(test_embedded.hosted(directory, settings))
            worker = host.worker(load(NAMES, ROOT), DataConverter())
            worker.start()
            engine = host
            open_.push_async_callback(stop_worker, worker, TIMEOUT)
        else:
            engine = await open_.enter_async_context(test_embedded.working(directory, way))
        yield Stored(engine, directory)


WAYS = pytest.mark.parametrize("way", ["direct", "processes", "port"])


@WAYS
async def test_restarts(tmp_path: Path, way: str) -> None:
    async with stored(tmp_path, way) as it:
        client = it.engine.client
        await client.schedule_new_orchestration("generations", input=[0, text_of("g")], instance_id="a")
        assert await completed(it.engine, "a") == text_of("g") + "."
        first = await it.are_tidy("a")
        assert await client.restart_orchestration("a") == "a"
        assert await completed(it.engine, "a") == text_of("g") + "."
        second = await it.are_tidy("a")
        assert len(second) == len(first), "the files of the former run are gone"
        copy = await client.restart_orchestration("a", restart_with_new_instance_id=True)
        assert await completed(it.engine, copy) == text_of("g") + "."
        await it.are_tidy("a", copy)
        await client.purge_orchestration("a")
        assert await it.are_tidy(copy)
        state = await client.get_orchestration_state(copy)
        assert state is not None
        assert state.get_input() == [0, text_of("g")]
        await client.purge_orchestration(copy)
        await it.are_gone()


@WAYS
async def test_an_instance_in_the_place_of_a_finished_one(tmp_path: Path, way: str) -> None:
    async with stored(tmp_path, way) as it:
        policy = pb.OrchestrationIdReusePolicy(replaceableStatus=[pb.ORCHESTRATION_STATUS_COMPLETED])
        names: list[set[str]] = []
        for character in "gh":
            await it.engine.client.schedule_new_orchestration(
                "generations", input=[0, text_of(character)], instance_id="a", reuse_id_policy=policy
            )
            assert await completed(it.engine, "a") == text_of(character) + "."
            names.append(await it.are_tidy("a"))
        assert not names[0] & names[1]
        assert len(names[0]) == len(names[1])
        await it.engine.client.purge_orchestration("a")
        await it.are_gone()


@WAYS
async def test_a_rewound_instance_has_its_results_again(tmp_path: Path, way: str) -> None:
    async with stored(tmp_path, way) as it:
        gate = tmp_path / "gate"
        given = [text_of("r"), str(gate)]
        await it.engine.client.schedule_new_orchestration("fails_late", input=given, instance_id="a")
        await it.ended("a", OrchestrationStatus.FAILED)
        await it.are_tidy("a", "a-child")
        gate.touch()
        await it.engine.client.rewind_orchestration("a", reason=text_of("w"))
        assert await completed(it.engine, "a") == [text_of("r") + ".", text_of("r") + ".."]
        await it.are_tidy("a", "a-child")
        await it.engine.client.purge_orchestration("a", recursive=True)
        await it.are_gone()


@WAYS
async def test_a_terminated_tree(tmp_path: Path, way: str) -> None:
    async with stored(tmp_path, way) as it:
        client = it.engine.client
        await client.schedule_new_orchestration("tree", input=[2, text_of("t")], instance_id="a")
        ids = ["a", "a-x", "a-x-x"]
        await client.wait_for_orchestration_start(ids[-1], timeout=TIMEOUT)
        await client.raise_orchestration_event("a-x", "unread", data=text_of("u"))
        await it.are_tidy(*ids)
        await client.terminate_orchestration("a", output=text_of("o"), recursive=True)
        for each in ids:
            await it.ended(each, OrchestrationStatus.TERMINATED)
        await it.are_tidy(*ids)
        state = await client.get_orchestration_state("a")
        assert state is not None
        assert state.get_output() == text_of("o")
        await client.purge_orchestration("a", recursive=True)
        await it.are_gone()


@pytest.mark.parametrize("way", ["direct", "port"])
async def test_the_end_of_a_retention(tmp_path: Path, way: str) -> None:
    async with stored(tmp_path, way, retention="1s") as it:
        client = it.engine.client
        await client.schedule_new_orchestration("tree", input=[0, text_of("w")], instance_id="waits")
        await client.raise_orchestration_event("waits", "unread", data=text_of("u"))
        await finished_flow(it.engine)
        for each in ("a", "a-child"):

            async def is_gone(each: str = each) -> bool:
                return await client.get_orchestration_state(each) is None

            await eventually(is_gone, f"the end of the retention of {each}")
        left = await it.are_tidy("waits")
        assert len(left) == 2, "those of the instance that waits"
        await client.raise_orchestration_event("waits", "end", data=text_of("e"))
        await it.are_gone()
