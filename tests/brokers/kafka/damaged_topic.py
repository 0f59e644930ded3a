"""Topic with damaged batches among healthy ones, bridge daemons that read it, and the expected results.

Each healthy record starts one instance, named by its partition and offset. The engine runs in a process of its own and
outlives every daemon.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from aiokafka import TopicPartition
from durabletask.client import AsyncTaskHubGrpcClient, OrchestrationQuery

from bridge.brokers.base import ReadOptions
from bridge.engines.worker.sdk_log import quiet_logger
from tests.brokers.kafka.harness import KafkaHarness
from tests.kafka.batches import Log
from tests.kit.processes import DaemonProcess

CONFIG = """
engine: {{type: scheduler, endpoint: "http://{engine}"}}
workflows: {{external: [order]}}
brokers:
  kafka:
    type: kafka
    bootstrap_servers: "{bootstrap}"
    create_topics: true
    commit_interval: 20ms
    max_batch: 1MiB
    session_timeout: 3s
    rebalance_timeout: 8s
sources:
  orders:
    broker: kafka
    topics: [{topic}]
    group: {topic}
    codec: bytes
    no_match: dead_letter
    attributes: {{place: "string(partition) + '-' + string(offset)"}}
    limits: {{concurrency: {concurrency}, dead_letter_limit: 100000}}
{source}
routes:
  - name: start
    from: orders
    schedule:
      orchestration: order
      instance_id: "o-{{{{ event.extensions.place }}}}"
      input: "{{'key': event.key_base64, 'body': event.data_base64}}"
