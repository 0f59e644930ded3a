"""Processes of the demo: the daemon, the publisher, and commands that query and control the daemon."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from bridge.brokers.base import Partition, SubscribeOptions
from bridge.brokers.local import LocalBroker
from bridge.config.model.brokers import LocalBrokerConfig
from bridge.core.errors import BridgeError
from bridge.core.provenance import REASON
from bridge.ops.access import new_token, token_line
from demo.generate import REPLAYS

CONFIG = Path(__file__).resolve().parent.parent / "config" / "bridge.yaml"
BRIDGE = (sys.executable, "-m", "bridge")
CLOUDEVENTS = "application/cloudevents+json"
DEAD = "payments.dlq"
"""Topic of the dead letters that are replayed."""
REPLAYED = "payments.replayed"
"""Topic to which they are replayed."""
EXPIRED = b"early_expired"
"""Dead-letter reason of the replayed messages."""


class ShopFailed(Exception):
    """Raised when a process of the demo fails. Its text names the process and its log."""


WAIT = "12s"
"""Time that a payment waits for its order in the demo. In a real shop it would be hours."""


def overlay(directory: Path) -> dict[str, Any]:
    """Overlay of the configuration: all files below `directory`, a free port, and short waits for missing orders.

    Dead letters of payments can be replayed, and a poisoned key of the shipments waits for a person.
    """
    paid = {
        "instance_id": "order-{{ payload.order_id }}",
        "name": "payment",
        "data": "payload",
        "on_missing": {"wait": WAIT},
        "on_finished": "ignore",
    }
    again = ["payments", "replay"]
    return {
        "engine": {"path": str(directory / "engine")},
        "brokers": {"local": {"path": str(directory / "broker")}},
        "sources": {
            "shipments": {"quarantine": {"poll": "200ms"}},
            "replay": {"broker": "local", "topics": [REPLAYED], "trusted": "replay", "no_match": "dead_letter"},
        },
        "routes": [
            {"name": "customer-paid", "from": again},
            {"name": "payment-result", "from": again, "raise_event": paid},
            {"name": "payment-authorised", "from": again},
        ],
        "ops": {
            "http": {"port": 0},
            "state_dir": str(directory / "state"),
        },
    }


FIX: dict[str, Any] = {
    "routes": [
        {"name": "order-teleported", "from": "orders", "match": {"type": "order.teleported"}, "ignore": {}},
    ]
}
"""File of the configuration with the rule that was missing."""


def body(line: dict[str, Any]) -> dict[str, Any]:
    """Line of the file in the form that `bridge publish --jsonl` accepts."""
    content = line["raw"] if "raw" in line else line["event"]
    return {"topic": line["topic"], "key": line["key"], "headers": {"content-type": CLOUDEVENTS}, "body": content}


class Shop:
    """A daemon in its own directory. Use as a context manager; its exit stops every process."""

    def __init__(self, directory: Path) -> None:
        self.log = directory / "daemon.log"
        self._broker_directory = directory / "broker"
        self._ready = directory / "ready.json"
        self.token = new_token()
        """Token for the page, with the rights of an admin."""
        tokens = directory / "tokens"
        tokens.touch(mode=0o600)
        tokens.write_text(token_line(self.token, "visitor", "admin", payloads=True) + "\n", encoding="utf-8")
        overlay_file = directory / "overlay.yaml"
        changes = overlay(directory)
        changes["ops"]["http"]["access"] = {"tokens": str(tokens)}
        overlay_file.write_text(json.dumps(changes), encoding="utf-8")
        self._fix = directory / "fix.yaml"
        self._configuration: tuple[str, ...] = ("-c", str(CONFIG), "--overlay", str(overlay_file))
        self._daemon: subprocess.Popen[bytes] | None = None
        self._publisher: subprocess.Popen[bytes] | None = None
        self._http = ""

    def __enter__(self) -> Shop:
        return self

    def __exit__(self, *exc: object) -> None:
        _stop(self._publisher)
        _stop(self._daemon)

    def open(self, within: float) -> None:
        """Start the daemon and wait until it is ready. Raises: ShopFailed after `within` seconds."""
        command = (*BRIDGE, "serve", *self._configuration, "--ready-file", str(self._ready))
        with self.log.open("ab") as log:
            self._daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        ends = time.monotonic() + within
        while not self._ready.exists() or not self._ready.read_text(encoding="utf-8").strip():
            self.check()
            if time.monotonic() > ends:
                raise ShopFailed(f"the daemon was not ready within {within:.0f} s; its log: {self.log}")
            time.sleep(0.05)
        self._http = str(json.loads(self._ready.read_text(encoding="utf-8"))["http"]).rstrip("/")

    @property
    def url(self) -> str:
        """Address of the page; valid after `open`."""
        return self._http

    def last_words(self, count: int = 15) -> str:
        """Last lines of the log of daemon and publisher."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])

    def check(self) -> None:
        """Check that the daemon runs. Raises: ShopFailed if it has ended."""
        if self._daemon is not None and self._daemon.poll() is not None:
            raise ShopFailed(f"the daemon ended with exit code {self._daemon.returncode}; its log: {self.log}")

    def publish(self, line: dict[str, Any]) -> None:
        """Send one line of the file through the publisher, which is started with the first line. Raises: ShopFailed."""
        if self._publisher is None:
            command = (*BRIDGE, "publish", "local/", "--jsonl", "-", *self._configuration)
            with self.log.open("ab") as log:
                self._publisher = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log
                )
        assert self._publisher.stdin is not None
        try:
            self._publisher.stdin.write(json.dumps(body(line)).encode() + b"\n")
            self._publisher.stdin.flush()
        except BrokenPipeError:
            raise ShopFailed(f"the publisher ended early; see {self.log}") from None

    def published(self, within: float) -> None:
        """Wait until the publisher has sent all lines. Raises: ShopFailed."""
        if self._publisher is None:
            return
        _close(self._publisher.stdin)
        try:
            code = self._publisher.wait(timeout=max(0.1, within))
        except subprocess.TimeoutExpired:
            raise ShopFailed(f"the publisher did not finish; see {self.log}") from None
        if code:
            raise ShopFailed(f"the publisher ended with exit code {code}; see {self.log}")

    def act(self, what: str) -> None:
        """Perform an action of a person. Raises: ShopFailed."""
        if what == "replay":
            asyncio.run(self._replay())
        else:
            self._mend()

    async def _replay(self) -> None:
        """Replay the dead letters of payments whose order never came, REPLAYS times."""
        broker = LocalBroker("local", self._broker_directory, LocalBrokerConfig(type="local"))
        await broker.start()
        try:
            subscription = await broker.subscribe(SubscribeOptions((DEAD,), "clerk"), _Clerk())
            deliveries = await subscription.receive(100)
            dead_letters = [each.message for each in deliveries if (REASON, EXPIRED) in each.message.headers]
            for _ in range(REPLAYS):
                await broker.publish(REPLAYED, dead_letters)
            for delivery in deliveries:
                await delivery.complete()
        except BridgeError as error:
            raise ShopFailed(f"the replay failed: {error}") from None
        finally:
            await broker.stop()

    def _mend(self) -> None:
        """Drop the oldest message of each poisoned key, which poisons it, and release the others."""
        oldest: dict[str, str] = {}
        for each in self._listed("quarantine"):
            oldest.setdefault(each["key"], each["id"])
        for key, id_ in oldest.items():
            of = ("--source", "shipments", key)
            self._bridge("quarantine", "drop", *of, "--id", id_, "--yes")
            self._bridge("quarantine", "release", *of)

    def work(self, within: float) -> dict[str, int]:
        """Group the dead letters, check them against a fixed rule, start the daemon with it, and replay them.

        Returns numbers as `demo.oracle.expect_work`. Raises: ShopFailed.
        """
        groups = json.loads(self._bridge("dlq", "groups", "--json"))
        self._fix.write_text(json.dumps(FIX), encoding="utf-8")
        self._configuration = (*self._configuration, "-c", str(self._fix))
        chosen = ("orders", "--cause", "no_route")
        checked = json.loads(self._bridge("dlq", "check", *chosen, "--json"))
        _stop(self._daemon)
        self.open(within)
        [job] = json.loads(self._bridge("dlq", "replay", *chosen, "--yes", "--json", "--reason", "rule added"))
        ends = time.monotonic() + within
        while (shown := json.loads(self._bridge("jobs", "show", job["job"], "-o", "json")))["state"] != "done":
            if time.monotonic() > ends:
                raise ShopFailed(
                    f"the replay did not end within {within:.0f} s: {shown['counts']}; the log: {self.log}"
                )
            time.sleep(0.2)
        left = json.loads(self._bridge("dlq", "list", *chosen, "--json"))
        return {
            "reasons (dlq groups)": len({each["reason"] for each in groups}),
            "fixed rule: would pass (dlq check)": checked["total"] - checked["failing"],
            "fixed rule: passed (dlq replay)": shown["counts"]["succeeded"],
            "fixed rule: left": len(left),
        }

    def metrics(self) -> str:
        """Text of the daemon's metrics. Raises: ShopFailed."""
        self.check()
        try:
            with urllib.request.urlopen(f"{self._http}/metrics", timeout=10) as response:  # noqa: S310 -- the daemon's own loopback address
                return str(response.read().decode())
        except OSError as error:
            raise ShopFailed(f"the daemon's metrics at {self._http} do not answer: {error}") from None

    def instances(self) -> list[dict[str, Any]]:
        """Instances on the daemon's engine, without the bridge's own. Raises: ShopFailed."""
        found: list[dict[str, Any]] = json.loads(self._bridge("instances", "list", "--json", "--limit", "0"))
        return [each for each in found if not each["instance_id"].startswith("bridge:")]

    def waiting(self) -> list[dict[str, Any]]:
        """Early and quarantined messages on the daemon's engine. Raises: ShopFailed."""
        return [*self._listed("early"), *self._listed("quarantine")]

    def _listed(self, group: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self._bridge(group, "list", "--json", "--limit", "0"))
        return found

    def _bridge(self, *arguments: str) -> bytes:
        command = (*BRIDGE, *arguments, *self._configuration)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise ShopFailed(f"bridge {' '.join(arguments[:2])} failed: {said}")
        return done.stdout


class _Clerk:
    """Listener for one read of a topic."""

    async def assigned(self, partitions: Sequence[Partition]) -> None:
        """Do nothing: all partitions are read."""

    async def revoked(self, partitions: Sequence[Partition]) -> None:
        """Do nothing: no other consumer exists."""


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None and not pipe.closed:
        try:
            pipe.close()
        except BrokenPipeError:
            return  # the process has ended; its exit code shows the result


def _stop(process: subprocess.Popen[bytes] | None) -> None:
    if process is None:
        return
    _close(process.stdin)
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=25)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
