"""Candidate for the rules: loaded, and checked against the configuration whose messages it decides about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bridge.app.composition import build_decoder, build_router, build_rule_set, module_base
from bridge.app.reload.changes import belongs_to_rules, changes
from bridge.config.model.routes import RouteConfig
from bridge.config.source import Loaded, load
from bridge.core.errors import ConfigError, Problem
from bridge.core.problems.codes import coded
from bridge.pipeline.rule_set import RuleSet
from bridge.pipeline.settings import EnginePort
from bridge.routing.cel.template import constant_prefix

if TYPE_CHECKING:
    from bridge.codecs.confluent import Registry

CANDIDATE = ("rules", "candidate")
"""Path of the setting that names the candidate."""


def load_candidate(loaded: Loaded) -> Loaded | None:
    """Load the candidate of a configuration; None without one.

    Raises: ConfigError with its problems, and with parts that it must share with the configuration and does not.
    """
    name = loaded.config.rules.candidate
    if name is None:
        return None
    candidate = load([loaded.resolve(CANDIDATE, name)])
    problems = list(_problems(loaded, candidate))
    if problems:
        raise ConfigError(problems)
    return candidate


def candidate_rules(
    loaded: Loaded,
    candidate: Loaded | None,
    engines: Mapping[str, EnginePort],
    registries: Mapping[str, Registry] | None,
) -> dict[str, RuleSet]:
    """Compile the rule sets of a candidate, for the sources that the configuration has too. Raises: ConfigError."""
    if candidate is None:
        return {}
    names = [name for name in candidate.config.sources if name in loaded.config.sources]
    return {name: build_rule_set(candidate, name, engines, registries) for name in names}


def check_candidate(loaded: Loaded) -> list[Problem]:
    """Load and compile the candidate. Return warnings. Raises: ConfigError."""
    candidate = load_candidate(loaded)
    if candidate is None:
        return []
    problems: list[Problem] = []
    for source in candidate.config.sources:
        for build in (build_decoder, build_router):
            try:
                build(candidate, source)
            except ConfigError as error:
                problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return list(_without_effect(loaded, candidate))


def _without_effect(loaded: Loaded, candidate: Loaded) -> Iterator[Problem]:
    """Warnings for parts of a candidate that decide about nothing, or as the configuration does."""
    present = loaded.config.sources
    for name in candidate.config.sources:
        if name not in present:
            what = f"the configuration has no source {name}, so the candidate decides nothing about it"
            yield coded("C020", candidate.locate(("sources", name), what))
    found = changes(loaded, candidate)
    sources = [each for each in found.sources if each.source in present and each.source in candidate.config.sources]
    settings = any(path.startswith(("vars.", "sagas.")) for path in found.settings)
    if settings or any(each.routes or any(map(belongs_to_rules, each.keys)) for each in sources):
        return
    what = "the candidate decides as this configuration does: its rules, `vars` and `sagas` are the same"
    yield coded("C020", loaded.locate(CANDIDATE, what))


def _problems(loaded: Loaded, candidate: Loaded) -> Iterator[Problem]:
    """Parts of a candidate that the running parts of the configuration do not fit."""
    present, new = loaded.config, candidate.config
    if present.sources.keys().isdisjoint(new.sources):
        what = (
            f"a candidate uses the sources of the configuration ({', '.join(present.sources)}), and this one has none"
        )
        yield coded("C008", candidate.locate(("sources",), what))
    for name, source in new.sources.items():
        own = present.sources.get(name)
        if own is not None and own.ordering != source.ordering:
            what = f"a candidate has the ordering of the configuration, `{own.ordering}`"
            yield coded("C008", candidate.locate(("sources", name, "ordering"), what))
    routes = {route.name: route for route in present.routes}
    foreign_code = module_base(candidate) != module_base(loaded)
    for at, route in enumerate(new.routes):
        for engine in (each for each in route.find if each not in present.engines):
            what = f"the configuration has no engine {engine}; a candidate uses its engines"
            yield coded("C008", candidate.locate(("routes", at, "engine"), what))
        own_route = routes.get(route.name)
        if route.limits is not None and (own_route is None or own_route.limits != route.limits):
            what = "a candidate has the limits of the configuration: write the same limits there, for the same route"
            yield coded("C008", candidate.locate(("routes", at, "limits"), what))
        if route.map is not None and foreign_code:
            what = "a daemon does not import the code of another directory; put the candidate beside the configuration"
            yield coded("C008", candidate.locate(("routes", at, "map"), what))


def shared_instances(loaded: Loaded) -> Iterator[Problem]:
    """Warnings for several sources that address instances with one id prefix, while a candidate decides by key.

    Messages of one instance can have several ordering keys then, and so belong to both rules.
    """
    config = loaded.config
    if config.rules.candidate is None:
        return
    sources: dict[tuple[str, str], set[str]] = {}
    for at, route in enumerate(config.routes):
        prefix = _prefix(route)
        if prefix is None:
            continue
        known = sources.setdefault((route.engine, prefix), set())
        if known and not known >= set(route.from_):
            what = (
                f"{', '.join(sorted(known | set(route.from_)))} address instances {prefix!r}: give messages of one "
                "instance the same ordering key in all sources, so that the candidate decides about all or none"
            )
            yield coded("R026", loaded.locate(("routes", at), what))
        known |= set(route.from_)


def _prefix(route: RouteConfig) -> str | None:
    """Constant prefix of the instance ids that a route addresses; None for one that addresses none."""
    instance_id = getattr(getattr(route, route.command), "instance_id", None)
    return None if instance_id is None else constant_prefix(instance_id)


def record_engine(loaded: Loaded) -> str:
    """Name of the engine with the record of the candidate: `default`, or the first one."""
    engines = loaded.config.engines
    return "default" if "default" in engines else next(iter(engines))
