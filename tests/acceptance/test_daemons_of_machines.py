"""Daemons of one engine with state directories of their own, as in pods: each has the status of all."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from bridge.config.source import load
from bridge.engines.entities.reload_requests import REGISTERED_SECONDS, ReloadRequests
from bridge.ops.access import Role, new_token, token_line
from bridge.ops.status import MISSED
from tests.kafka.certificates import Authority
from tests.kit.processes import DaemonProcess, bridge, run_bridge
from tests.kit.three_daemons import engine_process
from tests.kit.waiting import TIMEOUT, eventually_blocking

pytestmark = pytest.mark.timeout(300)
CONFIG = """
engine: {{type: scheduler, endpoint: "{engine}"}}
brokers: {{local: {{type: local}}}}
sources:
  orders: {{broker: local, topics: [orders], codec: json, no_match: ignore, retry: {{in_memory: 1h, max_delay: 1s}}}}
routes:
  - name: pay
    from: orders
    when: has(payload.paid)
    raise_event: {{instance_id: "order-{{{{ payload.paid }}}}", name: paid}}
ops: {{http: {http}}}
"""
ROLES: Sequence[tuple[Role, bool]] = (("reader", False), ("reader", True), ("admin", True))


class Machines:
    """Machines with a daemon each. Every directory has the same tokens and keys, unless the test changes them."""

    def __init__(self, directory: Path, engine: str, stack: ExitStack, scheme: str) -> None:
        self._directory = directory
        self._engine = engine
        self._stack = stack
        self.http: dict[str, Any] = {
            "port": 0,
            "access": {"tokens": "tokens", "sessions": {"keys": ["session.key"]}},
            "peers": {"url": f"{scheme}://127.0.0.1"},
        }
        self.tokens = {each: new_token() for each in ROLES}
        lines = [token_line(token, f"{role}-{with_}", role, with_) for (role, with_), token in self.tokens.items()]
        self._files = {"tokens": "\n".join(lines), "session.key": _key()}

    def directory(self, name: str) -> Path:
        return self._directory / name

    def start(self, name: str, http: Mapping[str, Any] | None = None, key: str | None = None) -> DaemonProcess:
        """Start the daemon of a new machine. http: settings instead of `self.http`. key: instead of the common one."""
        directory = self.directory(name)
        directory.mkdir()
        for file, text in (self._files | ({} if key is None else {"session.key": key})).items():
            (directory / file).write_text(text)
        settings = json.dumps(self.http if http is None else http)
        (directory / "bridge.yaml").write_text(CONFIG.format(engine=self._engine, http=settings))
        return self._stack.enter_context(DaemonProcess(directory))

    def get(self, daemon: DaemonProcess, path: str, role: tuple[Role, bool] = ("reader", False)) -> bytes:
        request = urllib.request.Request(daemon.url + path, headers={"Authorization": f"Bearer {self.tokens[role]}"})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            found: bytes = answer.read()
        return found

    def status(self, daemon: DaemonProcess, role: tuple[Role, bool] = ("reader", False)) -> dict[str, Any]:
        """Status of all daemons, as one of them has it."""
        found: dict[str, Any] = json.loads(self.get(daemon, "/api/v1/status?daemons=all", role))
        return found

    def counts(self, daemon: DaemonProcess) -> tuple[int, int]:
        found = self.status(daemon)
        return found["asked"], found["answered"]

    def silent(self, asked: DaemonProcess, silent: DaemonProcess) -> dict[str, Any] | None:
        """Entry of a daemon that does not answer another one."""
        found = [each for each in self.status(asked)["daemons"] if each["id"].endswith(f"/{silent.pid}")]
        return found[0] if found and not found[0]["answered"] else None

    def until_counts(self, daemon: DaemonProcess, asked: int, answered: int, within: float = TIMEOUT) -> None:
        eventually_blocking(
            lambda: self.counts(daemon) == (asked, answered),
            lambda: json.dumps(self.status(daemon)["daemons"], indent=1),
            within=within,
            poll=0.5,
        )


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Callable[..., Machines]]:
    with ExitStack() as stack:
        engine = stack.enter_context(engine_process(tmp_path))
        yield lambda scheme="http": Machines(tmp_path, engine.url, stack, scheme)


def _key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def publish(directory: Path, *bodies: Mapping[str, Any]) -> None:
    for number, body in enumerate(bodies):
        bridge("publish", "orders", "--key", f"k{number}", "--data", json.dumps(body), cwd=directory)


def test_each_daemon_has_the_sums_of_all(machines: Callable[..., Machines]) -> None:
    it = machines()
    daemons = [it.start(f"machine-{number}") for number in range(3)]
    for number, each in enumerate(daemons):
        publish(it.directory(f"machine-{number}"), {}, {"paid": f"never-{number}"})
        each.wait(lambda each=each: each.settled() == 1, "one is ignored")  # type: ignore[misc]  # mypy cannot infer it
    for each in daemons:
        it.until_counts(each, 3, 3)
    eventually_blocking(
        lambda: (
            {peer["url"] for peer in it.status(daemons[0])["daemons"][0]["peers"]} == {each.url for each in daemons[1:]}
        ),
        "addresses",
    )
    for role in ROLES:
        found = it.status(daemons[0], role)
        assert (found["asked"], found["answered"], found["sources"][0]["received"]) == (3, 3, 6), role
        assert found["sources"][0]["retrying"] == 3
    page = it.get(daemons[1], "/").decode()
    assert "3 daemons" in page
    assert "partial" not in page
    found = json.loads(bridge("status", "-o", "json", cwd=it.directory("machine-2")))
    assert (found["answered"], found["sources"][0]["received"]) == (3, 6), "the command line on one of the machines"
    [one] = json.loads(it.get(daemons[0], "/api/v1/messages/k1"))
    traced = json.loads(it.get(daemons[1], f"/api/v1/messages/{quote(one['message_id'], safe='')}/lineage"))
    assert traced["silent"] == 0
    assert len(traced["answers"]) == 1, "a message that another daemon has in hand"


def test_daemons_that_are_frozen_stopped_killed_and_of_other_versions(machines: Callable[..., Machines]) -> None:
    it = machines()
    own, other, frozen, killed, stopped = (it.start(name) for name in ("own", "other", "frozen", "killed", "stopped"))
    it.until_counts(own, 5, 5)
    stopped.stop()
    it.until_counts(own, 4, 4)
    frozen.signal(signal.SIGSTOP)
    found = it.silent(own, frozen)
    assert found is not None
    assert f"{frozen.url}: no answer within 5 s; it may be frozen; it was registered at 20" in found["detail"]
    assert found["next"] == f"curl --max-time 5 {frozen.url}/healthz"
    assert "partial: 3 of 4 daemons answered" in it.get(own, "/").decode()
    killed.kill()
    ended = time.monotonic()
    found = it.silent(own, killed)
    assert found is not None
    assert f"{killed.url}: cannot connect: connection refused" in found["detail"]

    now = time.time()
    with _registrations(it.directory("own")) as register:
        register({"daemon": "earlier/1", "at": now, "version": "a"})
        register({"daemon": "replaced/1", "at": now, "version": "a", "every": 30.0, "url": other.url})
        register({"daemon": "hostile/1", "at": now, "version": "a", "every": 30.0, "url": "http://x:1/;reboot"})
        register({"daemon": "link/1", "at": now, "version": "a", "every": 30.0, "url": "http://169.254.169.254:80"})
    it.until_counts(own, 8, 2)
    unasked = {each["id"]: each for each in it.status(own)["daemons"] if not each["answered"]}
    assert "it is not on the machine of" in unasked["earlier/1"]["detail"]
    assert f"daemon {os.uname().nodename}/{other.pid} answers at this address" in unasked["replaced/1"]["detail"]
    assert "address that is not asked" in unasked["link/1"]["detail"]
    assert "reboot" not in json.dumps(unasked["hostile/1"])

    eventually_blocking(
        lambda: "has not renewed its registration since" in (it.silent(own, killed) or {"detail": ""})["detail"],
        "the killed one is late",
        within=(MISSED + 1) * REGISTERED_SECONDS,
        poll=1,
    )
    assert time.monotonic() - ended > (MISSED - 2) * REGISTERED_SECONDS, "a busy daemon may miss a registration"
    it.until_counts(own, 4, 2, within=(MISSED + 2) * REGISTERED_SECONDS)
    found = it.silent(own, frozen)
    assert found is not None, "a frozen daemon stays"
    assert "has not renewed its registration since" in found["detail"]
    assert "earlier/1" in json.dumps(it.status(own)), "an earlier version registers every ten minutes"
    frozen.signal(signal.SIGCONT)
    it.until_counts(own, 4, 3)


def test_daemons_that_cannot_be_asked(machines: Callable[..., Machines]) -> None:
    it = machines()
    own = it.start("own")
    other_key = it.start("other-key", key=_key())
    without_key = it.start("without-key", {**it.http, "access": {"tokens": "tokens"}})
    it.until_counts(own, 3, 1)
    found = it.silent(own, other_key)
    assert found is not None
    assert "other keys below `ops.http.access.sessions.keys`" in found["detail"]
    found = it.silent(own, without_key)
    assert found is not None
    assert "it is not on the machine of" in found["detail"]
    it.until_counts(without_key, 3, 1)
    found = it.silent(without_key, own)
    assert found is not None
    assert f"this daemon has no `ops.http.access.sessions.keys` to ask it at {own.url}" in found["detail"]
    assert found["next"] == f"curl --max-time 5 {own.url}/healthz", "a command that sends no token"


def test_certificates_are_verified(machines: Callable[..., Machines], tmp_path: Path) -> None:
    it = machines("https")
    authority, other = Authority(tmp_path / "authority"), Authority(tmp_path / "other")
    certificate = authority.issue("daemon", hosts=["bridge.shop.svc"], address="192.0.2.1")
    https = {**it.http, "tls": {"certificate": str(certificate)}}

    def trusting(file: Path, **more: str) -> dict[str, Any]:
        return {**https, "peers": {**https["peers"], "tls": {"ca": str(file)}, **more}}

    named = it.start("named", trusting(authority.file, server_name="bridge.shop.svc"))
    by_address = it.start("by-address", trusting(authority.file))
    wrong = it.start("wrong", trusting(other.file, server_name="bridge.shop.svc"))

    def status(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run_bridge("status", "-o", "json", cwd=it.directory(name)).stdout)
        return found

    eventually_blocking(lambda: status("named")["answered"] == 3, "the name of the certificates is known", poll=0.5)
    for name, asked in (("by-address", by_address), ("wrong", wrong)):
        eventually_blocking(lambda name=name: status(name)["asked"] == 3, "all are registered", poll=0.5)  # type: ignore[misc]  # mypy cannot infer it
        silent = [each for each in status(name)["daemons"] if not each["answered"]]
        assert len(silent) == 2, name
        assert all("the certificate is not trusted" in each["detail"] for each in silent)
        assert all("`ops.http.peers.tls.ca`" in each["detail"] for each in silent)
        assert asked.runs
    assert named.runs


@contextmanager
def _registrations(directory: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Function that registers a daemon on the engine of a configuration, as any client of the engine can."""
    import asyncio

    from bridge.app.connection import attached

    async def send(value: Mapping[str, Any]) -> None:
        async with attached(load([directory / "bridge.yaml"])) as engine:
            await ReloadRequests(engine).send("register", value)

    yield lambda value: asyncio.run(send(value))
