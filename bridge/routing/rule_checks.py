"""Valid rules that probably do not mean what they say: templates, instance ids and equalities."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bridge.config.model.bridge import BridgeConfig
from bridge.config.model.routes import MATCH_KEYS, RouteConfig, ScheduleConfig, StartOrRaiseConfig
from bridge.config.model.sources import SourceConfig, UpcastConfig
from bridge.config.model.types import format_duration
from bridge.config.model_fields import texts_in
from bridge.core.answers import REPLY_PREFIX
from bridge.core.commands import OnExisting
from bridge.core.errors import ConfigPath
from bridge.routing.cel.expression import ITEM
from bridge.routing.cel.scope import EVENT
from bridge.routing.cel.template import constant_prefix, expressions, literals
from bridge.routing.cel.tokens import closing_braces, readings
from bridge.routing.conditions import RuleFinding, topics_of

_SINGLE = re.compile(r"(?<!\{)\{\s*((?:payload|event|vars|item|input|steps|reply)\b[^{}]*?|index)\s*\}(?!\})")
_BARE = re.compile(r"(payload|item|event|vars)((?:\.[A-Za-z_]\w*|\[[^\]]*\])+)")
_WAITING = frozenset(("raise_event", "cancel", "terminate", "suspend", "resume"))
"""Commands that need an instance."""


def rule_findings(config: BridgeConfig) -> Iterator[RuleFinding]:
    """Findings about all rules, and about the templates of the whole configuration."""
    suspects = dict(_literal_templates(config))
    yield from (("R004", path, what) for path, what in suspects.items())
    for position, route in enumerate(config.routes):
        path: ConfigPath = ("routes", position)
        if (*path, route.command, "instance_id") not in suspects:
            yield from _fixed_ids(route, path)
        yield from _equalities(route.match, path)
        for key, wanted in route.match.items():
            values = wanted if isinstance(wanted, tuple) else (wanted,)
            yield from _impossible(config, route, key, values, (*path, "match", key))
    for name, source in config.sources.items():
        yield from _upcasts(source, ("sources", name, "upcast"))
    yield from _shared_ids(config)
    yield from _early_events(config)
    yield from _moves(config)


# -- templates


def _literal_templates(config: BridgeConfig) -> Iterator[tuple[ConfigPath, str]]:
    """Templates with an expression in single braces, or in none."""
    for path, text in texts_in(config, "cel-template"):
        if "{" not in text:
            found = _BARE.fullmatch(text.strip())
            member = found[2].lstrip(".").partition(".")[0] if found is not None else ""
            if found is not None and (found[1] != "event" or member in EVENT):
                yield path, f"`{text}` is literal text here; write an expression as `{{{{ {text.strip()} }}}}`"
        elif (single := next(filter(None, map(_SINGLE.search, literals(text))), None)) is not None:
            expression = f"{{{{ {single[1]} }}}}"
            yield path, f"`{single[0]}` is literal text here; write an expression as `{expression}`"


def with_double_braces(template: str) -> str | None:
    """Template with double braces around its expressions in single braces or in none; None if there are none."""
    if "{" not in template:
        return f"{{{{ {template.strip()} }}}}" if _BARE.fullmatch(template.strip()) else None
    changed, position = "", 0
    for literal in literals(template):
        end = position + len(literal)
        changed += _SINGLE.sub(lambda found: f"{{{{ {found[1].strip()} }}}}", literal)
        closing = closing_braces(template, end + 2) if template.startswith("{{", end) else end - 2
        changed += template[end : closing + 2]
        position = closing + 2
    return changed if changed != template else None


def _variables(template: str) -> set[str]:
    """Variables that the expressions of a template read."""
    return {reading.variable for source in expressions(template) for reading in readings(source, ITEM)}


# -- instance ids


def _fixed_ids(route: RouteConfig, path: ConfigPath) -> Iterator[RuleFinding]:
    """Findings about ids that do not differ where a new instance is meant."""
    start = route.schedule
    if start is None or start.on_existing not in (OnExisting.IGNORE, OnExisting.DEAD_LETTER):
        return
    fate = "is a duplicate" if start.on_existing is OnExisting.IGNORE else "is dead-lettered"
    reads, here = _variables(start.instance_id), (*path, "schedule", "instance_id")
    if reads <= {"vars"}:
        what = (
            f"every message has the same instance id: the first one starts the orchestration, and every later one "
            f"{fate}; name the message in it, like `order-{{{{ payload.id }}}}`"
        )
        yield "R005", here, what
    elif route.for_each is not None and not reads & {"item", "index"}:
        what = (
            f"every item of `for_each` has the same instance id: the first one starts the orchestration, and every "
            f"later one {fate}; name the item in it, like `line-{{{{ payload.id }}}}-{{{{ index }}}}`"
        )
        yield "R006", here, what


def _starts(route: RouteConfig) -> tuple[ScheduleConfig | StartOrRaiseConfig, str, str] | None:
    """Command of a route that starts instances, its name, and the name of its workflow; None for other routes."""
    if route.schedule is not None:
        saga = route.schedule.saga
        name = f"saga {saga}" if saga is not None else route.schedule.orchestration
        return (route.schedule, "schedule", name) if name is not None else None
    if route.start_or_raise is not None:
        return route.start_or_raise, "start_or_raise", route.start_or_raise.orchestration
    return None


def _shared_ids(config: BridgeConfig) -> Iterator[RuleFinding]:
    """Findings about rules that start different orchestrations under ids of one form."""
    first: dict[tuple[str, str], tuple[str, str]] = {}
    for position, route in enumerate(config.routes):
        starts = _starts(route)
        if starts is None:
            continue
        command, word, workflow = starts
        template = command.instance_id
        if not _variables(template) - {"vars"}:
            continue
        form = "{}".join(literals(template)) if constant_prefix(template) else " ".join(expressions(template))
        name, earlier = first.setdefault((route.engine, form), (route.name, workflow))
        if earlier != workflow:
            what = (
                f"rule {name} starts {earlier} under ids of the same form, and this rule {workflow}: if both ids "
                "are equal, the later message starts nothing; begin the ids with different words"
            )
            yield "R017", ("routes", position, word, "instance_id"), what


def _moves(config: BridgeConfig) -> Iterator[RuleFinding]:
    """Findings about rules for instances that move, whose engines differ."""
    moving = [route for route in config.routes if route.others]
    for position, route in enumerate(config.routes):
        mine = _id_prefix(route)
        for other in moving:
            theirs = _id_prefix(other)
            if mine is None or theirs is None or not (mine.startswith(theirs or " ") or theirs.startswith(mine)):
                continue
            # An answer goes to an instance that runs
            differs = route.engine != other.engine and route.command != "reply"
            if not differs and set(route.find) >= set(other.find):
                continue
            what = (
                f"instances of rule {other.name} start on {other.engine} and are found on {' and '.join(other.find)}, "
                f"those of this rule start on {route.engine} and are found on {' and '.join(route.find)}: its messages "
                f"miss them, or start them again; write the same `engine` for both"
            )
            yield "R027", ("routes", position), what
            break


def _id_prefix(route: RouteConfig) -> str | None:
    """Constant prefix of the ids of a rule; empty for answers, which name any instance; None without a prefix."""
    if route.command == "reply":
        return ""
    return (constant_prefix(route.instance_id) or None) if route.instance_id is not None else None


def _early_events(config: BridgeConfig) -> Iterator[RuleFinding]:
    """Findings about rules whose message may come before the one that starts the instance."""
    starters: dict[tuple[str, str], list[RouteConfig]] = {}
    for route in config.routes:
        starts = _starts(route)
        if starts is not None and (prefix := constant_prefix(starts[0].instance_id)):
            starters.setdefault((route.engine, prefix), []).append(route)
    for position, route in enumerate(config.routes):
        if route.command not in _WAITING:
            continue
        command: Any = route.command_settings
        prefix = constant_prefix(command.instance_id)
        if (
            not prefix
            or "on_missing" in command.model_fields_set
            or getattr(command, "name", "").startswith(REPLY_PREFIX)
        ):
            continue
        known = starters.get((route.engine, prefix), ())
        groups = {_order(config, name) for each in known for name in each.from_}
        if not known or groups & {_order(config, name) for name in route.from_}:
            continue
        retried = min(
            (config.sources[name].retry.in_memory for name in route.from_ if name in config.sources), default=0.0
        )
        what = (
            f"messages of {' and '.join(route.from_)} have no common order with those of "
            f"{' and '.join(known[0].from_)}, which start the instance ({known[0].name}): one that comes earlier is "
            f"tried again for retry.in_memory ({format_duration(retried)}) and then dead-lettered; write "
            "`on_missing: {wait: 1h}`, or `on_missing: retry` if that is meant"
        )
        yield "R019", ("routes", position, route.command), what


def _order(config: BridgeConfig, source: str) -> str:
    """Sources with the same result share the order of equal keys."""
    known = config.sources.get(source)
    return source if known is None or known.ordering_domain is None else f"domain {known.ordering_domain}"


# -- equalities


_SCHEMA_NAMES = ("extensions.recordname", "extensions.schemaid")
"""Extensions of codecs with a registry, which are text."""


def _equalities(match: Mapping[str, Any], path: ConfigPath) -> Iterator[RuleFinding]:
    """Findings about each equality for itself."""
    for key, wanted in match.items():
        here = (*path, "match", key)
        if "*" in key or "[" in key:
            what = f"`{key}` is the name of a member, not a pattern; use `when`, like `payload.lines[0].sku == 'tea'`"
            yield "R010", here, what
        values = wanted if isinstance(wanted, tuple) else (wanted,)
        for index, value in enumerate(values):
            at = (*here, index) if isinstance(wanted, tuple) else here
            if isinstance(value, str) and _is_pattern(key, value):
                yield "R010", at, _without_pattern(key, value)
            elif not isinstance(value, str) and (key in MATCH_KEYS or key.startswith(("headers.", *_SCHEMA_NAMES))):
                shown = str(value).lower() if isinstance(value, bool) else value
                yield "R011", at, f'{key} is text, and never equals {shown} without quotes; write `"{shown}"`'


def _upcasts(source: SourceConfig, path: ConfigPath) -> Iterator[RuleFinding]:
    """Findings about upcasts of a source: their equalities, and their order."""
    for at, upcast in enumerate(source.upcast):
        here = (*path, at)
        yield from _equalities(upcast.match, here)
        own, before = upcast.dataschema, source.upcast[:at]
        if own in _versions(upcast):
            what = (
                f"messages of `{own}` stay at `{own}`, so every message of the newest version is converted too; name "
                "the older version in `match`, and the newer one in `dataschema`"
            )
            yield "R034", (*here, "dataschema"), what
        elif own is not None and (later := [n for n, each in enumerate(before, 1) if own in _versions(each)]):
            what = f"entry {later[0]} converts `{own}`, and has been passed: entries are tried in order; move it down"
            yield "R034", (*here, "dataschema"), what
        same = [n for n, each in enumerate(before, 1) if each.match == upcast.match and each.dataschema]
        if same and _versions(upcast) and source.upcast[same[0] - 1].dataschema not in _versions(upcast):
            what = f"entry {same[0]} has the same `match`, and gives its messages another `dataschema`"
            yield "R034", (*here, "match"), what


def _versions(upcast: UpcastConfig) -> tuple[Any, ...]:
    """Values of `dataschema` that an upcast converts; empty if it names versions by other members."""
    wanted = upcast.match.get("dataschema", ())
    return wanted if isinstance(wanted, tuple) else (wanted,)


def _impossible(
    config: BridgeConfig, route: RouteConfig, key: str, values: tuple[Any, ...], here: ConfigPath
) -> Iterator[RuleFinding]:
    """Findings about an equality that no message of the sources of a rule fulfils."""
    sources = [config.sources[name] for name in route.from_ if name in config.sources]
    if not sources:
        return
    if key.startswith("payload.") and all(source.codec in ("text", "bytes") for source in sources) and not route.map:
        codec = sources[0].codec
        yield "R011", here, f"the payload is {codec} (codec of {route.from_[0]}) and has no members; use `when`"
    if key == "topic" and (topics := topics_of(config, route)):
        missing = [value for value in values if isinstance(value, str) and value not in topics and "*" not in value]
        if missing:
            what = f"no source of this rule reads the topic `{missing[0]}` (topics: {', '.join(topics)})"
            yield "R011", here, what


_PATTERN = re.compile(
    r"""
      \* | ^\^ | .\$$              # wildcards, and anchors of a regular expression
    | \.\+ | \\[dws][+{] | \\\.     # other parts of regular expressions
    | \[[^\]]+-[^\]]+\] | \[[^\]]+\][+?{]
    | \([^()\s]*\|[^()\s]*\)        # alternatives
    | \{[^{}]+,[^{}]*\}
    | (?<=\.)[#>%](?:\.|$) | (?:^|/)[+\#](?=/) | /[+\#]$   # AMQP, NATS, LIKE and MQTT
    """,
    re.VERBOSE,
)
_SEVERAL = re.compile(r"[^\s,|][,|]")
"""Two names in one text."""

_ONE_CHARACTER = re.compile(r"\?(?!\w+=)")
"""`?` as a wildcard, not before the query of a URL."""


def _is_pattern(key: str, value: str) -> bool:
    """True for a value with wildcards, or with parts of a regular expression."""
    if _PATTERN.search(value) or (key in ("type", "topic") and _SEVERAL.search(value)):
        return True
    is_text = len(value) == 1 or value.startswith("/") or "://" in value or any(each.isspace() for each in value)
    return not is_text and _ONE_CHARACTER.search(value) is not None


def _without_pattern(key: str, value: str) -> str:
    member = key if key.startswith("payload.") else f"event.{key}"
    room, _, name = key.partition(".")
    if room in ("headers", "extensions"):
        member = f"event.{room}['{name}']"
    beginning = value.rstrip("*")
    if value == "*":
        remedy = f"for any value write `when: has({member})`, or remove it" if "." in member else "remove it"
    elif value.endswith("*") and "*" not in beginning and not value.startswith("^"):
        remedy = f"list the values, or write `when: {member}.startsWith('{beginning}')`"
    else:
        remedy = f"list the values, or write `when: {member}.matches('...')`"
    return f"`match` compares the whole value, and `{value}` stands for itself; {remedy}"
