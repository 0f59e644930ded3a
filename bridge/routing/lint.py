"""Warnings about valid rules that are probably mistakes. Expressions are checked when a router is compiled."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

from bridge.config.model.bridge import BridgeConfig
from bridge.config.model.routes import StartMissing
from bridge.config.model.sources import LimitsConfig
from bridge.config.model.types import format_duration, format_size
from bridge.core.errors import ConfigPath, Locate, Problem
from bridge.core.problems.codes import coded
from bridge.routing.cel.expression import Expression
from bridge.routing.cel.template import constant_prefix
from bridge.routing.cel.tokens import readings
from bridge.routing.conditions import RuleFinding, condition_findings
from bridge.routing.index import values
from bridge.routing.regexes import regex_findings
from bridge.routing.rule_checks import rule_findings

_ORDINARY = 32 * 1024
"""Size of a message that every expression should be able to process, in bytes."""

_COMBINATIONS = 256
"""Maximum number of value combinations of one rule that are examined. A rule with more is not judged."""


def lint(config: BridgeConfig, locate: Locate, *, whole: bool = True) -> list[Problem]:
    """Problems of rules that are valid but probably mistakes.

    whole: True if every rule is as written; otherwise unreachable rules are not reported.
    """
    found: list[RuleFinding] = []
    if whole:
        found += [("R016", *each) for each in _unreachable(config)]
    for code, check in (
        ("R007", _open_ids),
        ("R021", _short_retention),
        ("R022", _waiting_starts),
        ("R018", _multiplied),
        ("R023", _held_by_one_value),
        ("R030", _other_versions),
    ):
        found += [(code, *each) for each in check(config)]
    found += [*rule_findings(config), *condition_findings(config)]
    return [coded(code, locate(path, what)) for code, path, what in found]


def lint_patterns(
    config: BridgeConfig, compiled: Iterable[tuple[ConfigPath, Expression]], locate: Locate
) -> list[Problem]:
    """Problems of the constant regular expressions in compiled expressions."""
    return [coded(code, locate(path, what)) for code, path, what in regex_findings(config, compiled)]


def costly(compiled: Iterable[tuple[ConfigPath, Expression]], limits: LimitsConfig, locate: Locate) -> list[Problem]:
    """Warnings for expressions whose cost grows faster than the message.

    Such a message is refused long before it is large.

    compiled: expressions that process messages of a source with these limits.
    """
    found: list[Problem] = []
    for path, expression in compiled:
        size = expression.affordable(limits.expression_nanoseconds, _ORDINARY)
        if size < min(_ORDINARY, limits.max_payload):
            what = (
                f"for a message of {max(2 * size // 1024, 1)} KiB this may cost more than limits.expression_cost "
                f"({format_duration(limits.expression_cost)}) allows, and the message is then dead-lettered: its cost "
                f"is a product of sizes that the sender chooses\n  {expression.source}"
            )
            found.append(coded("R020", locate(path, what)))
    return found


def referenced_orchestrations(config: BridgeConfig) -> list[tuple[str, ConfigPath]]:
    """Names of orchestrations that routes start, each with its place in the configuration."""
    found: list[tuple[str, ConfigPath]] = []
    for position, route in enumerate(config.routes):
        starts = route.schedule or route.start_or_raise
        missing = getattr(route.command_settings, "on_missing", None)
        if starts is not None and starts.orchestration is not None:
            found.append((starts.orchestration, ("routes", position, route.command, "orchestration")))
        elif isinstance(missing, StartMissing):
            found.append((missing.start, ("routes", position, route.command, "on_missing", "start")))
    return found


def referenced_entities(config: BridgeConfig) -> list[tuple[str, ConfigPath]]:
    """Names of entities that routes signal, each with its place in the configuration."""
    return [
        (route.signal_entity.entity, ("routes", position, "signal_entity", "entity"))
        for position, route in enumerate(config.routes)
        if route.signal_entity is not None
    ]


def _unreachable(config: BridgeConfig) -> list[tuple[ConfigPath, str]]:
    found: list[tuple[ConfigPath, str]] = []
    for source in config.sources:
        # earlier rules that end the search: condition, keys, values, to the rule's name
        taken: dict[str | None, dict[tuple[str, ...], dict[tuple[Any, ...], str]]] = {}
        for position, route in enumerate(config.routes):
            if source not in route.from_:
                continue
            match = {key: values(wanted) for key, wanted in sorted(route.match.items())}
            if catcher := _catcher(taken, match, route.when):
                found.append(
                    (
                        ("routes", position),
                        (
                            f"{route.name} is never reached from {source}: {catcher} takes every message it matches; "
                            "move it up, or set `continue: true` there"
                        ),
                    )
                )
            elif not route.continue_ and _count(match, tuple(match)) <= _COMBINATIONS:
                by_values = taken.setdefault(_condition(route.when), {}).setdefault(tuple(match), {})
                for combination in product(*match.values()):
                    by_values.setdefault(combination, route.name)
    return found


def _catcher(
    taken: dict[str | None, dict[tuple[str, ...], dict[tuple[Any, ...], str]]],
    match: dict[str, tuple[Any, ...]],
    when: str | None,
) -> str | None:
    """Name of an earlier rule that takes all messages of this one, alone or together with others; None if absent."""
    conditions = dict.fromkeys((None, _condition(when)))
    for keys, by_values in (each for condition in conditions for each in taken.get(condition, {}).items()):
        if not all(key in match for key in keys):
            continue
        if _count(match, keys) > _COMBINATIONS:
            continue
        names = {by_values.get(combination) for combination in product(*(match[key] for key in keys))}
        if names and None not in names:
            return " with ".join(sorted(name for name in names if name is not None))
    return None


def _count(match: dict[str, tuple[Any, ...]], keys: tuple[str, ...]) -> int:
    count = 1
    for key in keys:
        count *= len(match[key])
    return count


def _condition(when: str | None) -> str | None:
    return None if when is None or when.strip() == "true" else when.strip()


def _open_ids(config: BridgeConfig) -> list[tuple[ConfigPath, str]]:
    found: list[tuple[ConfigPath, str]] = []
    for position, route in enumerate(config.routes):
        if route.instance_id is not None and not constant_prefix(route.instance_id):
            found.append(
                (
                    ("routes", position, route.command, "instance_id"),
                    (
                        "the instance id has no constant prefix, so a message may name any instance; "
                        "begin it with a word of its own, like `order-{{ ... }}`"
                    ),
                )
            )
    return found


def _short_retention(config: BridgeConfig) -> list[tuple[ConfigPath, str]]:
    found: list[tuple[ConfigPath, str]] = []
    for position, route in enumerate(config.routes):
        engines = {name: config.engines[name] for name in route.find if name in config.engines}
        kept = {name: engine.retention for name, engine in engines.items() if engine.retention is not None}
        shortest = min(kept, key=lambda name: kept[name], default=None)
        if shortest is None or (route.schedule is None and route.start_or_raise is None):
            continue
        for name in route.from_:
            source = config.sources.get(name)
            if source is not None and source.retention is not None and kept[shortest] < source.retention:
                found.append(
                    (
                        ("routes", position, route.command),
                        (
                            f"engine {shortest} keeps finished instances for less time than {name} keeps messages: "
                            "a message read again after that starts its orchestration a second time"
                        ),
                    )
                )
    return found


def _waiting_starts(config: BridgeConfig) -> list[tuple[ConfigPath, str]]:
    what = (
        "what waits for its time to start counts as running, once it is scheduled: `delay` and `start_at` may "
        "fill the cap with what does not run yet"
    )
    found: list[tuple[ConfigPath, str]] = []
    for position, route in enumerate(config.routes):
        limits, command = route.limits, route.schedule
        if limits is None or command is None or (command.delay is None and command.start_at is None):
            continue
        if limits.running is not None:
            found.append((("routes", position, "limits", "running"), what))
        if limits.per is not None and limits.per.running is not None:
            found.append((("routes", position, "limits", "per", "running"), what))
    return found


def _multiplied(config: BridgeConfig) -> list[tuple[ConfigPath, str]]:
    found: list[tuple[ConfigPath, str]] = []
    for position, route in enumerate(config.routes):
        if route.for_each is None:
            continue
        command = route.command_settings
        missing = getattr(command, "on_missing", None)
        given = {name: getattr(command, name, None) for name in ("input", "data", "output")}
        if isinstance(missing, StartMissing):
            given["on_missing"] = missing.input
        limit = min(
            (config.sources[name].limits.max_command_bytes for name in route.from_ if name in config.sources),
            default=0,
        )
        for name, text in given.items():
            if text is not None and any(not each.path for each in readings(text, frozenset(("payload",)))):
                what = (
                    "every command of `for_each` holds the whole payload, so a large message with many items is "
                    f"dead-lettered (limits.max_command_bytes, {format_size(limit)}); give each what it needs, like "
                    f"`{name}: item`"
                )
                found.append((("routes", position, route.command, name), what))
    return found


def _held_by_one_value(config: BridgeConfig) -> list[tuple[ConfigPath, str]]:
    """Warnings for limits per value under which one value can delay all others."""
    found: list[tuple[ConfigPath, str]] = []
    for name, source in config.sources.items():
        if source.limits.per is not None and source.ordering == "partition":
            what = (
                "with `ordering: partition` each message waits for all before it, so a value at its bound holds the "
                "others; use `ordering: key`"
            )
            found.append((("sources", name, "limits", "per"), what))
        at_work = None if source.limits.per is None else source.limits.per.max_in_flight
        if at_work is not None and at_work >= source.limits.concurrency:
            what = (
                f"one value may have all {source.limits.concurrency} commands that are executed at once "
                "(limits.concurrency), and hold the others while they are slow"
            )
            found.append((("sources", name, "limits", "per", "max_in_flight"), what))
    for position, route in enumerate(config.routes):
        if route.limits is None or route.limits.per is None:
            continue
        without = [name for name in route.from_ if name in config.sources and config.sources[name].limits.per is None]
        if without:
            what = (
                f"messages that wait for these limits are in flight, and those of one value may fill source "
                f"{without[0]} and hold the others; give the source `limits.per` too"
            )
            found.append((("routes", position, "limits", "per"), what))
    return found


def _other_versions(config: BridgeConfig) -> list[tuple[ConfigPath, str]]:
    """Starts with a constant version, or without one, that the worker of their engine does not run."""
    found: list[tuple[ConfigPath, str]] = []
    for position, route in enumerate(config.routes):
        engine = config.engines.get(route.engine)
        command = route.schedule or route.start_or_raise
        if engine is None or not engine.worker.versions or command is None or command.orchestration is None:
            continue
        version = command.version or ""
        if "{{" in version or version in engine.worker.versions:
            continue
        path: ConfigPath = ("routes", position, route.command, *(("version",) if version else ()))
        runs = ", ".join(repr(each) for each in engine.worker.versions)
        given = f"version {version!r}" if version else "no version"
        what = f"the instance has {given}, and the worker of engine {route.engine} runs {runs} only (worker.versions)"
        found.append((path, f"{what}; it is PENDING until a worker of its version runs"))
    return found
