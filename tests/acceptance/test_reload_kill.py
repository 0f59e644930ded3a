"""Reloads under load with rules that keep their ids: nothing lost, nothing doubled, in order per key.

The daemon reloads again and again: by the command, by SIGHUP, by a symbolic link that is exchanged, several at once,
with a broken file, while the engine is away, and while the daemon is killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from bridge.core.message import Message
from tests.acceptance.channel import LocalChannel
from tests.kit.processes import DaemonProcess, bridge, run_bridge
from tests.kit.three_daemons import engine_process
from tests.kit.waiting import eventually_blocking

KEYS = 10
PAUSE = 0.2
"""Seconds between two messages of a key."""
FLOWS = """
from bridge.workflow import Entity


class journal(Entity):
    def add(self, number):
        self.set_state([*self.get_state(list, []), number])
"""
CONFIG = """
engine: {{type: scheduler, endpoint: "{engine}"}}
workflows: [reload_journal]
vars: {{version: {version}}}
brokers: {{local: {broker}}}
sources:
  orders: {{broker: local, topics: [orders], codec: json, no_match: dead_letter}}
  other: {{broker: local, topics: [other], group: other, codec: json, no_match: ignore{more}}}
routes:
  - name: add
    from: orders
    when: payload.number >= 0 && vars.version >= 0
    signal_entity: {{entity: journal, key: "{{{{ payload.key }}}}", operation: add, input: payload.number}}
  - {{name: never, from: orders, when: "payload.number > 1000000 + {version}", ignore: {{}}}}
