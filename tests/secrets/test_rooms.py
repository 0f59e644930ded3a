"""Log output of each subsystem at `log.level: debug`, through failures: no secret and no part of a message."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kafka.server import ThreadedServer
from tests.kit.ports import free_port
from tests.kit.processes import DaemonProcess, bridge, run_bridge
from tests.registry import RegistryServer
from tests.secrets.planting import HEADER, KEY, PAYLOAD, SECRET, body, leaks, line
from tests.servicebus.process import ServerProcess
from tests.servicebus.server import QueueConfig

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

FLOWS = '''
"""Workflows that fail with the payload in their error."""
import logging

from bridge.workflow import Entity, publish
from durabletask import task

logging.getLogger("aiokafka.conn").setLevel(logging.DEBUG)


def quiet(ctx: task.OrchestrationContext, data):
    yield publish(ctx, "results", data, type="done", key=data["private"])


def bursts(ctx: task.OrchestrationContext, data):
    raise ValueError(data["private"])
    yield


def breaks(ctx: task.ActivityContext, data):
    try:
        {}[data["private"]]
    except KeyError as error:
        raise RuntimeError(data["private"]) from error


def calls(ctx: task.OrchestrationContext, data):
    yield ctx.call_activity(breaks, input=data)


def unknown(ctx: task.OrchestrationContext, data):
    yield publish(ctx, "nowhere-" + data["kind"], data, type="done")


class Account(Entity):
    def put(self, data):
        raise ValueError(data["private"])


def spread(event):
    raise LookupError(event.payload["private"])
'''

RULES = {
    **{
        name: f'schedule: {{orchestration: {name}, instance_id: "{{{{ payload.id }}}}"}}'
        for name in ("quiet", "bursts", "calls", "unknown")
    },
    "signal": 'signal_entity: {entity: Account, key: "k", operation: put, input: payload}',
    "number": "when: int(payload.private) > 3, ignore: {}",
    "computed": "when: 'vars.table[payload.private] > 3', ignore: {}",
    "missing": 'raise_event: {instance_id: "{{ payload.id }}", name: e, on_missing: dead_letter}',
    "slash": 'schedule: {orchestration: quiet, instance_id: "a/{{ payload.private }}"}',
    "at": 'schedule: {orchestration: quiet, instance_id: "x", start_at: "{{ payload.private }}"}',
    "delay": 'schedule: {orchestration: quiet, instance_id: "x", delay: "{{ payload.private }}"}',
    "map": 'map: "flows:spread", schedule: {orchestration: quiet, instance_id: "z"}',
    "each": 'for_each: payload.private, schedule: {orchestration: quiet, instance_id: "y"}',
    "schema": "schema: order.json, ignore: {}",
}
ROUTES = "routes:\n" + "".join(
    f"  - {{name: {kind}, from: all, match: {{payload.kind: {kind}}}, {rule}}}\n" for kind, rule in RULES.items()
)
DEAD = 11
"""Number of messages of `messages()` that end as dead letters: all but the first five."""


def messages() -> str:
    lines = [line(body(kind), number) for number, kind in enumerate(RULES)]
    lines += [line(body("nobody"), 50), line(f"{{not JSON {PAYLOAD}", 51)]
    return "\n".join(lines) + "\n"


def project(directory: Path, brokers: str, source: str, target: str, engine: str = "", more: str = "") -> None:
    """Create a configuration with a broker `b`, at level debug."""
    (directory / "flows.py").write_text(FLOWS)
    schema = {"properties": {"private": {"enum": ["a", "b"], "maxLength": 3, "pattern": "^x$"}}}
    (directory / "order.json").write_text(json.dumps(schema))
    (directory / "bridge.yaml").write_text(
        f"engine: {engine or '{type: embedded}'}\n"
        "workflows: [flows]\n"
        "vars: {table: {a: 1}}\n"
        "ops: {http: {port: 0}, log: {level: debug, libraries: info, format: json}}\n"
        f"brokers:\n  b: {brokers}\n"
        f"sources:\n  all: {{broker: b, {source}, codec: json, no_match: dead_letter, retry: {{in_memory: 1s}}}}\n"
        f"targets:\n  results: {{broker: b, {target}, codec: json}}\n"
        f"{ROUTES}{more}"
    )


def settled(serve: DaemonProcess) -> int:
    return int(sum(serve.metrics("bridge_outcomes_total").values()))


def dead(serve: DaemonProcess) -> int:
    return int(sum(serve.metrics("bridge_dead_letters_total").values()))


def finished(directory: Path, count: int) -> bool:
    listed = json.loads(bridge("instances", "list", "--json", cwd=directory))
    rows = listed["instances"] if isinstance(listed, dict) else listed
    return sum(row["status"] in ("COMPLETED", "FAILED") for row in rows) >= count


def judged(serve: DaemonProcess, directory: Path) -> str:
    """Return all output that is visible without reading a message; fail on a mark in it."""
    seen = serve.get("/metrics")[1] + serve.get("/readyz")[1] + bridge("check", "--print", cwd=directory)
    seen += bridge("check", cwd=directory, expect=None)
    assert not leaks(seen, SECRET, PAYLOAD, KEY, HEADER)
    return seen


def details(directory: Path, address: str) -> str:
    """Return the `bridge.*` headers of the dead letters."""
    lines = bridge("topic", "read", address, "--json", cwd=directory).splitlines()
    headers = [json.loads(each).get("headers") or {} for each in lines]
    assert headers
    return json.dumps([{k: v for k, v in each.items() if k.startswith("bridge.")} for each in headers])


def run(directory: Path, topic: str, dead_letters: str) -> None:
    """Send all messages, wait for every end, and check the output."""
    with DaemonProcess(directory) as serve:
        bridge("publish", topic, "--jsonl", "-", cwd=directory, text=messages())
        serve.wait(lambda: settled(serve) >= len(RULES) + 2 and dead(serve) >= DEAD, "all settled")
        serve.wait(lambda: finished(directory, 4), "all workflows")
        judged(serve, directory)
        received = details(directory, dead_letters)
    assert not leaks(received, SECRET, PAYLOAD, KEY, HEADER)
    log = serve.log.read_text()
    for expected in ('"action":"dead_letter"', '"bridge.sdk.default.worker"', "ValueError: (text withheld"):
        assert expected in log
    assert not leaks(log, SECRET, PAYLOAD, KEY, HEADER)


def test_local(tmp_path: Path) -> None:
    project(tmp_path, "{type: local}", "topics: [t]", "topic: r")
    run(tmp_path, "b/t", "b/t.dlq")


def test_kafka(tmp_path: Path) -> None:
    server = ThreadedServer()
    try:
        address = server.bootstrap
        project(
            tmp_path,
            f'{{type: kafka, bootstrap_servers: "{address}", create_topics: true, replication: 1}}',
            "topics: [t]",
            "topic: r",
        )
        run(tmp_path, "b/t", "b/t.dlq")
    finally:
        server.stop()


@pytest.mark.parametrize("sessions", [False, True])
def test_service_bus(tmp_path: Path, sessions: bool) -> None:
    queues = (QueueConfig("t", requires_session=sessions), QueueConfig("r"), QueueConfig("dead"))
    with ServerProcess(queues) as server:
        source = "queue: t, dead_letter: dead" + (", sessions: true" if sessions else "")
        project(tmp_path, f'{{type: servicebus, connection_string: "{server.connection_string}"}}', source, "queue: r")
        run(tmp_path, "b/t", "b/dead")
        key = server.connection_string.partition("SharedAccessKey=")[2].partition(";")[0]
        log = (tmp_path / "daemon.log").read_text()
        assert not leaks(log, key)


# Refused credentials


@contextmanager
def refusing() -> Iterator[int]:
    """Run a Kafka endpoint that offers SASL and refuses every password."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            while len(head := stream.read(4)) == 4:
                message = stream.read(struct.unpack(">i", head)[0])
                api, _, correlation = struct.unpack(">hhi", message[:8])
                if api == 18:
                    apis = [(0, 0, 8), (1, 0, 11), (3, 0, 5), (17, 0, 1), (18, 0, 0), (36, 0, 1)]
                    answer = struct.pack(">hi", 0, len(apis)) + b"".join(struct.pack(">hhh", *each) for each in apis)
                elif api == 17:
                    answer = struct.pack(">hi", 0, 1) + struct.pack(">h", 5) + b"PLAIN"
                elif api == 36:
                    answer = struct.pack(">h", 58) + struct.pack(">h", 3) + b"bad" + struct.pack(">iq", 0, 0)
                else:
                    return
                connection.sendall(struct.pack(">ii", 4 + len(answer), correlation) + answer)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()


