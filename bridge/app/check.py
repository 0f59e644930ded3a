"""Check of a configuration: all problems at once, without a network."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from bridge.app.codecs import build_registries, target_codec
from bridge.app.composition import build_decoder, build_engine, build_router, config_paths, load_workflows
from bridge.app.lint import unknown_names
from bridge.config.insecure import insecure
from bridge.config.model.sources import LimitsConfig
from bridge.config.source import Loaded, survey
from bridge.core.errors import ConfigError, Problem
from bridge.engines.workflows import Workflows
from bridge.routing import Router, costly, lint, referenced_entities, referenced_orchestrations
from bridge.routing.cel.expression import Compiler
from bridge.routing.saga import SagaCompiler

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Report:
    """Result of a check. counts: number of sources, routes and so on; empty when unknown."""

    problems: tuple[Problem, ...]
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def errors(self) -> int:
        return sum(problem.severity == "error" for problem in self.problems)

    @property
    def warnings(self) -> int:
        return len(self.problems) - self.errors


def check(config: Sequence[Path], overlays: Sequence[Path] = (), *, imports: bool = True) -> Report:
    """Load and compile the whole configuration; report all problems in the order of the files.

    imports: import the workflow modules and the functions of `map:`. Without it, no code of the project runs, and the
    names of orchestrations and entities in rules are not checked.
    """
    try:
        found = survey(config_paths(config), overlays)
    except ConfigError as error:
        return Report(error.problems)
    if found.loaded is None:
        return Report(found.problems)
    # Without the list of modules, unknown names cannot be found
    imports = imports and not any(problem.path.startswith("workflows") for problem in found.problems)
    report = inspect(found.loaded, imports=imports, whole=found.whole)
    if all(problem.severity == "warning" for problem in found.problems):
        return report
    # A problem at a place that does not load is a consequence of that
    known = {(problem.file, problem.line, problem.column) for problem in found.problems}
    more = [problem for problem in report.problems if (problem.file, problem.line, problem.column) not in known]
    return Report(tuple(_sorted([*found.problems, *more])))


def inspect(loaded: Loaded, *, imports: bool = True, whole: bool = True) -> Report:
    """Check a loaded configuration. whole: False when it has stand-ins for invalid parts."""
    problems: list[Problem] = list(loaded.warnings)
    workflows = _collect(lambda: load_workflows(loaded), problems) if imports else None
    if workflows is not None:
        problems += _unknown(loaded, workflows)
    if whole and (workflows is not None or not imports):
        problems += unknown_names(loaded, workflows)
    for engine in loaded.config.engines:
        _collect(partial(build_engine, loaded, engine, host=False), problems)
    for source in loaded.config.sources:
        decoding = Compiler(loaded.locate)
        _collect(partial(build_decoder, loaded, source, compiler=decoding), problems)
        if imports:
            router = _collect(partial(build_router, loaded, source), problems)
        else:
            router = _collect(partial(Router.compile, source, loaded.config, loaded.locate), problems)
        compiled = [*decoding.compiled, *(() if router is None else router.compiled)]
        problems += costly(compiled, loaded.config.sources[source].limits, loaded.locate)
    compiler = Compiler(loaded.locate, loaded.config.vars)
    for saga in loaded.config.sagas:
        SagaCompiler(saga, loaded.config, loaded.locate).compile(compiler)
    problems += compiler.problems
    problems += costly(compiler.compiled, LimitsConfig(), loaded.locate)
    registries = _collect(partial(build_registries, loaded), problems) if whole else None
    if registries is not None:
        for target in loaded.config.targets:
            _collect(partial(target_codec, loaded, target, registries), problems)
    problems += lint(loaded.config, loaded.locate, whole=whole)
    problems += insecure(loaded.config, loaded.document.root, loaded.locate)
    return Report(tuple(_sorted(problems)), _counts(loaded, workflows))


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
            yield loaded.locate(path, what)
    for name, path in referenced_entities(loaded.config):
        if not workflows.knows_entity(name):
            yield loaded.locate(path, _nobody("entity", name, workflows.entities, workflows.external))


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