ops: {{http: {{port: 0}}, reload: {{watch: true, interval: 200ms}}}}
"""


class Mounted:
    """Configuration as Kubernetes mounts a ConfigMap: the link `..data` leads to a directory of one version."""

    def __init__(self, directory: Path, engine: str, broker: str) -> None:
        self.directory = directory
        self._engine, self._broker = engine, broker
        self.version = 0
        directory.mkdir()
        self._point(self._written("")[0])
        (directory / "bridge.yaml").symlink_to("..data/bridge.yaml")

    def text(self, more: str = "") -> str:
        self.version += 1
        return CONFIG.format(engine=self._engine, broker=self._broker, version=self.version, more=more)

    def exchange(self, more: str = "") -> None:
        """Write the next version, and exchange the link at once."""
        self._point(self._written(more)[0])

    def rewrite(self, text: str | None = None) -> None:
        """Replace the file of the present version."""
        target = (self.directory / "bridge.yaml").resolve()
        new = target.with_suffix(".new")
        new.write_text(self.text() if text is None else text)
        new.replace(target)

    def _written(self, more: str) -> tuple[str, Path]:
        text = self.text(more)
        folder = self.directory / f"..{self.version}"
        folder.mkdir()
        (folder / "bridge.yaml").write_text(text)
        return folder.name, folder

    def _point(self, name: str) -> None:
        link = self.directory / "..new"
        link.symlink_to(name)
        os.replace(link, self.directory / "..data")  # noqa: PTH105 -- replaces the link, not its target


def in_use(daemon: DaemonProcess) -> str:
    [labels] = daemon.metrics("bridge_info")
    return labels


def settled_more(daemon: DaemonProcess) -> None:
    """Wait until messages of the load were settled since this call."""
    before = daemon.settled()
    daemon.wait(lambda: daemon.settled() > before, "messages are settled")


def reloads(daemon: DaemonProcess, result: str) -> int:
    return int(daemon.metrics("bridge_config_reloads_total")[f'{{result="{result}"}}'])


class Load(threading.Thread):
    """Publisher of a message of every key again and again, with the next number, until it is stopped."""

    def __init__(self, channel: LocalChannel) -> None:
        super().__init__()
        self._channel = channel
        self._ended = threading.Event()
        self.published = 0
        """Messages of each key."""

    def run(self) -> None:
        while not self._ended.wait(PAUSE):
            bodies = {f"k{key}": {"key": f"k{key}", "number": self.published} for key in range(KEYS)}
            self._channel.publish([Message(orjson.dumps(body), key.encode()) for key, body in bodies.items()])
            self.published += 1

    def end(self) -> None:
        self._ended.set()
        self.join()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.prove)])
def test_reloads_lose_and_double_nothing(tmp_path: Path, kills: int) -> None:
    rng = random.Random(kills)
    (tmp_path / "reload_journal.py").write_text(FLOWS)
    arguments = ["-c", "mounted/bridge.yaml"]
    with (
        engine_process(tmp_path) as engine,
        LocalChannel(tmp_path / "log") as channel,
    ):
        mounted = Mounted(tmp_path / "mounted", engine.url, channel.broker)
        load = Load(channel)
        load.start()
        try:
            with DaemonProcess(tmp_path, *arguments) as daemon:
                _reload_in_all_ways(daemon, mounted, engine)
                assert daemon.metrics("bridge_dead_letters_total") == {}
                daemon.kill()
            for _ in range(kills):
                with DaemonProcess(tmp_path, *arguments) as daemon:
                    mounted.exchange()
                    daemon.signal(signal.SIGHUP)
                    reload = subprocess.Popen(
                        [sys.executable, "-m", "bridge", "reload", *arguments],
                        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                    )  # fmt: skip
                    threading.Event().wait(rng.random() * 0.6)
                    daemon.kill()
                    reload.wait(60)
        finally:
            load.end()
        with DaemonProcess(tmp_path, *arguments) as daemon:
            daemon.wait(lambda: daemon.lag() == 0, "all settled")
            assert daemon.metrics("bridge_dead_letters_total") == {}
            wanted = {f"k{key}": list(range(load.published)) for key in range(KEYS)}
            eventually_blocking(lambda: _journals(tmp_path, arguments) == wanted, "each message once, in order")
            daemon.stop()


def _reload_in_all_ways(daemon: DaemonProcess, mounted: Mounted, engine: DaemonProcess) -> None:
    """Reload while messages arrive; each kind must take effect."""
    directory, arguments = mounted.directory.parent, ("-c", "mounted/bridge.yaml")
    # The command and the file watch may both see the change; the second one finds nothing to do
    before = in_use(daemon)
    mounted.rewrite()
    answer = json.loads(bridge("reload", *arguments, "-o", "json", cwd=directory))
    assert [each["result"] for each in answer["daemons"]] in (["reloaded"], ["unchanged"])
    assert (now := in_use(daemon)) != before
    settled_more(daemon)
    mounted.rewrite()
    daemon.signal(signal.SIGHUP)
    daemon.wait(lambda: in_use(daemon) != now, "reloaded by SIGHUP")
    settled_more(daemon)
    now = in_use(daemon)
    mounted.exchange()
    daemon.wait(lambda: in_use(daemon) != now, "reloaded after the exchange of the link")
    settled_more(daemon)
    # A broken file
    now, refused, good = in_use(daemon), reloads(daemon, "refused"), mounted.text()
    mounted.rewrite(good.replace(">= 0 &&", "=> 0 &&"))
    assert run_bridge("reload", *arguments, cwd=directory).returncode == 1
    assert (daemon.get("/readyz")[0], in_use(daemon)) == (200, now)
    assert reloads(daemon, "refused") > refused
    assert daemon.metrics("bridge_config_last_reload_successful") == {"": 0.0}
    mounted.rewrite(good)
    daemon.wait(lambda: in_use(daemon) != now, "reloaded when the file is correct")
    settled_more(daemon)
    # While the engine is away
    engine.signal(signal.SIGSTOP)
    daemon.wait(lambda: daemon.get("/readyz")[0] == 503, "the engine is away")
    now = in_use(daemon)
    mounted.exchange()
    daemon.wait(lambda: in_use(daemon) != now, "reloaded without the engine")
    engine.signal(signal.SIGCONT)
    daemon.wait(lambda: daemon.get("/readyz")[0] == 200, "the engine is back")
    settled_more(daemon)
    # Several at once, one of which changes another source
    now = in_use(daemon)
    mounted.exchange(", limits: {concurrency: 3}")
    for _ in range(3):
        daemon.signal(signal.SIGHUP)
    bridge("reload", *arguments, cwd=directory)
    assert in_use(daemon) != now
    assert daemon.metrics("bridge_rebalances_total").get('{source="orders"}', 0.0) <= 1.0


def _journals(directory: Path, arguments: Sequence[str]) -> dict[str, list[int]]:
    listed = json.loads(bridge("entities", "list", "journal", "--json", *arguments, cwd=directory))
    return {each["key"]: each["state"] for each in listed}
