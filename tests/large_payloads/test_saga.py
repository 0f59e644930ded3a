"""A saga with large values on both kinds of engine, whose worker is killed: nothing lost or left, memory bounded.

`make test` has 1 MB, the proof 50 MB.
"""

from __future__ import annotations

import os
import signal
import socket
from functools import partial
from pathlib import Path

import pytest
from durabletask.client import OrchestrationStatus

from bridge.engines.base import Engine
from tests.engines.sidecar import Sidecar
from tests.kit.processes import ModuleProcess
from tests.kit.waiting import TIMEOUT, eventually
from tests.large_payloads import saga_process
from tests.large_payloads.test_embedded import files_of, number_of, text_of

MEGABYTE = 1_000_000
MEMORY = 16
"""Bytes of peak memory for each byte of a payload. A compensation has both input and result of its step."""
BASE = 300 * MEGABYTE
"""Bytes of a process without payloads."""


def has_files(directory: Path, number: int) -> bool:
    return number_of(directory) >= number


async def started(engine: Engine, size: int) -> None:
    await engine.client.schedule_new_orchestration("order", input=text_of("i", size), instance_id="a")


async def compensated(engine: Engine, size: int) -> None:
    """Send the event after which the saga compensates, and wait for its end."""
    await engine.client.raise_orchestration_event("a", "more", data=text_of("e", size))

    async def ended() -> bool:
        state = await engine.client.get_orchestration_state("a", fetch_payloads=False)
        assert state is not None
        return state.runtime_status not in (OrchestrationStatus.PENDING, OrchestrationStatus.RUNNING)

    await eventually(ended, "the saga ends", within=4 * TIMEOUT)
    state = await engine.client.get_orchestration_state("a")
    assert state is not None
    assert '"status": "compensated"' in str(state.serialized_custom_status), state.failure_details
    assert state.serialized_input is not None
    assert len(state.serialized_input) == size + 2
    history = await engine.client.get_protocol_history("a")
    assert sum(event.ByteSize() > size for event in history) >= 4


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


async def memory_of(process: ModuleProcess) -> int:
    process.write()
    return int(await process.line())


async def embedded_saga(tmp_path: Path, size: int, kills: int) -> int:
    """Run the saga beside an embedded engine. Returns the peak memory of the process in bytes."""
    directory, gate = tmp_path / "engine", tmp_path / "gate"
    started_ = ("tests.large_payloads.saga_process", "embedded", directory, gate)
    client = saga_process.embedded(directory, host=False)
    for attempt in range(kills):
        with ModuleProcess(*started_) as process:
            assert await process.line() == "ready"
            await client.start()
            if not attempt:
                await started(client, size)
            # The next file appears before its commit; later the saga waits at the gate
            wanted = attempt + 1
            await eventually(partial(has_files, directory, min(wanted, 3)), "another file")
            await client.stop()
    with ModuleProcess(*started_) as process:
        assert await process.line() == "ready"
        await client.start()
        gate.touch()
        await compensated(client, size)
        peak = await memory_of(process)
        await client.client.purge_orchestration("a", recursive=True)
        await client.stop()
    # Files whose commit a kill has prevented: as they are after five minutes
    files = files_of(directory)
    for name in list(files.names()):
        os.utime(files.path_of(name), (0, 0))
    with ModuleProcess(*started_) as process:
        assert await process.line() == "ready"
        await eventually(lambda: number_of(directory) == 0, lambda: f"{number_of(directory)} files")
    return peak


async def test_a_saga_beside_an_embedded_engine(tmp_path: Path) -> None:
    assert await embedded_saga(tmp_path, MEGABYTE, 2) < BASE + MEMORY * MEGABYTE


@pytest.mark.prove
@pytest.mark.timeout(600)
async def test_a_saga_of_50_megabytes_beside_an_embedded_engine(tmp_path: Path) -> None:
    peak = await embedded_saga(tmp_path, 50 * MEGABYTE, 3)
    print(f"peak memory: {peak / MEGABYTE:.0f} MB")
    assert peak < BASE + MEMORY * 50 * MEGABYTE
    assert (tmp_path / "engine" / "engine.db").stat().st_size < 2 * MEGABYTE


