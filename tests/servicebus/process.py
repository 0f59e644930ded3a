"""Test server in a process of its own, for tests that kill processes, apply load or block their event loop."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.kit.processes import ModuleProcess
from tests.kit.waiting import TIMEOUT
from tests.servicebus.server import QueueConfig, TopicConfig, emulator
from tests.servicebus.server.message import Message


class ServerProcess:
    """Server process, started at construction and stopped by `with`.

    options: of `python -m tests.servicebus.server`, such as `--round-trip=0.01`. Raises: RuntimeError when the server
    does not start.
    """

    def __init__(
        self, queues: tuple[QueueConfig, ...] = (), topics: tuple[TopicConfig, ...] = (), options: tuple[str, ...] = ()
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="servicebus-")
        config = Path(self._directory.name) / "config.json"
        config.write_text(json.dumps(emulator.write(queues, topics)))
        self.process = ModuleProcess("tests.servicebus.server", "--config", config, *options)
        line = self.process.read()
        if not line.startswith("ready "):
            self.stop()
            raise RuntimeError(f"the Service Bus test server did not start: {line!r}")
        facts = json.loads(line.removeprefix("ready "))
        self.port: int = facts["port"]
        self.connection_string: str = facts["connection_string"]
        self.control: int = facts["control"]
        self._control = socket.create_connection(("127.0.0.1", self.control), TIMEOUT)
        self._answers = self._control.makefile("rb")

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def call(self, name: str, **arguments: Any) -> Any:
        """Make one control call; see tests/servicebus/server/control.py.

        Raises: RuntimeError with the error of the server.
        """
        self._control.sendall(json.dumps({"call": name, "arguments": arguments}).encode() + b"\n")
        answer = json.loads(self._answers.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]

    def counters(self) -> dict[str, Any]:
        """Return the counters; see tests/servicebus/server/counters.py."""
        return dict(self.call("counters"))

    def contents(self, path: str) -> dict[str, int]:
        """Return the number of messages of a queue in each state."""
        return dict(self.call("contents", path=path))

    def store(self, path: str, message: Message) -> int:
        """Store a message in a queue unchanged. Returns its sequence number."""
        sections = {
            name: base64.b64encode(getattr(message, name)).decode()
            for name in ("properties", "application_properties", "body", "footer")
        }
        found = self.call("store", path=path, message_id=message.message_id, session_id=message.session_id, **sections)
        return int(found)

    def stop(self) -> None:
        """Stop the process cleanly, or kill it when it does not stop."""
        self.process.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.process.wait(10)
        self.process.end()
        if (control := getattr(self, "_control", None)) is not None:
            control.close()
        self._directory.cleanup()
