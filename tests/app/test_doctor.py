"""`bridge doctor` on the embedded engine, the local broker, a scheduler and Service Bus."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import sqlite3
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from aiohttp import web
from azure.identity import aio as identity
from azure.servicebus import ServiceBusMessage
from click.testing import CliRunner

from bridge.app import doctor
from bridge.app.composition import load_config
from bridge.app.doctor import CheckResult, diagnose
from bridge.cli import root
from bridge.core.diagnosis import AREAS, CheckVerdict
from bridge.core.errors import ConfigError
from bridge.system import disk
from tests.engines.sidecar import Sidecar
from tests.kafka.certificates import Authority
from tests.kafka.server import ThreadedServer
from tests.kit.processes import DaemonProcess
from tests.servicebus.issuer import RECEIVER, SENDER, TokenIssuer
from tests.servicebus.sdk import Client
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer
from tests.servicebus.server.access.keys import AccessKey

pytestmark = pytest.mark.timeout(120)

Results = dict[tuple[str, str], CheckResult]

LOCAL: dict[str, Any] = {
    "engine": {"type": "embedded"},
    "brokers": {"local": {"type": "local", "retention": "3d"}},
    "sources": {"orders": {"broker": "local", "topics": ["orders"], "no_match": "ignore"}},
    "ops": {"http": {"port": 0}},
}


def _write(directory: Path, config: dict[str, Any]) -> Path:
    path = directory / "bridge.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


async def _diagnose(path: Path, *areas: str, seconds: float = 10.0) -> Results:
    found = await diagnose(load_config([path]), areas or AREAS, seconds, lambda text: None)
    assert not [
        each for each in found.results if each.verdict in (CheckVerdict.PROBLEM, CheckVerdict.WARNING) and not each.fix
    ]
    return {(each.subject, each.check): each for each in found.results}


def _tree(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, size and time of change of everything below a directory."""
    return {
        str(path.relative_to(directory)): (found.st_mode, found.st_size, found.st_mtime_ns)
        for path in [directory, *directory.rglob("*")]
        if (found := path.lstat())
    }


async def test_nothing_is_created_before_the_first_start(tmp_path: Path) -> None:
    path = _write(tmp_path, LOCAL)
    before = _tree(tmp_path)
    found = await _diagnose(path)
    assert _tree(tmp_path) == before
    assert not [each for each in found.values() if each.verdict is CheckVerdict.PROBLEM]
    assert "will be created" in found["engine default", "file"].detail
    assert "no daemon runs" in found["engine default", "reachable"].detail
    assert "will be created" in found["broker local", "file"].detail


async def test_beside_a_running_daemon_and_after_its_end_nothing_is_changed(tmp_path: Path) -> None:
    path = _write(tmp_path, LOCAL)
    with DaemonProcess(tmp_path) as daemon:
        state = tmp_path / ".bridge"
        before = set(_tree(state))
        found = await _diagnose(path)
        assert set(_tree(state)) == before
        assert f"process {daemon.pid} hosts the engine" in found["engine default", "reachable"].detail
        assert found["engine default", "file"].verdict is CheckVerdict.OK
        assert found["broker local", "file"].verdict is CheckVerdict.OK
        daemon.kill()
    before_ = _tree(state)
    found = await _diagnose(path)
    # The files of the write-ahead log stay as the killed daemon left them
    assert set(_tree(state)) == set(before_)
    assert "no daemon runs" in found["engine default", "reachable"].detail
    assert found["engine default", "file"].verdict is CheckVerdict.OK


async def test_a_frozen_daemon_is_named_within_the_time(tmp_path: Path) -> None:
    path = _write(tmp_path, LOCAL)
    with DaemonProcess(tmp_path) as daemon:
        daemon.signal(signal.SIGSTOP)
        began = time.monotonic()
        found = await _diagnose(path, "engine", seconds=2.0)
        assert time.monotonic() - began < 20
        daemon.signal(signal.SIGCONT)
        reachable = found["engine default", "reachable"]
        assert reachable.verdict is CheckVerdict.PROBLEM
    assert found["engine default", "file"].verdict is CheckVerdict.OK


