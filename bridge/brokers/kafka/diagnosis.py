"""Checks of a Kafka cluster for `bridge doctor`.

They join no group, fetch no record, and create no topic: all are questions about the cluster, its topics and groups.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import IncompatibleBrokerVersion, for_code
from cryptography import x509

from bridge.brokers.base import OUTAGE
from bridge.brokers.kafka.admin_requests import (
    GroupFacts,
    GroupsRequest,
    Operations,
    TopicFacts,
    TopicsRequest,
    group_facts,
    topic_facts,
)
from bridge.brokers.kafka.cluster import Cluster
from bridge.brokers.kafka.connection import Connection
from bridge.brokers.kafka.offset_lookup import OffsetLookup
from bridge.brokers.kafka.sdk_internals import send
from bridge.config.model.brokers import KafkaBrokerConfig, TargetConfig
from bridge.config.model.sources import DEAD_LETTER_TOPIC, SourceConfig
from bridge.config.model.types import format_duration
from bridge.core.diagnosis import CheckAnswer, CheckVerdict, Examiner, not_checked, ok, problem, warning, worst
from bridge.core.errors import BrokerError
from bridge.core.words import plural

_NONE, _UNKNOWN_TOPIC, _TOPIC_DENIED, _GROUP_DENIED, _CLUSTER_DENIED = 0, 3, 29, 30, 31
_ELSEWHERE = (14, 15, 16)
"""Error codes of the protocol. _ELSEWHERE: of a node that does not, or does not yet, coordinate the group."""

DEAD_LETTERS = 7 * 86_400.0
"""Seconds that dead letters should be kept: a week."""
_AHEAD_MS = 2000
"""Milliseconds by which a record must be newer than now to count as one of the future."""
_MOST_PARTITIONS = 200
"""Partitions of one source whose positions and clocks are looked up."""


@dataclass
class _Topic:
    """Topic of the configuration, and the operations that it needs."""

    needs: set[str] = field(default_factory=set)
    read_by: list[str] = field(default_factory=list)
    dead_letters_of: list[str] = field(default_factory=list)


async def diagnose(
    name: str,
    config: KafkaBrokerConfig,
    resolve: Callable[[str, str], Path],
    sources: Mapping[str, SourceConfig],
    targets: Mapping[str, TargetConfig],
    examiner: Examiner,
) -> dict[str, float]:
    """Check a cluster, and what the sources and targets need there.

    resolve: from a field below `tls` and its value to a path.
    Returns the longest retention in seconds of each source's topics, where known.
    """
    limit = min(config.request_timeout, examiner.seconds)
    connection = Connection(name, config.model_copy(update={"request_timeout": limit}), resolve)
    checks = _Checks(name, connection, examiner, sources, targets, _principal(config, resolve))
    try:
        return await checks.run()
    finally:
        await checks.stop()


class _Checks:
    """Checks of one cluster, one after another."""

    def __init__(
        self,
        name: str,
        connection: Connection,
        examiner: Examiner,
        sources: Mapping[str, SourceConfig],
        targets: Mapping[str, TargetConfig],
        principal: str,
    ) -> None:
        self._subject = f"broker {name}"
        self._connection = connection
        self._config = connection.config
        self._cluster = Cluster(connection)
        self._lookup = OffsetLookup(connection, "read_uncommitted")
        self._examiner = examiner
        self._sources = sources
        self._targets = targets
        self._topics: dict[str, _Topic] = {}
        self._facts: dict[str, TopicFacts] = {}
        self._allowed: Operations = None
        """Operations on the cluster."""
        self._settings: dict[str, dict[str, str]] = {}
        """Settings of the topics."""
        self._coordinators: dict[str, int] = {}
        """Nodes that coordinate the groups."""
        servers = ",".join(self._config.hosts)
        admin = " --command-config admin.properties" if self._config.sasl or self._config.tls else ""
        self._at = f"--bootstrap-server {servers}{admin}"
        self._acls = f"kafka-acls {self._at} --add --allow-principal '{principal}'"

    async def stop(self) -> None:
        await self._lookup.aclose()
        await self._cluster.stop()

    async def run(self) -> dict[str, float]:
        reachable = await self._check("reachable", self._reach)
        if reachable.verdict is not CheckVerdict.OK:
            for name in ("topics", "permissions", "groups", "retention", "clock", "limits"):
                self._examiner.record(self._subject, name, not_checked("the cluster cannot be reached"))
            return {}
        self._topics = dict(self._used(await self._names()))
        asked = await self._check("topics", self._ask_topics)
        if self._facts:
            await self._check("permissions", self._permissions)
        else:
            why = (
                "the cluster does not tell the allowed operations"
                if asked.verdict is not CheckVerdict.NOT_CHECKED
                else ""
            )
            self._examiner.record(self._subject, "permissions", not_checked(why or asked.detail))
        for source in self._sources:
            await self._check("group", partial(self._group, source), f"source {source}")
        retention = await self._retention()
        for source in self._sources:
            await self._check("positions", partial(self._positions, source), f"source {source}")
        await self._check("clock", self._clock)
        await self._check("limits", self._limits)
        return retention

    async def _check(
        self, name: str, run: Callable[[], Awaitable[CheckAnswer]], subject: str | None = None
    ) -> CheckAnswer:
        return await self._examiner.check(subject or self._subject, name, run)

    # -- the cluster and its topics

    async def _reach(self) -> CheckAnswer:
        try:
            await self._cluster.start()
        except BrokerError as error:
            settings = [name for name in ("bootstrap_servers", "tls", "sasl") if getattr(self._config, name, True)]
            where = ", ".join(f"`{name}`" for name in settings)
            return problem(str(error), f"correct {where} of `brokers.{self._connection.name}`, or the network")
        found = await self._described()
        return ok(f"cluster {self._cluster.id}, {plural(len(found['brokers']), 'node')}")

    async def _names(self) -> dict[str, list[str]]:
        """Topics that each source reads now."""
        patterns = {
            name: source.kafka.pattern
            for name, source in self._sources.items()
            if source.kafka is not None and source.kafka.pattern is not None
        }
        known: list[str] = []
        if patterns:
            try:
                known = sorted(await self._cluster.topics())
            except BrokerError:
                known = []
        return {
            name: [topic for topic in known if re.match(patterns[name], topic)]
            if name in patterns
            else list(source.topics)
            for name, source in self._sources.items()
        }

    def _used(self, read: Mapping[str, list[str]]) -> Iterator[tuple[str, _Topic]]:
        found: dict[str, _Topic] = {}
        for name, source in self._sources.items():
            for topic in read[name]:
                use = found.setdefault(topic, _Topic())
                use.needs.add("Read")
                use.read_by.append(name)
                dead_letters = (source.dead_letter or DEAD_LETTER_TOPIC).replace("{topic}", topic)
                use = found.setdefault(dead_letters, _Topic())
                use.needs.add("Write")
                use.dead_letters_of.append(name)
        for target in self._targets.values():
            found.setdefault(target.address, _Topic()).needs.add("Write")
        yield from found.items()

    async def _ask_topics(self) -> CheckAnswer:
        if not self._topics:
            return ok("no topic is used")
        try:
            answer = await self._cluster.ask(
                "describe the topics", lambda admin: send(admin, TopicsRequest(list(self._topics)))
            )
            self._facts, self._allowed = topic_facts(answer)
        except (IncompatibleBrokerVersion, NotImplementedError):
            return await self._listed()
        except BrokerError as error:
            if not isinstance(error.__cause__, IncompatibleBrokerVersion | NotImplementedError):
                raise
            return await self._listed()
        answers = [self._topic(topic) for topic in self._topics]
        return worst(answers, f"the topics exist: {len(self._topics)}")

    async def _listed(self) -> CheckAnswer:
        """Existence of the topics on a cluster that does not tell permissions."""
        known = await self._cluster.topics()
        answers = [ok(topic) if topic in known else self._missing(topic) for topic in self._topics]
        return worst(answers, f"the topics exist: {len(self._topics)}")

    def _topic(self, topic: str) -> CheckAnswer:
        facts = self._facts[topic]
        if facts.error == _TOPIC_DENIED:
            return ok(topic)  # reported as a missing permission
        if facts.error == _UNKNOWN_TOPIC:
            return self._missing(topic)
        if facts.offline or facts.error != _NONE:
            what = f"partitions {', '.join(map(str, facts.offline))} have no leader" if facts.offline else ""
            return problem(
                f"{topic}: {what or for_code(facts.error).__name__}",
                f"kafka-topics {self._at} --describe --topic {topic}",
            )
        return ok(topic)

    def _missing(self, topic: str) -> CheckAnswer:
        config = self._config
        if config.create_topics:
            return ok(f"{topic} will be created")
        create = f"kafka-topics {self._at} --create --topic {topic} --partitions {config.partitions}"
        return problem(f"no topic {topic}", f"{create}\nor set `create_topics: true` on the broker")

    # -- permissions

    async def _permissions(self) -> CheckAnswer:
        answers = [answer for topic, use in self._topics.items() for answer in self._may(topic, use)]
        missing = [topic for topic in self._topics if self._facts[topic].error == _UNKNOWN_TOPIC]
        if missing and self._config.create_topics and self._allowed is not None and "Create" not in self._allowed:
            answers.append(
                warning(
                    f"Create on the cluster missing: {', '.join(missing)} can only be created with an ACL of its name",
                    "\n".join(f"{self._acls} --operation Create --topic {topic}" for topic in missing),
                )
            )
        return worst(answers, "Read and Write on the topics are allowed")

    def _may(self, topic: str, use: _Topic) -> Iterator[CheckAnswer]:
        facts = self._facts[topic]
        if facts.error == _UNKNOWN_TOPIC:
            return
        if facts.error == _TOPIC_DENIED:
            lacking = sorted(use.needs)
        elif facts.allowed is None:
            yield not_checked(f"the cluster does not tell the operations on {topic}")
            return
        else:
            lacking = sorted(use.needs - facts.allowed)
        if lacking:
            options = " ".join(f"--operation {operation}" for operation in lacking)
            yield problem(
                f"{' and '.join(lacking)} on topic {topic} missing", f"{self._acls} {options} --topic {topic}"
            )

    # -- groups

    async def _group(self, name: str) -> CheckAnswer:
        source = self._sources[name]
        grant = f"{self._acls} --operation Read --group {source.group}"
        nodes = [node["node_id"] for node in (await self._described())["brokers"]]
        try:
            facts = await self._coordinated(source.group, nodes)
        except BrokerError as error:
            if isinstance(error.__cause__, IncompatibleBrokerVersion | NotImplementedError):
                return not_checked("the cluster answers no questions about groups with their operations")
            raise
        if facts is None:
            return not_checked("no program has used a group on this cluster yet: it does not tell the rights on groups")
        if facts.error == _GROUP_DENIED:
            return problem(f"Read on group {source.group} missing", grant)
        if facts.error != _NONE:
            return not_checked(f"group {source.group}: {for_code(facts.error).__name__}")
        if facts.allowed is not None and "Read" not in facts.allowed:
            return problem(f"Read on group {source.group} missing", grant)
        if facts.kind not in ("", "consumer"):
            return problem(
                f"group {source.group} belongs to a program of the kind {facts.kind}",
                f"sources.{name}.group: another name",
            )
        if facts.state == "Dead":
            return ok(f"group {source.group} is new: it begins at the {source.start} message")
        return ok(f"group {source.group}: {facts.state.lower()}, {plural(facts.members, 'member')}")

    async def _coordinated(self, group: str, nodes: list[int]) -> GroupFacts | None:
        """Ask one node after another about a group; None if no node coordinates groups yet.

        The question for the coordinator of a group would create the topic of the positions on a new cluster.
        """
        for node in nodes:
            ask = partial(send, request=GroupsRequest([group]), node=node)
            answer = await self._cluster.ask(f"describe the group {group}", ask)
            facts = group_facts(answer)[group]
            if facts.error not in _ELSEWHERE:
                self._coordinators[group] = node
                return facts
        return None

    async def _described(self) -> Any:
        return await self._cluster.ask("describe the cluster", lambda admin: admin.describe_cluster())

    async def _positions(self, name: str) -> CheckAnswer:
        source = self._sources[name]
        partitions = self._partitions(name)
        if not partitions:
            return not_checked("no topic can be described")
        begin, _ = await self._lookup.ends(partitions, "look up offsets")
        if source.group not in self._coordinators:
            return not_checked("no node answers for the group")
        committed = await self._cluster.committed(source.group, partitions, self._coordinators[source.group])
        lost = [tp for tp, position in committed.items() if position.offset < begin[tp]]
        if not lost:
            return ok(f"{len(committed)} of {len(partitions)} partitions have a position, all still in the log")
        what = ", ".join(f"{tp.topic}/{tp.partition}" for tp in lost[:5]) + (" …" if len(lost) > 5 else "")
        reset = "\n".join(
            f"bridge sources seek {name} --topic {tp.topic} --partition {tp.partition} --to beginning"
            for tp in lost[:5]
        )
        text = f"retention has deleted messages before the group read them: {what}"
        if source.kafka is not None and source.kafka.on_out_of_range != "stop":
            return warning(f"{text}; the source continues at the {source.kafka.on_out_of_range} message", reset)
        return problem(text, f"{reset}\nor `sources.{name}.kafka.on_out_of_range: earliest`")

    # -- retention

    async def _retention(self) -> dict[str, float]:
        described = [topic for topic in self._topics if topic in self._facts and self._facts[topic].error == _NONE]
        denied: list[str] = []

        async def ask() -> CheckAnswer:
            if not described:
                return not_checked("no topic can be described")
            resources = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in described]
            answers = await self._cluster.ask(
                "read the settings of the topics", lambda admin: admin.describe_configs(resources)
            )
            for answer in answers:
                for code, _, _, topic, entries, *_ in answer.resources:
                    if code == _NONE:
                        self._settings[topic] = {entry[0]: entry[1] for entry in entries}
                    else:
                        denied.append(topic)
            judged = [answer for topic, use in self._topics.items() for answer in self._judged_retention(topic, use)]
            if denied:
                allow = "\n".join(f"{self._acls} --operation DescribeConfigs --topic {topic}" for topic in denied)
                judged.append(not_checked(f"DescribeConfigs on {', '.join(denied)} missing", allow))
            return worst(
                judged, "; ".join(f"{topic}: {_text(_retention_of(found))}" for topic, found in self._settings.items())
            )

        await self._check("retention", ask)
        kept = {topic: _retention_of(settings) or math.inf for topic, settings in self._settings.items()}
        read = {name: [kept[topic] for topic in self._read(name) if topic in kept] for name in self._sources}
        return {name: max(each) for name, each in read.items() if each}

    def _seconds(self, topic: str) -> float | None:
        return _retention_of(self._settings[topic]) if topic in self._settings else None

    def _judged_retention(self, topic: str, use: _Topic) -> Iterator[CheckAnswer]:
        settings = self._settings.get(topic)
        if settings is None:
            return
        seconds = _retention_of(settings)
        alter = f"kafka-configs {self._at} --alter --entity-type topics --entity-name {topic}"
        compacted = "compact" in settings.get("cleanup.policy", "")
        if use.dead_letters_of and compacted:
            yield problem(
                f"{topic} is compacted: a dead letter replaces earlier ones of its key",
                f"{alter} --add-config cleanup.policy=delete",
            )
        if use.dead_letters_of and seconds is not None and seconds < DEAD_LETTERS:
            yield warning(
                f"{topic} keeps dead letters for {format_duration(seconds)}",
                f"{alter} --add-config retention.ms={int(DEAD_LETTERS * 1000)}",
            )
        if not use.read_by:
            return
        if seconds is not None and seconds < OUTAGE:
            yield warning(
                f"{topic} keeps messages for {format_duration(seconds)}: a longer outage loses messages",
                f"{alter} --add-config retention.ms={int(7 * OUTAGE * 1000)}",
            )
        size = settings.get("retention.bytes", "-1")
        if not size.startswith("-"):
            yield warning(
                f"{topic} keeps {size} bytes per partition: how long an outage may last depends on the load",
                f"{alter} --delete-config retention.bytes",
            )
        for name in use.read_by:
            stated = self._sources[name].retention
            if stated is not None and stated != seconds:
                yield warning(
                    f"{topic} keeps messages {_text(seconds)}, and the configuration states {format_duration(stated)}",
                    f"sources.{name}.retention: {'null' if seconds is None else format_duration(seconds)}",
                )

    # -- clock and limits

    async def _clock(self) -> CheckAnswer:
        partitions = [tp for name in self._sources for tp in self._partitions(name)]
        if not partitions:
            return not_checked("the cluster does not tell its time, and no topic is read")
        asked = dict.fromkeys(partitions, int(time.time() * 1000) + _AHEAD_MS)
        found = await self._lookup.at_times(asked, "look up times")
        future = [(tp, at) for tp, at in found.items() if at is not None]
        if not future:
            return ok("no message is from the future (the cluster does not tell its time)")
        tp, at = max(future, key=lambda each: each[1].timestamp)
        seconds = at.timestamp / 1000 - time.time()
        return warning(
            f"{tp.topic}/{tp.partition}@{at.offset} is {format_duration(round(seconds))} from the future: this clock "
            "is behind, or a sender's is ahead",
            "compare `date -u` here, on the nodes and on the senders; run chrony or another NTP client on each",
        )

    async def _limits(self) -> CheckAnswer:
        node = int((await self._described())["controller_id"])
        resource = ConfigResource(ConfigResourceType.BROKER, str(node))
        answers = await self._cluster.ask(
            "read the settings of a node", lambda admin: admin.describe_configs([resource])
        )
        code, _, _, _, entries, *_ = answers[0].resources[0]
        if code in (_CLUSTER_DENIED, _TOPIC_DENIED):
            return not_checked(
                "DescribeConfigs on the cluster missing", f"{self._acls} --operation DescribeConfigs --cluster"
            )
        if code != _NONE:
            return not_checked(f"settings of node {node}: {for_code(code).__name__}")
        return worst(list(self._judged({entry[0]: entry[1] for entry in entries})), "timeouts fit the cluster")

    def _judged(self, node: Mapping[str, str]) -> Iterator[CheckAnswer]:
        session = self._config.session_timeout
        least, most = _number(node, "group.min.session.timeout.ms"), _number(node, "group.max.session.timeout.ms")
        if least is not None and most is not None and not least <= session * 1000 <= most:
            allowed = f"{format_duration(least / 1000)} to {format_duration(most / 1000)}"
            yield problem(
                f"session_timeout {format_duration(session)} is not within the cluster's {allowed}",
                f"brokers.{self._connection.name}.session_timeout: a time of {allowed}",
            )
        minutes = _number(node, "offsets.retention.minutes")
        kept = [seconds for topic, use in self._topics.items() if use.read_by and (seconds := self._seconds(topic))]
        forever = any(use.read_by and topic in self._settings for topic, use in self._topics.items()) and not kept
        if minutes is not None and self._sources and (forever or (kept and minutes * 60 < max(kept))):
            yield warning(
                f"positions of a stopped group are kept for {format_duration(minutes * 60)}, and messages longer: a "
                "source that is stopped for longer begins anew",
                f"kafka-configs {self._at} --alter --entity-type brokers --entity-default --add-config "
                f"offsets.retention.minutes={int(max(kept, default=365 * 86_400.0) / 60)}\n"
                "(in server.properties where the setting is not dynamic)",
            )

    # -- parts

    def _read(self, name: str) -> list[str]:
        return [topic for topic, use in self._topics.items() if name in use.read_by]

    def _partitions(self, name: str) -> list[TopicPartition]:
        """Partitions of a source's topics that this principal may describe."""
        return [
            TopicPartition(topic, number)
            for topic in self._read(name)
            if topic in self._facts and self._facts[topic].error == _NONE
            for number in range(self._facts[topic].partitions)
        ][:_MOST_PARTITIONS]


def _retention_of(settings: Mapping[str, str]) -> float | None:
    """Seconds that a topic keeps messages; None without limit."""
    if "delete" not in settings.get("cleanup.policy", "delete"):
        return None
    milliseconds = _number(settings, "retention.ms")
    return None if milliseconds is None or milliseconds < 0 else milliseconds / 1000


def _text(seconds: float | None) -> str:
    return "without limit" if seconds is None else format_duration(seconds)


def _number(settings: Mapping[str, str], name: str) -> int | None:
    try:
        return int(settings[name])
    except (KeyError, TypeError, ValueError):
        return None


def _principal(config: KafkaBrokerConfig, resolve: Callable[[str, str], Path]) -> str:
    """Principal of this configuration, as the cluster names it unless it maps names."""
    if config.sasl is not None:
        return f"User:{config.sasl.username or 'PRINCIPAL'}"
    if config.tls is None or config.tls.certificate is None:
        return "User:ANONYMOUS"
    try:
        content = resolve("certificate", config.tls.certificate).read_bytes()
        return f"User:{x509.load_pem_x509_certificate(content).subject.rfc4514_string()}"
    except (OSError, ValueError):
        return "User:PRINCIPAL"