async def saga_over_a_port(tmp_path: Path, size: int, kills: int) -> tuple[int, int]:
    """Run the saga on an engine behind a port, and kill worker and engine. Returns the peak memory of both in bytes."""
    directory, gate, address = tmp_path / "engine", tmp_path / "gate", free_address()
    hosts = ("tests.large_payloads.saga_process", "host", directory, address)
    works = ("tests.large_payloads.saga_process", "port", f"http://{address}", gate)
    client = saga_process.port(f"http://{address}")
    await client.start()
    for attempt in range(kills):
        # Both end while values are on their way: the next file appears before its commit
        with ModuleProcess(*hosts) as host:
            assert await host.line() == "ready"
            if not attempt:
                await started(client, size)
            with ModuleProcess(*works) as worker:
                assert await worker.line() == "ready"
                await eventually(partial(has_files, directory, min(attempt + 2, 3)), "another file", within=4 * TIMEOUT)
                host.signal(signal.SIGKILL)
    with ModuleProcess(*hosts) as host:
        assert await host.line() == "ready"
        with ModuleProcess(*works) as worker:
            assert await worker.line() == "ready"
            gate.touch()
            await compensated(client, size)
            peaks = await memory_of(worker), await memory_of(host)
            await client.client.purge_orchestration("a", recursive=True)
    await client.stop()
    files = files_of(directory)
    for name in list(files.names()):
        os.utime(files.path_of(name), (0, 0))
    with ModuleProcess(*hosts) as host:
        assert await host.line() == "ready"
        await eventually(lambda: number_of(directory) == 0, lambda: f"{number_of(directory)} files")
    return peaks


async def test_a_saga_over_the_port_of_an_engine(tmp_path: Path) -> None:
    worker, host = await saga_over_a_port(tmp_path, MEGABYTE, 2)
    assert worker < BASE + MEMORY * MEGABYTE
    assert host < BASE


@pytest.mark.prove
@pytest.mark.timeout(900)
async def test_a_saga_of_50_megabytes_over_the_port_of_an_engine(tmp_path: Path) -> None:
    worker, host = await saga_over_a_port(tmp_path, 50 * MEGABYTE, 3)
    print(f"peak memory: worker {worker / MEGABYTE:.0f} MB, engine {host / MEGABYTE:.0f} MB")
    assert worker < BASE + MEMORY * 50 * MEGABYTE
    assert host < BASE, "the engine holds no payload"
    assert (tmp_path / "engine" / "engine.db").stat().st_size < 2 * MEGABYTE


@pytest.mark.prove
@pytest.mark.timeout(900)
async def test_a_saga_of_50_megabytes_on_a_remote_engine(tmp_path: Path) -> None:
    from tests.large_payloads.storage import running
    from tests.large_payloads.test_blob import names_in

    size, gate = 50 * MEGABYTE, tmp_path / "gate"
    sidecar = Sidecar(tmp_path)
    sidecar.start()
    try:
        with running(tmp_path / "azurite") as storage:
            client = saga_process.remote(sidecar.endpoint, storage.connection_string)
            given = ("remote", sidecar.endpoint, storage.connection_string, gate)
            await client.start()
            with ModuleProcess("tests.large_payloads.saga_process", *given) as process:
                assert await process.line() == "ready"
                await started(client, size)
                await eventually(lambda: len(names_in(storage, "fifty")) > 2, "a result", within=4 * TIMEOUT)
            with ModuleProcess("tests.large_payloads.saga_process", *given) as process:
                assert await process.line() == "ready"
                gate.touch()
                await compensated(client, size)
                peak = await memory_of(process)
            print(f"peak memory: {peak / MEGABYTE:.0f} MB")
            assert peak < BASE + MEMORY * size
            # No message of the engine had the payload: its port takes 4 MB at most
            assert (tmp_path / "sidecar.db").stat().st_size < 4 * MEGABYTE
            await client.client.purge_orchestration("a", recursive=True)
            assert names_in(storage, "fifty") == []
            await client.stop()
    finally:
        sidecar.close()
