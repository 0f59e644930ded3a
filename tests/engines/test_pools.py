"""Pools of threads that stop: each item that has not begun goes back to the engine at once, whenever it arrives."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from durabletask import task
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.engines.embedded.pools import Pool, PoolStub
from bridge.engines.embedded.processes.channel import Channel
from bridge.engines.embedded.processes.messages import ItemKind, work_body
from bridge.engines.embedded.processes.process_worker import ChannelStub, Outbox, ProcessWorker, SlotRecord
from bridge.engines.embedded.processes.settings import HEADER, SLOT, ProcessSettings
from bridge.engines.worker.sdk_log import quiet_logger
from bridge.engines.workflows import Workflows
from bridge.sqlite_engine.hub.leases import DRAINING
from bridge.system import slots
from tests.kit.waiting import TIMEOUT, eventually_blocking


class RecordingStub(PoolStub):
    """Stub that records the tokens that it returns."""

    def __init__(self) -> None:
        super().__init__(lambda token, error: None)
        self.returned: list[str] = []

    def give_back(self, token: str) -> None:
        self.returned.append(token)


def test_an_item_that_a_thread_takes_after_the_stub_has_closed_is_returned_while_another_one_runs() -> None:
    stub = RecordingStub()
    pool = Pool("test", 2, stub)
    began, release = threading.Event(), threading.Event()

    def blocks(request: Any, stub: Any, token: str) -> None:
        began.set()
        assert release.wait(TIMEOUT)

    pool.start()
    pool.submit((blocks, None, "runs"))
    assert began.wait(TIMEOUT)
    stub.close()
    pool._jobs.put((blocks, None, "taken"))  # before the closing, and its thread wakes afterwards
    pool._call()
    eventually_blocking(lambda: stub.returned == ["taken"], lambda: str(stub.returned))
    pool.submit((blocks, None, "late"))
    eventually_blocking(lambda: stub.returned == ["taken", "late"], lambda: str(stub.returned))
    release.set()
    pool.stop()
    pool.submit((blocks, None, "last"))
    assert stub.returned == ["taken", "late", "last"]


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    """Two ends of a channel: of the engine, and of the worker."""
    ends = socket.socketpair()
    for end in ends:
        end.settimeout(TIMEOUT)
    channels = Channel(ends[0]), Channel(ends[1])
    yield channels
    for channel in channels:
        channel.close()


def test_a_worker_of_a_channel_that_stops_returns_what_arrives_while_an_activity_runs(
    channels: tuple[Channel, Channel],
) -> None:
    began, release = threading.Event(), threading.Event()

    def blocks(ctx: task.ActivityContext, _: Any) -> None:
        began.set()
        assert release.wait(TIMEOUT)

    engine, own = channels
    memory = os.memfd_create("slots")
    os.ftruncate(memory, slots.required_size(SLOT, HEADER))
    outbox = Outbox(own, own.shut_down)
    settings = ProcessSettings("test", (), "", threads=1)
    worker = ProcessWorker(settings, SlotRecord(memory), outbox, logger=quiet_logger("test")).add_workflows(
        Workflows(activities={"blocks": blocks})
    )
    worker.start_pools(ChannelStub(worker, outbox))
    worker.mark_running()
    outbox.start()
    worker.take_item(ItemKind.ACTIVITY, work_body("1", pb.ActivityRequest(name="blocks", taskId=1)))
    assert began.wait(TIMEOUT)
    worker.take_item(ItemKind.ACTIVITY, work_body("2", pb.ActivityRequest(name="blocks", taskId=2)))
    stopping = threading.Thread(target=worker.stop_pools)
    stopping.start()
    assert engine.receive() == [(ItemKind.RETURNED, f"{DRAINING}2".encode())]
    worker.take_item(ItemKind.ACTIVITY, work_body("3", pb.ActivityRequest(name="blocks", taskId=3)))
    assert engine.receive() == [(ItemKind.RETURNED, f"{DRAINING}3".encode())]
    release.set()
    stopping.join(TIMEOUT)
    outbox.stop()
    items = engine.receive()
    assert items is not None
    assert [kind for kind, _ in items] == [ItemKind.ACTIVITY_DONE]
    os.close(memory)
