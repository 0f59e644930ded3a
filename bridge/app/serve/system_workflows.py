"""System workflows: the bridge's own orchestrators, activities and entities, run by every worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any

from durabletask.task import ActivityContext

from bridge.app.operations.dead_letters.jobs import dead_letter_kinds
from bridge.app.operations.instances.jobs import instance_kinds
from bridge.app.operations.waiting.jobs import waiting_kinds
from bridge.app.serve.waiting import WaitingEntities, waiting_entities
from bridge.brokers.base import Broker
from bridge.config.source import Loaded
from bridge.core.system_names import (
    CANARY,
    DEAD_LETTER,
    DEAD_LETTER_PACE,
    DEAD_LETTER_STATES,
    EARLY_MESSAGES,
    JOB,
    JOB_STEP,
    LINEAGE_INDEX,
    QUARANTINE,
    REPLAY,
    REPLAY_EDIT,
    ROUTE_LIMIT,
    SOURCE_PAUSE,
    SOURCE_RELOAD,
    SOURCE_SEEK,
)
from bridge.dead_letters.store import dead_letter_states_entity
from bridge.early_messages.following import FollowingExecutor
from bridge.engines.base import Engine
from bridge.engines.commands.answers import ANSWERS, AnswerKeys, keys_entity, signing
from bridge.engines.commands.cancel_grace import CANCEL_GRACE, CancelGrace, cancel_grace
from bridge.engines.commands.command_runner import indexing_runner
from bridge.engines.entities.canary import canary_entity
from bridge.engines.entities.reload_requests import reload_entity
from bridge.engines.entities.source_entities import pace_entity, pause_entity
from bridge.engines.entities.source_seeks import seek_entity
from bridge.engines.entities.temporary_limits import limit_entity
from bridge.engines.lineage_index import index_entity
from bridge.engines.workflows import Workflows
from bridge.jobs.entities import JobEntities
from bridge.jobs.kind import JobKind
from bridge.jobs.orchestrator import job_orchestrator
from bridge.jobs.steps import JobSteps
from bridge.pipeline.publishing import Publishing
from bridge.replay.edits import replay_edit_entity
from bridge.routing.moves import MovingRoutes
from bridge.waiting.dead_letters import DeadLetterWriter, dead_letter_activity, dead_letter_orchestrator
from bridge.waiting.totals import WaitingTotals
from bridge.workflow import PUBLISH_ACTIVITY


class SystemWorkflows:
    """System workflows of the engines of one process. waiting_entities: waiting messages, by engine."""

    def __init__(
        self,
        loaded: Loaded,
        engines: Mapping[str, Engine],
        brokers: Mapping[str, Broker],
        publishing: Publishing,
        now: Callable[[], datetime],
        loop: asyncio.AbstractEventLoop,
        keys: Mapping[str, AnswerKeys],
        totals: Mapping[str, WaitingTotals],
        kinds: Mapping[str, Sequence[JobKind]] | None = None,
        decided: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the entities of all engines.

        keys: keys that sign requests, by engine.
        totals: totals of waiting messages, by engine.
        kinds: further kinds of jobs, by engine.
        decided: called in the event loop when a worker of this process processes the decision of a person on a source.
        """
        self._decided = decided
        self._kinds = kinds or {}
        self._loaded = loaded
        self._engines = engines
        self._keys = keys
        self.publishing = publishing
        self._loop = loop
        self.dead_letters = DeadLetterWriter(brokers, loop)
        self._routes = MovingRoutes(loaded.config.routes)
        runners = {name: indexing_runner(engine, now) for name, engine in engines.items()}
        self.waiting_entities: dict[str, WaitingEntities] = {
            name: waiting_entities(
                loaded, engine, now, loop, totals[name], FollowingExecutor(name, runners, lambda: self._routes)
            )
            for name, engine in engines.items()
        }
        self.job_entities = {name: JobEntities() for name in engines}
        self._job_steps: list[JobSteps] = []

    def use(self, loaded: Loaded) -> None:
        """Find instances by the routes of another configuration."""
        self._routes = MovingRoutes(loaded.config.routes)

    def job_kinds(self, engine: str) -> list[JobKind]:
        """Kinds of jobs that this process works on for an engine that runs."""
        own = self._engines[engine]
        return [*instance_kinds(own), *waiting_kinds(own), *dead_letter_kinds(own), *self._kinds.get(engine, ())]

    def stop_jobs(self) -> None:
        """End the running steps of jobs soon, before the workers stop."""
        for steps in self._job_steps:
            steps.stop()

    def groups(self, workflows: Workflows, engine: str) -> tuple[Workflows, Workflows, Workflows]:
        """Workflows of the workers of an engine: the given ones with the bridge's own, the publish activity, and jobs.

        workflows: as of `user_workflows`; empty where other processes run them.
        Publishing and jobs have their own threads: a broker that hangs, or a long job, stops nothing else.
        """
        retention = self._loaded.config.ops.jobs
        steps = JobSteps(self._engines[engine], self.job_kinds(engine), self._loop, retention=retention)
        self._job_steps.append(steps)
        grace = CancelGrace(self._engines[engine], self._loop)
        stores = self.waiting_entities[engine]
        index = self._engines[engine].lineage
        together = replace(
            workflows,
            orchestrators={
                **workflows.orchestrators,
                CANCEL_GRACE: cancel_grace,
                DEAD_LETTER: dead_letter_orchestrator(),
                JOB: job_orchestrator(),
            },
            activities={
                **workflows.activities,
                **grace.activities(),
                DEAD_LETTER: dead_letter_activity(self._write(engine), self._engines[engine].messages),
            },
            entities={
                **workflows.entities,
                EARLY_MESSAGES: stores.early_messages.function(),
                QUARANTINE: stores.quarantine.function(),
                DEAD_LETTER_PACE: pace_entity(),
                DEAD_LETTER_STATES: dead_letter_states_entity(),
                SOURCE_PAUSE: pause_entity(self._on_decision),
                CANARY: canary_entity(),
                SOURCE_RELOAD: reload_entity(self._on_decision),
                SOURCE_SEEK: seek_entity(self._on_decision),
                ROUTE_LIMIT: limit_entity(self._on_decision),
                REPLAY: stores.replays.function(),
                REPLAY_EDIT: replay_edit_entity(),
                ANSWERS: keys_entity,
                # Also without an index: rows of an earlier configuration end by their age
                LINEAGE_INDEX: index_entity() if index is None else index_entity(index.count_removed),
                **self.job_entities[engine].functions(),
            },
        )
        publishing = Workflows(activities={PUBLISH_ACTIVITY: self._publish(engine)}, publishers=True)
        return together, publishing, Workflows(activities={JOB_STEP: steps.activity()}, publishers=True)

    def _on_decision(self) -> None:
        with suppress(RuntimeError):  # the daemon has stopped
            self._loop.call_soon_threadsafe(self._decided)

    def _write(self, engine: str) -> Callable[[dict[str, Any]], None]:
        """Writer of dead letters that also adds them to the lineage index of the engine."""
        write, index = self.dead_letters, self._engines[engine].lineage

        def written(document: dict[str, Any]) -> None:
            record = write(document)
            if index is not None:
                index.dead_letter(record)

        return written

    def _publish(self, engine: str) -> Callable[..., str]:
        publishing = self.publishing
        signed = signing(self._keys[engine], publishing)
        index = self._engines[engine].lineage
        signs = self._loaded.config.engines[engine].answers.signatures != "off"

        def publish(ctx: ActivityContext, request: dict[str, Any]) -> str:
            published = signed(request, ctx.orchestration_id) if signs else publishing(request)
            if index is not None:
                index.published(request["id"], ctx.orchestration_id)
            return published

        publish.__name__ = PUBLISH_ACTIVITY
        return publish
