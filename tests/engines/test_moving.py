"""Commands between two engines: changes between the look and the call, repeats after a crash, starts on both."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
from durabletask import task

from bridge.app.worker_process import user_workflows
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.commands import (
    Cancel,
    Command,
    OnExisting,
    OnFinished,
    RaiseEvent,
    ScheduleOrchestration,
    SignalEntity,
    StartOrRaise,
    Terminate,
)
from bridge.core.errors import AlreadyTaken, EngineError, InstanceAlreadyExists, InstanceFinished, InstanceNotFound
from bridge.core.instance_protocol import InstanceState, origin_of_start
from bridge.core.origin import MessageOrigin, wrap_payload
from bridge.engines.commands import moving
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.workflows import Workflows
from bridge.workflow import DataConverter
from tests.kit.waiting import eventually

ID = "order-1"
START = ScheduleOrchestration("order", ID, "input")
SAY = RaiseEvent(ID, "event", "a")
END = RaiseEvent(ID, "event", "end")


def order(ctx: task.OrchestrationContext, given: Any) -> Any:
    seen = []
    while "end" not in seen:
        seen.append((yield ctx.wait_for_external_event("event")))
    return seen


class Pair:
    """Two engines with workers, and the calls that reach them in order."""

    def __init__(self, engines: dict[str, EmbeddedEngine]) -> None:
        self.engines = engines
        self.runners = {name: CommandRunner(engine) for name, engine in engines.items()}
        self.entered: list[str] = []

    def enter(self, name: str) -> CommandRunner:
        self.entered.append(name)
        return self.runners[name]

    async def find(self, command: Command) -> str:
        return await moving.find(command, "new", ("old",), self.enter)

    async def at(self, place: str, command: Command, message: str) -> None:
        """Execute a command as after `find` has returned this place."""
        await moving.execute(command, MessageOrigin(message, "route"), "new", place, self.enter)

    async def execute(self, command: Command, message: str) -> None:
        await self.at(await self.find(command), command, message)

    async def state(self, name: str) -> InstanceState:
        return await self.runners[name].read_state(SAY)

    async def finished(self, name: str) -> Any:
        """Wait for the end of the instance and return its output."""

        async def has_finished() -> bool:
            return await self.state(name) is InstanceState.FINISHED

        await eventually(has_finished, f"the end of {ID} on {name}")
        found = await self.engines[name].client.find_instance(ID)
        assert found is not None
        return json.loads(found.serialized_output or "null")

    async def run_on_old(self, *events: str) -> None:
        """Start an instance on the old engine with message m-0, and raise events m-1, m-2, ... to it."""
        await self.runners["old"].execute(START, MessageOrigin("m-0", "route"))
        for number, event in enumerate(events, 1):
            await self.runners["old"].execute(RaiseEvent(ID, "event", event), MessageOrigin(f"m-{number}", "route"))
        if "end" in events:
            await self.finished("old")


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    made = {
        name: EmbeddedEngine(name, EmbeddedEngineConfig(type="embedded"), tmp_path / name, host=True)
        for name in ("old", "new")
    }
    workers = []
    for engine in made.values():
        await engine.start()
        worker = engine.worker(user_workflows(Workflows(orchestrators={"order": order})), DataConverter())
        worker.start()
        workers.append(worker)
    try:
        yield Pair(made)
    finally:
        for worker in workers:
            worker.stop()
        for engine in made.values():
            await engine.stop()


async def test_a_command_looks_once_while_the_old_engine_does_not_have_the_instance(pair: Pair) -> None:
    await pair.execute(START, "m-0")
    assert pair.entered == ["old", "new"]
    await pair.execute(SAY, "m-1")
    assert pair.entered == ["old", "new"] * 2
    await pair.runners["old"].execute(ScheduleOrchestration("order", "order-2"), MessageOrigin("m-2", "route"))
    await pair.execute(RaiseEvent("order-2", "event", "a"), "m-3")
    assert pair.entered == ["old", "new"] * 2 + ["old", "old"]


async def test_the_running_instance_comes_before_a_finished_one_and_the_later_run_before_the_earlier(
    pair: Pair,
) -> None:
    await pair.run_on_old("end")
    assert await pair.find(SAY) == "old"
    await pair.runners["new"].execute(START, MessageOrigin("m-9", "route"))
    assert await pair.find(SAY) == "new"
    await pair.at("new", END, "m-8")
    await pair.finished("new")
    assert await pair.find(SAY) == "new"


@pytest.mark.parametrize("command", [SAY, Cancel(ID), Cancel(ID, grace=60.0), Terminate(ID)], ids=repr)
async def test_an_instance_that_ends_between_the_look_and_the_call_starts_nothing(pair: Pair, command: Command) -> None:
    await pair.run_on_old()
    place = await pair.find(command)
    await pair.runners["old"].execute(END, MessageOrigin("m-1", "route"))
    await pair.finished("old")
    with pytest.raises(InstanceFinished):
        await pair.at(place, command, "m-2")
    assert await pair.state("new") is InstanceState.MISSING


@pytest.mark.parametrize(
    "command",
    [
        RaiseEvent(ID, "event", "end", on_finished=OnFinished.RESTART),
        StartOrRaise("order", ID, "event", "input", "end", on_finished=OnFinished.RESTART),
        ScheduleOrchestration("order", ID, "input", on_existing=OnExisting.RESTART),
    ],
    ids=lambda each: type(each).__name__,
)
async def test_an_instance_that_ends_between_restarts_on_the_new_engine_once(pair: Pair, command: Command) -> None:
    await pair.run_on_old("a")
    place = await pair.find(command)
    await pair.runners["old"].execute(END, MessageOrigin("m-2", "route"))
    await pair.finished("old")
    await pair.at(place, command, "m-3")
    assert await pair.state("new") is not InstanceState.MISSING
    if isinstance(command, ScheduleOrchestration | StartOrRaise):
        # The start itself carries the message
        await pair.execute(END, "m-4")
    assert await pair.finished("new") == ["end"]
    # Repeats of all messages, also of those that the old run has seen
    for message, repeated in (("m-3", command), ("m-0", START), ("m-1", SAY), ("m-2", END)):
        with pytest.raises(AlreadyTaken):
            await pair.execute(repeated, message)
    assert await pair.finished("new") == ["end"]


@pytest.mark.parametrize("command", [START, StartOrRaise("order", ID, "event", "input")], ids=repr)
async def test_an_instance_that_is_removed_between_starts_on_the_new_engine(pair: Pair, command: Command) -> None:
    await pair.run_on_old("end")
    place = await pair.find(command)
    assert place == "old"
    await pair.engines["old"].client.purge_orchestration(ID)
    await pair.at(place, command, "m-9")
    assert await pair.state("old") is InstanceState.MISSING
    assert await pair.state("new") is InstanceState.RUNNING


async def test_an_event_for_an_instance_that_is_removed_between_finds_none(pair: Pair) -> None:
    await pair.run_on_old("end")
    place = await pair.find(SAY)
    await pair.engines["old"].client.purge_orchestration(ID)
    with pytest.raises(InstanceNotFound):
        await pair.at(place, SAY, "m-9")


async def test_a_restart_that_a_crash_has_cut_in_two_is_completed(pair: Pair) -> None:
    await pair.run_on_old("end")
    command = RaiseEvent(ID, "event", "end", on_finished=OnFinished.RESTART)
    origin = MessageOrigin("m-2", "route")
    # The first half: the start on the new engine; the process died before the event
    past = await pair.runners["old"]._reader.search("x", ID, origin, None)
    assert past is not None
    await pair.engines["new"].client.schedule_new_orchestration(
        "order", input=wrap_payload("input", origin_of_start(origin), past.inbox), instance_id=ID
    )
    await pair.execute(command, "m-2")
    assert await pair.finished("new") == ["end"]
    with pytest.raises(AlreadyTaken):
        await pair.execute(command, "m-2")


async def test_messages_of_others_follow_the_policy_of_their_rule(pair: Pair) -> None:
    await pair.run_on_old("end")
    with pytest.raises(InstanceAlreadyExists):
        await pair.execute(START, "m-9")
    with pytest.raises(InstanceFinished):
        await pair.execute(StartOrRaise("order", ID, "event"), "m-9")
    assert await pair.state("new") is InstanceState.MISSING


def _start(policy: OnExisting) -> ScheduleOrchestration:
    return ScheduleOrchestration("order", ID, "again", on_existing=policy, event="event")


async def _outcome(execution: Awaitable[None]) -> str:
    """Name of the error of a command; `done` without one."""
    try:
        await execution
    except EngineError as error:
        return type(error).__name__
    return "done"


OUTCOMES = {
    ("running", "own"): dict.fromkeys(OnExisting, "AlreadyTaken"),
    ("finished", "own"): dict.fromkeys(OnExisting, "AlreadyTaken"),
    ("running", "other"): dict.fromkeys(OnExisting, "InstanceAlreadyExists") | {OnExisting.RAISE: "done"},
    ("finished", "other"): {
        OnExisting.IGNORE: "InstanceAlreadyExists",
        OnExisting.RAISE: "InstanceFinished",
        OnExisting.RESTART: "done",
        OnExisting.DEAD_LETTER: "InstanceAlreadyExists",
    },
}
"""Outcome of a start by state of the instance, by its message (that of the instance or another), and by policy."""


@pytest.mark.parametrize("policy", OnExisting)
@pytest.mark.parametrize(("status", "message"), OUTCOMES)
async def test_the_instance_decides_about_a_start_as_on_one_engine(
    pair: Pair, status: str, message: str, policy: OnExisting
) -> None:
    await pair.run_on_old(*(["end"] if status == "finished" else []))
    start, id_ = _start(policy), "m-0" if message == "own" else "m-9"
    expected = OUTCOMES[status, message][policy]
    assert await _outcome(pair.execute(start, id_)) == expected
    restarts = (status, message, policy) == ("finished", "other", OnExisting.RESTART)
    assert await pair.state("new") is (InstanceState.RUNNING if restarts else InstanceState.MISSING)
    if restarts:
        await pair.execute(END, "m-10")
        assert await pair.finished("new") == ["end"]
    elif status == "running":
        await pair.execute(END, "m-10")
        raised = ["again"] if (message, policy) == ("other", OnExisting.RAISE) else []
        assert await pair.finished("old") == [*raised, "end"]
    # The same on one engine
    alone = pair.runners["new"]
    for key in ("old", "new"):
        await pair.engines[key].client.purge_orchestration(ID)
    await alone.execute(START, MessageOrigin("m-0", "route"))
    if status == "finished":
        await alone.execute(END, MessageOrigin("m-1", "route"))
        await pair.finished("new")
    assert await _outcome(alone.execute(start, MessageOrigin(id_, "route"))) == expected


async def test_two_daemons_that_start_the_same_id_at_the_same_time_both_succeed(pair: Pair) -> None:
    """The limit of a move: both have looked before one of them starts. Per key, one daemon executes one at a time."""
    first, second = MessageOrigin("m-1", "route"), MessageOrigin("m-2", "route")
    of_first = await moving.find(START, "old", ("new",), pair.enter)
    of_second = await pair.find(START)
    await moving.execute(START, first, "old", of_first, pair.enter)
    await moving.execute(START, second, "new", of_second, pair.enter)
    assert await pair.state("old") is await pair.state("new") is InstanceState.RUNNING


async def test_the_start_that_comes_later_finds_the_earlier_one_in_both_directions(pair: Pair) -> None:
    other = ScheduleOrchestration("order", "order-2")
    await moving.execute(START, MessageOrigin("m-1", "route"), "old", "old", pair.enter)
    with pytest.raises(InstanceAlreadyExists):
        await pair.execute(START, "m-2")
    await pair.execute(other, "m-3")
    place = await moving.find(other, "old", ("new",), pair.enter)
    with pytest.raises(InstanceAlreadyExists):
        await moving.execute(other, MessageOrigin("m-4", "route"), "old", place, pair.enter)


async def test_an_entity_without_state_is_signalled_on_the_new_engine(pair: Pair) -> None:
    assert await pair.find(SignalEntity("Counter", "x", "add")) == "new"
