"""`bridge tap` beside real daemons: choice of messages, load, restarts, frozen daemons, readers that do not read."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from bridge.app.serve.views.tap import MOST_BYTES, MOST_TAPS
from bridge.ops.control import near
from tests.kit.forkserver import ForkedProcess, fork_server
from tests.kit.processes import DaemonProcess, bridge, run_bridge
from tests.kit.waiting import eventually_blocking

pytestmark = pytest.mark.long

CONFIG = """
engine: {type: embedded, path: engine.db}
brokers: {local: {type: local, path: local}}
sources:
  orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter, attributes: {type: "headers['type']"}}
  bills: {broker: local, topics: [bills], codec: json, no_match: ignore}
routes:
  - name: start
    from: orders
    match: {type: start}
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}", input: payload}
  - {name: quiet, from: orders, match: {type: quiet}, ignore: {}}
workflows: {external: [order]}
ops: {http: {port: 0}}
"""
SECRET = "4111-1111-1111-1111"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    return tmp_path


class TapProcess:
    """`bridge tap -o json` in the background."""

    def __init__(self, directory: Path, process: ForkedProcess, name: str) -> None:
        self._directory, self._name = directory, name
        self.process = process

    @property
    def notes(self) -> str:
        return (self._directory / f"{self._name}.err").read_text()

    @property
    def lines(self) -> list[str]:
        return (self._directory / f"{self._name}.out").read_text().splitlines()

    @property
    def seen(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        return eventually_blocking(condition, lambda: f"{what}\n{self.notes}\n{self.lines[-3:]}", poll=0.02)

    def end(self) -> int:
        """End the command as Ctrl-C does; return its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


@contextmanager
def tap(directory: Path, *arguments: str, output: str = "json", watching: int = 1) -> Iterator[TapProcess]:
    """Run `bridge tap` until it watches a number of daemons."""
    name = f"tap-{time.monotonic_ns()}"
    with (directory / f"{name}.out").open("wb") as out, (directory / f"{name}.err").open("wb") as err:
        process = fork_server().start(["tap", "-o", output, *arguments], directory, stdout=out, stderr=err)
    found = TapProcess(directory, process, name)
    try:
        found.wait(lambda: found.notes.count("watching daemon") >= watching, "the first counts")
        yield found
    finally:
        process.kill()
        process.wait()


def omitted(found: TapProcess, cause: str) -> int:
    """Number of messages that the command reports as not shown for a cause."""
    lines = [line for line in found.notes.splitlines() if line.startswith(f"not shown ({cause}")]
    return sum(int(line.rpartition("): ")[2].split()[0].replace(",", "")) for line in lines)


def publish(directory: Path, *ids: int, kind: str = "start", topic: str = "orders", **body: Any) -> None:
    lines = [json.dumps({"body": {"id": each, **body}, "headers": {"type": kind}}) for each in ids]
    bridge("publish", topic, "--jsonl", "-", cwd=directory, text="\n".join(lines))


def test_messages_are_chosen_by_source_route_outcome_and_condition(project: Path) -> None:
    with (
        DaemonProcess(project) as daemon,
        tap(project) as everything,
        tap(project, "--route", "start", "--where", "payload.id > 1 && payload.id < 4") as some,
        tap(project, "--outcome", "dead_lettered", "--source", "orders") as dead,
        tap(project, "--source", "bills", "--payload", output="table") as bills,
    ):
        publish(project, 1, 2, 3, 4, card=SECRET)
        publish(project, 5, kind="quiet", card=SECRET)
        publish(project, 6, kind="other", card=SECRET)
        publish(project, 7, topic="bills", note="a\x1b[31mb")
        everything.wait(lambda: len(everything.lines) == 7, "all messages")
        some.wait(lambda: len(some.lines) == 2, "two messages")
        dead.wait(lambda: len(dead.lines) == 1, "the dead letter")
        bills.wait(lambda: len(bills.lines) == 4, "the bill")
        assert {step["command"]["instance_id"] for each in some.seen for step in each["steps"]} == {
            "order-2",
            "order-3",
        }
        first = next(each for each in everything.seen if each["routes"] == ["start"])
        assert first["steps"][0]["command"].keys() == {"type", "orchestration", "instance_id", "event"}
        assert first["daemon"].endswith(f"/{daemon.pid}")
        assert (first["outcome"], first["reason"], first["attempts"], first["stored"]) == ("executed", None, 1, False)
        status = json.loads(bridge("status", "-o", "json", cwd=project, expect=1))  # the dead letter needs a person
        assert first["rules"] == status["daemons"][0]["config"]["version"]
        assert (dead.seen[0]["reason"], dead.seen[0]["failed_route"]) == ("no_route", None)
        # Payloads only on request, and no control character reaches a terminal
        assert SECRET not in "".join(everything.lines + some.lines + dead.lines)
        assert "\x1b" not in "".join(bills.lines)
        assert [line.split()[0] for line in bills.lines[2:]] == ["headers", "body"]
        assert bills.lines[1].split()[1:5] == [str(daemon.pid), "bills", bills.lines[1].split()[3], "ignored"]
        for each in (everything, some, dead, bills):
            assert each.end() == 0
        assert "7 messages shown of 7 settled" in everything.notes
        assert "2 messages shown of " in some.notes


