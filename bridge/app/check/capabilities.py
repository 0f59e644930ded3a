"""Rules that an engine cannot keep, by the capabilities that it lacks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from bridge.config.model.routes import RouteConfig, WaitMissing
from bridge.config.source import Loaded
from bridge.core.commands import OnExisting, OnFinished
from bridge.core.errors import ConfigPath, Problem
from bridge.engines.remote.capabilities import Capability
from bridge.quarantine.orphaned import quarantine_engine


def refusals(loaded: Loaded, lacking: Mapping[str, Collection[Capability]]) -> list[Problem]:
    """Problems with the rules that an engine cannot keep.

    lacking: capabilities that each engine lacks, by name; engines that are not in it lack none.
    """
    found = []
    for engine, capabilities in lacking.items():
        for path, what, needed in _needs(loaded, engine):
            if needed in capabilities:
                found.append(loaded.locate(path, f"{what} needs {needed}, which engine {engine} does not have"))
    return found


def _needs(loaded: Loaded, engine: str) -> Iterator[tuple[ConfigPath, str, Capability]]:
    """Places of the configuration that need a capability of an engine, with their names."""
    config = loaded.config
    for source in config.sources:
        if quarantine_engine(loaded, source) == engine:
            yield ("sources", source, "quarantine"), f"source {source}: `quarantine`", Capability.ENTITIES
    for position, route in enumerate(config.routes):
        if engine in route.find:
            signed = config.engines[engine].answers.signatures != "off"
            for member, what, needed in _of_route(route, signed=signed):
                yield ("routes", position, *member), f"route {route.name}: {what}", needed
    if config.rules.candidate is not None and any(engine in route.find for route in config.routes):
        yield ("rules", "candidate"), "`rules.candidate`", Capability.ENTITIES


def _of_route(route: RouteConfig, *, signed: bool) -> Iterator[tuple[ConfigPath, str, Capability]]:
    word = route.command
    command = getattr(route, word)
    if word == "signal_entity":
        yield (word,), "`signal_entity`", Capability.ENTITIES
    if word == "reply" and signed:
        yield (word,), "`reply` with `answers.signatures` other than `off`", Capability.ENTITIES
    if isinstance(getattr(command, "on_missing", None), WaitMissing):
        yield (word, "on_missing"), "`on_missing: {wait: ...}`", Capability.ENTITIES
    existing = getattr(command, "on_existing", None)
    raises = word in ("raise_event", "start_or_raise", "cancel", "reply") or existing is OnExisting.RAISE
    if raises and command.on_finished is not OnFinished.IGNORE:
        yield (word,), f"`{word}` without `on_finished: ignore`", Capability.HISTORIES
    if existing is OnExisting.RESTART:
        yield (word, "on_existing"), "`on_existing: restart`", Capability.HISTORIES
    for member in ("start_at", "delay", "version", "tags"):
        if word in ("schedule", "start_or_raise") and getattr(command, member, None):
            yield (word, member), f"`{member}`", Capability.PROTOCOL
    limits = route.limits
    if limits is not None and (limits.running or (limits.per is not None and limits.per.running)):
        yield ("limits",), "`limits` with `running`", Capability.QUERIES
