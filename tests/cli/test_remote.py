"""Commands with --url, from a directory without a configuration, to a daemon with tokens. Real executables."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from bridge.app.operations import cursors
from bridge.app.operations.operation import TABLE
from bridge.app.remote import address
from bridge.cli.shared import connection
from bridge.core.words import plural
from tests.kafka.certificates import Authority
from tests.kit.processes import DaemonProcess, bridge, run_bridge
from tests.kit.waiting import TIMEOUT, TIMEOUT_OPTION

pytestmark = pytest.mark.long

FLOWS = """
from datetime import timedelta


def waits(ctx, _):
    data = yield ctx.wait_for_external_event("go")
    return data


def fails(ctx, _):
    yield ctx.create_timer(timedelta(0))
    raise ValueError("SECRET-4711")
"""
CONFIG = """
engines: {default: {type: embedded}, other: {type: embedded, path: other.db}}
workflows: [remote_flows]
brokers: {local: {type: local}}
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}}
routes:
  - {name: start, from: orders, schedule: {orchestration: waits, instance_id: "order-{{ payload.id }}"}}
ops: {http: {port: 0, %saccess: {tokens: tokens, rate: 10000, burst: 100000}}}
"""
ROLES = ("reader", "operator", "admin")


class Remote:
    """A daemon, and a directory without a configuration from which commands reach it."""

    def __init__(self, daemon: DaemonProcess, tokens: Mapping[str, str], elsewhere: Path) -> None:
        self.daemon, self.tokens, self.elsewhere = daemon, tokens, elsewhere

    def __call__(
        self,
        *arguments: str,
        role: str | None = "admin",
        env: Mapping[str, str] | None = None,
        text: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        given = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}
        given |= {"BRIDGE_URL": self.daemon.url}
        given |= {} if role is None else {"BRIDGE_TOKEN": self.tokens[role]}
        return run_bridge(*arguments, cwd=self.elsewhere, env=given | dict(env or {}), text=text)

    def ok(self, *arguments: str, role: str = "admin") -> str:
        done = self(*arguments, role=role)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout


def project(directory: Path, tls: str = "") -> dict[str, str]:
    """Write a project; return the tokens by role."""
    directory.mkdir()
    (directory / "remote_flows.py").write_text(FLOWS)
    (directory / "bridge.yaml").write_text(CONFIG % tls)
    tokens, lines = {}, ""
    for role in ROLES:
        rights = ["--payloads"] if role == "admin" else []
        done = run_bridge("tokens", "new", role, "--role", role, *rights, cwd=directory)
        tokens[role], lines = done.stderr.strip(), lines + done.stdout
    (directory / "tokens").write_text(lines)
    return tokens


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    base = tmp_path_factory.mktemp("remote")
    tokens = project(base / "project")
    elsewhere = base / "elsewhere"
    elsewhere.mkdir()
    with DaemonProcess(base / "project") as daemon:
        for id_ in ("one", "two"):
            bridge("instances", "start", "waits", "--id", id_, "--input", '{"n": 1}', cwd=base / "project")
        for id_ in ("failed", "erased"):
            bridge("instances", "start", "fails", "--id", id_, "--input", "1", cwd=base / "project")
            bridge("instances", "wait", id_, cwd=base / "project", expect=1)
        (base / "message").write_text('{"nothing": 1}')
        bridge("publish", "orders", "--data", '{"nothing": 1}', cwd=base / "project")
        daemon.wait(lambda: daemon.settled() == 1, "the dead letter")
        yield Remote(daemon, tokens, elsewhere)


def test_a_long_list_is_read_in_parts(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    [listed] = json.loads(remote.ok("dlq", "list", "--limit", "0", "--json"))
    assert remote.ok("dlq", "list", "--limit", "10001", "-o", "ids") == f"{listed['id']}\n"
    monkeypatch.setattr(cursors, "MOST_OF_PART", 2)
    options = {"remote": address(remote.daemon.url, remote.tokens["admin"], None), "engine": None}
    for limit in (None, 1, 2, 3, 9):
        found = connection.in_parts(options, ("instances.list", {}), "instances", limit)
        assert len({each["instance_id"] for each in found}) == len(found) == min(limit or 4, 4)
    assert connection.lists_in_parts(options)
    monkeypatch.setattr(connection, "_TABLE_WITH_CURSORS", TABLE + 1)
    assert not connection.lists_in_parts(options)


def same(remote: Remote, *arguments: str, directory: Path | None = None) -> None:
    """Check that a command gives the same output and exit code from elsewhere. directory: of the local command."""
    config = remote.daemon.log.parent / "bridge.yaml"
    # Places in a configuration are named as on the command line
    named = () if directory == config.parent else ("-c", str(config))
    here = run_bridge(*arguments, *named, cwd=directory or remote.elsewhere)
    there = remote(*arguments)
    assert (there.returncode, there.stdout) == (here.returncode, here.stdout), (arguments, there.stderr, here.stderr)


def test_what_is_read_is_the_same_as_beside_the_daemon(remote: Remote) -> None:
    for arguments in (
        ("instances", "list", "--json"),
        ("instances", "list", "--ids", "--prefix", "o"),
        ("instances", "list", "--count"),
        ("instances", "list", "--count", "--name", "fails", "--status", "failed", "--json"),
        ("instances", "show", "one", "failed"),
        ("instances", "show", "one", "--history", "--json"),
        ("instances", "export", "one"),
        ("entities", "list", "--json"),
        ("early", "list", "--json"),
        ("quarantine", "list"),
        ("keys", "list", "--json"),
        ("jobs", "list", "-o", "json"),
        ("sources", "list", "--json"),
        ("dlq", "list", "--json"),
        ("dlq", "list"),
        ("dlq", "groups", "--json"),
        ("dlq", "groups", "--state", "all", "--cause", "expression_error"),
    ):
        same(remote, *arguments)
    assert "orders" in remote.ok("dlq", "list")
    [row] = json.loads(remote.ok("dlq", "list", "--json"))
    assert row["id"] in remote.ok("dlq", "show", row["id"], "--payload")
    assert remote("dlq", "show", "orders.dlq/0@99").returncode == 1
    assert remote("dlq", "list", "--offline").returncode == 2


def test_limits_lag_audit_trace_and_erase(remote: Remote) -> None:
    remote.ok("limits", "set", "start", "--rate", "100/s", "--for", "1h", role="operator")
    [limit] = json.loads(remote.ok("limits", "list", "-o", "json", role="reader"))
    assert (limit["route"], limit["by"]) == ("start", "operator")
    remote.ok("limits", "clear", "start", role="operator")
    assert remote("limits", "set", "none", "--rate", "1/s", "--for", "1h").returncode == 2
    lags = json.loads(remote.ok("sources", "lag", "-o", "json", role="reader"))
    assert {(each["source"], each["lag"]) for each in lags} == {("orders", 0)}
    assert remote("sources", "lag", "none").returncode == 2
    lines = [
        json.loads(line) for line in remote.ok("audit", "--action", "limits", "--json", role="operator").splitlines()
    ]
    assert [(line["actor"], line["action"], line["result"]) for line in lines[:2]] == [
        ("operator", "limits.set", "done"), ("operator", "limits.clear", "done"),
    ]  # fmt: skip
    assert remote("audit", role="reader").returncode == 1
    assert remote("audit", "--path", "x.db").returncode == 2
    traced = json.loads(remote.ok("trace", "one", "-o", "json", role="reader"))
    assert [each["instance_id"] for each in traced["instances"]] == ["one"]
    assert "one" in remote.ok("trace", "one", role="reader")
    assert remote("trace", "nothing-like-this").returncode == 1
    assert remote("trace", "one", "--all").returncode == 2
    found = json.loads(remote.ok("erase", "--where", "id == 'failed'", "--dry-run", "--json"))
    assert {each["state"] for each in found["findings"]} == {"found"}
    assert remote("erase", "--where", "true", "--yes", role="operator").returncode == 1
    assert "1 record erased" in remote.ok("erase", "--where", "id == 'erased'", "--yes")


def test_dead_letters_are_dropped_restored_and_replayed(remote: Remote) -> None:
    def states() -> list[str]:
        return [each["state"] for each in json.loads(remote.ok("dlq", "list", "--state", "all", "--json"))]

    def done(*arguments: str) -> None:
        [job] = json.loads(remote.ok("dlq", *arguments, "--yes", "--json", role="operator"))
        watched = remote("jobs", "watch", job["job"])
        assert watched.returncode in (0, 1), watched.stderr

    assert states() == ["open"]
    assert remote.ok("dlq", "drop", "orders", "--reason", "test", "--dry-run") == "would drop 1 dead letter\n"
    assert remote("dlq", "drop", "--cause", "none", "--reason", "test", "--yes").returncode == 1
    assert remote("dlq", "drop", "orders", "--reason", "test", "--yes", role="reader").returncode == 1
    done("drop", "orders", "--reason", "test")
    assert states() == ["dropped"]
    [id_] = [each["id"] for each in json.loads(remote.ok("dlq", "list", "--state", "dropped", "--json"))]
    done("restore", "--id", id_)
    assert states() == ["open"]
    for arguments in (
        ("dlq", "check"), ("dlq", "check", "--json"), ("dlq", "export"), ("dlq", "replay", "--all", "--dry-run"),
        ("dlq", "replay", "--all", "--dry-run", "--json"), ("dlq", "drop", "--id", id_, "--reason", "x", "--dry-run"),
        ("dlq", "replay", "--id", "nothing", "--dry-run"), ("dlq", "drop", "--id", "nothing", "--reason", "x", "--yes"),
        ("dlq", "edit", id_, "--set", "payload.other=1", "--dry-run"),
        ("dlq", "edit", id_, "--set", "payload.id=9", "--dry-run"),
        ("dlq", "edit", "nothing", "--set", "payload.id=9", "--dry-run"),
    ):  # fmt: skip
        same(remote, *arguments, directory=remote.daemon.log.parent)
    assert remote("dlq", "check", "--offline").returncode == 2
    assert remote("dlq", "check", "--candidate", str(remote.daemon.log.parent / "bridge.yaml")).returncode == 2
    for arguments in (("dlq", "export"), ("dlq", "edit", id_, "--set", "payload.id=9", "--yes")):
        refused = remote(*arguments, role="operator")
        assert (refused.returncode, "right to read payloads" in refused.stderr) == (1, True), refused.stderr
    edited = remote("dlq", "edit", id_, "--set", "payload.id=9", "--reason", "typing error", "--yes")
    assert (edited.returncode, "Next: bridge jobs watch" in edited.stdout) == (0, True), edited.stderr
    remote.daemon.wait(lambda: "replayed" in states(), "the edited dead letter is replayed")
    assert "order-9" in remote.ok("instances", "list", "--ids")
    bridge("publish", "orders", "--data", '{"nothing": 2}', cwd=remote.daemon.log.parent)
    remote.daemon.wait(lambda: "open" in states(), "another dead letter")
    done("replay", "--all", "--reason", "test")
    remote.daemon.wait(lambda: "returned" in states(), "the return of the dead letter")


def test_more_ids_than_one_request_takes_are_sent_in_several(remote: Remote) -> None:
    names = [f"orders.dead-letters/0@{number:06}" for number in range(5_000, 12_000)]
    for number in (3, 4):
        bridge("publish", "orders", "--data", json.dumps({"nothing": number}), cwd=remote.daemon.log.parent)

    def open_ones() -> list[str]:
        return [each["id"] for each in json.loads(remote.ok("dlq", "list", "--json"))]

    remote.daemon.wait(lambda: len(open_ones()) >= 2, "two dead letters")
    mine = open_ones()
    count, ids = len(mine), "\n".join([*names, *mine])

    def dlq(*arguments: str) -> subprocess.CompletedProcess[str]:
        return remote("dlq", *arguments, "--id", "-", text=ids)

    def has_left(left: int) -> bool:
        return len(open_ones()) == left

    for action, left in (("drop", 0), ("restore", count)):
        [job] = json.loads(dlq(action, "--reason", "test", "--yes", "--json").stdout)
        assert job["count"] == count
        remote.daemon.wait(partial(has_left, left), f"the end of {action}")
    tried = dlq("replay", "--dry-run", "--json")
    assert json.loads(tried.stdout)["total"] == count
    assert dlq("drop", "--reason", "test", "--dry-run").stdout == f"would drop {plural(count, 'dead letter')}\n"
    ids = "\n".join([*names, *mine, *(f"other/0@{number}" for number in range(10_000))])
    refused = dlq("replay", "--yes", "--rate", "1")
    assert (refused.returncode, "--rate would count for each job alone" in refused.stderr) == (2, True), refused.stderr


def test_sources_instances_and_jobs_are_changed(remote: Remote) -> None:
    remote.ok("instances", "start", "waits", "--id", "here")
    remote.ok("instances", "raise", "here", "go", "--data", "7")
    assert "COMPLETED" in remote.ok("instances", "wait", "here", "--timeout", TIMEOUT_OPTION)
    late = remote("instances", "wait", "one", "--timeout", "1s")
    assert (late.returncode, late.stderr) == (1, "error: one has not finished after 1s\n")
    remote.ok("sources", "pause", "orders", "--reason", "test", role="operator")
    assert '"paused"' in remote.ok("sources", "list", "--json", role="reader")
    remote.ok("sources", "resume", "orders", role="operator")
    assert remote("sources", "resume", "orders", role="operator").returncode == 1
    assert json.loads(remote.ok("sources", "seek", "orders", "--to", "end", "--dry-run", "-o", "json"))["partitions"]
    assert "partitions moved" in remote.ok("sources", "seek", "orders", "--to", "end", "--yes")
    [job] = remote.ok("instances", "terminate", "--prefix", "two", "--yes", "-o", "ids").split()
    assert "done" in remote.ok("jobs", "watch", job)
    assert "terminate" in remote.ok("jobs", "show", job, role="reader")
    unknown = remote("sources", "pause", "nowhere")
    assert (unknown.returncode, "nowhere" in unknown.stderr) == (2, True)
    [line] = [
        line
        for line in bridge("audit", "--json", cwd=remote.daemon.log.parent).splitlines()
        if "sources.pause" in line and "done" in line
    ]
    assert json.loads(line)["actor"] == "operator"


def test_a_submitted_job_is_polled_at_the_location_of_its_answer(remote: Remote) -> None:
    headers = {"Authorization": f"Bearer {remote.tokens['operator']}", "Content-Type": "application/json"}
    body = json.dumps({"prefix": "polled-", "engine": "other"}).encode()
    remote.ok("instances", "start", "waits", "--id", "polled-1", "--engine", "other")
    asked = urllib.request.Request(f"{remote.daemon.url}/api/v1/instances:terminate", body, headers)
    with urllib.request.urlopen(asked, timeout=TIMEOUT) as answer:
        job, place = json.load(answer)["job"], answer.headers["Location"]
        assert (answer.status, place) == (202, f"/api/v1/jobs/{job}?engine=other")

    def shown() -> dict[str, object]:
        again = urllib.request.Request(f"{remote.daemon.url}{place}", headers=headers)
        with urllib.request.urlopen(again, timeout=TIMEOUT) as answer:
            found: dict[str, object] = json.load(answer)
            return found

    assert shown()["job"] == job
    remote.daemon.wait(lambda: shown()["state"] == "done", "the end of the job")


def test_the_audit_is_read_to_its_end(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursors, "MOST_OF_PART", 3)
    options = {"remote": address(remote.daemon.url, remote.tokens["operator"], None), "engine": None}
    own = [json.loads(line) for line in bridge("audit", "--json", cwd=remote.daemon.log.parent).splitlines()]
    found = connection.in_parts(options, ("audit.list", {}), "lines", None)[::-1]
    assert found[: len(own)] == own
    lines = remote.ok("audit", "--json", role="operator").splitlines()
    assert [json.loads(line) for line in lines][: len(own)] == own


def test_the_daemon_reloads_its_own_files(remote: Remote) -> None:
    config = remote.daemon.log.parent / "bridge.yaml"
    before = config.read_text()
    try:
        config.write_text(before.replace("no_match: dead_letter", "no_match: ignore"))
        plan = json.loads(remote.ok("reload", "--dry-run", "-o", "json", role="reader"))
        assert [(each["result"], each["dry_run"]) for each in plan["daemons"]] == [("reloaded", True)]
        assert remote("reload", role="reader").returncode == 1
        assert "changed from" in remote.ok("reload", "--all", "--reason", "test", role="operator")
        config.write_text("nonsense")
        refused = remote("reload", role="operator")
        assert (refused.returncode, "refuses the reload" in refused.stderr) == (1, True)
    finally:
        config.write_text(before)
    remote.ok("reload", role="operator")
    assert remote("reload", "--all", "--dry-run").returncode == 2


def test_without_a_candidate_there_is_no_canary(remote: Remote) -> None:
    for action in ("status", "abort", "resume"):
        done = remote("canary", action)
        assert (done.returncode, "there is no candidate" in done.stderr) == (2, True), done.stderr


def test_messages_are_watched_from_elsewhere(remote: Remote) -> None:
    # Published until the watching has begun and sees one
    with ThreadPoolExecutor() as pool:
        tap = pool.submit(remote, "tap", "--limit", "1", "--for", TIMEOUT_OPTION, "-o", "json", role="reader")
        number = 0
        while not tap.done():
            number += 1
            bridge("publish", "orders", "--data", f'{{"id": "tap-{number}"}}', cwd=remote.daemon.log.parent)
        done = tap.result()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["source"] == "orders"
    assert "1 message shown" in done.stderr
    for arguments, role, code, text in (
        (("--payload",), "reader", 1, "Next: use a token with this right"),
        ((), None, 1, "Next: set BRIDGE_TOKEN"),
        (("--source", "nowhere"), "reader", 2, "nowhere"),
        (("--url", "http://127.0.0.1:1"), None, 3, "cannot connect"),
    ):
        refused = remote("tap", "--for", TIMEOUT_OPTION, *arguments, role=role)
        assert (refused.returncode, text in refused.stderr) == (code, True), refused.stderr


def test_a_role_that_does_not_allow_it(remote: Remote) -> None:
    for role, arguments in (
        ("reader", ("sources", "pause", "orders")),
        ("reader", ("instances", "terminate", "one")),
        ("operator", ("keys", "rotate")),
        ("reader", ("instances", "export", "one")),
        ("reader", ("instances", "list", "--json")),
    ):
        done = remote(*arguments, role=role)
        assert done.returncode == 1, arguments
        assert "Next: use a token with this right" in done.stderr
    shown = remote.ok("instances", "show", "failed", "--history", role="reader")
    assert "ValueError" in shown
    assert "4711" not in shown
    assert "4711" not in remote.ok("instances", "list", "--json", "--no-payloads", role="reader")


@pytest.mark.parametrize("token", ["wrong", None])
def test_a_wrong_token_and_none(remote: Remote, token: str | None) -> None:
    done = remote("instances", "list", role=None, env={} if token is None else {"BRIDGE_TOKEN": token})
    assert done.returncode == 1
    assert "Next: set BRIDGE_TOKEN, or name a file with --token-file" in done.stderr
    status = remote("status", role=None, env={} if token is None else {"BRIDGE_TOKEN": token})
    assert status.returncode == 3
    shown = " ".join(status.stdout.split())
    assert shown.endswith(
        "the daemon does not accept the token. Next: set BRIDGE_TOKEN, or name a file with --token-file"
    )


def test_the_token_comes_from_a_file_and_never_from_the_command_line(remote: Remote) -> None:
    path = remote.elsewhere / "token"
    path.write_text(remote.tokens["reader"] + "\n")
    url = ("--url", remote.daemon.url)
    assert remote("keys", "list", *url, "--token-file", str(path), role=None).returncode == 0
    missing = remote("keys", "list", "--token-file", "nowhere", role=None)
    assert (missing.returncode, "nowhere cannot be read" in missing.stderr) == (2, True)
    assert remote("keys", "list", "--token", "x", role=None).returncode == 2
    plain = remote("keys", "list", "--url", "http://bridge.example:8099")
    assert (plain.returncode, "https only" in plain.stderr) == (1, True)


def test_a_configuration_and_an_address(remote: Remote) -> None:
    config = str(remote.daemon.log.parent / "bridge.yaml")
    both = remote("keys", "list", "-c", config, "--url", remote.daemon.url)
    assert (both.returncode, "use either --url or --config" in both.stderr) == (2, True)
    # One of the environment gives way to a configuration on the command line
    assert remote("keys", "list", "-c", config, env={"BRIDGE_URL": "http://127.0.0.1:1"}).returncode == 0


def test_status_and_top_of_several_daemons(remote: Remote) -> None:
    found = json.loads(remote("status", "--url", remote.daemon.url, "--url", "http://127.0.0.1:1", "-o", "json").stdout)
    assert (found["asked"], found["answered"]) == (2, 1)
    assert "orders" in remote.ok("top", "--count", "1")


def test_a_daemon_that_is_away(remote: Remote) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        for arguments in (("instances", "list"), ("sources", "pause", "orders"), ("dlq", "groups")):
            done = remote(*arguments, "--url", url)
            assert (done.returncode, "is the daemon running?" in done.stderr) == (3, True)
    wrong = remote("instances", "list", "--url", f"{remote.daemon.url}/elsewhere")
    assert (wrong.returncode, "is this the address of its ops port?" in wrong.stderr) == (3, True)


def test_tls_with_an_own_authority(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path / "ours"), Authority(tmp_path / "other")
    tokens = project(tmp_path / "project", f"tls: {{certificate: {ours.issue('ops')}}}, ")
    with DaemonProcess(tmp_path / "project") as daemon:
        remote = Remote(daemon, tokens, tmp_path)
        assert daemon.url.startswith("https://")
        assert remote("keys", "list", "--ca", str(ours.file)).returncode == 0
        assert remote("status", env={"BRIDGE_CA": str(ours.file)}).returncode == 0
        for ca in ((), ("--ca", str(other.file))):
            done = remote("keys", "list", *ca)
            assert (done.returncode, "Next: name the certificate of its authority with --ca" in done.stderr) == (
                3,
                True,
            )
            assert "the certificate is not trusted" in " ".join(remote("status", *ca).stdout.split())
        context = ssl.create_default_context(cafile=ours.file)
        for _ in range(60):  # also where the client sends before the server begins TLS
            with urllib.request.urlopen(f"{daemon.url}/healthz", timeout=TIMEOUT, context=context) as answer:
                assert answer.status == 200
        broken = remote("keys", "list", "--ca", str(tmp_path / "project" / "bridge.yaml"))
        assert (broken.returncode, "has no readable certificates" in broken.stderr) == (1, True)