def test_a_condition_that_fails_for_a_message_is_counted(project: Path) -> None:
    with DaemonProcess(project), tap(project, "--where", "payload.total > 5.0", "--payload", "--limit", "1") as found:
        publish(project, 1, 2)
        publish(project, 3, total=7.5)
        assert found.process.wait(60) == 0
        assert [each["message"]["body"] for each in found.seen] == [{"id": 3, "total": 7.5}]
        assert omitted(found, "--where fails") == 2


def test_messages_beyond_the_rate_are_counted_under_load(project: Path) -> None:
    with DaemonProcess(project) as daemon, tap(project, "--rate", "5/s") as found:
        for start in range(0, 3000, 1000):
            publish(project, *range(start, start + 1000))
        daemon.wait(lambda: daemon.settled() == 3000, "all settled")
        found.wait(lambda: len(found.lines) >= 5, "a sample")
        # The counts come each second: the last ones are those after the load
        time.sleep(2)
        assert found.end() == 0
        assert omitted(found, "beyond --rate") + len(found.lines) == 3000
        assert f"{len(found.lines)} messages shown of 3,000 settled" in found.notes
        assert len(found.lines) < 1000


def test_the_tap_goes_on_with_the_next_daemon_after_a_kill_and_after_a_stop(project: Path) -> None:
    with DaemonProcess(project) as daemon, tap(project, "--rate", "1000/s") as found:
        publish(project, 1)
        found.wait(lambda: len(found.lines) == 1, "the first message")
        daemon.kill()
        found.wait(lambda: f"{daemon.pid} has closed the connection" in found.notes, "the end of the daemon")
        found.wait(lambda: "waiting for one" in found.notes, "no daemon")
        publish(project, 2)
        with DaemonProcess(project, log="second.log") as second:
            found.wait(lambda: f"/{second.pid}" in found.notes, "the second daemon")
            publish(project, 3)
            found.wait(
                lambda: len(found.lines) >= 2 and found.seen[-1]["steps"][0]["command"]["instance_id"] == "order-3",
                "its messages",
            )
            assert found.seen[-1]["daemon"].endswith(f"/{second.pid}")
            second.stop()
        with DaemonProcess(project, log="third.log") as third:
            found.wait(lambda: f"/{third.pid}" in found.notes, "the third daemon")
            publish(project, 4)
            found.wait(lambda: found.seen[-1]["daemon"].endswith(f"/{third.pid}"), "its messages")
        assert found.end() == 0


def test_a_tap_goes_on_through_a_reload_with_the_new_rules_and_variables(project: Path) -> None:
    file = project / "bridge.yaml"
    file.write_text(CONFIG + "vars: {least: 2}\n")
    with (
        DaemonProcess(project) as daemon,
        tap(project, "--rate", "1000/s") as all_,
        tap(project, "--where", "payload.id >= vars.least", "--rate", "1000/s") as some,
    ):
        publish(project, 1, 2)
        all_.wait(lambda: len(all_.lines) == 2, "the messages before the reload")
        some.wait(lambda: len(some.lines) == 1, "the one that the condition selects")
        before = all_.seen[0]["rules"]
        file.write_text(CONFIG.replace("order-{{", "later-{{") + "vars: {least: 4}\n")
        [answer] = json.loads(bridge("reload", "-o", "json", cwd=project))["daemons"]
        for each in (all_, some):
            each.wait(lambda each=each: f"uses the configuration {answer['to']}" in each.notes, "the new version")  # type: ignore[misc]  # mypy cannot infer it
        publish(project, 3, 4)
        all_.wait(lambda: len(all_.lines) == 4, "the messages after the reload")
        some.wait(lambda: len(some.lines) == 2, "the one that the new variable selects")
        ids = sorted((each["rules"], each["steps"][0]["command"]["instance_id"]) for each in all_.seen)
        expected = [(before, "order-1"), (before, "order-2"), (answer["to"], "later-3"), (answer["to"], "later-4")]
        assert ids == sorted(expected)
        assert [each["steps"][0]["command"]["instance_id"] for each in some.seen] == ["order-2", "later-4"]
        assert daemon.get("/readyz")[0] == 200
        assert (all_.end(), some.end()) == (0, 0)


