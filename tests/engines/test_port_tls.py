"""Engine port with TLS over real connections: server certificates, client certificates, and renewal."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.orchestrator_service_pb2_grpc import TaskHubSidecarServiceStub
from pydantic import ValidationError

from bridge.app.composition import build_engine, load_config
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.errors import EngineMisconfigured
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.protocol.server import Guard, Server
from bridge.sqlite_engine.protocol.service import AioSidecarService
from bridge.system.tls import TlsFiles
from tests.kafka.certificates import Authority
from tests.kit.waiting import TIMEOUT

TOKEN = "t0ken-of-more-than-thirty-two-characters"
GOOD = (("authorization", f"Bearer {TOKEN}"),)


def ask(port: int, authority: Authority, *, client: Path | None = None, token: bool = True) -> grpc.StatusCode:
    """Return the status of a call over a new connection; UNAVAILABLE when TLS fails."""
    mine = None if client is None else client.read_bytes()
    credentials = grpc.ssl_channel_credentials(authority.file.read_bytes(), mine, mine)
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        try:
            TaskHubSidecarServiceStub(channel).GetInstance(
                pb.GetInstanceRequest(instanceId="a"), timeout=TIMEOUT, metadata=GOOD if token else ()
            )
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def serve(database: Database, files: TlsFiles, token: str | None = TOKEN) -> Server:
    server = Server(AioSidecarService(database), ["127.0.0.1:0"], Guard(token=token, tls=files))
    server.start()
    return server


def test_calls_come_over_tls_with_the_token(database: Database, authority: Authority, tmp_path: Path) -> None:
    server = serve(database, TlsFiles(authority.issue("engine")))
    try:
        assert ask(server.ports[0], authority) is grpc.StatusCode.OK
        assert ask(server.ports[0], authority, token=False) is grpc.StatusCode.UNAUTHENTICATED
        assert ask(server.ports[0], Authority(tmp_path / "other")) is grpc.StatusCode.UNAVAILABLE
        with grpc.insecure_channel(f"127.0.0.1:{server.ports[0]}") as channel:
            stub = TaskHubSidecarServiceStub(channel)
            with pytest.raises(grpc.RpcError):
                stub.GetInstance(pb.GetInstanceRequest(instanceId="a"), timeout=TIMEOUT, metadata=GOOD)
    finally:
        server.stop()


def test_clients_need_a_certificate_where_one_is_asked_for(
    database: Database, authority: Authority, tmp_path: Path
) -> None:
    server = serve(database, TlsFiles(authority.issue("engine"), None, authority.file), token=None)
    try:
        assert ask(server.ports[0], authority, client=authority.issue("worker")) is grpc.StatusCode.OK
        assert ask(server.ports[0], authority) is grpc.StatusCode.UNAVAILABLE
        stranger = Authority(tmp_path / "other").issue("worker")
        assert ask(server.ports[0], authority, client=stranger) is grpc.StatusCode.UNAVAILABLE
    finally:
        server.stop()


def test_a_renewed_certificate_is_used_at_once(database: Database, authority: Authority, tmp_path: Path) -> None:
    """A broken certificate is not used: the last good one stays."""
    later = Authority(tmp_path / "later")
    file = tmp_path / "engine.pem"
    shutil.copy(authority.issue("engine"), file)
    server = serve(database, TlsFiles(file))
    try:
        assert ask(server.ports[0], authority) is grpc.StatusCode.OK
        renew(file, later.issue("engine").read_bytes())
        assert ask(server.ports[0], later) is grpc.StatusCode.OK
        assert ask(server.ports[0], authority) is grpc.StatusCode.UNAVAILABLE
        renew(file, b"no certificate")
        assert ask(server.ports[0], later) is grpc.StatusCode.OK
        renew(file, authority.issue("engine").read_bytes())
        assert ask(server.ports[0], authority) is grpc.StatusCode.OK
    finally:
        server.stop()


def renew(file: Path, content: bytes) -> None:
    """Replace a file by a new one, as cert-manager does."""
    fresh = file.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(file)


async def test_the_engine_of_a_configuration(authority: Authority, tmp_path: Path) -> None:
    """Files are relative to the configuration; a client of the SDK connects with the given authority."""
    authority.issue("engine")
    (tmp_path / "bridge.yaml").write_text(
        f'engine: {{type: embedded, listen: "127.0.0.1:0", token: {TOKEN}, tls: {{certificate: ca/engine.pem}}}}\n'
        "brokers: {local: {type: local}}\n"
    )
    engine = build_engine(load_config([tmp_path / "bridge.yaml"]), "default", host=True)
    assert isinstance(engine, EmbeddedEngine)
    await engine.start()
    try:
        port = engine._servers[1].ports[0]
        program = (
            "import asyncio, sys\n"
            "from bridge.config.model.engines import SchedulerEngineConfig as C\n"
            "from bridge.engines.scheduler import SchedulerEngine\n"
            "async def main():\n"
            "    engine = SchedulerEngine('x', C(type='scheduler', endpoint=sys.argv[1], token=sys.argv[2]))\n"
            "    await engine.start()\n"
            "    await engine.probe()\n"
            "    print('reached')\n"
            "    await engine.stop()\n"
            "asyncio.run(main())\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, f"https://127.0.0.1:{port}", TOKEN],
            env=os.environ | {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(authority.file)},
            capture_output=True, text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip
        assert done.stdout == "reached\n", done.stderr
    finally:
        await engine.stop()


@pytest.mark.parametrize("wrong", ["missing", "not PEM", "no key", "key with a password", "client_ca"])
def test_files_that_cannot_be_used_start_nothing(
    database: Database, authority: Authority, tmp_path: Path, wrong: str
) -> None:
    good = authority.issue("engine")
    file, client_ca = tmp_path / "x.pem", None
    content = {
        "not PEM": b"hello",
        "no key": b"-----BEGIN CERTIFICATE" + good.read_bytes().partition(b"-----BEGIN CERTIFICATE")[2],
        "key with a password": good.read_bytes().replace(b"BEGIN PRIVATE KEY", b"BEGIN ENCRYPTED PRIVATE KEY"),
        "client_ca": good.read_bytes(),
    }
    if wrong != "missing":
        file.write_bytes(content[wrong])
    if wrong == "client_ca":
        client_ca = tmp_path / "nothing.pem"
        client_ca.write_text("no authority")
    server = Server(
        AioSidecarService(database), ["127.0.0.1:0"], Guard(token=TOKEN, tls=TlsFiles(file, None, client_ca))
    )
    with pytest.raises(EngineMisconfigured, match=r"\.pem: "):
        server.start()
    server.stop()


EVERYWHERE = ("0.0.0.0:8080", "[::]:8080", "10.1.2.3:8080", "engine.internal:8080")
REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({}, "needs a `token`"),
    ({"tls": {"certificate": "x"}}, "needs a `token`"),
    ({"behind_tls_proxy": True}, "needs a `token`"),
    ({"token": TOKEN}, "needs `tls`"),
)
TAKEN: tuple[dict[str, Any], ...] = (
    {"token": TOKEN, "tls": {"certificate": "x"}},
    {"token": TOKEN, "behind_tls_proxy": True},
    {"tls": {"certificate": "x", "client_ca": "y"}},
)


@pytest.mark.parametrize("listen", EVERYWHERE)
def test_a_port_beyond_loopback_is_never_open_to_strangers(listen: str) -> None:
    for settings, said in REFUSED:
        with pytest.raises(ValidationError, match=said):
            EmbeddedEngineConfig.model_validate({"type": "embedded", "listen": listen} | settings)
    for settings in TAKEN:
        EmbeddedEngineConfig.model_validate({"type": "embedded", "listen": listen} | settings)
    files = TlsFiles(Path("x"))
    for guard in (Guard(), Guard(tls=files), Guard(behind_tls_proxy=True), Guard(token=TOKEN)):
        with pytest.raises(EngineMisconfigured, match="not loopback"):
            guard.check(listen)
    for guard in (
        Guard(token=TOKEN, tls=files), Guard(token=TOKEN, behind_tls_proxy=True),
        Guard(tls=TlsFiles(Path("x"), None, Path("y"))),
    ):  # fmt: skip
        guard.check(listen)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:1", "[::1]:80", "127.8.9.1:65535"])
def test_loopback_may_go_without(listen: str) -> None:
    EmbeddedEngineConfig.model_validate({"type": "embedded", "listen": listen})
    Guard().check(listen)


def test_tls_needs_a_port() -> None:
    with pytest.raises(ValidationError, match="`tls` needs `listen`"):
        EmbeddedEngineConfig.model_validate({"type": "embedded", "tls": {"certificate": "x"}})
