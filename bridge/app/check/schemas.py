"""Expressions of rules against the schemas of their payloads, and against two versions of one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from bridge.app.codecs import build_registries
from bridge.codecs.schema import fault_of
from bridge.codecs.schema_views import UnusableSchema, is_avro, view_of
from bridge.config.schema_files import MAX_SCHEMA
from bridge.config.source import Loaded
from bridge.config.yaml.node import ScalarNode, find
from bridge.core.errors import ConfigPath, MessageError, Problem
from bridge.core.problems.codes import coded
from bridge.routing import Router
from bridge.routing.payload_types import (
    INTEGER,
    NULL,
    NUMBER,
    Lookup,
    Misfit,
    SchemaView,
    look_up,
    misfits,
    places,
    value_misfit,
    words,
)
from bridge.system.files import read_file

_IN_REGISTRY = re.compile(r"(?P<registry>[^/@]+)/(?P<subject>[^@]+)@(?P<version>\d+|latest)")


class UnusableVersion(Exception):
    """Raised for a version of a schema that cannot be read; the text says which and why."""


@dataclass(frozen=True, slots=True)
class SchemaVersions:
    """Versions of a schema to compare.

    old, new: file, or `REGISTRY/SUBJECT@VERSION`.
    sources: sources whose messages have the schema; empty: all.
    """

    old: str
    new: str
    sources: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class _Read:
    """An expression, or an equality of `match`, that reads the payload as its source decodes it."""

    path: ConfigPath
    source: str


def fitting(loaded: Loaded, routers: Mapping[str, Router]) -> Iterator[Problem]:
    """Warnings about expressions that do not fit the `schema` files of their source or route."""
    for name, router in routers.items():
        file = loaded.config.sources[name].schema_file
        view = None if file is None else _configured(loaded, ("sources", name, "schema"), file)
        if view is not None:
            yield from _against(loaded, view, _reads(loaded, router), Path(file or "").name)
            yield from _equalities(loaded, view, name, Path(file or "").name)
    for position, route in enumerate(loaded.config.routes):
        sources = [routers[name] for name in route.from_ if name in routers]
        if route.schema_file is None or not sources or route.map is not None:
            continue
        view = _configured(loaded, ("routes", position, "schema"), route.schema_file)
        own: ConfigPath = ("routes", position, route.command)
        if view is not None:
            reads = [each for each in _reads(loaded, sources[0]) if each.path[:3] == own]
            yield from _against(loaded, view, reads, Path(route.schema_file).name)


def changed(loaded: Loaded, routers: Mapping[str, Router], versions: SchemaVersions) -> Iterator[Problem]:
    """Warnings about expressions that one of two versions of a schema does not fit.

    Raises: UnusableVersion, RegistryUnavailable.
    """
    for name in versions.sources:
        if name not in loaded.config.sources:
            raise UnusableVersion(f"there is no source `{name}`; the configuration has {', '.join(routers)}")
    old, new = _version(loaded, versions.old), _version(loaded, versions.new)
    for name, router in routers.items():
        if versions.sources and name not in versions.sources:
            continue
        for read in _reads(loaded, router):
            yield from _compared(loaded, read, (versions.old, old), (versions.new, new))


def _reads(loaded: Loaded, router: Router) -> list[_Read]:
    """Expressions of a source's rules that read the payload itself, not the result of `map`."""
    found = []
    for path, expression in router.compiled:
        if path[0] == "routes":
            is_mapped = loaded.config.routes[int(path[1])].map is not None
            if is_mapped and path[2] != "when":
                continue
        found.append(_Read(path, expression.source))
    return found


def _against(loaded: Loaded, view: SchemaView, reads: Sequence[_Read], schema: str) -> Iterator[Problem]:
    for read in reads:
        for misfit in misfits(read.source, view):
            code = "R031" if misfit.missing else "R032"
            yield _problem(loaded, read, misfit, code, f"{misfit.text} ({schema})")


def _equalities(loaded: Loaded, view: SchemaView, source: str, schema: str) -> Iterator[Problem]:
    for position, route in enumerate(loaded.config.routes):
        if source not in route.from_:
            continue
        for key, wanted in route.match.items():
            room, _, name = key.partition(".")
            if room != "payload" or not name:
                continue
            path: ConfigPath = ("routes", position, "match", key)
            found = look_up(view, name.split("."))
            if found.lacking is not None and (found.is_certain or found.similar):
                meant = f"; did you mean `{found.similar}`?" if found.similar else ""
                yield coded("R031", loaded.locate(path, f"no {key} in {schema}{meant}"))
            elif found.lacking is None and found.view is not None:
                values = wanted if isinstance(wanted, tuple) else (wanted,)
                wrong = next((value for value in values if value_misfit(value, found.view)), None)
                if wrong is not None:
                    what = f"{key} is {words(found.view.kinds)} in {schema}, and never equals `{wrong}`"
                    yield coded("R032", loaded.locate(path, what))