async def test_a_damaged_file_and_a_foreign_one_are_found(tmp_path: Path) -> None:
    path = _write(tmp_path, LOCAL)
    engine = tmp_path / ".bridge" / "engine"
    engine.mkdir(parents=True)
    (engine / "engine.db").write_bytes(b"no database at all" * 1000)
    found = await _diagnose(path, "engine")
    assert found["engine default", "file"].verdict is CheckVerdict.PROBLEM
    (engine / "engine.db").unlink()
    other = sqlite3.connect(engine / "engine.db")
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    other.close()
    before = _tree(tmp_path)
    found = await _diagnose(path, "engine")
    assert "not one of this engine" in found["engine default", "file"].detail
    assert _tree(tmp_path) == before


async def test_a_directory_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    path = _write(tmp_path, LOCAL)
    engine = tmp_path / ".bridge" / "engine"
    engine.mkdir(parents=True)
    engine.chmod(0o755)
    found = (await _diagnose(path, "engine"))["engine default", "access"]
    assert (found.verdict, found.fix) == (CheckVerdict.WARNING, f"chmod 700 {engine}")
    assert engine.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("space", "check", "verdict"),
    [
        (disk.Space(10 << 20, 1 << 40, "ext4"), "free disk", CheckVerdict.PROBLEM),
        (disk.Space(500 << 20, 1 << 40, "ext4"), "free disk", CheckVerdict.WARNING),
        (disk.Space(1 << 39, 1 << 40, "nfs4"), "file system", CheckVerdict.PROBLEM),
        (disk.Space(1 << 39, 1 << 40, "tmpfs"), "file system", CheckVerdict.WARNING),
    ],
)
async def test_disks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: disk.Space, check: str, verdict: CheckVerdict
) -> None:
    monkeypatch.setattr(disk, "space", lambda path: space)
    found = (await _diagnose(_write(tmp_path, LOCAL), "engine", "local"))["engine default", check]
    assert found.verdict is verdict
    assert found.fix


def test_a_disk_that_hangs_keeps_neither_the_checks_nor_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    monkeypatch.setattr(disk, "space", lambda path: never.wait())
    found = _run("-c", str(_write(tmp_path, LOCAL)), "--only", "local", "--timeout", "500ms", "-o", "json")
    checks = {each["check"]: each["verdict"] for each in json.loads(found.stdout)["checks"]}
    assert checks["free disk"] == "not checked"
    assert checks["access"] == "ok"


async def test_retention_against_retention(tmp_path: Path) -> None:
    config = LOCAL | {
        "engine": {"type": "embedded", "retention": "1d"},
        "routes": [
            {"name": "start", "from": "orders", "schedule": {"orchestration": "o", "instance_id": "o-{{ event.id }}"}}
        ],
        "workflows": {"external": ["o"]},
    }
    found = (await _diagnose(_write(tmp_path, config)))["source orders", "retention"]
    assert found.verdict is CheckVerdict.WARNING
    assert "keeps finished instances for 1d" in found.detail
    assert found.fix == "engines.default.retention: 3d"


async def test_an_invalid_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        await _diagnose(
            _write(tmp_path, LOCAL | {"routes": [{"name": "x", "from": "orders", "ignore": {}, "when": "(("}]})
        )


def test_versions_outside_of_the_tested_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(metadata, "version", lambda package: "1.13.0")
    found = dict(doctor._versions(load_config([_write(tmp_path, LOCAL)])))
    assert found["durabletask"].verdict is CheckVerdict.PROBLEM
    assert "tested: " in found["durabletask"].detail
    assert "aiokafka" not in found  # the configuration needs no Kafka


# -- the command


def _run(*arguments: str) -> Any:
    return CliRunner().invoke(root, ["doctor", *arguments], prog_name="bridge")


def test_the_command_prints_a_table_and_the_fixes(tmp_path: Path) -> None:
    config = LOCAL | {"ops": {"http": {"host": "0.0.0.0", "port": 0, "allowed_hosts": []}}}
    path = _write(tmp_path, config)
    found = _run("-c", str(path), "--only", "settings,local")
    assert found.exit_code == 0
    assert "warning" in found.stdout
    assert "ops_port" not in found.stdout
    assert "1 warning" in found.stdout
    assert _run("-c", str(path), "--only", "settings", "--strict").exit_code == 1
    document = json.loads(_run("-c", str(path), "--only", "settings", "-o", "json").stdout)
    assert document["ok"] is True
    assert document["counts"]["warning"] == 1
    assert document["checks"][0]["fix"]
    wrong = _run("-c", str(path), "--only", "kafak")
    assert wrong.exit_code == 2
    assert "no area 'kafak'" in wrong.stderr


