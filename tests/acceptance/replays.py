"""Dead letters of three causes, of which one is replayed while everything is killed and further ones arrive."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bridge.app.composition import load_config
from bridge.app.connection import attached
from bridge.core.errors import EngineError, InstanceNotFound
from bridge.core.message import Message
from bridge.core.states import JobState
from bridge.core.system_names import job_instance_id
from bridge.jobs.kind import ItemOutcome
from bridge.jobs.state_machine import JobRecord
from bridge.jobs.store import JobItem, JobStore
from tests.acceptance.channel import Channel
from tests.acceptance.correlation import FLOWS, instances
from tests.acceptance.killing import merged
from tests.kit.forkserver import ForkedProcess, fork_server
from tests.kit.ports import free_port
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import eventually_blocking

CONFIG = """
ops: {http: {port: 0}, dead_letters: {interval: 1m}}
engine: ENGINE
workflows: [killed_flows]
brokers:
  main: BROKER
sources:
  orders:
    {broker: main, SOURCE, codec: json, no_match: dead_letter, attributes: {type: "headers['type']"},
    identity: "{{ payload.id }}/{{ payload.number }}", limits: {dead_letter_limit: 100000}}
routes:FIX
  - name: noted
    from: orders
    match: {type: noted}
    start_or_raise:
      orchestration: collect
      instance_id: "noted-{{ payload.id }}"
      event: noted
      input: &noted "{'number': payload.number, 'count': payload.count, 'note': payload.note}"
      data: *noted
  - name: priced
    from: orders
    match: {type: priced}
    schedule: {orchestration: collect, instance_id: "priced-{{ payload.id }}", input: "{'price': payload.price}"}
