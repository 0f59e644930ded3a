"""Test access to the broker from which a daemon reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

from bridge.core.message import Message
from tests.acceptance.broker import Log
from tests.kit.processes import DaemonProcess


class Channel(Protocol):
    """Channel of messages to a source.

    broker, source: one-line YAML of the broker, and of the source's topic or queue.
    completes: replayed dead letters leave the broker.
    """

    broker: str
    source: str
    completes: bool

    def publish(self, messages: Sequence[Message]) -> None:
        """Publish messages to the source; the messages are durable on return and ordered by their keys."""
        ...

    def left(self, daemon: DaemonProcess) -> int:
        """Return the number of unsettled messages; not 0 while the number is unknown."""
        ...

    def dead_letters(self) -> list[Message]:
        """Return all dead letters; called once."""
        ...


class LocalChannel:
    """Local broker in a directory beside the daemon; a context manager."""

    completes = False

    def __init__(self, directory: Path) -> None:
        self.broker = f"{{type: local, path: {directory}, partitions: 4}}"
        self.source = "topics: [orders]"
        self._log = Log(directory)

    def __enter__(self) -> LocalChannel:
        self._log.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._log.__exit__(kind, error, at)

    def publish(self, messages: Sequence[Message]) -> None:
        self._log.publish("orders", *messages)

    def left(self, daemon: DaemonProcess) -> int:
        return daemon.lag()

    def dead_letters(self) -> list[Message]:
        return self._log.read("orders.dlq", self._log.count("orders.dlq"))
