"""Checks across entries of the configuration: names that refer to each other. Pure.

The checks work on the plain document, not on the models. These problems are thus reported together with type errors.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bridge.config.model.routes import COMMANDS, WHICH_WORKFLOW, wrong_commands
from bridge.config.model.sources import DEAD_LETTER_TOPIC, SourceConfig
from bridge.config.model.types import check_entity, check_topic
from bridge.config.saga_checks import SagaChecks
from bridge.core.errors import Locate, Problem

_GROUP = SourceConfig.model_fields["group"].default
_BUS = "servicebus"
_BUS_KEYS = ("queue", "topic", "subscription", "sub_queue", "sessions", "servicebus")
_LOG_KEYS = ("topics", "group", "start", "kafka")
_NAMES = ("queue", "topic", "subscription", "topics")
_ORDERING = SourceConfig.model_fields["ordering"].default


def check(document: dict[str, Any], locate: Locate) -> Iterator[Problem]:
    """Problems between entries. Values of an unexpected shape are left to the models."""
    named = ("engines", "brokers", "registries", "targets", "sources", "sagas")
    sections = {name: _mapping(document.get(name)) for name in named}
    routes = document.get("routes")
    routes = routes if isinstance(routes, list) else []
    for section in ("targets", "sources"):
        for name, entry in sections[section].items():
            broker = _mapping(entry).get("broker")
            if isinstance(broker, str) and broker not in sections["brokers"]:
                yield locate((section, name, "broker"), _unknown("broker", broker, list(sections["brokers"])))
    yield from _fitting(sections["sources"], sections["targets"], sections["brokers"], locate)
    yield from _registries(sections, locate)
    yield from _consumers(sections["sources"], sections["brokers"], locate)
    yield from _domains(sections["sources"], locate)
    yield from _quarantine(sections["sources"], list(sections["engines"]), locate)
    yield from _kept(sections["sources"], sections["brokers"], routes, locate)
    yield from _routes(routes, list(sections["sources"]), list(sections["engines"]), locate)
    sagas, targets, sources = sections["sagas"], sections["targets"], sections["sources"]
    yield from SagaChecks(sagas, targets, sources, routes, _unknown, locate).check()
    if not sections["sources"]:
        yield replace(locate(("sources",), "there are no sources: the daemon consumes nothing"), severity="warning")
    elif not routes:
        yield replace(locate(("routes",), "there are no routes: messages start nothing"), severity="warning")


def _fitting(
    sources: dict[str, Any], targets: dict[str, Any], brokers: dict[str, Any], locate: Locate
) -> Iterator[Problem]:
    """Problems with keys of another type of broker, and with missing names."""
    for name, entry in sources.items():
        source = _mapping(entry)
        kind = _kind(source, brokers)
        if kind is None:
            continue
        wrong, write = (
            (_LOG_KEYS, "`queue`, or `topic` and `subscription`") if kind == _BUS else (_BUS_KEYS, "`topics`")
        )
        if kind == "local":
            wrong = (*wrong, "kafka")
        for key in wrong:
            if key in source and source[key] is not None:
                remedy = f"; write {write}" if key in _NAMES else ""
                yield locate(("sources", name, key), f"{_misfit(source, kind, key)}{remedy}")
        yield from _bus_source(name, source, locate) if kind == _BUS else _log_source(name, source, locate)
    for name, entry in targets.items():
        target = _mapping(entry)
        kind = _kind(target, brokers)
        if kind == _BUS:
            if (target.get("queue") is None) == (target.get("topic") is None):
                yield locate(("targets", name), "write either `queue` or `topic`")
        elif kind is not None:
            for key in ("queue", "servicebus"):
                if target.get(key) is not None:
                    yield locate(("targets", name, key), _misfit(target, kind, key))
            if target.get("topic") is None:
                yield locate(("targets", name), "`topic` is missing")
            else:
                yield from _log_name(("targets", name, "topic"), target["topic"], locate)


def _misfit(entry: dict[str, Any], kind: str, key: str) -> str:
    what = f"not {key}" if key in ("kafka", _BUS) else f"which has no `{key}`"
    return f"the broker `{entry['broker']}` is of type {kind}, {what}"


def _log_source(name: str, source: dict[str, Any], locate: Locate) -> Iterator[Problem]:
    pattern = _mapping(source.get("kafka")).get("pattern")
    topics = source.get("topics")
    if topics is None and pattern is None:
        yield locate(("sources", name), "`topics` is missing")
    elif topics == [] and pattern is None:
        yield locate(("sources", name, "topics"), "must have at least one entry")
    elif topics and pattern is not None:
        yield locate(("sources", name, "kafka", "pattern"), "`pattern` selects the topics; write `topics: []`")
    if isinstance(letters := source.get("dead_letter"), str):
        yield from _log_name(("sources", name, "dead_letter"), letters.replace("{topic}", "t"), locate)


def _bus_source(name: str, source: dict[str, Any], locate: Locate) -> Iterator[Problem]:
    queue, topic, subscription = (source.get(key) for key in ("queue", "topic", "subscription"))
    if (queue is None) == (topic is None):
        yield locate(("sources", name), "write either `queue`, or `topic` and `subscription`")
    elif (topic is None) != (subscription is None):
        yield locate(("sources", name), "`topic` and `subscription` need each other")
    if source.get("sub_queue") is not None and source.get("sessions"):
        yield locate(("sources", name, "sessions"), "a sub-queue has no sessions")
    if source.get("sub_queue") is not None and source.get("dead_letter") is None:
        what = (
            "a sub-queue has no dead letters of its own: a message that cannot succeed is delivered "
            "again without end; set `dead_letter` to a queue"
        )
        yield replace(locate(("sources", name, "sub_queue"), what), severity="warning")
    if source.get("on_unreadable") == "stop_partition":
        yield locate(
            ("sources", name, "on_unreadable"), "Service Bus has no partitions to stop; write `dead_letter` or `skip`"
        )


def _log_name(path: tuple[str, ...], value: Any, locate: Locate) -> Iterator[Problem]:
    """Problems with names that are valid for a queue but not for a topic.

    Names that are valid for neither are left to the models.
    """
    try:
        if isinstance(value, str) and check_entity(value):
            check_topic(value[:249])
    except ValueError as error:
        if _is_entity(value):
            yield locate(path, str(error))


def _kind(entry: dict[str, Any], brokers: dict[str, Any]) -> str | None:
    kind = _mapping(brokers.get(str(entry.get("broker")))).get("type")
    return kind if kind in ("local", "kafka", _BUS) else None


def _registries(sections: dict[str, dict[str, Any]], locate: Locate) -> Iterator[Problem]:
    known = list(sections["registries"])
    for section, where in (("sources", ()), ("targets", ("schemas",))):
        for name, given in sections[section].items():
            entry = _mapping(given)
            codec = entry.get("codec")
            settings = _mapping(entry.get("schemas")) if where else entry
            registry = settings.get("registry")
            if codec not in ("avro", "protobuf"):
                if where and entry.get("schemas") is not None:
                    yield locate((section, name, "schemas"), "only the codecs avro and protobuf have schemas")
                elif not where and registry is not None:
                    yield locate((section, name, "registry"), "only the codecs avro and protobuf have a registry")
            elif isinstance(registry, str):
                if registry not in known:
                    yield locate((section, name, *where, "registry"), _unknown("registry", registry, known))
            elif len(known) != 1:
                what = "name one of the registries with `registry:`" if known else "add one below `registries:`"
                yield locate((section, name, "codec"), f"{codec} needs a schema registry: {what}")


def _domains(sources: dict[str, Any], locate: Locate) -> Iterator[Problem]:
    members: dict[str, list[str]] = {}
    for name, entry in sources.items():
        source = _mapping(entry)
        domain, ordering = source.get("ordering_domain"), source.get("ordering", _ORDERING)
        if not isinstance(domain, str):
            continue
        members.setdefault(domain, []).append(name)
        if ordering in ("none", "partition"):
            what = f"`ordering: {ordering}` has no keys to share; write `key`, or a template with {{{{ }}}}"
            yield locate(("sources", name, "ordering_domain"), what)
    for domain, names in members.items():
        if len(names) == 1:
            what = f"no other source is in the domain `{domain}`, so the domain has no effect"
            yield replace(locate(("sources", names[0], "ordering_domain"), what), severity="warning")


def _consumers(sources: dict[str, Any], brokers: dict[str, Any], locate: Locate) -> Iterator[Problem]:
    taken: dict[tuple[Any, ...], str] = {}
    for name, entry in sources.items():
        source = _mapping(entry)
        bus = _kind(source, brokers) == _BUS
        topics, group = source.get("topics"), source.get("group", _GROUP)
        topics = [topic for topic in topics if isinstance(topic, str)] if isinstance(topics, list) else []
        if bus:
            topics, group = _entity(source), ""
        for index, topic in enumerate(topics):
            consumer = (str(source.get("broker")), str(group), topic)
            if consumer in taken:
                other = "this source" if taken[consumer] == name else f"the source `{taken[consumer]}`"
                what = f"`{topic}` is read by {other}"
                what += " already" if bus else f" in the same group `{group}` already; give one of them another group"
                path = ("sources", name) if bus else ("sources", name, "topics", index)
                yield locate(path, what)
            taken.setdefault(consumer, name)
        yield from _dead_letters(name, source.get("dead_letter", None if bus else DEAD_LETTER_TOPIC), topics, locate)


def _entity(source: dict[str, Any]) -> list[str]:
    parts = [source.get(key) for key in ("queue", "topic", "subscription", "sub_queue")]
    found = [str(part).lower() for part in parts if isinstance(part, str)]
    return ["/".join(found)] if found else []


def _quarantine(sources: dict[str, Any], engines: list[str], locate: Locate) -> Iterator[Problem]:
    for name, entry in sources.items():
        source = _mapping(entry)
        if source.get("quarantine") is None:
            continue
        engine = _mapping(source["quarantine"]).get("engine")
        if isinstance(engine, str) and engine not in engines:
            yield locate(("sources", name, "quarantine", "engine"), _unknown("engine", engine, engines))
        if source.get("ordering") == "none":
            yield locate(("sources", name, "quarantine"), "`ordering: none` has no keys to quarantine")
        if isinstance(domain := source.get("ordering_domain"), str):
            what = (
                f"`quarantine` and `ordering_domain` exclude each other: the other sources of `{domain}` would "
                "continue with a key that is quarantined here; remove one of the two"
            )
            yield locate(("sources", name, "quarantine"), what)


def _kept(sources: dict[str, Any], brokers: dict[str, Any], routes: list[Any], locate: Locate) -> Iterator[Problem]:
    """Problems with Service Bus sources without `dead_letter` whose messages can wait on an engine.

    A message that has left its queue to wait on an engine can no longer be moved to the queue's dead-letter
    sub-queue.
    """
    nowhere = {
        name
        for name, entry in sources.items()
        if _kind(_mapping(entry), brokers) == _BUS and _mapping(entry).get("dead_letter") is None
    }
    what = (
        "needs `dead_letter`, a queue or topic: a message that has waited cannot be moved to the dead-letter sub-queue"
    )
    for name in nowhere:
        if _mapping(sources[name]).get("quarantine") is not None:
            yield locate(("sources", name, "quarantine"), f"the source {what}")
    for index, entry in enumerate(routes):
        route = _mapping(entry)
        given = route.get("from")
        for command in COMMANDS:
            if _mapping(_mapping(route.get(command)).get("on_missing")).get("wait") is not None:
                for source in given if isinstance(given, list) else [given]:
                    if source in nowhere:
                        yield locate(("routes", index, command, "on_missing"), f"the source `{source}` {what}")


def _dead_letters(name: str, template: Any, topics: list[str], locate: Locate) -> Iterator[Problem]:
    if not isinstance(template, str) or not template:
        return
    for topic in topics:
        target = template.replace("{topic}", topic)
        if target in topics:
            what = f"dead letters would go to `{target}`, which this source reads"
            yield locate(("sources", name, "dead_letter"), what)
        elif len(target) > 249 and len(topic) <= 249 and _is_topic(topic):
            yield locate(("sources", name, "dead_letter"), f"`{target[:40]}…` is longer than 249 characters")


def _is_entity(name: str) -> bool:
    try:
        return bool(check_entity(name))
    except ValueError:
        return False


def _is_topic(topic: str) -> bool:
    try:
        return bool(check_topic(topic))
    except ValueError:
        return False


def _routes(routes: list[Any], sources: list[str], engines: list[str], locate: Locate) -> Iterator[Problem]:
    first: dict[str, int] = {}
    read: set[str] = set()
    for index, entry in enumerate(routes):
        route = _mapping(entry)
        wrong = wrong_commands([command for command in COMMANDS if route.get(command) is not None]) if route else None
        if wrong is not None:
            yield locate(("routes", index), wrong)
        schedule = route.get("schedule")
        if isinstance(schedule, dict) and (schedule.get("orchestration") is None) == (schedule.get("saga") is None):
            yield locate(("routes", index, "schedule"), WHICH_WORKFLOW)
        name, given, engine = route.get("name"), route.get("from"), route.get("engine", "default")
        if isinstance(name, str):
            if name in first:
                at = locate(("routes", first[name], "name"), "")
                what = f"the name `{name}` is taken by the route at {at.file}:{at.line}"
                yield locate(("routes", index, "name"), what)
            first.setdefault(name, index)
        for position, source in enumerate(given if isinstance(given, list) else [given]):
            if isinstance(source, str):
                read.add(source)
                if source not in sources:
                    path = ("routes", index, "from") + ((position,) if isinstance(given, list) else ())
                    yield locate(path, _unknown("source", source, sources))
        if isinstance(engine, str) and engines and engine not in engines:
            what = _unknown("engine", engine, engines)
            yield locate(("routes", index, "engine"), what if "engine" in route else f"{what}; name one with `engine:`")
    for source in sources if routes else ():
        if source not in read:
            what = "no route reads this source: `no_match` decides about all its messages"
            yield replace(locate(("sources", source), what), severity="warning")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _unknown(kind: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"there is no {kind} `{name}`; did you mean `{near[0]}`?"
    return f"there is no {kind} `{name}` (known: {', '.join(known) or 'none'})"