def test_a_frozen_daemon_is_named_and_watched_again(project: Path) -> None:
    with DaemonProcess(project) as daemon, tap(project) as found:
        daemon.signal(signal.SIGSTOP)
        found.wait(lambda: f"is frozen by a signal. Next: kill -CONT {daemon.pid}" in found.notes, "the frozen daemon")
        daemon.signal(signal.SIGCONT)
        found.wait(lambda: "answers again" in found.notes, "its return")
        publish(project, 1)
        found.wait(lambda: len(found.lines) == 1, "its messages")


def test_a_reader_that_does_not_read_costs_a_bounded_memory_and_delays_nothing(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        publish(project, 0)
        daemon.wait(lambda: daemon.settled() == 1, "warm")
        before = daemon.metrics("process_resident_memory_bytes")[""]
        readers = [reader(daemon, {"payload": True, "rate": 1000}) for _ in range(4)]
        filler = "x" * 40_000
        # At once: the daemon closes a stream whose reader takes nothing for 30 s
        publish(project, *range(1, 1201), filler=filler)
        daemon.wait(lambda: daemon.settled() == 1201, "all settled, although nobody reads")
        after = daemon.metrics("process_resident_memory_bytes")[""]
        assert after - before < len(readers) * 4 * MOST_BYTES + 100 * 1024 * 1024
        counts = [last_counts(each, 1200) for each in readers]
        for each in counts:
            assert each["unread"] > 0
            assert each["settled"] == each["matched"] == 1200
            assert each["shown"] + each["unread"] + each["over_rate"] == 1200


def test_a_daemon_has_a_bounded_number_of_taps(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        readers = [reader(daemon, {}) for _ in range(MOST_TAPS)]
        done = run_bridge("tap", "--for", "20s", cwd=project)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (
            1,
            f"error: tap: {MOST_TAPS} readers watch this daemon already; end one of them",
        )
        for each in readers:
            each.close()

        def freed() -> bool:
            return run_bridge("tap", "--for", "1s", cwd=project).returncode == 0

        daemon.wait(freed, "the taps of readers that have gone are free again")


def test_a_drain_does_not_wait_for_readers(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        open_ = [reader(daemon, {}) for _ in range(3)]
        began = time.monotonic()
        daemon.stop()
        assert time.monotonic() - began < 15
        assert len(open_) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--source", "order"), 2, "error: there is no source 'order'; did you mean 'orders'?"),
        (("--route", "strt"), 2, "error: there is no route 'strt'; did you mean 'start'?"),
        (("--where", "payload.id ="), 1, "error: `where`: "),
        (("--where", "'text'"), 1, "error: `where`: "),
        (("--rate", "2000/s"), 2, "the rate must be at most 1000/s"),
        (("--for", "200ms"), 3, "error: no daemon answered. Next: bridge serve"),
    ],
)
def test_mistakes_are_said_at_once(project: Path, arguments: tuple[str, ...], code: int, text: str) -> None:
    done = run_bridge("tap", *arguments, cwd=project)
    assert (done.returncode, text in done.stderr) == (code, True), done.stderr


# -- a reader of its own


def reader(daemon: DaemonProcess, options: dict[str, Any]) -> socket.socket:
    """Open the stream and read nothing of it beyond the answer's head."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(60)
    with near(Path(daemon.ready["control"])) as path:
        connection.connect(path)
    query = quote(json.dumps(options), safe="")
    connection.sendall(f"GET /api/v1/tap?options={query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert connection.recv(12) == b"HTTP/1.1 200"
    return connection


def last_counts(connection: socket.socket, settled: int) -> dict[str, int]:
    """Read until a count comes after all that waited, and has that many deliveries."""
    data, found = b"", None
    while True:
        data += connection.recv(1 << 20)
        *lines, data = data.split(b"\n")
        for line in lines:
            if line.startswith(b"data: ") and b'"delivery"' not in line:
                counts = json.loads(line[6:])["counts"]
                if found == counts and counts["settled"] >= settled:
                    return found
                found = counts