def start_refused(directory: Path, environment: pytest.MonkeyPatch) -> str:
    """Return all output of a daemon whose credentials are refused at the start, at level debug."""
    environment.setenv("INNOCENT", SECRET)
    done = run_bridge("serve", cwd=directory)
    assert done.returncode == 3
    said = done.stdout + done.stderr + bridge("check", "--print", cwd=directory)
    assert not leaks(said, SECRET)
    return said


def test_a_kafka_password_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing() as port:
        sasl = 'sasl: {mechanism: PLAIN, username: bridge, password: "${INNOCENT}"}'
        project(tmp_path, f'{{type: kafka, bootstrap_servers: "127.0.0.1:{port}", {sasl}}}', "topics: [t]", "topic: r")
        assert "SaslAuthenticationFailed" in start_refused(tmp_path, monkeypatch)


def test_a_service_bus_key_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ServerProcess((QueueConfig("t"), QueueConfig("r"))) as server:
        key = server.connection_string.partition("SharedAccessKey=")[2].partition(";")[0]
        wrong = server.connection_string.replace(key, "${INNOCENT}")
        project(tmp_path, f'{{type: servicebus, connection_string: "{wrong}"}}', "queue: t", "queue: r")
        assert "refused the credentials" in start_refused(tmp_path, monkeypatch)


