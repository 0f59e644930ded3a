"""`bridge status` and `bridge top` beside a daemon, without one, on terminals and in pipes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator, Mapping
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest

from tests.app.project import CONFIG, write_project
from tests.kit.forkserver import ForkedProcess, fork_server
from tests.kit.processes import DaemonProcess, run_bridge
from tests.kit.waiting import TIMEOUT, eventually_blocking
from tests.ops.test_status import assert_command

pytestmark = pytest.mark.long

MORE = """
ops: {http: {port: 0}, log: {level: error}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    config = write_project(tmp_path / "served")
    config.write_text(CONFIG.replace("no_match: dead_letter", "no_match: dead_letter, quarantine: {}") + MORE)
    return config.parent


def status(project: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = run_bridge("status", "-o", "json", *arguments, cwd=project)
    assert done.returncode != 2, done.stderr
    return done.returncode, json.loads(done.stdout)


def event(number: int, name: str = "ada", kind: str = "greeting.asked") -> str:
    return json.dumps({"specversion": "1.0", "id": str(number), "source": "/t", "type": kind, "data": {"name": name}})


def publish(project: Path, *events: str, key: str | None = None) -> None:
    for each in events:
        (project / "event.json").write_text(each)
        keyed = [] if key is None else ["--key", key]
        done = run_bridge("publish", "orders", "--file", "event.json", *keyed, cwd=project)
        assert done.returncode == 0, done.stderr


MEMBERS = {
    "": {"time", "asked", "answered", "daemons", "engines", "sources", "components", "limits", "problems", "targets"},
    "daemons": {"id", "answered", "version", "command", "phase", "ready", "started", "seconds", "config", "peers"},
    "engines": {
        "name", "id", "state", "since", "seconds", "detail", "daemons", "place", "durable", "counted", "early",
        "quarantined", "counts", "jobs", "worker_processes",
    },
    "sources": {
        "name", "state", "since", "seconds", "detail", "daemons", "partitions", "held_by", "lag", "oldest_seconds",
        "received_per_second", "settled_per_second", "in_flight", "retrying", "received", "abandoned", "outcomes",
        "dead_letters", "dead_letters_open", "dead_letters_counted", "routes",
    },
    "components": {"kind", "name", "state", "since", "seconds", "detail", "daemons"},
}  # fmt: skip
"""Members of the documented form."""


def assert_form(document: Mapping[str, Any]) -> None:
    assert document.keys() == MEMBERS[""]
    for member, names in MEMBERS.items():
        for part in document[member] if member else ():
            assert part.keys() == names, member


def test_one_model_behind_port_socket_and_command(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        publish(project, event(1), event(2, "bob"))
        publish(project, event(3, "", "unknown"), key="k-1")
        daemon.wait(lambda: daemon.settled() == 3, "settled")
        eventually_blocking(lambda: run_bridge("instances", "wait", "greet-bob", cwd=project).returncode == 0)

        def counted() -> dict[str, Any] | None:
            engine = status(project)[1]["engines"][0]
            return engine if engine["quarantined"] and engine["counts"]["ended_today"] else None

        eventually_blocking(counted)
        code, mine = status(project)
        code_of_port, by_port = status(project, "--url", daemon.url)
        served = json.loads(daemon.get("/api/v1/status")[1])
        assert code == code_of_port == 1
        for each in (mine, by_port, served):
            assert_form(each)
            [source] = [source for source in each["sources"] if source["name"] == "orders"]
            assert source["outcomes"] | {"executed": 2, "quarantined": 1} == source["outcomes"]
            assert (source["received"], source["lag"], source["oldest_seconds"]) == (3, 0, 0.0)
            [engine] = each["engines"]
            assert engine["early"] == {"messages": 0, "oldest_seconds": None}
            [keys] = engine["quarantined"]
            assert (keys["source"], keys["keys"], keys["messages"], keys["overdue"]) == ("orders", 1, 1, 0)
            assert {"orchestration": "greet", "status": "COMPLETED", "count": 2} in engine["counts"]["instances"]
            assert each["daemons"][0]["config"]["version"] == mine["daemons"][0]["config"]["version"]
        text = run_bridge("status", cwd=project).stdout
        assert "1 daemon; 1 problem" in text
        [problem] = mine["problems"]
        assert problem["text"].startswith("1 key is quarantined until a person decides, for ")
        assert problem["next"] == "bridge quarantine list --source orders --engine default"
        assert re.search(r"^default +up +\d+[smh] +yes +0 +orders: 1 key, 1 message \(\d+s\)$", text, re.MULTILINE)
        assert re.search(r"^orders +idle +\d+s +0 +0s ", text, re.MULTILINE)
        assert re.search(r"^ORCHESTRATION +COMPLETED\ngreet +2$", text, re.MULTILINE)
        daemon.stop()


def test_a_failed_instance_needs_a_person_until_it_is_handled(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        assert run_bridge("instances", "start", "breaks", "--id", "b1", cwd=project).returncode == 0
        eventually_blocking(lambda: status(project)[1]["problems"])
        code, found = status(project)
        [problem] = found["problems"]
        assert (code, problem["text"]) == (1, "1 instance of breaks failed today (engine default)")
        assert_command(problem["next"])
        words = problem["next"].split()[1:]
        assert "b1" in run_bridge(*words, cwd=project).stdout
        shown = run_bridge("status", cwd=project)
        assert shown.returncode == 1
        assert f"! {problem['text']}. Next: {problem['next']}\n" in shown.stdout
        assert run_bridge("instances", "purge", "b1", "--yes", cwd=project).returncode == 0
        eventually_blocking(lambda: status(project)[0] == 0)
        daemon.stop()


def test_without_a_daemon_it_shows_what_remains_visible(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        publish(project, event(1))
        daemon.wait(lambda: daemon.settled() == 1, "settled")
        daemon.stop()
    publish(project, event(2), event(3))
    code, found = status(project)
    assert_form(found)
    assert code == 1, "engine and broker are there, and no daemon"
    assert (found["asked"], found["daemons"]) == (0, [])
    assert {source["name"]: source["lag"] for source in found["sources"]} == {"orders": 2, "plain": 0}
    assert found["engines"][0]["counts"]["instances"], "the embedded engine keeps its counts in its file"
    assert [each["next"] for each in found["problems"]] == ["bridge serve"]
    text = run_bridge("status", cwd=project).stdout
    assert "no daemon answers; this is what the engine and the broker know" in text


def files(project: Path) -> set[Path]:
    return set(project.rglob("*"))


def test_without_a_daemon_no_file_is_created(project: Path) -> None:
    before = files(project)
    for command in (("status",), ("top", "--count", "1")):
        shown = run_bridge(*command, cwd=project, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
        assert re.search(r"^orders +[?] +[?] +0 +[?] ", shown.stdout, re.MULTILINE), "ages are not known"
    assert files(project) == before
    publish(project, event(1))
    before = files(project)
    assert {each["name"]: each["lag"] for each in status(project)[1]["sources"]} == {"orders": 1, "plain": 0}
    assert files(project) == before


def test_failed_instances_need_a_person_without_a_daemon_too(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        assert run_bridge("instances", "start", "breaks", "--id", "b1", cwd=project).returncode == 0
        eventually_blocking(lambda: status(project)[1]["problems"])
        daemon.stop()
    code, found = status(project)
    assert code == 1
    assert [each["text"] for each in found["problems"]] == [
        "no daemon of this configuration runs on this machine",
        "1 instance of breaks failed today (engine default)",
    ]


def test_a_frozen_daemon_is_named_beside_the_facts_of_broker_and_engine(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        publish(project, event(1))
        daemon.wait(lambda: daemon.settled() == 1, "settled")
        eventually_blocking(lambda: status(project)[1]["engines"][0]["counts"]["instances"])
        pid = daemon.process.pid
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            code, found = status(project)
        finally:
            daemon.process.send_signal(signal.SIGCONT)
        assert code == 1
        assert (found["asked"], found["answered"]) == (1, 0)
        assert found["problems"][0]["text"].endswith(f"process {pid} is frozen by a signal")
        assert found["problems"][0]["next"] == f"kill -CONT {pid}"
        lags = {each["name"]: each["lag"] for each in found["sources"]}
        # The commit of the message may be on its way when the daemon is stopped
        assert (set(lags), lags["plain"], lags["orders"] <= 1) == ({"orders", "plain"}, 0, True)
        assert found["engines"][0]["counts"]["instances"]
        daemon.stop()


@pytest.mark.parametrize(
    "words",
    [("status", "--watch", "--interval"), ("top", "--interval"), ("doctor", "--timeout")],
)
def test_a_pause_has_a_least_value(project: Path, words: tuple[str, ...]) -> None:
    for value in ("0s", "99ms"):
        done = run_bridge(*words, value, cwd=project)
        assert done.returncode == 2
        assert f"{value} is too short; the least value is 100ms" in done.stderr


def test_nothing_that_can_be_reached_is_exit_code_3(project: Path) -> None:
    gone = status(project, "--url", "http://127.0.0.1:1")
    assert (gone[0], gone[1]["answered"]) == (3, 0)
    assert "connection refused" in gone[1]["problems"][0]["text"]
    assert run_bridge("status", "--url", "ftp://x", cwd=project).returncode == 1
    assert run_bridge("status", cwd=project.parent).returncode == 3, "no configuration"


def test_a_port_that_is_no_ops_port_is_named(project: Path) -> None:
    with DaemonProcess(project, "--path", "hubs", "--listen", "127.0.0.1:0", command="engine") as other:
        code, found = status(project, "--url", other.url)
        assert code == 3
        assert found["problems"][0]["subject"] == f"daemon {other.url}"
        other.stop()


# -- terminals


class Terminal:
    """A command on a terminal."""

    def __init__(self, project: Path, *arguments: str, columns: int = 100, lines: int = 40, **env: str) -> None:
        self.master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        given = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.output = b""
        self.process: ForkedProcess = fork_server().start(
            arguments, project, stdin=slave, stdout=slave, stderr=slave, env=given | {"TERM": "xterm-256color"} | env
        )
        os.close(slave)

    def until(self, text: str, times: int = 1) -> str:
        end = time.monotonic() + TIMEOUT
        while self.output.decode(errors="replace").count(text) < times:
            assert time.monotonic() < end, self.output
            self._read()
        return self.output.decode()

    def end(self) -> int:
        while self._read():
            pass
        return self.process.wait(TIMEOUT)

    def _read(self) -> bool:
        ready, _, _ = select.select([self.master], [], [], 0.1)
        if not ready:
            return self.process.poll() is None
        with contextlib.suppress(OSError):  # the other side has ended
            if data := os.read(self.master, 65536):
                self.output += data
                return True
        return False

    def close(self) -> None:
        self.process.kill()
        os.close(self.master)


@contextlib.contextmanager
def terminal(project: Path, *arguments: str, **options: Any) -> Iterator[Terminal]:
    found = Terminal(project, *arguments, **options)
    try:
        yield found
    finally:
        found.close()


@pytest.mark.parametrize("command", [("status", "--watch"), ("top",)])
def test_a_screen_is_redrawn_in_place_and_ends_with_ctrl_c(project: Path, command: tuple[str, ...]) -> None:
    with DaemonProcess(project) as daemon:
        with terminal(project, *command, "--interval", "100ms") as screen:
            screen.until("\x1b[H", 3)
            screen.process.send_signal(signal.SIGINT)
            assert screen.end() == 0
        text = screen.output.decode()
        assert text.startswith("\x1b[?1049h")
        assert text.endswith("\x1b[?1049l\x1b[?25h")
        assert "\x1b[2J" not in text, "a cleared screen flickers"
        daemon.stop()


def test_tables_fit_the_terminal_and_nothing_is_cut_in_a_pipe(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        for columns in (40, 80, 200):
            with terminal(project, "status", columns=columns) as screen:
                assert screen.end() == 0
            plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.output.decode())
            assert max(len(line) for line in plain.splitlines()) <= columns
        piped = run_bridge("status", cwd=project, env={**os.environ, "COLUMNS": "40"}).stdout
        assert re.search(r"^SOURCE +STATE +FOR +LAG +OLDEST +IN/s +OUT/s +IN FLIGHT +RETRYING", piped, re.MULTILINE)
        assert "\x1b" not in piped
        daemon.stop()


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_color_where_none_is_wanted(project: Path, env: dict[str, str]) -> None:
    with DaemonProcess(project) as daemon:
        assert run_bridge("instances", "start", "breaks", "--id", "b1", cwd=project).returncode == 0
        eventually_blocking(lambda: status(project)[1]["problems"])
        with terminal(project, "status", **env) as screen:
            assert screen.end() == 1
        assert not re.search(rb"\x1b\[[0-9;]*m", screen.output)
        if "TERM" in env:
            with terminal(project, "top", "--count", "2", "--interval", "100ms", **env) as screen:
                assert screen.end() == 0
            assert b"\x1b" not in screen.output
        daemon.stop()


def test_a_watch_in_a_pipe_is_one_document_a_line(project: Path) -> None:
    with DaemonProcess(project) as daemon, (project / "lines").open("wb") as out:
        process = fork_server().start(
            ["status", "--watch", "-o", "json", "--interval", "100ms"], project, stdout=out, stderr=out
        )
        eventually_blocking(lambda: len((project / "lines").read_text().splitlines()) > 3)
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 0
        for line in (project / "lines").read_text().splitlines():
            assert_form(json.loads(line))
        daemon.stop()


@pytest.mark.parametrize("order", ["lag", "age", "rate", "in-flight", "retrying", "dead-letters", "name"])
def test_top_sorts(project: Path, order: str) -> None:
    with DaemonProcess(project) as daemon:
        publish(project, *(event(number) for number in range(9)))
        daemon.wait(lambda: daemon.settled() == 9, "settled")
        done = run_bridge("top", "--count", "1", "--sort", order, cwd=project)
        assert done.returncode == 0
        names = [line.split()[0] for line in done.stdout.splitlines() if line.startswith(("orders", "plain"))]
        assert names == ["orders", "plain"]
        daemon.stop()


def test_records_of_a_paused_source_have_an_age(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        done = run_bridge("sources", "pause", "plain", "--reason", "the shop is down", cwd=project)
        assert done.returncode == 0, done.stderr

        def plain() -> dict[str, Any]:
            [source] = [each for each in status(project)[1]["sources"] if each["name"] == "plain"]
            return source

        eventually_blocking(lambda: plain()["state"] == "paused")
        done = run_bridge("publish", "plain", "--data", '{"kind": "x"}', cwd=project)
        assert done.returncode == 0, done.stderr
        eventually_blocking(lambda: plain()["lag"] == 1 and plain()["oldest_seconds"] > 0)
        shown = run_bridge("status", cwd=project)
        assert re.search(
            r"^plain +paused .* paused by \S+ since \S+ \(the shop is down\); `bridge sources resume plain` continues$",
            shown.stdout, re.MULTILINE,
        )  # fmt: skip
        assert run_bridge("sources", "resume", "plain", cwd=project).returncode == 0
        eventually_blocking(lambda: plain()["lag"] == 0)
        assert plain()["oldest_seconds"] == 0.0
        daemon.stop()