def _compared(
    loaded: Loaded, read: _Read, old: tuple[str, SchemaView], new: tuple[str, SchemaView]
) -> Iterator[Problem]:
    reported = False
    for place in places(read.source):
        before, after = look_up(old[1], place.path), look_up(new[1], place.path)
        what = _difference(before, after, old[0], new[0], guarded=place.guarded)
        if what is not None:
            reported = True
            text = f"{'.'.join(('payload', *place.path))} {what}"
            yield _problem(loaded, read, Misfit(place.start, place.path, text, missing=True), "R033", text)
    for name, view in (old, new):
        for misfit in () if reported else misfits(read.source, view):
            yield _problem(loaded, read, misfit, "R033", f"{misfit.text} ({name})")
            reported = True


def _difference(before: Lookup, after: Lookup, old: str, new: str, *, guarded: bool) -> str | None:
    """Difference of a member between two versions in words; None if there is none that matters."""
    for here, there, name, other in ((after, before, new, old), (before, after, old, new)):
        if here.lacking is not None and there.lacking is None and there.view is not None and not guarded:
            return f"is missing in {name}, and {words(there.view.kinds)} in {other}"
    if before.view is None or after.view is None or before.lacking is not None or after.lacking is not None:
        return None
    was, now = (_comparable(each.view.kinds) for each in (before, after) if each.view is not None)
    if was and now and was - {NULL} != now - {NULL}:
        return f"is {words(after.view.kinds)} in {new}, and {words(before.view.kinds)} in {old}"
    if NULL in now - was and was:
        return f"may be null in {new}, and not in {old}"
    if after.optional and not before.optional and not guarded:
        return f"may be missing in {new}, and not in {old}"
    return None


def _comparable(kinds: frozenset[str]) -> frozenset[str]:
    """Types without the difference between integers and other numbers, which the type checker judges."""
    return frozenset(NUMBER if kind == INTEGER else kind for kind in kinds)


def _problem(loaded: Loaded, read: _Read, misfit: Misfit, code: str, what: str) -> Problem:
    node = find(loaded.document.root, read.path)
    value = node.value if isinstance(node, ScalarNode) else None
    start = value.find(read.source) if isinstance(value, str) else -1
    line_start = read.source.rfind("\n", 0, misfit.offset) + 1
    shown = read.source[line_start:].partition("\n")[0].replace("\t", " ")
    text = f"{what}\n  {shown}\n  {' ' * (misfit.offset - line_start)}^"
    offset = None if start < 0 else start + misfit.offset
    return replace(coded(code, loaded.locate(read.path, text)), offset=offset)


def _configured(loaded: Loaded, path: ConfigPath, file: str) -> SchemaView | None:
    """View of a configured schema; None for one that cannot be used, which other checks report."""
    try:
        return _of_file(loaded.resolve(path, file))
    except (OSError, UnusableSchema):
        return None


def _of_file(path: Path) -> SchemaView:
    return view_of(read_file(path, MAX_SCHEMA), path.absolute().as_uri())


def _checked_file(path: Path) -> SchemaView:
    """View of a file. Raises: UnusableSchema, also for words that JSON Schema does not know; OSError."""
    view, schema = _of_file(path), orjson.loads(read_file(path, MAX_SCHEMA))
    wrong = None if is_avro(schema) else fault_of(schema)
    if wrong is not None:
        raise UnusableSchema(f"it is not a valid JSON Schema: {wrong}")
    return view


def _version(loaded: Loaded, name: str) -> SchemaView:
    """View of a file, or of a version in a registry. Raises: UnusableVersion, RegistryUnavailable."""
    inside = _IN_REGISTRY.fullmatch(name)
    try:
        if inside is None or Path(name).is_file():
            return _checked_file(Path(name))
        return asyncio.run(_registered(loaded, *inside.groups()))
    except OSError as error:
        raise UnusableVersion(f"{name}: {error.strerror or type(error).__name__}") from None
    except (UnusableSchema, MessageError) as error:
        raise UnusableVersion(f"{name}: {error}") from None


async def _registered(loaded: Loaded, registry: str, subject: str, version: str) -> SchemaView:
    """View of a version in a registry. Raises: UnusableSchema, MessageError, RegistryUnavailable."""
    if registry not in loaded.config.registries:
        known = ", ".join(loaded.config.registries) or "none"
        raise UnusableSchema(f"there is no registry `{registry}` (registries: {known})")
    client = build_registries(loaded)[registry]
    try:
        schema = await client.version(subject, None if version == "latest" else int(version))
    finally:
        await client.close()
    if schema.kind == "PROTOBUF":
        raise UnusableSchema("the types of Protobuf schemas are not read")
    return view_of(schema.text, "", [text for _, text in schema.references])
