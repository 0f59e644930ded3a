"""What no single entry can know: names that refer to each other. Pure.

Works on the plain document, not on the models, so that these problems are found beside those of wrong types.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bridge.config.routes import VERBS, wrong_verbs
from bridge.config.sources import SourceConfig
from bridge.config.types import check_topic
from bridge.errors import Locate, Problem

_GROUP = SourceConfig.model_fields["group"].default
_ORDERING = SourceConfig.model_fields["ordering"].default
_DEAD_LETTER = SourceConfig.model_fields["dead_letter"].default


def check(document: dict[str, Any], locate: Locate) -> Iterator[Problem]:
    """Problems between entries; what is not of the expected shape is left to the models."""
    sections = {
        name: _mapping(document.get(name)) for name in ("engines", "brokers", "registries", "targets", "sources")
    }
    routes = document.get("routes")
    routes = routes if isinstance(routes, list) else []
    for section in ("targets", "sources"):
        for name, entry in sections[section].items():
            broker = _mapping(entry).get("broker")
            if isinstance(broker, str) and broker not in sections["brokers"]:
                yield locate((section, name, "broker"), _unknown("broker", broker, list(sections["brokers"])))
    yield from _registries(sections, locate)
    yield from _kafka(sections["sources"], sections["brokers"], locate)
    yield from _consumers(sections["sources"], locate)
    yield from _domains(sections["sources"], locate)
    yield from _routes(routes, list(sections["sources"]), list(sections["engines"]), locate)
    if not sections["sources"]:
        yield replace(locate(("sources",), "there are no sources: nothing is consumed"), severity="warning")
    elif not routes:
        yield replace(locate(("routes",), "there are no routes: no message leads to anything"), severity="warning")


def _kafka(sources: dict[str, Any], brokers: dict[str, Any], locate: Locate) -> Iterator[Problem]:
    for name, entry in sources.items():
        source = _mapping(entry)
        kind = _mapping(brokers.get(str(source.get("broker")))).get("type", "kafka")
        kafka = source.get("kafka")
        if kafka is not None and kind != "kafka":
            yield locate(("sources", name, "kafka"), f"the broker `{source['broker']}` is of type {kind}, not kafka")
        pattern = _mapping(kafka).get("pattern")
        if source.get("topics") == [] and pattern is None:
            yield locate(("sources", name, "topics"), "must have at least one entry")
        elif source.get("topics") and pattern is not None:
            yield locate(("sources", name, "kafka", "pattern"), "topics are named already; write `topics: []`")


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
                    yield locate((section, name, "schemas"), "only the codecs avro and protobuf have schemas to name")
                elif not where and registry is not None:
                    yield locate((section, name, "registry"), "only the codecs avro and protobuf have a registry")
            elif isinstance(registry, str):
                if registry not in known:
                    yield locate((section, name, *where, "registry"), _unknown("registry", registry, known))
            elif len(known) != 1:
                what = "name one of the registries with `registry:`" if known else "there are no `registries:` for it"
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
            what = f"with `ordering: {ordering}` there are no keys to share; use `key`, or a template with {{{{ }}}}"
            yield locate(("sources", name, "ordering_domain"), what)
    for domain, names in members.items():
        if len(names) == 1:
            what = f"no other source is in the domain `{domain}`, so there is nothing to keep order with"
            yield replace(locate(("sources", names[0], "ordering_domain"), what), severity="warning")


def _consumers(sources: dict[str, Any], locate: Locate) -> Iterator[Problem]:
    taken: dict[tuple[Any, ...], str] = {}
    for name, entry in sources.items():
        source = _mapping(entry)
        topics, group = source.get("topics"), source.get("group", _GROUP)
        topics = [topic for topic in topics if isinstance(topic, str)] if isinstance(topics, list) else []
        for index, topic in enumerate(topics):
            consumer = (str(source.get("broker")), str(group), topic)
            if consumer in taken:
                other = "this source" if taken[consumer] == name else f"the source `{taken[consumer]}`"
                what = (
                    f"`{topic}` is read by {other} in the same group `{group}` already; give one of them another group"
                )
                yield locate(("sources", name, "topics", index), what)
            taken.setdefault(consumer, name)
        yield from _dead_letters(name, source.get("dead_letter", _DEAD_LETTER), topics, locate)


def _dead_letters(name: str, template: Any, topics: list[str], locate: Locate) -> Iterator[Problem]:
    if not isinstance(template, str) or not template:
        return
    for topic in topics:
        target = template.replace("{topic}", topic)
        if target in topics:
            what = f"dead letters would go to `{target}`, which this source reads itself"
            yield locate(("sources", name, "dead_letter"), what)
        elif len(target) > 249 and len(topic) <= 249 and _is_topic(topic):
            yield locate(("sources", name, "dead_letter"), f"`{target[:40]}…` is longer than 249 characters")


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
        wrong = wrong_verbs([verb for verb in VERBS if route.get(verb) is not None]) if route else None
        if wrong is not None:
            yield locate(("routes", index), wrong)
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
            what = "no route reads from this source: every message of it ends as `no_match` says"
            yield replace(locate(("sources", source), what), severity="warning")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _unknown(kind: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"there is no {kind} `{name}`; did you mean `{near[0]}`?"
    return f"there is no {kind} `{name}` (known: {', '.join(known) or 'none'})"