def test_exit_codes(tmp_path: Path) -> None:
    kafka = {"type": "kafka", "bootstrap_servers": "127.0.0.1:9"}
    config = LOCAL | {"brokers": {"local": kafka}}
    assert _run("-c", str(_write(tmp_path, config)), "--only", "kafka", "--timeout", "3s").exit_code == 1
    (tmp_path / "bridge.yaml").write_text("engine: {type: embeded}\n")
    assert _run("-c", str(tmp_path / "bridge.yaml")).exit_code == 3


async def test_a_slow_check_is_announced_and_ends(tmp_path: Path) -> None:
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    config = LOCAL | {"brokers": {"local": {"type": "kafka", "bootstrap_servers": f"127.0.0.1:{port}"}}}
    said: list[str] = []
    began = time.monotonic()
    found = await diagnose(load_config([_write(tmp_path, config)]), ("kafka",), 2.0, said.append)
    assert time.monotonic() - began < 15
    assert said == ["still checking broker local: reachable …"]
    assert found.results[0].verdict is CheckVerdict.PROBLEM
    silent.close()


# -- scheduler


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Sidecar]:
    sidecar = Sidecar(tmp_path)
    sidecar.start()
    yield sidecar
    sidecar.close()


def _scheduler(directory: Path, sidecar: Sidecar) -> Path:
    engine = {"type": "scheduler", "endpoint": sidecar.endpoint, "task_hub": "shop", "timeout": "2s"}
    return _write(directory, LOCAL | {"engine": engine})


async def test_a_scheduler(tmp_path: Path, sidecar: Sidecar) -> None:
    found = await _diagnose(_scheduler(tmp_path, sidecar), "engine")
    assert [found["engine default", check].verdict for check in ("reachable", "task hub", "role")] == [
        CheckVerdict.OK
    ] * 3
    assert found["engine default", "clock"].verdict is CheckVerdict.NOT_CHECKED  # this engine sends no date


@pytest.mark.parametrize("ahead", [-60, 60])
async def test_a_clock_that_differs_from_the_scheduler_s(tmp_path: Path, sidecar: Sidecar, ahead: int) -> None:
    there = datetime.now(UTC) + timedelta(seconds=ahead)
    sidecar.gate.date = there.strftime("%a, %d %b %Y %H:%M:%S GMT")
    found = (await _diagnose(_scheduler(tmp_path, sidecar), "engine"))["engine default", "clock"]
    assert found.verdict is CheckVerdict.WARNING
    assert "differ by" in found.detail


async def test_a_missing_role_is_named_with_its_command(tmp_path: Path, sidecar: Sidecar) -> None:
    sidecar.gate.refusal = (grpc.StatusCode.PERMISSION_DENIED, "no access")
    found = await _diagnose(_scheduler(tmp_path, sidecar), "engine")
    role = found["engine default", "role"]
    assert role.verdict is CheckVerdict.PROBLEM
    assert 'az role assignment create --role "Durable Task Data Contributor"' in role.fix
    assert role.fix.endswith("/taskHubs/shop")


async def test_a_role_that_only_reads_is_found(tmp_path: Path, sidecar: Sidecar) -> None:
    sidecar.gate.refused_methods = {"PurgeInstances"}
    role = (await _diagnose(_scheduler(tmp_path, sidecar), "engine"))["engine default", "role"]
    assert role.verdict is CheckVerdict.PROBLEM
    assert "reading is allowed, writing is not" in role.detail


async def test_a_missing_task_hub_is_named(tmp_path: Path, sidecar: Sidecar) -> None:
    sidecar.gate.refusal = (grpc.StatusCode.NOT_FOUND, "The task hub 'shop' does not exist")
    found = await _diagnose(_scheduler(tmp_path, sidecar), "engine")
    hub = found["engine default", "task hub"]
    assert hub.verdict is CheckVerdict.PROBLEM
    assert "az durabletask taskhub create" in hub.fix
    assert found["engine default", "role"].verdict is CheckVerdict.NOT_CHECKED


async def test_a_scheduler_that_is_away(tmp_path: Path, sidecar: Sidecar) -> None:
    path = _scheduler(tmp_path, sidecar)
    sidecar.go_away()
    found = await _diagnose(path, "engine")
    assert found["engine default", "reachable"].verdict is CheckVerdict.PROBLEM
    assert found["engine default", "role"].verdict is CheckVerdict.NOT_CHECKED


