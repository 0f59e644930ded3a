"""Check of a configuration: all problems at once, without a network."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from bridge.app.candidate import check_candidate, shared_instances
from bridge.app.check.moves import skipped_steps
from bridge.app.check.samples import reach, read_samples, unreached
from bridge.app.check.schemas import SchemaVersions, changed, fitting
from bridge.app.check.suppressions import unsuppressed
from bridge.app.check.workflows import unknown_names
from bridge.app.claims import build_claims
from bridge.app.codecs import build_registries, target_codec
from bridge.app.composition import (
    build_access,
    build_decoder,
    build_engine,
    build_peer_tls,
    build_router,
    config_paths,
    load_workflows,
    session_keys,
)
from bridge.app.extras import needed_extras
from bridge.codecs.decoder import SourceDecoder
from bridge.config.insecure import insecure
from bridge.config.model.sources import LimitsConfig
from bridge.config.source import Loaded, survey
from bridge.core.errors import ConfigError, Problem
from bridge.core.problems.codes import coded
from bridge.engines.workflows import Workflows
from bridge.routing import Router, costly, lint, lint_patterns, referenced_entities, referenced_orchestrations
from bridge.routing.cel.expression import Compiler, Expression
from bridge.routing.saga import SagaCompiler

T = TypeVar("T")

_PART = re.compile(r"[.\[]")
"""Beginning of a further part of a path."""


@dataclass(frozen=True, slots=True)
class Report:
    """Result of a check.

    counts: number of sources, routes and so on; empty when unknown.
    loaded: the configuration, with stand-ins for invalid parts; None if it cannot be read.
    """

    problems: tuple[Problem, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    loaded: Loaded | None = field(default=None, repr=False)

    @property
    def errors(self) -> int:
        return sum(problem.severity == "error" for problem in self.problems)

    @property
    def warnings(self) -> int:
        return len(self.problems) - self.errors


def check(
    config: Sequence[Path],
    overlays: Sequence[Path] = (),
    *,
    imports: bool = True,
    samples: Sequence[Path] = (),
    schemas: SchemaVersions | None = None,
) -> Report:
    """Load and compile the whole configuration; report all problems in the order of the files.

    imports: import the workflow modules and the functions of `map:`. Without it, no code of the project runs, and the
    names of orchestrations and entities in rules are not checked.
    samples: files of messages; rules that none of them reaches are reported.
    schemas: versions of a schema; expressions that one of them does not fit are reported.
    Raises: DecodeError or OSError for samples that cannot be read; UnusableVersion, RegistryUnavailable.
    """
    try:
        found = survey(config_paths(config), overlays)
    except ConfigError as error:
        return Report(error.problems)
    if found.loaded is None:
        return Report(found.problems)
    # Without the list of modules, unknown names cannot be found
    imports = imports and not any(problem.path.startswith("workflows") for problem in found.problems)
    report = inspect(found.loaded, imports=imports, whole=found.whole, samples=samples, schemas=schemas)
    # A problem at a place that does not load, or a doubt about an entry with such a place, is a consequence of that
    errors = [problem for problem in found.problems if problem.severity == "error"]
    known = {_place(problem) for problem in errors}
    entries = {problem.path[: end.start()] for problem in errors for end in _PART.finditer(problem.path)}
    problems = [
        *found.problems,
        *(
            each
            for each in report.problems
            if _place(each) not in known and (each.code[:1] != "R" or each.path not in entries)
        ),
    ]
    ran = [name for name, was_there in (("imports", imports), ("samples", samples), ("schemas", schemas)) if was_there]
    whole = found.whole and not any(problem.severity == "error" for problem in problems)
    kept = unsuppressed(found.loaded, _sorted(problems), ran, whole=whole)
    counts = report.counts if all(problem.severity == "warning" for problem in found.problems) else {}
    return Report(tuple(_sorted(kept)), counts, found.loaded)


def _place(problem: Problem) -> tuple[str, int, int]:
    return problem.file, problem.line, problem.column


def inspect(
    loaded: Loaded,
    *,
    imports: bool = True,
    whole: bool = True,
    samples: Sequence[Path] = (),
    schemas: SchemaVersions | None = None,
) -> Report:
    """Check a loaded configuration. Suppressions do not apply.

    whole: False when it has stand-ins for invalid parts.
    """
    problems: list[Problem] = list(loaded.warnings)
    workflows = _collect(lambda: load_workflows(loaded), problems) if imports else None
    if workflows is not None:
        problems += _unknown(loaded, workflows)
    if whole and (workflows is not None or not imports):
        problems += unknown_names(loaded, workflows)
    missing = [each for each in needed_extras(loaded.config) if each.missing is not None]
    problems += (
        coded("C014", loaded.locate(each.path, f"the package {each.missing} is missing; install it: {each.remedy}"))
        for each in missing
    )
    for engine in loaded.config.engines:
        _collect(partial(build_engine, loaded, engine, host=False), problems)
    rules = _compiled(loaded, problems, imports=imports)
    if whole and all(each.extra != "schemas" for each in missing):
        registries = _collect(partial(build_registries, loaded), problems)
        for target in loaded.config.targets if registries is not None else ():
            _collect(partial(target_codec, loaded, target, registries), problems)
    problems += _doubts(loaded, rules.routers, problems, schemas if whole else None, whole=whole)
    problems += shared_instances(loaded)
    problems += skipped_steps(loaded)
    if whole and imports:
        problems += _collect(partial(check_candidate, loaded), problems) or ()
    problems += insecure(loaded.config, loaded.document.root, loaded.locate)
    counts = _counts(loaded, workflows)
    if samples and whole:
        found = reach(loaded.config, read_samples(samples, loaded.config.sources), rules.decoders, rules.routers)
        counts["sample"] = found.by_source.total()
        counts["dead-lettered sample"] = found.dead_lettered
        if len(rules.routers) == len(loaded.config.sources):
            problems += unreached(loaded.config, found, loaded.locate)
    return Report(tuple(_sorted(problems)), counts)


class _CompiledRules(NamedTuple):
    """Decoders and routers of the sources that have both without a problem."""

    decoders: dict[str, SourceDecoder]
    routers: dict[str, Router]


def _compiled(loaded: Loaded, problems: list[Problem], *, imports: bool) -> _CompiledRules:
    """Compile the rules of the sources, the sagas, and the access to the API, and collect their problems."""
    compiled: list[tuple[tuple[str | int, ...], Expression]] = []
    found = _CompiledRules({}, {})
    for source in loaded.config.sources:
        decoding = Compiler(loaded.locate, loaded.config.vars)
        decoder = _collect(partial(build_decoder, loaded, source, compiler=decoding, imports=imports), problems)
        if imports:
            router = _collect(partial(build_router, loaded, source), problems)
        else:
            router = _collect(partial(Router.compile, source, loaded.config, loaded.locate), problems)
        own = [*decoding.compiled, *(() if router is None else router.compiled)]
        problems += costly(own, loaded.config.sources[source].limits, loaded.locate)
        compiled += own
        _collect(partial(build_claims, loaded, source), problems)
        if decoder is not None and router is not None:
            found.decoders[source], found.routers[source] = decoder, router
    unread: list[Problem] = []
    _collect(partial(build_access, loaded), unread)
    _collect(partial(session_keys, loaded), unread)
    if loaded.config.ops.http.peers.tls is not None:
        _collect(partial(build_peer_tls, loaded), unread)
    problems += (coded("C024", each) for each in unread)
    compiler = Compiler(loaded.locate, loaded.config.vars)
    for saga in loaded.config.sagas:
        SagaCompiler(saga, loaded.config, loaded.locate).compile(compiler)
    problems += compiler.problems
    problems += costly(compiler.compiled, LimitsConfig(), loaded.locate)
    problems += lint_patterns(loaded.config, [*compiled, *compiler.compiled], loaded.locate)
    return found


def _doubts(
    loaded: Loaded,
    routers: Mapping[str, Router],
    problems: Sequence[Problem],
    schemas: SchemaVersions | None,
    *,
    whole: bool,
) -> Iterator[Problem]:
    """Doubts about the rules. A doubt about a place with an error is a consequence of the error, and left out."""
    wrong = {_place(problem) for problem in problems if problem.severity == "error"}
    doubts = lint(loaded.config, loaded.locate, whole=whole)
    doubts += fitting(loaded, routers)
    if schemas is not None:
        doubts += changed(loaded, routers, schemas)
    return (each for each in doubts if each.severity == "error" or _place(each) not in wrong)


def _unknown(loaded: Loaded, workflows: Workflows) -> Iterator[Problem]:
    """Problems of orchestrations and entities that rules name and no worker runs."""
    for name, path in referenced_orchestrations(loaded.config):
        if not workflows.knows_orchestration(name):
            what = _nobody("orchestration", name, workflows.orchestrators, workflows.external)
            if name in workflows.activities:
                what = (
                    f"`{name}` is an activity, because its first parameter is not an OrchestrationContext; "
                    "annotate it as `ctx: task.OrchestrationContext` to make it an orchestration"
                )
            yield coded("R009", loaded.locate(path, what))
    for name, path in referenced_entities(loaded.config):
        if not workflows.knows_entity(name):
            what = _nobody("entity", name, workflows.entities, workflows.external)
            yield coded("R009", loaded.locate(path, what))


def _nobody(kind: str, name: str, known: Collection[str], external: Collection[str]) -> str:
    near = difflib.get_close_matches(name, [*known, *external], n=1)
    has = f"the modules under `workflows` have {', '.join(sorted(known)) or 'none'};"
    meant = f"did you mean `{near[0]}`?" if near else has
    return f"there is no {kind} `{name}`; {meant} list names that other workers run under `workflows.external`"


def _collect(build: Callable[[], T], problems: list[Problem]) -> T | None:
    """Result of `build`; None after its problems were added to `problems`."""
    try:
        return build()
    except ConfigError as error:
        problems += error.problems
        return None


def _sorted(problems: Sequence[Problem]) -> list[Problem]:
    """Distinct problems by file and position: a rule that reads from two sources is compiled twice."""
    files = list(dict.fromkeys(problem.file for problem in problems))
    return sorted(
        dict.fromkeys(problems), key=lambda problem: (files.index(problem.file), problem.line, problem.column)
    )


def _counts(loaded: Loaded, workflows: Workflows | None) -> dict[str, int]:
    config = loaded.config
    counts = {"source": len(config.sources), "route": len(config.routes), "target": len(config.targets)}
    if config.sagas:
        counts["saga"] = len(config.sagas)
    if workflows is not None:
        counts |= {"orchestration": len(workflows.orchestrators), "activity": len(workflows.activities)}
        counts |= {"entity": len(workflows.entities)}
    return counts