def test_a_registry_password_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INNOCENT", SECRET)
    registry = RegistryServer()
    registry.authorization = "Basic of somebody else"
    try:
        more = f'\nregistries: {{main: {{url: "{registry.url}", username: u, password: "${{INNOCENT}}"}}}}\n'
        project(tmp_path, "{type: local}", "topics: [t]", "topic: r", more=more)
        config = tmp_path / "bridge.yaml"
        config.write_text(config.read_text().replace("topics: [t], codec: json", "topics: [t], codec: avro"))
        raw = line(f"\x00\x00\x00\x00\x07{PAYLOAD}", 1) + "\n"
        bridge("publish", "b/t", "--jsonl", "-", cwd=tmp_path, text=raw)
        with DaemonProcess(tmp_path) as serve:
            serve.wait(lambda: "the schema registry does not answer" in serve.log.read_text(), "the refusal")
            judged(serve, tmp_path)
        assert registry.asked
        assert not leaks(serve.log.read_text(), SECRET, PAYLOAD)
    finally:
        registry.close()


def test_a_worker_whose_token_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine listens on a port, and another process connects with a token of its own."""
    port = free_port()
    host, worker = tmp_path / "host", tmp_path / "worker"
    host.mkdir()
    worker.mkdir()
    engine = f'{{type: embedded, listen: "127.0.0.1:{port}", token: "{SECRET}-of-the-host"}}'
    project(host, "{type: local}", "topics: [t]", "topic: r", engine)
    engine = f'{{type: scheduler, endpoint: "http://127.0.0.1:{port}", token: "${{INNOCENT}}"}}'
    project(worker, "{type: local, path: ../host/.bridge/broker}", "topics: [t]", "topic: r", engine)
    monkeypatch.setenv("INNOCENT", SECRET)
    with (
        DaemonProcess(host, "--no-worker") as serve,
        DaemonProcess(worker, command="worker", ready=False) as other,
    ):
        bridge("publish", "b/t", "--jsonl", "-", cwd=host, text=messages())
        serve.wait(lambda: settled(serve) >= len(RULES) + 2, "all settled")
        other.wait(lambda: other.get("/readyz")[0] == 503, "the refusal")
        judged(serve, host)
        judged(other, worker)
        bridge("instances", "list", cwd=worker, expect=3)
    for each in (serve, other):
        assert not leaks(each.log.read_text(), SECRET, PAYLOAD, KEY, HEADER)


def test_a_remote_worker(tmp_path: Path) -> None:
    """Workflows fail in a worker of the SDK."""
    project(tmp_path, "{type: local}", "topics: [t]", "topic: r")
    with DaemonProcess(tmp_path, "--no-worker") as serve, DaemonProcess(tmp_path, command="worker") as worker:
        bridge("publish", "b/t", "--jsonl", "-", cwd=tmp_path, text=messages())
        serve.wait(lambda: settled(serve) >= len(RULES) + 2, "all settled")
        serve.wait(lambda: finished(tmp_path, 4), "all workflows")
        judged(serve, tmp_path)
        judged(worker, tmp_path)
    for each in (serve, worker):
        assert not leaks(each.log.read_text(), SECRET, PAYLOAD, KEY, HEADER)


def test_an_engine_that_is_away(tmp_path: Path) -> None:
    """Messages are held, and each attempt is logged at debug."""
    port = free_port()
    engine = f'{{type: scheduler, endpoint: "http://127.0.0.1:{port}", token: "{SECRET}", timeout: 1s}}'
    project(tmp_path, "{type: local}", "topics: [t]", "topic: r", engine)
    with DaemonProcess(tmp_path, ready=False) as serve:
        bridge("publish", "b/t", "--jsonl", "-", cwd=tmp_path, text=messages())
        serve.wait(lambda: "does not answer" in serve.log.read_text() and "held" in serve.get("/readyz")[1], "the hold")
        judged(serve, tmp_path)
        bridge("instances", "list", cwd=tmp_path, expect=3)
    assert not leaks(serve.log.read_text(), SECRET, PAYLOAD, KEY, HEADER)