# -- Service Bus

LISTEN = AccessKey("listen", "bGlzdGVu", frozenset({"Listen"}))
SERVER = ServerConfig(
    (QueueConfig("orders", lock_duration=5), QueueConfig("by-session", requires_session=True), QueueConfig("out")),
    keys=(AccessKey("all", "YWxs"), LISTEN),
)


def _bus(directory: Path, connection: str, **source: Any) -> Path:
    orders = {"broker": "bus", "queue": "orders", "no_match": "ignore"} | source
    config = {
        "engine": {"type": "embedded"},
        "brokers": {"bus": {"type": "servicebus", "connection_string": connection}},
        "sources": {"orders": orders},
        "targets": {"out": {"broker": "bus", "queue": "out"}},
    }
    return _write(directory, config)


async def test_a_queue_is_peeked_at_and_no_message_delivered(tmp_path: Path) -> None:
    async with ServiceBusServer(SERVER) as server:
        async with Client.from_connection_string(server.connection_string) as client:
            async with client.get_queue_sender("orders") as sender:
                await sender.send_messages([ServiceBusMessage("one"), ServiceBusMessage("two")])
            found = await _diagnose(_bus(tmp_path, server.connection_string), "servicebus")
            assert found["source orders", "readable"].verdict is CheckVerdict.OK
            assert found["target out", "writable"].verdict is CheckVerdict.OK
            assert found["broker bus", "clock"].verdict is CheckVerdict.OK
            assert found["source orders", "entity settings"].verdict is CheckVerdict.NOT_CHECKED
            async with client.get_queue_receiver("orders") as receiver:
                messages = await receiver.receive_messages(10, max_wait_time=5)
                assert [message.delivery_count for message in messages] == [0, 0]
            async with client.get_queue_receiver("out") as receiver:
                assert await receiver.peek_messages(1) == []
        assert server.counters.crashes == []


async def test_missing_rights_and_entities_of_service_bus_are_named(tmp_path: Path) -> None:
    async with ServiceBusServer(SERVER) as server:
        found = await _diagnose(_bus(tmp_path, server.connection_string_with(LISTEN)), "servicebus")
        assert found["source orders", "readable"].verdict is CheckVerdict.OK
        lacking = found["target out", "writable"]
        assert lacking.verdict is CheckVerdict.PROBLEM
        assert "Send" in lacking.detail
        assert "--rights Send" in lacking.fix
        found = await _diagnose(_bus(tmp_path, server.connection_string, queue="nowhere"), "servicebus")
        missing = found["source orders", "readable"]
        assert missing.verdict is CheckVerdict.PROBLEM
        assert "az servicebus queue create" in missing.fix


async def test_missing_roles_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, issuer = Authority(tmp_path), TokenIssuer()
    monkeypatch.setattr(identity, "DefaultAzureCredential", lambda **given: issuer.credential("bridge"))
    config = dataclasses.replace(SERVER, verifier=issuer, certificate=authority.issue("bus"))
    async with ServiceBusServer(config) as server:
        path = _bus(tmp_path, "")
        given = yaml.safe_load(path.read_text())
        place = {"namespace": "localhost.test", "endpoint": server.address, "tls": {"ca": str(authority.file)}}
        given["brokers"]["bus"] = {"type": "servicebus", **place}
        _write(tmp_path, given)
        found = await _diagnose(path, "servicebus")
        for subject, check, role in (
            ("source orders", "readable", "Azure Service Bus Data Receiver"),
            ("target out", "writable", "Azure Service Bus Data Sender"),
        ):
            assert found[subject, check].verdict is CheckVerdict.PROBLEM
            assert f"the role {role}" in found[subject, check].detail
            assert f'az role assignment create --role "{role}"' in found[subject, check].fix
        issuer.assign("bridge", RECEIVER, "orders")
        issuer.assign("bridge", SENDER, "out")
        found = await _diagnose(path, "servicebus")
        assert found["source orders", "readable"].verdict is CheckVerdict.OK
        assert found["target out", "writable"].verdict is CheckVerdict.OK


