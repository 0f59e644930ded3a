"""The seam to engines: anything that speaks the Durable Task sidecar protocol, reached through the SDK's own client."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from durabletask.client import AsyncTaskHubGrpcClient
from durabletask.serialization import DataConverter

from bridge.engines.compatibility import CompatibilityMonitor
from bridge.engines.containment import ContainedWorker
from bridge.engines.registry import Workflows
from bridge.parking.sealed import MessageSealer

RunListener = Callable[[Sequence[str], Sequence[str]], None]
"""Called with ids of instances that have finished, and of those that have started: one in both runs again."""


@dataclass(frozen=True, slots=True)
class EngineUsage:
    """What a hosted engine keeps in memory, in bytes, and how many events it refused."""

    instance_bytes: int
    entity_bytes: int
    events_refused: int


@runtime_checkable
class MeasuredEngine(Protocol):
    """An engine that may be hosted by this process."""

    @property
    def usage(self) -> EngineUsage | None:
        """None when another process hosts it."""
        ...


class Engine(Protocol):
    """A configured engine.

    `durable` is False when acknowledged work is lost at exit; the daemon says so at start. `certain`: an event that it
    accepts reaches its instance; one for a finished instance is refused. Where it is False the bridge looks afterwards.
    """

    @property
    def name(self) -> str: ...

    @property
    def durable(self) -> bool: ...

    @property
    def notifies_instance_started(self) -> bool:
        """Whether it tells the parking entity of an instance when anybody starts that, in the same transaction."""
        ...

    @property
    def faults(self) -> Mapping[str, int]:
        """Operations that this process could not apply for it and gave up, by kind."""
        ...

    @property
    def messages(self) -> MessageSealer:
        """Encrypts messages that wait on it, where it does not keep them encrypted itself."""
        ...

    def has_no_early_messages(self, entity_id: str) -> bool:
        """Whether it is certain without a call that this parking entity has nothing, neither state nor operations."""
        ...

    @property
    def confirms_event_delivery(self) -> bool: ...

    @property
    def description(self) -> str:
        """One line for the start-up banner: what and where, no secrets."""
        ...

    async def start(self) -> None:
        """Raises: EngineError when the engine cannot be hosted; a remote engine that is away is not an error here."""
        ...

    async def stop(self) -> None:
        """Idempotent."""
        ...

    async def probe(self) -> None:
        """Return when the engine answers. Raises: EngineOutage."""
        ...

    @property
    def client(self) -> AsyncTaskHubGrpcClient:
        """The SDK's asynchronous client; valid between start and stop. Each call of it has a deadline (`timeout`)."""
        ...

    def watch_runs(self, listener: RunListener) -> bool:
        """Call `listener`, from any thread, when instances start or finish from now on, whoever starts them.

        False, and it is never called, when this engine does not tell. Valid between start and stop.
        """
        ...

    def worker(
        self,
        workflows: Workflows,
        data_converter: DataConverter | None = None,
        monitor: CompatibilityMonitor | None = None,
    ) -> ContainedWorker:
        """A worker of the SDK with the workflows registered, not started. The caller starts and stops it.

        data_converter: how the workflows' values become JSON and back; the SDK's own when None. witness: sees instances
        that no longer fit their code.
        """
        ...
