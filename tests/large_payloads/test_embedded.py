"""Large payloads beside the embedded engine, with every way of running work on its machine."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from durabletask.client import OrchestrationStatus

from bridge.app.serve.worker_processes import MODULE
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.config.model.payloads import FilePayloadsConfig
from bridge.core.errors import EngineRejected, LargePayloadLost, LargePayloadRefused
from bridge.engines.base import Engine
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.embedded.processes.settings import ProcessSettings
from bridge.engines.embedded.processes.supervisor import default_command
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import load
from bridge.large_payloads.files import PayloadFiles, directory_of
from bridge.workflow import DataConverter
from tests.kit.waiting import TIMEOUT, eventually

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
NAMES = ("tests.large_payloads.workflows",)
SIZE = 300_000
CONFIG = EmbeddedEngineConfig(type="embedded", payloads=FilePayloadsConfig(max=1_000_000))
WAYS = ("direct", "protocol", "processes", "attached", "attached_protocol")


def text_of(character: str, size: int = SIZE) -> str:
    return character * size


def files_of(directory: Path) -> PayloadFiles:
    return PayloadFiles(directory_of(directory / "engine.db"))


def number_of(directory: Path) -> int:
    return len(list(files_of(directory).names()))


@asynccontextmanager
async def hosted(directory: Path, config: EmbeddedEngineConfig = CONFIG) -> AsyncIterator[EmbeddedEngine]:
    engine = EmbeddedEngine("default", config, directory, host=True)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@asynccontextmanager
async def working(directory: Path, way: str = "direct") -> AsyncIterator[Engine]:
    """Engine with a worker that runs in this way."""
    known = load(NAMES, ROOT)
    config = CONFIG.model_copy(update={"dispatch": "protocol"}) if way.endswith("protocol") else CONFIG
    async with hosted(directory, config) as host:
        engine = host
        if way == "processes":
            settings = ProcessSettings("default", NAMES, str(ROOT))
            worker: Any = host.worker_processes(1, settings, known, default_command(MODULE))
        else:
            if way.startswith("attached"):
                engine = EmbeddedEngine("attached", config, directory, host=False)
                await engine.start()
            worker = engine.worker(known, DataConverter())
        worker.start()
        try:
            yield engine
        finally:
            assert await stop_worker(worker, TIMEOUT)
            if engine is not host:
                await engine.stop()


async def completed(engine: Engine, instance_id: str) -> Any:
    state = await engine.client.wait_for_orchestration_completion(instance_id, timeout=TIMEOUT)
    assert state is not None
    assert state.runtime_status is OrchestrationStatus.COMPLETED, str(state.failure_details)[:500]
    return state.get_output()


async def finished_flow(engine: Engine, id_: str = "a") -> None:
    await engine.client.schedule_new_orchestration("flow", input=text_of("i"), instance_id=id_)
    await engine.client.raise_orchestration_event(id_, "more", data=text_of("e"))
    wanted = [text_of("i") + ".", text_of("e"), text_of("e") + "."]
    assert await completed(engine, id_) == wanted


@pytest.mark.parametrize("way", WAYS)
async def test_payloads_pass_through_files_and_go_with_their_instances(tmp_path: Path, way: str) -> None:
    async with working(tmp_path, way) as engine:
        await finished_flow(engine)
        state = await engine.client.get_orchestration_state("a")
        assert state is not None
        assert state.get_input() == text_of("i")
        history = await engine.client.get_orchestration_history("a")
        raised = next(event for event in history if type(event).__name__ == "EventRaisedEvent")
        assert len(str(getattr(raised, "input", ""))) == SIZE + 2
        events = await engine.client.get_protocol_history("a")
        assert max(event.ByteSize() for event in events) > SIZE
        pages = [page async for page in engine.client.instance_pages(payloads=True)]
        assert [len(page) for page in pages] == [1, 1]
        assert number_of(tmp_path) > 5
        # The child's input was written by its parent, and outlives it
        await engine.client.purge_orchestration("a", recursive=False)
        kept = number_of(tmp_path)
        assert kept > 0
        again = await engine.client.get_orchestration_state("a-child")
        assert again is not None
        assert again.get_input() == [text_of("i") + ".", text_of("e")]
        await engine.client.purge_orchestration("a-child")
        await eventually(lambda: number_of(tmp_path) == 0, lambda: f"{number_of(tmp_path)} files")


async def test_the_engine_file_and_its_messages_stay_small(tmp_path: Path) -> None:
    async with working(tmp_path) as engine:
        await finished_flow(engine)
    with closing(sqlite3.connect(tmp_path / "engine.db")) as connection:
        largest = connection.execute("SELECT max(length(events)) FROM history").fetchone()[0]
        output = connection.execute("SELECT output FROM instances WHERE id='a'").fetchone()[0]
    assert largest < 20_000
    assert output.startswith("bridge-payload:v1:")
    paths = [files_of(tmp_path).path_of(name) for name in files_of(tmp_path).names()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in paths} == {0o700}
    assert not any(b"iiiiiiii" in path.read_bytes() or b"eeeeeeee" in path.read_bytes() for path in paths)


@pytest.mark.parametrize("way", ["direct", "processes"])
async def test_a_generation_leaves_no_files_of_the_earlier_ones(tmp_path: Path, way: str) -> None:
    async with working(tmp_path, way) as engine:
        await engine.client.schedule_new_orchestration("generations", input=[5, text_of("g")], instance_id="g")
        await engine.client.raise_orchestration_event("g", "unread", data=text_of("u"))
        assert await completed(engine, "g") == text_of("g") + "......"
        # Input of the last generation, the input and result of its activity, the output, and the unread event
        await eventually(lambda: number_of(tmp_path) <= 5, lambda: f"{number_of(tmp_path)} files")
        history = await engine.client.get_orchestration_history("g")
        assert any(text_of("u") in str(getattr(event, "input", "")) for event in history)


@pytest.mark.parametrize("way", ["direct", "protocol", "processes"])
async def test_a_payload_over_the_limit_is_refused_with_the_name_of_the_limit(tmp_path: Path, way: str) -> None:
    async with working(tmp_path, way) as engine:
        with pytest.raises(LargePayloadRefused, match=r"1100002 bytes; `payloads.max` of the engine allows 1000000"):
            await engine.client.schedule_new_orchestration("flow", input=text_of("x", 1_100_000))
        for name in ("too_large", "returns"):
            await engine.client.schedule_new_orchestration(name, input=1_100_000, instance_id=name)
            state = await engine.client.wait_for_orchestration_completion(name, timeout=TIMEOUT)
            assert state is not None
            assert state.failure_details is not None
            assert "`payloads.max` of the engine allows 1000000" in state.failure_details.message
        await engine.client.schedule_new_orchestration("entity_returns", input=1_100_000, instance_id="entity")
        message, count, small = await completed(engine, "entity")
        assert "`payloads.max` of the engine allows 1000000" in message
        assert (count, small) == (0, "x"), "the state is as before the operation"
    assert number_of(tmp_path) == 0


async def test_a_damaged_or_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    async with working(tmp_path) as engine:
        for id_ in ("damaged", "cut", "missing"):
            await engine.client.schedule_new_orchestration("child", input=[text_of("a"), "b"], instance_id=id_)
            await completed(engine, id_)
    with closing(sqlite3.connect(tmp_path / "engine.db")) as connection:
        paths = {
            id_: files_of(tmp_path).path_of(output.split(":")[2])
            for id_, output in connection.execute("SELECT id, output FROM instances")
        }
    with paths["damaged"].open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"?")
    os.truncate(paths["cut"], 1000)
    paths["missing"].unlink()
    async with hosted(tmp_path) as engine:
        for id_, word in (("damaged", "altered"), ("cut", "cut off"), ("missing", "no such file")):
            with pytest.raises(LargePayloadLost, match=word) as caught:
                await engine.client.get_orchestration_state(id_)
            assert str(paths[id_]) in str(caught.value)
            assert await engine.client.get_orchestration_state(id_, fetch_payloads=False) is not None


async def test_a_text_that_looks_like_a_reference_is_data(tmp_path: Path) -> None:
    async with working(tmp_path) as engine:
        await finished_flow(engine)
        with closing(sqlite3.connect(tmp_path / "engine.db")) as connection:
            reference = connection.execute("SELECT output FROM instances WHERE id='a'").fetchone()[0]
        await engine.client.schedule_new_orchestration("child", input=["x", reference], instance_id="b")
        assert await completed(engine, "b") == ["x", reference, reference + "."]


async def test_without_the_setting_payloads_stay_in_the_engine_and_stored_ones_are_read(tmp_path: Path) -> None:
    async with working(tmp_path) as engine:
        await finished_flow(engine)
    async with hosted(tmp_path, EmbeddedEngineConfig(type="embedded")) as engine:
        state = await engine.client.get_orchestration_state("a")
        assert state is not None
        assert state.get_input() == text_of("i")
        before = number_of(tmp_path)
        await engine.client.schedule_new_orchestration("flow", input=text_of("n"), instance_id="n")
        assert number_of(tmp_path) == before
        await engine.client.purge_orchestration("a")
        await eventually(lambda: number_of(tmp_path) == 0, lambda: f"{number_of(tmp_path)} files")


async def test_a_request_whose_file_is_gone_is_refused_and_not_recorded(tmp_path: Path) -> None:
    async with working(tmp_path) as engine:
        await engine.client.schedule_new_orchestration("flow", input=text_of("i"), instance_id="a")
        before = set(files_of(tmp_path).names())
        reference = files_of(tmp_path).write(b'"gone"')
        files_of(tmp_path).remove([reference.name])
        from durabletask.internal import orchestrator_service_pb2 as pb

        from bridge.engines.sdk_internals import stub_of

        request = pb.RaiseEventRequest(instanceId="a", name="more")
        request.input.value = str(reference)
        with pytest.raises(Exception, match="is gone; send the request again"):
            await stub_of(engine.client.sdk).RaiseEvent(request)
        request.input.value = "bridge-payload:v9:what"
        with pytest.raises(Exception, match="not a reference that this version"):
            await stub_of(engine.client.sdk).RaiseEvent(request)
        assert before <= set(files_of(tmp_path).names())
        with pytest.raises(EngineRejected):
            await engine.client.raise_orchestration_event("a", "more", data={1, 2})
