"""Where a command finds its answer: the address, else the daemon of this machine, else engine and broker."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.kit.processes import DaemonProcess, bridge, run_bridge

pytestmark = pytest.mark.long

CONFIG = """
engine: {type: embedded}
brokers: {local: {type: local}}
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}}
routes: [{name: never, from: orders, when: "false", ignore: {reason: nothing}}]
ops: {http: {port: 0, access: {tokens: tokens, rate: 10000, burst: 100000}}}
"""
KINDS: dict[tuple[str, ...], int] = {
    ("instances", "list"): 3, ("entities", "list", "--json"): 3, ("jobs", "list"): 3, ("limits", "list"): 3,
    ("early", "list"): 3, ("quarantine", "list"): 3, ("keys", "list"): 3, ("sources", "list"): 3,
    ("trace", "ID", "-o", "json"): 3, ("sources", "pause", "orders"): 3,
    ("dlq", "list", "--json"): 0, ("dlq", "groups"): 0, ("dlq", "export"): 0, ("dlq", "show", "ID"): 0,
    ("dlq", "drop", "--id", "ID", "--reason", "x", "--dry-run"): 0, ("audit",): 0, ("status",): 1,
}  # fmt: skip
"""Commands of each kind, with their exit code where no daemon runs: some need only files."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    made = run_bridge("tokens", "new", "ada", "--role", "admin", "--payloads", cwd=tmp_path)
    (tmp_path / "tokens").write_text(made.stdout)
    (tmp_path / "token").write_text(made.stderr.strip())
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "bridge.yaml").write_text(CONFIG.replace("tokens: tokens", "tokens: ../tokens"))
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "project"


def _environment(**given: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")} | given


@pytest.fixture
def closed() -> Iterator[str]:
    """Address at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def test_the_address_then_the_socket_then_engine_and_broker(project: Path, closed: str) -> None:
    token = str(project.parent / "token")
    with DaemonProcess(project) as daemon:
        bridge("publish", "orders", "--data", "{}", cwd=project)
        daemon.wait(lambda: daemon.settled() == 1, "the dead letter")
        [id_] = bridge("dlq", "list", "-o", "ids", cwd=project).split()
        kinds = {tuple(each.replace("ID", id_) for each in arguments): code for arguments, code in KINDS.items()}
        url = _environment(BRIDGE_URL=daemon.url, BRIDGE_TOKEN_FILE=token)
        for arguments in kinds:
            # The address goes before the daemon of the directory, and nothing else is tried
            lost = run_bridge(*arguments, cwd=project, env=_environment(BRIDGE_URL=closed, BRIDGE_TOKEN_FILE=token))
            assert lost.returncode == 3, arguments
            assert any(each in lost.stderr + lost.stdout for each in ("is the daemon running?", "cannot connect")), (
                arguments
            )
            # No configuration is needed with it
            found = run_bridge(*arguments, cwd=project.parent / "elsewhere", env=url)
            good = (0, 1) if arguments == ("status",) else (0,)  # 1: the dead letter is counted already
            assert found.returncode in good, (arguments, found.stderr)
            near = run_bridge(*arguments, cwd=project, env=_environment())
            assert near.returncode in good, (arguments, near.stderr)
        lines = [
            json.loads(line) for line in bridge("audit", "--action", "sources", "--json", cwd=project).splitlines()
        ]
        assert [(line["action"], line["via"]) for line in lines] == [
            ("sources.pause", "token"), ("sources.pause", "socket"),
        ]  # fmt: skip
    for arguments, code in kinds.items():
        alone = run_bridge(*arguments, cwd=project, env=_environment())
        assert alone.returncode == code, (arguments, alone.stdout, alone.stderr)
        text = alone.stdout + alone.stderr
        assert code == 0 or any(each in text for each in ("is the daemon running?", "bridge serve")), (arguments, text)


async def test_a_daemon_of_an_earlier_version_is_named(tmp_path: Path) -> None:
    async def engines(_: web.Request) -> web.Response:
        return web.json_response([{"name": "default", "type": "embedded", "fingerprint": "x", "table": 3}])

    async def unknown(_: web.Request) -> web.Response:
        body = {"type": "about:blank", "title": "", "status": 404, "detail": "Not Found", "reason": "not_found"}
        return web.json_response(body, status=404, content_type="application/problem+json")

    app = web.Application()
    app.router.add_get("/api/v1/engines", engines)
    app.router.add_route("*", "/{any:.*}", unknown)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        for arguments in (("dlq", "export"), ("dlq", "edit", "a"), ("canary", "status"), ("sources", "list"), ("tap",)):
            done = await asyncio.to_thread(run_bridge, *arguments, "--url", url, cwd=tmp_path)
            assert done.returncode in (1, 3), (arguments, done.stdout)
            assert "earlier version" in done.stderr, (arguments, done.stderr)
            assert "Next: update the daemon" in done.stderr, (arguments, done.stderr)
    finally:
        await runner.cleanup()
