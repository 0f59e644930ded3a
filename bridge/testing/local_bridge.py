"""A whole bridge in the test's process."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

from durabletask.client import OrchestrationState
from durabletask.entities import EntityInstanceId

from bridge.app.composition import load_workflows, require
from bridge.app.serve.daemon import Daemon
from bridge.brokers.local.broker import LocalBroker
from bridge.codecs import registry as codecs
from bridge.codecs.json import StandInCodec
from bridge.config.model.brokers import LocalBrokerConfig
from bridge.config.model.codecs import SCHEMA_CODECS
from bridge.config.model.sources import SourceConfig
from bridge.config.source import Loaded, load
from bridge.core.answers import CORRELATION_ID
from bridge.core.instance_protocol import FINISHED
from bridge.core.message import Event, Message, Position
from bridge.engines.recording import Recording, record
from bridge.testing.engine import VirtualEngine
from bridge.testing.stand_ins import FINISH, with_stand_ins
from bridge.workflow.publishing import REPLY_TO

T = TypeVar("T")

TIMEOUT = 30.0
"""Seconds on the clock after which a test that still waits for work fails with the reason."""

PAUSE = 0.002


class NotFinished(AssertionError):
    """Raised when an instance has not finished: it waits for an event, or for time to pass."""


@dataclass(frozen=True, slots=True)
class Published:
    """An event that a workflow published."""

    id: str
    type: str
    data: Any
    subject: str | None
    key: str | None
    headers: Mapping[str, str]
    extensions: Mapping[str, str] = field(default_factory=dict)


class _CountingBroker(LocalBroker):
    """Local broker that counts the messages published to each topic."""

    def __init__(self, name: str, directory: Path, config: LocalBrokerConfig) -> None:
        super().__init__(name, directory, config)
        self.sent: Counter[str] = Counter()

    async def publish(self, topic: str, messages: Sequence[Message]) -> Sequence[Position]:
        positions = await super().publish(topic, messages)
        self.sent[topic] += len(messages)
        return positions


class LocalBridge:
    """The configuration's sources, rules, workflows and targets over local brokers and an engine with virtual time.

      with LocalBridge("config/bridge.yaml") as bridge:
          bridge.publish("orders", {"id": "1", "total": 25}, type="order.created")
          bridge.advance(minutes=15)
          assert bridge.result("order-1")["reason"] == "payment_timeout"
          assert [event.type for event in bridge.published("order-results")] == ["order.compensated"]

    config, overlays: paths of the configuration, or a loaded one. All its brokers and engines are replaced by the
    test's own, in a temporary directory. Stand-ins run in place of the orchestrations and entities that the
    configuration lists as external; `finish` ends a stand-in.
    environ: values for `${VAR}`; the process's environment if None.

    Every method returns when all work that is possible at the present moment is done. Time advances only with
    `advance`. It starts one day ahead of the clock. Retries of messages still take real time.
    """

    __test__ = False

    def __init__(
        self,
        config: str | Path | Sequence[str | Path] | Loaded,
        overlays: Sequence[str | Path] = (),
        *,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Load the configuration. Raises: ConfigError."""
        if isinstance(config, Loaded):
            self._loaded = config
        else:
            paths = [config] if isinstance(config, str | Path) else config
            self._loaded = load([Path(path) for path in paths], [Path(path) for path in overlays], environ=environ)
        self._closing = ExitStack()
        self._loop = asyncio.new_event_loop()
        self._published: dict[str, list[Published]] = {}
        self._answered: set[str] = set()

    def __enter__(self) -> Self:
        directory = Path(self._closing.enter_context(tempfile.TemporaryDirectory(prefix="bridge-test-")))
        brokers = {
            name: LocalBrokerConfig(type="local", path=str(directory / name)) for name in self._loaded.config.brokers
        }
        thread = threading.Thread(target=self._loop.run_forever, name="bridge-test", daemon=True)
        thread.start()
        try:
            self._run(self._start(brokers))
        except BaseException:
            self._end(thread)
            raise
        self._closing.callback(self._end, thread)
        self._closing.callback(lambda: self._run(self._daemon.stop(5.0)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    async def _start(self, brokers: Mapping[str, LocalBrokerConfig]) -> None:
        loaded = _isolated(self._loaded, brokers)
        self._engines = {name: VirtualEngine(name) for name in loaded.config.engines}
        self._brokers = {name: _CountingBroker(name, Path(config.path), config) for name, config in brokers.items()}
        self._daemon = Daemon(
            loaded,
            engines=self._engines,
            brokers=self._brokers,
            workflows=with_stand_ins(load_workflows(loaded), loaded.config),
            on_published=self._record,
            now=lambda: self.now,
        )
        await self._daemon.start()

    def _end(self, thread: threading.Thread) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        thread.join()
        self._loop.close()

    @property
    def now(self) -> datetime:
        """Present virtual time, in UTC."""
        return next(iter(self._engines.values())).backend.now

    def publish(
        self,
        source: str,
        data: Any,
        *,
        type: str,  # noqa: A002 -- the CloudEvents attribute's name
        key: str | None = None,
        id: str | None = None,  # noqa: A002 -- the CloudEvents attribute's name
        subject: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publish an event to the first topic of a source, in the source's format. The id is random if None.

        Raises: LookupError for a source that is not configured.
        """
        config = self._source(source)
        event = Event(
            id=id or uuid4().hex,
            source="/test",
            type=type,
            data=data,
            subject=subject,
            headers=dict(headers or {}),
            key=key,
        )
        codec = StandInCodec() if config.codec in SCHEMA_CODECS else codecs.get(config.codec)
        message = codec.encode(event)
        self.send(source, message)

    def send(self, source: str, message: Message, topic: str | None = None) -> None:
        """Publish a message unchanged to a topic of a source, by default its first. Raises: LookupError."""
        config = self._source(source)
        entrance = topic or config.entrance
        if entrance is None:
            raise LookupError(f"the source {source!r} names no topic or queue to publish to")
        self._run(self._brokers[config.broker].publish(entrance, [message]))
        self.settle()

    def answer(self, target: str, data: Any = None, *, type: str = "answer") -> None:  # noqa: A002 -- CloudEvents
        """Answer the oldest unanswered request to a target, as the service behind it would.

        The answer goes to the request's `reply-to`, with its `correlation-id`. Raises: LookupError if no request
        waits, or no source reads that topic.
        """
        asked = [event for event in self.published(target) if REPLY_TO in event.headers]
        open_ = [event for event in asked if event.headers[CORRELATION_ID] not in self._answered]
        if not open_:
            raise LookupError(f"no request to {target!r} waits for an answer; {len(asked)} were answered")
        request = open_[0].headers
        for name, source in self._loaded.config.sources.items():
            if request[REPLY_TO] == source.topics[0]:
                self._answered.add(request[CORRELATION_ID])
                self.publish(name, data, type=type, headers={CORRELATION_ID: request[CORRELATION_ID]})
                return
        raise LookupError(f"no source reads first of all the topic {request[REPLY_TO]!r}, where the answer should go")

    def raise_event(self, instance_id: str, name: str, data: Any = None) -> None:
        """Raise an event to an instance directly, without rules."""
        self._run(self._client.raise_orchestration_event(instance_id, name, data=data))
        self.settle()

    def start(self, orchestration: str, input: Any = None, instance_id: str | None = None) -> str:  # noqa: A002 -- the SDK's name
        """Start an orchestration directly, without rules, and return its instance id."""
        started: str = self._run(
            self._client.schedule_new_orchestration(orchestration, input=input, instance_id=instance_id)
        )
        self.settle()
        return started

    def finish(self, instance_id: str, output: Any = None) -> None:
        """Complete an instance of an external orchestration, in place of its worker."""
        self.raise_event(instance_id, FINISH, output)

    def advance(self, duration: timedelta | None = None, **parts: float) -> None:
        """Advance time: `advance(minutes=5)`. Due work runs in order, each part at its own time."""
        end = self.now + (duration or timedelta(**parts))
        self.settle()
        while True:
            due = [moment for engine in self._engines.values() if (moment := engine.backend.next_due()) is not None]
            moment = min([*due, end])
            for engine in self._engines.values():
                engine.backend.move_to(min(moment, end))
            self.settle()
            if moment >= end:
                return

    def settle(self) -> None:
        """Wait until all messages are settled and all workflows wait for a future event or time."""
        ends = time.monotonic() + TIMEOUT
        quiet = 0
        while quiet < 2:
            quiet = 0 if (waiting := self._waiting()) else quiet + 1
            if waiting and time.monotonic() > ends:
                raise TimeoutError(f"after {TIMEOUT:g} s there is still work: {waiting}")
            if waiting:
                time.sleep(PAUSE)

    def _waiting(self) -> str:
        for source in self._daemon.sources:
            config = self._loaded.config.sources[source.settings.name]
            sent = sum(self._brokers[config.broker].sent[topic] for topic in source.settings.subscribe.topics)
            settled = sum(source.ledger.outcomes.values())
            # A message that waits for running instances to finish counts as settled
            limited = sum(limit.waiting for limit in source.route_limits.values())
            if settled + limited < sent:
                return f"source {source.settings.name} has settled {settled} of {sent} messages"
        for name, engine in self._engines.items():
            if engine.backend.busy:
                return f"engine {name} is busy"
        return ""

    def result(self, instance_id: str) -> Any:
        """Output of a finished instance. Raises: NotFinished; OrchestrationFailedError if it failed."""
        state = self._state(instance_id)
        if state.runtime_status.name not in FINISHED:
            raise NotFinished(
                f"{instance_id} is {state.runtime_status.name}, custom status {state.serialized_custom_status}; "
                "publish what it waits for, or advance the time"
            )
        state.raise_if_failed()
        return state.get_output()

    def status(self, instance_id: str) -> str:
        """Status of an instance: `RUNNING`, `COMPLETED`, `FAILED`, `SUSPENDED`, `TERMINATED` or `PENDING`."""
        return self._state(instance_id).runtime_status.name

    def custom_status(self, instance_id: str) -> Any:
        """Custom status of an instance as JSON value; None if there is none."""
        return json.loads(self._state(instance_id).serialized_custom_status or "null")

    def entity(self, name: str, key: str) -> Any:
        """State of an entity as JSON value; None if there is none."""
        self.settle()
        found = self._run(self._client.get_entity(EntityInstanceId(name, key)))
        return None if found is None else json.loads(found.get_state() or "null")

    def published(self, target: str) -> list[Published]:
        """Events that workflows have published to a target, in order."""
        self.settle()
        return list(self._published.get(target, ()))

    def outcomes(self, source: str) -> dict[str, int]:
        """Number of messages of a source by outcome: `executed`, `duplicate`, `ignored`, `dead_lettered` ..."""
        (found,) = (one for one in self._daemon.sources if one.settings.name == source)
        return {str(outcome): count for outcome, count in found.ledger.outcomes.items() if count}

    def dead_letters(self, source: str) -> dict[str, int]:
        """Number of dead-lettered messages of a source, by reason."""
        (found,) = (one for one in self._daemon.sources if one.settings.name == source)
        return dict(found.ledger.dead_letters)

    def recording(self, instance_id: str) -> Recording:
        """History of an instance, for replay tests."""
        self.settle()
        return self._run(record(self._client, instance_id))

    def _source(self, name: str) -> SourceConfig:
        require("source", name, self._loaded.config.sources)
        return self._loaded.config.sources[name]

    @property
    def _client(self) -> Any:
        engines = self._engines
        return engines["default" if "default" in engines else next(iter(engines))].client

    def _state(self, instance_id: str) -> OrchestrationState:
        self.settle()
        state = self._run(self._client.get_orchestration_state(instance_id))
        if state is None:
            raise LookupError(f"no instance {instance_id!r} exists")
        found: OrchestrationState = state
        return found

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(TIMEOUT)

    def _record(self, request: Mapping[str, Any]) -> None:
        event = Published(
            request["id"],
            request["type"],
            request.get("data"),
            request.get("subject"),
            request.get("key"),
            request.get("headers") or {},
            request.get("extensions") or {},
        )
        self._published.setdefault(request["target"], []).append(event)


def _isolated(loaded: Loaded, brokers: Mapping[str, LocalBrokerConfig]) -> Loaded:
    """Configuration with these brokers of the test's own, and a free port."""
    config = loaded.config
    # A webhook has no topic; the test's log needs one
    targets = {
        name: target if target.address else target.model_copy(update={"topic": name})
        for name, target in config.targets.items()
    }
    http = config.ops.http.model_copy(update={"port": 0})
    return replace(
        loaded,
        config=config.model_copy(
            update={
                "brokers": dict(brokers),
                "targets": targets,
                "events": None,
                "ops": config.ops.model_copy(update={"http": http}),
            }
        ),
    )