"""
FIX = """
  - name: without-note
    from: orders
    match: {type: noted}
    when: "!has(payload.note) && !has(payload.late)"
    start_or_raise:
      orchestration: collect
      instance_id: "noted-{{ payload.id }}"
      event: noted
      input: &without "{'number': payload.number, 'count': payload.count}"
      data: *without"""
"""Route that executes the dead letters. Newcomers fail in the route `noted`, for the same cause as before."""

WITHIN = 300.0
"""Seconds for a phase of a large load."""


@dataclass(frozen=True, slots=True)
class Load:
    """Dead letters before the replay.

    keys, count: number of keys, and of the messages of each whose dead letters are replayed. The messages of as many
    keys are executed at once.
    others: number of dead letters of each of two other causes.
    newcomers: number of dead letters of the replayed cause that arrive after each start.
    """

    keys: int
    count: int
    others: int
    newcomers: int

    @property
    def selected(self) -> int:
        return self.keys * self.count

    def messages(self, rng: random.Random) -> list[Message]:
        """All messages; those of a key keep their order."""
        broken = [[message(f"k{key}", number, self.count) for number in range(self.count)] for key in range(self.keys)]
        fine = [[message(f"f{key}", 0, 1, note="fine")] for key in range(self.keys)]
        others = [
            [message(f"{type_}{key}", number, 1, type_=type_) for number in range(key, self.others, 10)]
            for type_ in ("priced", "stray")
            for key in range(10)
        ]
        return merged(rng, [line for line in broken + fine + others if line])

    @property
    def outputs(self) -> dict[str, list[int]]:
        """Output of each instance after the replay."""
        return {f"noted-f{key}": [0] for key in range(self.keys)} | {
            f"noted-k{key}": list(range(self.count)) for key in range(self.keys)
        }


def message(key: str, number: int, count: int, *, type_: str = "noted", **more: object) -> Message:
    payload = {"id": key, "number": number, "count": count, **more}
    return Message(json.dumps(payload).encode(), key.encode(), (("type", type_.encode()),))


@dataclass(frozen=True, slots=True)
class BrokerProcess:
    """Broker in a process of its own, which keeps its messages over an end of the process.

    end, start: functions without arguments.
    """

    end: Callable[[], object]
    start: Callable[[], object]


class Deployment:
    """Daemons, their engine, their broker and commands. They start together and are killed together; use with `with`.

    daemons: with one, the engine is embedded in it; several share an engine in a process of its own.
    broker: None for one in the process of the daemon or of the test.
    """

    def __init__(self, directory: Path, channel: Channel, daemons: int, broker: BrokerProcess | None) -> None:
        self._directory = directory
        self._channel = channel
        self._broker = broker
        self._broker_runs = True
        self._shared = daemons > 1
        self._port = free_port()
        self._numbers = range(daemons)
        self._stack = ExitStack()
        self._commands: list[ForkedProcess] = []
        self._processes: list[DaemonProcess] = []
        self.daemons: list[DaemonProcess] = []
        (directory / "engines").mkdir()

    def configure(self, fix: str = "") -> None:
        """Write the configuration. fix: YAML of a route in front of the others."""
        engine = "{type: embedded, path: engine}"
        if self._shared:
            engine = f'{{type: scheduler, endpoint: "http://127.0.0.1:{self._port}"}}'
        config = CONFIG.replace("ENGINE", engine).replace("BROKER", self._channel.broker)
        config = config.replace("SOURCE", self._channel.source).replace("FIX", fix)
        (self._directory / "bridge.yaml").write_text(config)

    def __enter__(self) -> Self:
        if self._broker is not None and not self._broker_runs:
            self._broker.start()
            self._broker_runs = True
        if self._shared:
            listen = f"127.0.0.1:{self._port}"
            arguments = ("--listen", listen, "--path", "hubs")
            engine = DaemonProcess(self._directory / "engines", *arguments, command="engine", log="engine.log")
            self._processes.append(self._stack.enter_context(engine))
        for number in self._numbers:
            daemon = DaemonProcess(self._directory, ready=False, log=f"daemon-{number}.log")
            self.daemons.append(self._stack.enter_context(daemon))
        for each in self.daemons:
            each.wait(lambda each=each: each.get("/readyz")[0] == 200, "ready")  # type: ignore[misc]  # mypy cannot infer it
        self._processes += self.daemons
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.daemons:
            each.signal(signal.SIGCONT)
        self._stack.close()
        self._forget()

    def command(self, *arguments: str) -> ForkedProcess:
        """Start `bridge ARGUMENTS`, which is killed with the other processes."""
        with (self._directory / "commands.log").open("ab") as log:
            process = fork_server().start(arguments, self._directory, stdout=log, stderr=log)
        self._commands.append(process)
        return process

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        """Wait for a condition while all daemons run."""

        def holds() -> Any:
            assert all(each.runs for each in self._processes), "a process has ended"
            return condition()

        eventually_blocking(holds, what, within=WITHIN, poll=0.05)

    def left(self) -> int:
        """Number of unsettled messages; not 0 while it is unknown."""
        return max(self._channel.left(each) for each in self.daemons)

    def stop(self) -> None:
        """Stop all processes except the broker as an operator does."""
        for each in self._processes[::-1]:
            each.stop()
        self._stack.close()
        self._forget()

    def kill(self) -> None:
        """Kill all processes at once."""
        for each in (*(daemon.process for daemon in self._processes), *self._commands):
            assert each is not None
            each.kill()
        if self._broker is not None:
            self._broker.end()
            self._broker_runs = False
        self._stack.close()
        self._forget()

    def _forget(self) -> None:
        for each in self._commands:
            each.kill()
            each.wait()
        self._commands.clear()
        self._processes.clear()
        self.daemons.clear()


class Looks:
    """Looks at a job in a thread, until the end of `with`: its sums, results that stay, and failed activities."""

    def __init__(self, directory: Path, job: str) -> None:
        self._directory = directory
        self._job = job
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._look_always, daemon=True)
        self._final: dict[str, str] = {}
        self._highest = 0
        self.count = 0
        """Number of answered looks."""
        self.problem = ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def check(self) -> bool:
        """Return True. Raises: AssertionError with the first problem."""
        assert not self.problem, self.problem
        return True

    def _look_always(self) -> None:
        while not self._ends.wait(0.2):
            try:
                asyncio.run(self._look())
            except EngineError:
                continue
            except Exception as error:
                self.problem = f"look {self.count}: {error!r}"
                return

    async def _look(self) -> None:
        async with attached(load_config([self._directory / "bridge.yaml"])) as engine:
            store = JobStore(engine)
            found = await store.record(self._job)
            assert sum(found.counts.values()) == found.selected, found.counts
            assert found.finished >= self._highest, f"{found.finished} results after {self._highest}"
            self._highest = found.finished
            if self.count % 10 == 0:
                await self._compare([each async for each in store.items(self._job)], found.selected)
                with contextlib.suppress(InstanceNotFound):
                    history = await engine.client.get_orchestration_history(job_instance_id(self._job))
                    assert not (failed := _failed(history)), failed
        self.count += 1

    async def _compare(self, found: Sequence[JobItem], selected: int) -> None:
        assert len({each.id for each in found}) == len(found) == selected
        for each in found:
            before = self._final.get(each.id)
            assert before in (None, each.status), f"{each.id}: {each.status} after {before}"
            if each.status in (ItemOutcome.SUCCEEDED, ItemOutcome.DUPLICATE, ItemOutcome.FAILED, ItemOutcome.SKIPPED):
                self._final[each.id] = each.status


def _failed(history: Sequence[object]) -> list[str]:
    """Events of failed activities."""
    return [repr(each) for each in history if type(each).__name__ == "TaskFailedEvent"]


def record(directory: Path, job: str) -> JobRecord | None:
    """Record of a job; None while no worker or engine answers. The sums hold."""

    async def read() -> JobRecord:
        async with attached(load_config([directory / "bridge.yaml"])) as engine:
            return await JobStore(engine).record(job)

    try:
        found = asyncio.run(read())
    except EngineError:
        return None
    assert sum(found.counts.values()) == found.selected, found.counts
    return found


def items(directory: Path, job: str) -> list[JobItem]:
    async def read() -> list[JobItem]:
        async with attached(load_config([directory / "bridge.yaml"])) as engine:
            return [each async for each in JobStore(engine).items(job)]

    return asyncio.run(read())


def dead_letters(directory: Path) -> list[dict[str, Any]]:
    """All dead letters, in any state."""
    found: list[dict[str, Any]] = json.loads(
        bridge("dlq", "list", "--state", "all", "--limit", "0", "--json", cwd=directory, within=WITHIN)
    )
    return found


def by_state(directory: Path) -> Counter[tuple[str, str]]:
    """Numbers of messages with dead letters, by state and reason.

    A kill between a dead letter and its commit repeats the dead letter.
    """
    found = {(each["state"], each["reason"], each["message_id"] or each["origin"]) for each in dead_letters(directory)}
    return Counter((state, reason) for state, reason, _ in found)


def replayed_while_killed(
    directory: Path,
    channel: Channel,
    load: Load,
    *,
    kills: int,
    rate: int,
    ramp: str = "1,10,100",
    daemons: int = 1,
    broker: BrokerProcess | None = None,
) -> None:
    """Assert that kills of everything during a replay lose, double and reorder nothing.

    The first kill meets the submission of the job, the others its work. With three daemons, one is frozen after the
    last kill.
    """
    rng = random.Random(17)
    (directory / "killed_flows.py").write_text(FLOWS)
    deployment = Deployment(directory, channel, daemons, broker)
    prepared(directory, channel, deployment, load.messages(rng), load)
    cause = Cause(directory, channel)
    job = submitted(deployment, directory, cause, load, "--rate", str(rate), "--ramp", ramp)
    newcomers = Newcomers(channel, load)
    with Looks(directory, job) as looks:
        # The threshold of a frozen daemon is below the end
        thresholds = sorted(rng.sample(range(load.selected * 4 // 5), kills))
        for enough in thresholds[1:]:
            with deployment:
                newcomers.arrive()
                deployment.command("jobs", "watch", job)
                deployment.wait(lambda: looks.check() and finished(directory, job) >= enough, f"{enough} results")  # noqa: B023 -- called at once
                cause.check(load, newcomers.sent)
                deployment.kill()
        with deployment:
            newcomers.arrive()
            frozen = deployment.daemons[0] if daemons > 1 else None
            if frozen is not None:
                # One more result than after the kills, unless a small job is done by now
                before = min(finished(directory, job), load.selected - 1)
                deployment.wait(lambda: finished(directory, job) > before, "results by all daemons")
                frozen.signal(signal.SIGSTOP)
            deployment.wait(lambda: looks.check() and state(directory, job) is JobState.DONE, "the job is done")
            if frozen is not None:
                frozen.signal(signal.SIGCONT)
                frozen.wait(lambda: frozen.get("/readyz")[0] == 200, "ready again")
            deployment.wait(lambda: deployment.left() == 0, "newcomers are settled")
            assert looks.check()
            assert looks.count >= 10
            results = Counter(each.status for each in items(directory, job))
            # A kill between the effect of a message and its report lets the message meet its own effect
            assert set(results) <= {ItemOutcome.SUCCEEDED.value, ItemOutcome.DUPLICATE.value}, results
            assert sum(results.values()) == load.selected
            deployment.wait(lambda: outputs(directory) == load.outputs, "one effect of each message, in order")
            cause.check(load, newcomers.sent, done=True)
            assert not failures(directory)
    print(f"{looks.count} looks, {dict(results)}")


def prepared(
    directory: Path, channel: Channel, deployment: Deployment, messages: Sequence[Message], load: Load
) -> None:
    """Publish all messages, wait for their dead letters, and configure the rule that would execute them."""
    deployment.configure()
    with deployment:
        channel.publish(messages)
        deployment.wait(lambda: sum(each.settled() for each in deployment.daemons) >= len(messages), "all settled")
        deployment.wait(lambda: deployment.left() == 0, "all settled")
        deployment.stop()  # which commits all
    deployment.configure(FIX)
    with deployment:
        found = Counter((each["state"], each["route"]) for each in dead_letters(directory))
        assert found == {("open", "noted"): load.selected, ("open", "priced"): load.others, ("open", None): load.others}
        deployment.stop()


class Cause:
    """The replayed cause: the group of its dead letters."""

    def __init__(self, directory: Path, channel: Channel) -> None:
        self._directory = directory
        self._leave = channel.completes
        self.group = next(
            each["group"]
            for each in json.loads(bridge("dlq", "groups", "--offline", "--json", cwd=directory))
            if "noted" in each["routes"]
        )

    def check(self, load: Load, newcomers: int, *, done: bool = False) -> None:
        """Assert that the dead letters of all causes add up, and that those of newcomers are open."""
        states: dict[str, set[str]] = {}
        found = dead_letters(self._directory)
        for each in found:
            states.setdefault(each["message_id"], set()).add(each["state"])
        mine = {id_: found for id_, found in states.items() if id_.startswith("k")}
        assert len(mine) <= load.selected if self._leave else len(mine) == load.selected
        expected = {"replayed"} if done else {"open", "replaying", "replayed"}
        assert all(len(found) == 1 and found <= expected for found in mine.values()), Counter(map(str, mine.values()))
        others = {id_: found for id_, found in states.items() if not id_.startswith("k")}
        assert all(found == {"open"} for found in others.values()), Counter(map(str, others.values()))
        late = {id_ for id_ in others if id_.startswith("new")}
        assert len(others) - len(late) == 2 * load.others
        assert len(late) <= newcomers
        if done:
            assert len(late) == newcomers
            groups = {each["group"] for each in found if each["message_id"] in late}
            assert groups == {self.group}, "newcomers have the same cause"


class Newcomers:
    """Messages that become dead letters of the replayed cause during the replay."""

    def __init__(self, channel: Channel, load: Load) -> None:
        self._channel = channel
        self._load = load
        self.sent = 0

    def arrive(self) -> None:
        numbers = range(self.sent, self.sent + self._load.newcomers)
        self._channel.publish([message(f"new{number}", 0, 1, late=True) for number in numbers])
        self.sent += self._load.newcomers


def submitted(deployment: Deployment, directory: Path, cause: Cause, load: Load, *options: str) -> str:
    """Submit the job, of which the first submission is killed with everything else. Returns the id of the job."""
    submission = ("dlq", "replay", "--cause", cause.group, *options, "--yes")
    with deployment:
        deployment.command(*submission)
        deployment.wait(lambda: jobs(directory), "the job exists")
        deployment.kill()
    with deployment:
        [(job, at)] = jobs(directory).items()
        if at is JobState.SELECTING:
            cause.check(load, 0)
            bridge("jobs", "abort", job, cwd=directory)
            [submission_] = json.loads(bridge(*submission, "--json", cwd=directory))
            job = submission_["job"]
        assert record_of(directory, job).selected == load.selected
    return job


def jobs(directory: Path) -> dict[str, JobState]:
    """State of each job."""
    listed = json.loads(bridge("jobs", "list", "-o", "json", cwd=directory))
    return {each["job"]: JobState(each["state"]) for each in listed}


def record_of(directory: Path, job: str) -> JobRecord:
    found: JobRecord = eventually_blocking(lambda: record(directory, job), "the record of the job", poll=0.1)
    return found


def finished(directory: Path, job: str) -> int:
    """Number of items with a result; -1 while nothing answers."""
    found = record(directory, job)
    return -1 if found is None else found.finished


def state(directory: Path, job: str) -> JobState | None:
    found = record(directory, job)
    return None if found is None else found.state


def outputs(directory: Path) -> dict[str, Any]:
    return {each["instance_id"]: each["output"] for each in instances(directory, "noted-")}


def failures(directory: Path) -> list[str]:
    """Instances that failed."""
    return [each["instance_id"] for each in json.loads(
        bridge("instances", "list", "--status", "failed", "--limit", "0", "--json", cwd=directory)
    )]  # fmt: skip
