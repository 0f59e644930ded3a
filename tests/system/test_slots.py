"""Slots of threads: many threads at once, and threads that come and go."""

from __future__ import annotations

import mmap
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.engines.embedded.processes import settings as worker
from bridge.engines.embedded.processes.process_worker import SlotRecord
from bridge.sqlite_engine.hub.leases import ORCHESTRATION, Lease, Leases, WorkerStream
from bridge.sqlite_engine.maintenance.process_files import RunningItems
from bridge.system import slots
from bridge.system.slots import STEP, ThreadSlots, entries, required_size

SLOT, HEADER = 64, 64


class Memory:
    """Memory that grows as long as it may."""

    def __init__(self, *, grows: bool = True) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 -- lives as long as the memory
        self.now = self._mapped(required_size(SLOT, HEADER))
        self.sizes: list[int] = []
        self._grows = grows

    def _mapped(self, size: int) -> mmap.mmap:
        self._file.truncate(size)
        return mmap.mmap(self._file.fileno(), size)

    def grow(self, size: int) -> mmap.mmap | None:
        if not self._grows:
            return None
        self.sizes.append(size)
        self.now = self._mapped(size)
        return self.now


def at_once(number: int, run: Callable[[int], None]) -> threading.Event:
    """Start threads that stay when they have run. Returns the event that ends them."""
    ran, end = threading.Barrier(number + 1), threading.Event()

    def stay(each: int) -> None:
        run(each)
        ran.wait()
        end.wait()

    for each in range(number):
        threading.Thread(target=stay, args=(each,), daemon=True).start()
    ran.wait()
    return end


def test_each_of_many_threads_has_a_slot() -> None:
    memory, number = Memory(), 2 * STEP + 10
    record = ThreadSlots(memory.now, memory.grow, SLOT, HEADER)

    def run(each: int) -> None:
        record.write(b"%d" % each)
        if each % 2:
            record.clear()

    end = at_once(number, run)
    found = sorted(map(int, entries(memory.now, SLOT, HEADER)))
    assert found == list(range(0, number, 2))
    assert memory.sizes == [required_size(SLOT, HEADER, 2 * STEP), required_size(SLOT, HEADER, 3 * STEP)]
    end.set()


def test_the_slots_of_ended_threads_are_used_again() -> None:
    memory = Memory()
    record = ThreadSlots(memory.now, memory.grow, SLOT, HEADER)

    def run() -> None:
        record.write(b"x")
        record.clear()

    for _ in range(3 * STEP):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert memory.sizes == []
    end = at_once(STEP // 2, lambda each: record.write(b"%d" % each))
    assert sorted(map(int, entries(memory.now, SLOT, HEADER))) == list(range(STEP // 2))
    end.set()


def test_threads_beyond_the_memory_record_nothing_and_disturb_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for memory, most in ((Memory(grows=False), slots.MAX_SLOTS), (Memory(), STEP)):
        monkeypatch.setattr(slots, "MAX_SLOTS", most)
        record = ThreadSlots(memory.now, memory.grow, SLOT, HEADER)

        def run(each: int, record: ThreadSlots = record) -> None:
            record.write(b"%d" % each)
            if not each % 2:
                record.clear()

        end = at_once(STEP + 20, run)
        found = list(map(int, entries(memory.now, SLOT, HEADER)))
        assert len(found) == len(set(found))
        assert all(each % 2 for each in found)
        assert STEP // 2 - 20 <= len(found) <= STEP // 2 + 20
        assert len(memory.now) == required_size(SLOT, HEADER)
        end.set()


def leased(number: int) -> Leases:
    found = Leases()
    stream = WorkerStream(pb.GetWorkItemsRequest(), lambda item: None)
    for each in range(number):
        found.add(Lease(str(each), ORCHESTRATION, each, "flow", None, stream, str(each)))
    return found


def test_the_record_of_the_engine_has_the_items_of_all_threads(tmp_path: Path) -> None:
    """A killed daemon leaves the file as it is."""
    number = STEP + 100
    record = RunningItems(tmp_path / "running", leased(number))
    end = at_once(number, lambda each: record.begin(str(each)))
    found = RunningItems(tmp_path / "running", Leases()).read()
    assert len(found) == len(set(found)) == number
    end.set()


def test_the_record_of_a_worker_has_the_items_of_all_threads(tmp_path: Path) -> None:
    number = STEP + 100
    with (tmp_path / "slots").open("wb+") as memory:
        memory.truncate(required_size(worker.SLOT, worker.HEADER))
        record = SlotRecord(memory.fileno())
        end = at_once(number, lambda each: record.begin(str(each)))
        content = memory.read()
    assert sorted(map(int, entries(content, worker.SLOT, worker.HEADER))) == list(range(number))
    end.set()
