"""Checks across entries of the configuration: names that refer to each other. Pure.

The checks work on the valid part of the configuration. Their problems are thus reported together with type errors.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bridge.config.model.brokers import BrokerConfig, TargetConfig
from bridge.config.model.codecs import SCHEMA_CODECS
from bridge.config.model.routes import EngineMoveConfig, RouteConfig, WaitMissing
from bridge.config.model.servicebus import ServiceBusBrokerConfig
from bridge.config.model.sources import DEAD_LETTER_TOPIC, SourceConfig
from bridge.config.model.types import check_topic
from bridge.config.model.webhook import WebhookBrokerConfig
from bridge.config.partial_config import Partial
from bridge.core.errors import ConfigPath, Locate, Problem
from bridge.core.problems.codes import coded

_BUS_KEYS = ("queue", "topic", "subscription", "sub_queue", "sessions", "servicebus")
_LOG_KEYS = ("topics", "group", "start", "kafka")
_NAMES = ("queue", "topic", "subscription", "topics")
_LONGEST = 249
"""Characters of the longest name of a topic."""


@dataclass(frozen=True, slots=True)
class Checks:
    """Checks of one configuration."""

    partial: Partial
    locate: Locate

    def all(self) -> Iterator[Problem]:
        """Problems between entries, except those of sagas."""
        config, names = self.partial.config, self.partial.names
        for name, target in config.targets.items():
            yield from self._target(("targets", name), target)
        for name, source in config.sources.items():
            yield from self._source(("sources", name), source)
        yield from self._consumers()
        yield from self._domains()
        yield from self._waits()
        yield from self._routes()
        yield from self._candidate()
        yield from self._events()
        if not self.partial.is_given(("sources",), ("routes",)):
            return
        if not names["sources"]:
            yield self.warning(("sources",), "there are no sources: the daemon consumes nothing")
        elif not config.routes:
            yield self.warning(("routes",), "there are no routes: messages start nothing")

    def _candidate(self) -> Iterator[Problem]:
        """Warnings for settings of a candidate where there is none."""
        rules = self.partial.config.rules
        if rules.candidate is None and rules.model_fields_set and self.partial.is_given(("rules",)):
            keys = ", ".join(f"`{key}`" for key in rules.model_fields_set)
            yield self.warning(
                ("rules",), f"there is no `candidate` that {keys} would apply to; add it, or remove this"
            )
        elif rules.candidate is not None and rules.share == 0 and self.partial.is_given(("rules", "share")):
            yield self.warning(("rules", "share"), "the candidate decides about no message; write a share like `5%`")

    def _events(self) -> Iterator[Problem]:
        """Problems of lifecycle events: their target, and sources that read them."""
        config = self.partial.config
        if config.events is None or not self.partial.is_given(("events",)):
            return
        path: ConfigPath = ("events", "target")
        yield from self.reference(path, "target", config.events.target)
        target = config.targets.get(config.events.target)
        if target is None or not self.partial.is_given(("targets", config.events.target)):
            return
        for name, source in config.sources.items():
            if source.broker == target.broker and _reads(source, target.address):
                what = (
                    f"the source `{name}` reads the events from `{target.address}`: its own dead letters and failed "
                    "instances make further events; use another topic, or a rule that ignores these types"
                )
                yield self.warning(path, what, "C026")

    def warning(self, path: ConfigPath, what: str, code: str = "C020") -> Problem:
        """Create a problem that does not prevent the use of the configuration."""
        return coded(code, self.locate(path, what))

    def clash(self, path: ConfigPath, what: str) -> Problem:
        """Create a problem of keys or entries that do not fit together."""
        return coded("C006", self.locate(path, what))

    def reference(self, path: ConfigPath, kind: str, name: str | None) -> list[Problem]:
        """Problem of a name at a path if no entry of its kind has the name."""
        section = "registries" if kind == "registry" else f"{kind}s"
        known = self.partial.names[section]
        if name is None or name in known or not self.partial.is_given(path, (section,)):
            return []
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"; did you mean `{near[0]}`?" if near else f" (known: {', '.join(known) or 'none'})"
        return [coded("C009", self.locate(path, f"there is no {kind} `{name}`{meant}"))]

    def _broker(self, path: ConfigPath, entry: SourceConfig | TargetConfig) -> BrokerConfig | None:
        return self.partial.config.brokers.get(entry.broker) if self.partial.is_given((*path, "broker")) else None

    def _target(self, path: ConfigPath, target: TargetConfig) -> Iterator[Problem]:
        yield from self.reference((*path, "broker"), "broker", target.broker)
        broker = self._broker(path, target)
        queue, topic = (self.partial.has(target, path, key) for key in ("queue", "topic"))
        if isinstance(broker, ServiceBusBrokerConfig):
            if queue == topic:
                yield self.clash(path, "write either `queue` or `topic`")
        elif isinstance(broker, WebhookBrokerConfig):
            yield from self._foreign(path, target, broker, ("topic", "queue", "servicebus"))
        elif broker is not None:
            yield from self._foreign(path, target, broker, ("queue", "servicebus"))
            if not topic:
                yield coded("C004", self.locate(path, "`topic` is missing"))
            elif target.topic is not None:
                yield from self._log_name((*path, "topic"), target.topic)
        yield from self._codec(path, target, "schemas")

    def _source(self, path: ConfigPath, source: SourceConfig) -> Iterator[Problem]:
        yield from self.reference((*path, "broker"), "broker", source.broker)
        broker = self._broker(path, source)
        if isinstance(broker, ServiceBusBrokerConfig):
            yield from self._foreign(path, source, broker, _LOG_KEYS, "`queue`, or `topic` and `subscription`")
            yield from self._bus_source(path, source)
        elif isinstance(broker, WebhookBrokerConfig):
            what = f"the broker `{source.broker}` is a webhook, which is for targets: nothing can be read from it"
            yield self.clash((*path, "broker"), what)
        elif broker is not None:
            local = ("kafka",) if broker.type == "local" else ()
            yield from self._foreign(path, source, broker, (*_BUS_KEYS, *local), "`topics`")
            yield from self._log_source(path, source)
        yield from self._codec(path, source, "registry")
        yield from self._quarantine(path, source)

    def _foreign(
        self,
        path: ConfigPath,
        entry: SourceConfig | TargetConfig,
        broker: BrokerConfig,
        keys: tuple[str, ...],
        own: str = "",
    ) -> Iterator[Problem]:
        """Problems with keys of another type of broker. own: keys to write in place of a name."""
        for key in keys:
            if self.partial.has(entry, path, key):
                lacks = f"not {key}" if key in ("kafka", "servicebus") else f"which has no `{key}`"
                remedy = f"; write {own}" if own and key in _NAMES else ""
                what = f"the broker `{entry.broker}` is of type {broker.type}, {lacks}{remedy}"
                yield self.clash((*path, key), what)

    def _log_source(self, path: ConfigPath, source: SourceConfig) -> Iterator[Problem]:
        kafka = (*path, "kafka")
        pattern = source.kafka is not None and self.partial.has(source.kafka, kafka, "pattern")
        if source.topics and pattern:
            yield self.clash((*kafka, "pattern"), "`pattern` selects the topics; write `topics: []`")
        elif not source.topics and not pattern and self.partial.is_given(kafka):
            if not self.partial.has(source, path, "topics"):
                yield coded("C004", self.locate(path, "`topics` is missing"))
            elif self.partial.is_given((*path, "topics")):
                yield self.locate((*path, "topics"), "must have at least one entry")
        if source.dead_letter is not None:
            # Its length depends on the topic
            yield from self._log_name((*path, "dead_letter"), source.dead_letter.replace("{topic}", "t")[:_LONGEST])

    def _log_name(self, path: ConfigPath, name: str) -> Iterator[Problem]:
        """Problems with names that are valid for a queue but not for a topic."""
        try:
            check_topic(name)
        except ValueError as error:
            yield self.locate(path, str(error))

    def _bus_source(self, path: ConfigPath, source: SourceConfig) -> Iterator[Problem]:
        queue, topic, subscription = (self.partial.has(source, path, key) for key in ("queue", "topic", "subscription"))
        if queue == topic:
            yield self.clash(path, "write either `queue`, or `topic` and `subscription`")
        elif topic != subscription:
            yield self.clash(path, "`topic` and `subscription` need each other")
        if self.partial.has(source, path, "sub_queue"):
            if source.sessions is not None:
                yield self.clash((*path, "sessions"), "a sub-queue has no sessions")
            if not self.partial.has(source, path, "dead_letter"):
                what = (
                    "a sub-queue has no dead letters of its own: a message that cannot succeed is delivered "
                    "again without end; set `dead_letter` to a queue"
                )
                yield self.warning((*path, "sub_queue"), what, "C021")
        if source.on_unreadable == "stop_partition":
            what = "Service Bus has no partitions to stop; write `dead_letter` or `skip`"
            yield self.clash((*path, "on_unreadable"), what)

    def _codec(self, path: ConfigPath, entry: SourceConfig | TargetConfig, key: str) -> Iterator[Problem]:
        """Problems with schema registries. key: the one that only some codecs have."""
        known = self.partial.names["registries"]
        if not self.partial.is_given((*path, "codec")):
            return
        if entry.codec not in SCHEMA_CODECS:
            if self.partial.has(entry, path, key):
                what = "a registry" if key == "registry" else key
                yield self.clash((*path, key), f"only the codecs avro and protobuf have {what}")
            return
        where, settings = (path, entry) if isinstance(entry, SourceConfig) else ((*path, key), entry.schemas)
        if settings is not None and self.partial.has(settings, where, "registry"):
            yield from self.reference((*where, "registry"), "registry", settings.registry)
        elif len(known) != 1 and self.partial.is_given((*path, key), ("registries",)):
            what = "name one of the registries with `registry:`" if known else "add one below `registries:`"
            yield self.clash((*path, "codec"), f"{entry.codec} needs a schema registry: {what}")

    def _quarantine(self, path: ConfigPath, source: SourceConfig) -> Iterator[Problem]:
        if source.quarantine is None:
            return
        where = (*path, "quarantine")
        yield from self.reference((*where, "engine"), "engine", source.quarantine.engine)
        if source.ordering == "none":
            yield self.clash(where, "`ordering: none` has no keys to quarantine")
        if source.ordering_domain is not None:
            what = (
                f"`quarantine` and `ordering_domain` exclude each other: the other sources of "
                f"`{source.ordering_domain}` would continue with a key that is quarantined here; remove one of the two"
            )
            yield self.clash(where, what)

    def _consumers(self) -> Iterator[Problem]:
        """Problems of sources that read the same messages, or their own dead letters."""
        taken: dict[tuple[str, ...], ConfigPath] = {}
        for name, source in self.partial.config.sources.items():
            path: ConfigPath = ("sources", name)
            bus = isinstance(self._broker(path, source), ServiceBusBrokerConfig)
            reads = self._reads(path, source, bus)
            is_known = self.partial.is_given((*path, "broker"), (*path, "group"))
            reader = (source.broker, "" if bus else source.group) if is_known else (name,)
            for where, topic in reads.items():
                first = taken.setdefault((*reader, topic), where)
                if first != where:
                    other = "this source" if first[1] == name else f"the source `{first[1]}`"
                    group = f" in the same group `{source.group}` already; give one of them another group"
                    what = f"`{topic}` is read by {other}{' already' if bus else group}"
                    yield coded("C011", self.locate(where, what))
            dead_letters = source.dead_letter or (None if bus else DEAD_LETTER_TOPIC)
            if dead_letters is not None and self.partial.is_given((*path, "dead_letter")):
                yield from self._dead_letters((*path, "dead_letter"), dead_letters, list(reads.values()), bus)

    def _reads(self, path: ConfigPath, source: SourceConfig, bus: bool) -> dict[ConfigPath, str]:
        """Topics of a source, or the name of its queue, subscription or sub-queue, by place. Entities ignore case."""
        if not bus:
            topics = (((*path, "topics", index), topic) for index, topic in enumerate(source.topics))
            return {where: topic for where, topic in topics if self.partial.is_given(where)}
        keys = ("queue", "topic", "subscription", "sub_queue")
        parts = [part.lower() for key in keys if (part := getattr(source, key)) is not None]
        return {path: "/".join(parts)} if parts and self.partial.is_given(*((*path, key) for key in keys)) else {}

    def _dead_letters(self, path: ConfigPath, template: str, topics: list[str], bus: bool) -> Iterator[Problem]:
        for topic in topics:
            target = template.replace("{topic}", topic)
            if target in topics:
                yield coded("C011", self.locate(path, f"dead letters would go to `{target}`, which this source reads"))
            elif len(target) > _LONGEST and not bus:
                yield self.locate(path, f"`{target[:40]}…` is longer than {_LONGEST} characters")

    def _domains(self) -> Iterator[Problem]:
        members: dict[str, list[ConfigPath]] = {}
        for name, source in self.partial.config.sources.items():
            if source.ordering_domain is None:
                continue
            path: ConfigPath = ("sources", name, "ordering_domain")
            members.setdefault(source.ordering_domain, []).append(path)
            if source.ordering in ("none", "partition"):
                what = f"`ordering: {source.ordering}` has no keys to share; write `key`, or a template with {{{{ }}}}"
                yield self.clash(path, what)
        for domain, paths in members.items():
            if len(paths) == 1:
                what = f"no other source is in the domain `{domain}`, so the domain has no effect"
                yield self.warning(paths[0], what)

    def _waits(self) -> Iterator[Problem]:
        """Problems of Service Bus sources without `dead_letter` whose messages can wait on an engine.

        A message that has left its queue to wait on an engine can no longer be moved to the queue's dead-letter
        sub-queue.
        """
        what = (
            "needs `dead_letter`, a queue or topic: a message that has waited cannot be moved to the dead-letter "
            "sub-queue"
        )
        nowhere = set()
        for name, source in self.partial.config.sources.items():
            path: ConfigPath = ("sources", name)
            bus = isinstance(self._broker(path, source), ServiceBusBrokerConfig)
            if bus and not self.partial.has(source, path, "dead_letter"):
                nowhere.add(name)
                if source.quarantine is not None:
                    yield self.clash((*path, "quarantine"), f"the source {what}")
        for index, route in enumerate(self.partial.config.routes if nowhere else ()):
            missing = getattr(route.command_settings, "on_missing", None)
            for name in route.from_ if isinstance(missing, WaitMissing) else ():
                if name in nowhere:
                    where = ("routes", index, route.command, "on_missing")
                    yield self.clash(where, f"the source `{name}` {what}")

    def _engine_of(self, path: ConfigPath, route: RouteConfig, engines: Sequence[str]) -> Iterator[Problem]:
        """Problems with the engines of a route."""
        where = (*path, "engine")
        if isinstance(route.placement, EngineMoveConfig):
            yield from self.reference((*where, "start"), "engine", route.engine)
            for position, name in enumerate(route.find):
                yield from self.reference((*where, "find", position), "engine", name)
            return
        for problem in self.reference(where, "engine", route.engine if engines else None):
            chosen = self.partial.has(route, path, "placement")
            yield problem if chosen else replace(problem, what=f"{problem.what}; name one with `engine:`")

    def _routes(self) -> Iterator[Problem]:
        config, engines = self.partial.config, self.partial.names["engines"]
        first: dict[str, ConfigPath] = {}
        for index, route in enumerate(config.routes):
            path: ConfigPath = ("routes", index)
            where = (*path, "name")
            if self.partial.is_given(where) and (taken := first.setdefault(route.name, where)) != where:
                at = self.locate(taken, "")
                what = f"the name `{route.name}` is taken by the route at {at.file}:{at.line}"
                yield coded("C010", self.locate(where, what))
            for position, source in enumerate(route.from_):
                yield from self.reference((*path, "from", position), "source", source)
            yield from self._engine_of(path, route, engines)
        read = {source for route in config.routes for source in route.from_}
        for source in self.partial.names["sources"] if config.routes else ():
            if source not in read:
                what = "no route reads this source: `no_match` decides about all its messages"
                yield self.warning(("sources", source), what)


def _reads(source: SourceConfig, address: str) -> bool:
    """True when a source reads from a topic or queue."""
    pattern = source.kafka.pattern if source.kafka is not None else None
    return address in (*source.origins, source.entrance) or (
        pattern is not None and re.fullmatch(pattern, address) is not None
    )