async def test_sessions_are_compared_without_taking_one(tmp_path: Path) -> None:
    async with (
        ServiceBusServer(SERVER) as server,
        Client.from_connection_string(server.connection_string) as client,
    ):
        async with client.get_queue_sender("by-session") as sender:
            await sender.send_messages(ServiceBusMessage("one", session_id="a"))
        found = await _diagnose(_bus(tmp_path, server.connection_string, queue="by-session"), "servicebus")
        assert found["source orders", "readable"].fix == "sources.orders.sessions: true"
        path = _bus(tmp_path, server.connection_string, queue="by-session", sessions=True)
        assert (await _diagnose(path, "servicebus"))["source orders", "sessions"].verdict is CheckVerdict.OK
        path = _bus(tmp_path, server.connection_string, sessions=True)
        assert (await _diagnose(path, "servicebus"))["source orders", "sessions"].verdict is CheckVerdict.PROBLEM
        async with client.get_queue_receiver("by-session", session_id="a") as receiver:
            (message,) = await receiver.receive_messages(1, max_wait_time=5)
            assert message.delivery_count == 0


ATOM = """<entry xmlns="http://www.w3.org/2005/Atom"><title>orders</title><content type="application/xml">
<QueueDescription xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/connect">
<LockDuration>PT5S</LockDuration><MaxSizeInMegabytes>1024</MaxSizeInMegabytes><RequiresSession>false</RequiresSession>
<DefaultMessageTimeToLive>PT1H</DefaultMessageTimeToLive>
<DeadLetteringOnMessageExpiration>false</DeadLetteringOnMessageExpiration><MaxDeliveryCount>2</MaxDeliveryCount>
</QueueDescription></content></entry>"""


@pytest.mark.parametrize("status", [200, 401])
async def test_settings_of_an_entity_need_the_right_to_manage(tmp_path: Path, status: int) -> None:
    """The management of a namespace, which the test server does not have, answers here over HTTPS."""
    authority = Authority(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.issue("server"))

    async def answer(request: web.Request) -> web.Response:
        assert request.path == "/orders"
        return web.Response(status=status, text=ATOM if status == 200 else "", content_type="application/atom+xml")

    application = web.Application()
    application.router.add_get("/{entity}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    config = dataclasses.replace(SERVER, certificate=authority.issue("bus"))
    async with ServiceBusServer(config) as server:
        path = _bus(tmp_path, f"Endpoint=sb://localhost:{port};SharedAccessKeyName=all;SharedAccessKey=YWxs")
        given = yaml.safe_load(path.read_text())
        given["brokers"]["bus"] |= {"endpoint": server.address, "tls": {"ca": str(authority.file)}}
        found = await _diagnose(_write(tmp_path, given))
    await runner.cleanup()
    settings = found["source orders", "entity settings"]
    if status == 401:
        assert settings.verdict is CheckVerdict.NOT_CHECKED
        assert "Azure Service Bus Data Owner" in settings.detail
        return
    assert settings.verdict is CheckVerdict.WARNING
    for part in (
        "lock duration 5s",
        "max delivery count 2",
        "expire unseen after 1h",
        "a longer outage loses messages",
    ):
        assert part in settings.detail
    assert "az servicebus queue update --name orders --lock-duration PT1M" in settings.fix


# -- a Kafka server that tells no operations


async def test_a_cluster_that_tells_no_operations_is_not_judged(tmp_path: Path) -> None:
    server = ThreadedServer()
    try:
        config: dict[str, Any] = {
            "engine": {"type": "embedded"},
            "brokers": {"kafka": {"type": "kafka", "bootstrap_servers": server.bootstrap}},
            "sources": {"orders": {"broker": "kafka", "topics": ["orders"], "no_match": "ignore"}},
        }
        found = await _diagnose(_write(tmp_path, config), "kafka")
        assert found["broker kafka", "reachable"].verdict is CheckVerdict.OK
        assert "no topic orders" in found["broker kafka", "topics"].detail
        assert found["broker kafka", "permissions"].verdict is CheckVerdict.NOT_CHECKED
        # Two brokers that are one cluster
        config["brokers"]["again"] = config["brokers"]["kafka"]
        config["sources"]["twice"] = config["sources"]["orders"] | {"broker": "again"}
        shared = (await _diagnose(_write(tmp_path, config), "kafka"))["brokers again, kafka", "clusters"]
        assert shared.verdict is CheckVerdict.PROBLEM
        assert "are one cluster" in shared.detail
        assert shared.fix == "sources.twice.group: another name"
    finally:
        server.stop()