ops: {{http: {{port: 0}}, log: {{level: warning}}}}
"""

Run = tuple[int, int, int]
"""Partition, first offset and last offset of an unreadable run."""


@dataclass(frozen=True)
class Policy:
    """Settings of the source, and the resulting treatment of unreadable messages.

    by_key: treatment with a known key, and with an unknown key. ordered: order is kept for whole partitions, otherwise
    by key.
    """

    name: str
    source: str
    by_key: tuple[str, str]
    ordered: bool = False

    def of(self, key_known: bool) -> str:
        return self.by_key[not key_known]


POLICIES = (
    Policy("dead_letter", "    on_unreadable: dead_letter", ("dead_letter", "dead_letter")),
    Policy("skip", "    on_unreadable: skip", ("skip", "skip")),
    Policy("stop_partition", "    on_unreadable: stop_partition", ("stop_partition", "stop_partition")),
    Policy("default", "", ("dead_letter", "stop_partition")),
    Policy("ordered", "    ordering: partition", ("dead_letter", "dead_letter"), ordered=True),
)


@dataclass
class DamagedTopic:
    """Damaged topic with its daemons.

    logs: content of the partitions, which may grow while daemons read. kills: number of killed daemons so far; each may
    have repeated an effect without deduplication, such as a dead letter.
    """

    directory: Path
    harness: KafkaHarness
    topic: str
    logs: list[Log]
    policy: Policy
    engine: str
    kills: int = 0
    concurrency: int = 4

    def __post_init__(self) -> None:
        self.directory.mkdir(exist_ok=True)
        self._configure(self.policy)

    def _configure(self, policy: Policy) -> None:
        self.policy = policy
        text = CONFIG.format(
            engine=self.engine, bootstrap=self.harness.bootstrap, topic=self.topic, source=policy.source,
            concurrency=self.concurrency,
        )  # fmt: skip
        (self.directory / "bridge.yaml").write_text(text)

    def serve(self) -> DaemonProcess:
        return DaemonProcess(self.directory, "--no-worker")

    def kill(self, daemon: DaemonProcess) -> None:
        self.kills += 1
        daemon.kill()

    # -- expected state

    def stop_of(self, number: int) -> int | None:
        """Return the offset at which the policy stops the partition; None when it does not stop."""
        return next(
            (first for first, _, _, known in self.logs[number].faults if self.policy.of(known) == "stop_partition"),
            None,
        )

    def ends(self) -> dict[int, int]:
        """Return the final position of the group in each partition."""
        stops = {number: self.stop_of(number) for number in range(len(self.logs))}
        return {number: log.end if (stop := stops[number]) is None else stop for number, log in enumerate(self.logs)}

    def healthy(self) -> dict[tuple[int, int], bytes]:
        """Return the values of the records that must be executed, by partition and offset."""
        ends = self.ends()
        return {
            (number, first): value
            for number, log in enumerate(self.logs)
            for first, _, value in log.entries
            if value is not None and first < ends[number]
        }

    def unreadable(self, treatment: str) -> set[Run]:
        """Return the unreadable runs to which the policy gives this treatment."""
        ends = self.ends()
        return {
            (number, first, last)
            for number, log in enumerate(self.logs)
            for first, last, _, known in log.faults
            if first < ends[number] and self.policy.of(known) == treatment
        }

    # -- actual state

    async def positions(self) -> dict[int, int]:
        """Return the committed offsets of the group by partition."""
        broker = await self.harness.broker()
        places = [TopicPartition(self.topic, number) for number in range(len(self.logs))]
        found = await broker._cluster.committed(self.topic, places)
        return {number: found[tp].offset if tp in found else 0 for number, tp in enumerate(places)}

    async def executed(self) -> dict[tuple[int, int], tuple[datetime, dict[str, str | None]]]:
        """Return creation time and input of each instance, by partition and offset."""
        client = AsyncTaskHubGrpcClient(host_address=self.engine, logger=quiet_logger("damaged.client"))
        try:
            states = await client.get_all_orchestration_states(OrchestrationQuery(fetch_inputs_and_outputs=True))
        finally:
            await client.close()
        found = {}
        for state in states:
            _, number, offset = state.instance_id.split("-")
            given = json.loads(state.serialized_input or "")["bridge:message"]["data"]
            found[int(number), int(offset)] = (state.created_at, given)
        return found

    async def dead_letters(self) -> Counter[Run]:
        """Count the dead letters of unreadable runs."""
        found: Counter[Run] = Counter()
        broker = await self.harness.broker()
        async for _, message in broker.read(ReadOptions(f"{self.topic}.dlq")):
            headers = {name: (value or b"").decode() for name, value in message.headers if name.startswith("bridge.")}
            assert headers["bridge.reason"] == "unreadable", headers
            first = int(headers["bridge.offset"])
            last = int(headers.get("bridge.last-offset", first))
            found[int(headers["bridge.partition"]), first, last] += 1
        return found

    def skipped(self) -> set[tuple[int, int]]:
        """Return partition and first offset of the runs that the daemons' log reports as skipped."""
        found = set()
        for line in self._log_lines():
            if line.get("action") == "skip":
                place, _, offset = line["position"].rpartition("@")
                found.add((int(place.rpartition("/")[2]), int(offset)))
        return found

    def _log_lines(self) -> Iterator[dict[str, str]]:
        for line in (self.directory / "daemon.log").read_text().splitlines():
            if line.startswith("{"):
                yield json.loads(line)

    # -- assertions

    async def check(self) -> None:
        """Assert that no healthy message is lost, doubled or overtaken, and that unreadable messages follow the
        policy."""
        executed, healthy = await self.executed(), self.healthy()
        assert executed.keys() == healthy.keys(), {
            "lost": sorted(healthy.keys() - executed.keys()), "beyond": sorted(executed.keys() - healthy.keys()),
        }  # fmt: skip
        for place, value in healthy.items():
            assert base64.b64decode(executed[place][1]["body"] or "") == value, place
        lines: dict[object, list[tuple[int, datetime]]] = defaultdict(list)
        for (number, offset), (created, given) in sorted(executed.items(), key=lambda each: each[0]):
            if self.policy.ordered:
                lines[number].append((offset, created))
            elif given["key"] is not None:
                lines[number, given["key"]].append((offset, created))
        for line in lines.values():
            times = [created for _, created in line]
            assert times == sorted(times), f"overtaken: {line}"
        dead = await self.dead_letters()
        assert dead.keys() == self.unreadable("dead_letter"), dead
        assert max(dead.values(), default=1) <= 1 + self.kills, dead
        assert self.skipped() == {(number, first) for number, first, _ in self.unreadable("skip")}

    def stops_are_shown(self, *daemons: DaemonProcess) -> bool:
        """Return whether /readyz names each stopped partition with its offset, and no other partition."""
        shown = "".join(daemon.get("/readyz")[1] for daemon in daemons)
        for number in range(len(self.logs)):
            _, name, detail = shown.partition(f"{self.topic}/{number}: ")
            stop = self.stop_of(number)
            if bool(name) != (stop is not None):
                return False
            if stop is not None and not re.match(rf"the partition is stopped at offsets? {stop}\b", detail):
                return False
        return True

    def resume(self) -> None:
        """Set a policy without stops for later daemons, as an operator would."""
        self._configure(POLICIES[0])
