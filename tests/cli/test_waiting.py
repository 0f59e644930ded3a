"""`bridge early` and `bridge quarantine` on a running daemon: every command, its output and its exit code."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bridge.app.composition import load_config
from bridge.app.serve.daemon import Daemon
from bridge.cli import root
from bridge.core.message import Message
from tests.kit.waiting import TIMEOUT, TIMEOUT_OPTION, eventually_blocking

FLOWS = """
from durabletask import task


def order(ctx: task.OrchestrationContext, _):
    paid = yield ctx.wait_for_external_event("paid")
    return paid
"""

CONFIG = """
engine: {type: embedded}
workflows: [waiting_flows]
brokers: {local: {type: local}}
sources:
  orders:
    broker: local
    topics: [orders]
    codec: json
    no_match: dead_letter
    attributes: {type: "headers['type']"}
    quarantine: {poll: 50ms}
routes:
  - name: paid
    from: orders
    match: {type: paid}
    raise_event: {instance_id: "order-{{ payload.id }}", name: paid, on_missing: {wait: 1h}}
  - name: noted
    from: orders
    match: {type: noted}
    raise_event: {instance_id: "order-{{ payload.id }}", name: paid, on_missing: dead_letter}
ops: {http: {port: 0}}
"""


class DaemonThread:
    """Daemon on a loop of its own, like one in another process."""

    def __init__(self, directory: Path, *, worker: bool = True) -> None:
        self._worker = worker
        self._config = directory / "bridge.yaml"
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.daemon: Daemon | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        assert self._ready.wait(TIMEOUT)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.daemon = Daemon(load_config([self._config]), worker=self._worker)
        await self.daemon.start()
        self._ready.set()
        await self._stop.wait()
        await self.daemon.stop(10.0)

    def stop(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(TIMEOUT)

    def publish(self, kind: str, *ids: str, key: str | None = None) -> None:
        """Publish messages, and return when they are settled."""
        assert self.daemon is not None
        assert self._loop is not None
        outcomes = self.daemon.sources[0].ledger.outcomes
        before = sum(outcomes.values())
        messages = [
            Message(json.dumps({"id": id_}).encode(), (key or id_).encode(), (("type", kind.encode()),)) for id_ in ids
        ]
        publishing = self.daemon.brokers["local"].publish("orders", messages)
        asyncio.run_coroutine_threadsafe(publishing, self._loop).result(TIMEOUT)
        eventually_blocking(lambda: sum(outcomes.values()) >= before + len(ids))


@contextmanager
def hosting(directory: Path, *, worker: bool) -> Iterator[DaemonThread]:
    (directory / "waiting_flows.py").write_text(FLOWS)
    (directory / "bridge.yaml").write_text(CONFIG)
    host = DaemonThread(directory, worker=worker)
    yield host
    host.stop()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[DaemonThread]:
    with hosting(tmp_path, worker=True) as host:
        yield host


@pytest.fixture
def workerless(tmp_path: Path) -> Iterator[DaemonThread]:
    with hosting(tmp_path, worker=False) as host:
        yield host


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(root, [*arguments, "-c", str(tmp_path / "bridge.yaml")], prog_name="bridge")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def listed(run: Callable[..., Result], group: str, *options: str, count: int | None = None) -> list[dict[str, Any]]:
    """Return the listed messages, once there are `count`."""
    found: list[dict[str, Any]] = []

    def complete() -> bool:
        result = run(group, "list", "--json", *options)
        assert result.exit_code == 0, result.output
        found[:] = json.loads(result.stdout)
        return count is None or len(found) == count

    eventually_blocking(complete, lambda: f"{count} messages: {found}")
    return found


def test_what_waits_for_an_instance(host: DaemonThread, run: Callable[..., Result]) -> None:
    assert run("early", "list").stderr == "no message waits\n"
    host.publish("paid", "1", "2")
    host.publish("paid", "1", "3")
    (first, *_) = listed(run, "early", count=4)
    assert list(first) == [
        "instance_id", "source", "id", "message_id", "route", "since", "until", "reason", "detail", "position", "size",
        "encryption_key",
    ]  # fmt: skip
    assert (first["source"], first["route"]) == ("orders", "paid")
    assert first["until"] > first["since"]
    assert [each["instance_id"] for each in listed(run, "early", "--prefix", "order-1")] == ["order-1", "order-1"]
    assert listed(run, "early", "--source", "others") == listed(run, "quarantine") == []
    page = run("early", "list", "--limit", "2", "--offset", "2")
    assert len(page.stdout.splitlines()) == 3
    assert "2 of 4" in page.stderr

    result = run("early", "release", "order-1", "order-2")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "order-1: 0 messages delivered, 2 still wait")
    assert run("instances", "start", "order", "--id", "order-2").exit_code == 0
    assert run("instances", "wait", "order-2", "--timeout", TIMEOUT_OPTION).exit_code == 0
    listed(run, "early", count=3)

    chosen = listed(run, "early", "--prefix", "order-1")[1]["id"]
    result = run("early", "drop", "order-1", "--id", chosen, "--yes")
    assert (result.exit_code, result.stdout) == (0, "order-1: 1 message dropped, 1 still wait\n")
    assert run("early", "drop", "order-3", "--forget", "--yes").stdout == "order-3: 1 message dropped\n"
    assert [each["instance_id"] for each in listed(run, "early")] == ["order-1"]
    assert run("early", "drop", "order-1", "--id", "nothing", "--yes").exit_code == 1


def test_ids_of_any_length_by_their_prefix(host: DaemonThread, run: Callable[..., Result]) -> None:
    long = ["1" + "x" * 230, "2" + "x" * 230, "@1~" + "x" * 197, "@1~" + "x" * 230]
    host.publish("paid", "1", *long)
    listed(run, "early", count=5)

    def found(prefix: str) -> list[str]:
        return sorted(each["instance_id"].removeprefix("order-") for each in listed(run, "early", "--prefix", prefix))

    assert found("order-1") == ["1", long[0]]
    assert found("order-" + long[0]) == [long[0]]
    assert found("order-@1~xx") == sorted(long[2:])
    assert found("") == sorted(["1", *long])
    assert found("~h") == []


def test_a_key_in_quarantine(host: DaemonThread, run: Callable[..., Result]) -> None:
    host.publish("noted", "1", "2", key="k")
    host.publish("noted", "3", key="other")
    found = listed(run, "quarantine", count=3)
    assert [(each["key"], each["reason"]) for each in found] == [
        ("k", "instance_not_found"), ("k", "follows"), ("other", "instance_not_found"),
    ]  # fmt: skip
    assert {each["until"] for each in found} == {None}
    result = run("quarantine", "drop", "--source", "orders", "k", "--id", found[0]["id"], "--yes")
    assert (result.exit_code, result.stdout) == (0, "orders k: 1 message dropped, 1 still wait\n")
    assert run("instances", "start", "order", "--id", "order-2").exit_code == 0
    result = run("quarantine", "release", "--source", "orders", "k")
    assert (result.exit_code, result.stdout) == (0, "orders k: 1 message released\n")
    assert run("instances", "wait", "order-2", "--timeout", TIMEOUT_OPTION).exit_code == 0
    assert run("instances", "start", "order", "--id", "order-3").exit_code == 0
    result = run("quarantine", "release", "--source", "orders", "--all")
    assert "orders other: 1 message released" in result.stdout
    listed(run, "quarantine", count=0)
    assert run("quarantine", "release", "--source", "orders", "--all").stdout == "nothing to release\n"


def test_a_filter_releases_and_drops_by_jobs(host: DaemonThread, run: Callable[..., Result]) -> None:
    host.publish("paid", "1", "2", "3")
    host.publish("paid", "1")
    listed(run, "early", count=4)
    dry = run("early", "release", "--source", "orders", "--dry-run")
    assert (dry.exit_code, dry.stdout) == (0, "release would work on 3 instances with 4 messages\n")
    result = run("early", "release", "--route", "paid", "--newer", "1h", "--rate", "50/s", "--yes", "--watch")
    assert result.exit_code == 0, result.output
    assert "early.release done  3 of 3 (100 %): skipped 3" in result.stdout
    assert run("instances", "start", "order", "--id", "order-2").exit_code == 0
    listed(run, "early", count=3)
    job = run("early", "drop", "--prefix", "order-1", "--yes", "-o", "ids").stdout.strip()
    assert "early.drop done  2 of 2 (100 %): succeeded 2" in run("jobs", "watch", job).stdout
    assert [each["instance_id"] for each in listed(run, "early")] == ["order-3"]
    assert run("early", "drop", "--source", "others", "--yes").exit_code == 1

    host.publish("noted", "7", "8", key="k")
    host.publish("noted", "9", key="other one")
    listed(run, "quarantine", count=3)
    assert run("instances", "start", "order", "--id", "order-9").exit_code == 0
    shown = json.loads(run("quarantine", "release", "--cause", "instance_not_found", "--dry-run", "-o", "json").stdout)
    assert shown == {"count": 2, "messages": 2}
    [job] = json.loads(run("quarantine", "release", "--all", "--limit", "1", "--yes", "-o", "json").stdout)
    assert job["count"] == 1
    assert "quarantine.release done" in run("jobs", "watch", job["job"]).stdout
    result = run("quarantine", "drop", "--cause", "instance_not_found", "--route", "noted", "--yes", "--watch")
    assert result.exit_code == 0, result.output
    result = run("quarantine", "release", "--all", "--yes", "--watch")
    assert result.exit_code == 0, result.output


def test_a_key_that_cannot_be_typed_is_released_as_it_is_shown(host: DaemonThread, run: Callable[..., Result]) -> None:
    host.publish("noted", "1", key="k\x00\n\\")
    shown = listed(run, "quarantine", count=1)[0]["key"]
    assert shown == r"k\x00\n\\"
    assert shown in run("quarantine", "list").stdout
    result = run("quarantine", "drop", "--source", "orders", shown, "--yes")
    assert result.exit_code == 0
    assert result.stdout == f"orders {shown}: 1 message dropped\n"


def test_what_waits_and_what_is_given_up_can_be_traced(host: DaemonThread, run: Callable[..., Result]) -> None:
    host.publish("paid", "1")
    [waits] = listed(run, "early", count=1)
    result = run("trace", waits["message_id"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"by route paid waits for order-1 since {waits['since']}, until {waits['until']}\n" in result.stdout
    assert "  next: bridge early release order-1\n" in result.stdout
    assert [run("trace", waits["message_id"], "--prefix", it).exit_code for it in ("order-", "return-")] == [0, 1]
    received = json.loads(run("trace", waits["message_id"], "--json").stdout)
    assert (received["found_by"], received["instances"]) == ("undelivered", [])
    assert [(one["state"], one["instance_id"]) for one in received["undelivered"]] == [("early", "order-1")]
    assert run("early", "drop", "order-1", "--yes").exit_code == 0
    result = run("trace", waits["message_id"])
    assert result.exit_code == 0
    assert "dead-lettered at 2" in result.stdout
    assert "early_dropped" in result.stdout
    answer, following = result.stdout.splitlines()
    assert answer.endswith("; it waited for order-1")
    assert following.startswith("  next: bridge dlq show ")
    assert [run("trace", waits["message_id"], "--prefix", it).exit_code for it in ("order-", "return-")] == [0, 1]


def test_what_is_in_quarantine_can_be_traced(host: DaemonThread, run: Callable[..., Result]) -> None:
    host.publish("noted", "1", key="k")
    [held] = listed(run, "quarantine", count=1)
    result = run("trace", held["message_id"])
    assert result.exit_code == 0
    assert f"waits with its key k since {held['since']}: " in result.stdout
    assert "  next: bridge quarantine release --source orders k\n" in result.stdout
    assert run("quarantine", "drop", "--source", "orders", "k", "--yes").exit_code == 0
    assert "quarantine_dropped" in run("trace", held["message_id"]).stdout


def test_a_source_that_there_is_not(host: DaemonThread, run: Callable[..., Result]) -> None:
    received = "there is no source `nosuch`; the configuration has orders\n"
    assert run("early", "list", "--source", "nosuch").stderr == received
    assert run("quarantine", "list", "--source", "nosuch").stderr == received
    result = run("quarantine", "release", "--source", "nosuch", "--all")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", received)


def test_what_no_worker_has_processed_is_told(
    tmp_path: Path, run: Callable[..., Result], workerless: DaemonThread
) -> None:
    workerless.publish("paid", "1", "2")
    result = run("early", "list")
    assert result.stdout == ""
    assert "2 more or changed, not yet processed by a worker; is one running?" in result.stderr
    for arguments in (["release", "order-1"], ["drop", "order-1", "--yes"]):
        result = run("early", *arguments)
        assert result.exit_code == 3
        assert "no worker has processed what waits there; is one running?" in result.stderr


def test_what_is_not_there_and_what_makes_no_sense(host: DaemonThread, run: Callable[..., Result]) -> None:
    for arguments in (
        ["early", "release", "order-9"],
        ["early", "drop", "order-9", "--yes"],
        ["quarantine", "release", "--source", "orders", "k"],
        ["quarantine", "drop", "--source", "orders", "k", "--yes"],
    ):
        result = run(*arguments)
        assert result.exit_code == 1
        assert "order-9" in result.stderr or "'k'" in result.stderr
    for arguments in (
        ["early", "release"],
        ["early", "drop", "a"],
        ["quarantine", "release", "--all"],
        ["quarantine", "release", "--source", "orders"],
        ["quarantine", "release", "a", "--source", "orders", "--all"],
        ["quarantine", "drop", "a", "--yes"],
    ):
        assert run(*arguments).exit_code == 2


@pytest.mark.parametrize("command", [[], ["list", "--kind", "key"], ["drop", "order-1", "--yes"], ["--help"]])
def test_the_former_command_names_its_successors(command: list[str]) -> None:
    result = CliRunner().invoke(root, ["parked", *command], prog_name="bridge")
    assert result.exit_code == 2
    assert "use `bridge early` or `bridge quarantine`" in result.stderr


def test_a_release_that_nobody_would_hear(host: DaemonThread, run: Callable[..., Result], tmp_path: Path) -> None:
    host.publish("noted", "1", key="k")
    listed(run, "quarantine", count=1)
    config = tmp_path / "bridge.yaml"
    config.write_text(CONFIG.replace("    quarantine: {poll: 50ms}\n", ""))
    for target in ("k", "--all"):
        result = run("quarantine", "release", "--source", "orders", target)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "the source `orders` has no `quarantine`" in result.stderr
    assert [each["until"] for each in listed(run, "quarantine")] == [None]


def test_a_released_key_that_nobody_takes_up_yet_says_so(tmp_path: Path) -> None:
    (tmp_path / "waiting_flows.py").write_text(FLOWS)
    (tmp_path / "bridge.yaml").write_text(CONFIG.replace("poll: 50ms", "poll: 1h"))
    host = DaemonThread(tmp_path)
    try:

        def run(*arguments: str) -> Result:
            return CliRunner().invoke(root, [*arguments, "-c", str(tmp_path / "bridge.yaml")], prog_name="bridge")

        host.publish("noted", "1", key="k")
        assert [each["until"] for each in listed(run, "quarantine", count=1)] == [None]
        assert run("quarantine", "release", "--source", "orders", "k").exit_code == 0
        assert [each["until"] for each in listed(run, "quarantine", count=1)] == ["released"]
    finally:
        host.stop()


def test_without_a_daemon(tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG.replace("workflows: [waiting_flows]", ""))
    result = CliRunner().invoke(root, ["early", "list", "-c", str(tmp_path / "bridge.yaml")], prog_name="bridge")
    assert result.exit_code == 3


@pytest.mark.parametrize("group", ["early", "quarantine"])
@pytest.mark.parametrize("command", [[], ["list"], ["release"], ["drop"]])
def test_help_has_examples(group: str, command: list[str]) -> None:
    result = CliRunner().invoke(root, [group, *command, "--help"], prog_name="bridge")
    assert result.exit_code == 0
    assert "Examples:" in result.output
