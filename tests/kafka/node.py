"""Single Kafka node in KRaft mode, on loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.kafka.distribution import classpath, java
from tests.kit.ports import free_port

STARTS_WITHIN = 120.0
_OPTIONS = ("-Xms160m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")

SETTINGS = {
    "offsets.topic.num.partitions": "3",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "3",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "auto.create.topics.enable": "false",
    "num.partitions": "4",
    "message.max.bytes": "16777216",
    "log.cleaner.backoff.ms": "200",
    "log.retention.ms": "-1",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "log.initial.task.delay.ms": "200",
    "file.delete.delay.ms": "1000",
    "controlled.shutdown.enable": "false",
}


@dataclass
class Node:
    """Kafka node in a process of its own.

    directory: log and configuration. ports: by listener name, kept over restarts.
    """

    directory: Path
    settings: dict[str, str] = field(default_factory=dict)
    listeners: dict[str, str] = field(default_factory=lambda: {"PLAINTEXT": "PLAINTEXT"})
    """Security protocol by listener name."""
    ports: dict[str, int] = field(default_factory=dict)
    format_arguments: tuple[str, ...] = ()
    number: int = 1
    controller: int = 0
    """Port of the controller of node 1, which other nodes join as brokers; 0: this node is the controller."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.ports['PLAINTEXT']}"

    def start(self) -> None:
        """Start the node and return when it answers."""
        configuration = self.directory / "server.properties"
        if not configuration.exists():
            self._format(configuration)
        log = (self.directory / "out.log").open("ab")
        self.process = subprocess.Popen(
            [*self._java(), "kafka.Kafka", str(configuration)], stdout=log, stderr=subprocess.STDOUT, cwd=self.directory
        )
        log.close()
        end = time.monotonic() + STARTS_WITHIN
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                received = (self.directory / "out.log").read_text(errors="replace")[-3000:]
                self.kill()
                raise RuntimeError(f"Kafka did not start:\n{received}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the node cleanly, or kill it after ten seconds."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None

    def kill(self) -> None:
        """Kill the node, as a power failure would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def suspend(self) -> None:
        """Suspend the process of the node."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _format(self, configuration: Path) -> None:
        alone = not self.controller
        self.controller = self.controller or free_port()
        for name in self.listeners:
            self.ports.setdefault(name, free_port())
        addresses = ",".join(f"{name}://127.0.0.1:{port}" for name, port in self.ports.items())
        protocols = ",".join(f"{name}:{protocol}" for name, protocol in self.listeners.items())
        settings = SETTINGS | {
            "node.id": str(self.number),
            "process.roles": "broker,controller" if alone else "broker",
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller}",
            "listeners": addresses + (f",CONTROLLER://127.0.0.1:{self.controller}" if alone else ""),
            "advertised.listeners": addresses,
            "listener.security.protocol.map": f"CONTROLLER:PLAINTEXT,{protocols}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self.directory / "log"),
        }
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "log4j2.yaml").write_text(_LOGGING)
        configuration.write_text("".join(f"{key}={value}\n" for key, value in (settings | self.settings).items()))
        subprocess.run(
            [*self._java(), "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c",
             str(configuration), *self.format_arguments],
            check=True, capture_output=True, cwd=self.directory,
        )  # fmt: skip

    def _java(self) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self.directory / 'log4j2.yaml'}"
        return [java(), *_OPTIONS, logging, "-cp", classpath()]

    def _answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(0.2)
            return probe.connect_ex(("127.0.0.1", self.ports["PLAINTEXT"])) == 0


_LOGGING = """\
Configuration:
  Properties: {Property: [{name: logPattern, value: "[%d] %p %m (%c)%n"}]}
  Appenders: {Console: {name: STDOUT, PatternLayout: {pattern: "${logPattern}"}}}
  Loggers: {Root: {level: WARN, AppenderRef: {ref: STDOUT}}}
"""


def pid_alive(pid: int) -> bool:
    """Return whether a process with this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
