"""Check of running instances against new workflow code: choice of the instances, their histories, the report."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import durabletask.internal.orchestrator_service_pb2 as pb

from bridge.app.operations.instances.instances import InstanceFilter, InstanceInfo, InstanceOperations
from bridge.core.errors import BridgeError, EngineOutage
from bridge.core.system_names import PREFIX, SAGA
from bridge.engines.client import EngineClient
from bridge.engines.recording import Recording, UnreadableRecording, record
from bridge.testing.histories.child import WorkflowCode
from bridge.testing.histories.comparison import HistoryDifference

RUNNING = ("RUNNING", "SUSPENDED")
"""Statuses of instances that have a history and go on."""

MAX_EVENTS = 100_000
"""Most events of a history that is replayed."""

_SECONDS = 60.0
"""Longest replay of one history, and longest import of the code."""

_SHOWN = 20
"""Most instances that a report names for one difference."""

_LINE = 1024 * 1024
_STDERR = 2000


@dataclass
class FoundDifference:
    """A difference, and the instances that have it. instances: the first ones; count: of all."""

    difference: HistoryDifference
    instances: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, instance_id: str) -> None:
        """Count an instance."""
        self.count += 1
        if len(self.instances) < _SHOWN:
            self.instances.append(instance_id)


@dataclass
class Checked:
    """Result for one orchestration. selected = compatible + changed + broken + unchecked + other versions.

    changed: instances that go on, although the new code would have decided something differently.
    broken: instances that fail when the new code continues them.
    other_versions: instances of versions that the worker leaves to others.
    unchecked: instances whose history was not replayed, by reason. reasons: text of the first instance of each.
    """

    orchestration: str
    running: int
    selected: int
    compatible: int = 0
    changed: int = 0
    broken: int = 0
    other_versions: int = 0
    unchecked: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    found: dict[tuple[Any, ...], FoundDifference] = field(default_factory=dict)

    def add(self, instance_id: str, difference: HistoryDifference | None) -> None:
        """Count the result of one instance."""
        if difference is None:
            self.compatible += 1
            return
        self.broken += difference.breaks
        self.changed += not difference.breaks
        # Repetitions of a loop differ in the number of the event only
        key = (difference.breaks, difference.recorded, difference.now, difference.place)
        self.found.setdefault(key, FoundDifference(difference)).add(instance_id)

    def leave_to_others(self) -> None:
        """Count an instance of a version that the worker does not run."""
        self.other_versions += 1

    def leave_out(self, reason: str, text: str = "") -> None:
        """Count an instance that was not checked. text: details."""
        self.unchecked[reason] += 1
        self.reasons.setdefault(reason, f"{reason}: {text}" if text else reason)

    def as_json(self) -> dict[str, Any]:
        differences = [
            asdict(each.difference) | {"count": each.count, "instances": each.instances} for each in self.found.values()
        ]
        unchecked = [{"reason": self.reasons[each], "count": count} for each, count in self.unchecked.items()]
        counts = {"running": self.running, "selected": self.selected, "compatible": self.compatible}
        counts |= {"changed": self.changed, "broken": self.broken, "other_versions": self.other_versions}
        return {
            "orchestration": self.orchestration,
            **counts,
            "unchecked": unchecked,
            "differences": differences,
        }


async def check_histories(
    instances: InstanceOperations,
    client: EngineClient,
    code: WorkflowCode,
    *,
    sample: int | None,
    only: Sequence[str] = (),
    external: frozenset[str] = frozenset(),
    versions: Sequence[str] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> list[Checked]:
    """Replay histories of running instances through new code, without effects, in a process of its own.

    sample: instances of each orchestration, spread over their times of creation; None: all.
    only: orchestrations; empty: all. Those of the bridge, except declared sagas, are left out.
    external: orchestrations that other workers run, which are left out.
    versions: versions that the worker runs; empty: all.
    Raises: BridgeError if the code cannot be imported; EngineError.
    """
    found: defaultdict[str, list[InstanceInfo]] = defaultdict(list)
    for one in await instances.list(InstanceFilter(statuses=RUNNING), payloads=False):
        is_own = one.name.startswith(PREFIX) and one.name != SAGA
        if not is_own and one.name not in external and (not only or one.name in only):
            found[one.name].append(one)
    results = []
    done = 0
    async with _Replayer(code) as replayer:
        for name, running in sorted(found.items()):
            chosen = running if sample is None else _spread(running, sample)
            checked = Checked(name, len(running), len(chosen))
            results.append(checked)
            for one in chosen:
                await _check(client, one, replayer, versions, checked)
                done += 1
                progress(done)
    return results


def _spread(running: Sequence[InstanceInfo], count: int) -> list[InstanceInfo]:
    """Members of a list at equal distances, with the first and the last."""
    if count >= len(running):
        return [*running]
    steps = max(count - 1, 1)
    return [running[at * (len(running) - 1) // steps] for at in range(count)]


async def _check(
    client: EngineClient, one: InstanceInfo, replayer: _Replayer, versions: Sequence[str], checked: Checked
) -> None:
    try:
        recording = await record(client, one.instance_id)
    except EngineOutage:
        raise
    except (BridgeError, UnreadableRecording) as error:
        checked.leave_out("the history cannot be read", str(error))
        return
    if any(event.HasField("executionCompleted") or event.HasField("executionTerminated") for event in recording.events):
        checked.leave_out("the instance has finished meanwhile")
    elif len(recording.events) > MAX_EVENTS:
        checked.leave_out(f"the history has more than {MAX_EVENTS:,} events")
    elif versions and not one.name.startswith(PREFIX) and _version(recording) not in versions:
        checked.leave_to_others()
    elif one.name not in replayer.orchestrators:
        what = f"the modules have no orchestrator `{one.name}`"
        checked.add(one.instance_id, HistoryDifference(True, 1, "the instance goes on", what, ""))
    else:
        try:
            checked.add(one.instance_id, await replayer.replay(recording))
        except _ReplayFailed as failed:
            checked.leave_out(str(failed))


def _version(recording: Recording) -> str:
    """Version of an instance; empty for none."""
    version: str = next(
        event.executionStarted.version.value for event in recording.events if event.HasField("executionStarted")
    )
    return version


class _ReplayFailed(Exception):
    """Raised if a replay has no result. The text gives the reason."""


class _Replayer:
    """Process with the new code. A process that hangs or dies is replaced for the next history."""

    def __init__(self, code: WorkflowCode) -> None:
        self._code = code
        self._process: asyncio.subprocess.Process | None = None
        self._errors: Any = None
        self.orchestrators: frozenset[str] = frozenset()

    async def __aenter__(self) -> Self:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- closed in __aexit__
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()
        self._errors.close()

    async def replay(self, recording: Recording) -> HistoryDifference | None:
        """Replay a history. Raises: _ReplayFailed; BridgeError if a new process cannot import the code."""
        if self._process is None:
            await self._start()
        events = pb.HistoryChunk(events=recording.events).SerializeToString()
        header = {"instance_id": recording.instance_id, "orchestration": recording.orchestration, "size": len(events)}
        try:
            answer = await self._ask(json.dumps(header).encode() + b"\n" + events)
        except (TimeoutError, ConnectionError, ValueError):
            await self._stop()
            raise _ReplayFailed("the code did not end, or ended its process, during the replay") from None
        difference = answer["difference"]
        return None if difference is None else HistoryDifference(**difference)

    async def _start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", WorkflowCode.__module__,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=self._errors, limit=_LINE,
        )  # fmt: skip
        try:
            answer = await self._ask(json.dumps(asdict(self._code)).encode() + b"\n")
        except (TimeoutError, ConnectionError, ValueError):
            self._errors.seek(0)
            said = self._errors.read()[-_STDERR:].decode(errors="replace").strip()
            last = said.splitlines()[-1] if said else f"no answer within {_SECONDS:g} s"
            raise BridgeError(f"the new code cannot be imported: {last}") from None
        if "error" in answer:
            raise BridgeError(f"the new code cannot be used: {answer['error']}")
        self.orchestrators = frozenset(answer["orchestrators"])

    async def _ask(self, request: bytes) -> Mapping[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(_SECONDS):
            process.stdin.write(request)
            await process.stdin.drain()
            answer: Mapping[str, Any] = json.loads(await process.stdout.readline())
        return answer

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()
