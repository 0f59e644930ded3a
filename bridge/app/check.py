"""Every problem of a configuration at once, without a network."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridge.app.composition import build_decoder, build_router, load_config, load_workflows
from bridge.config.source import Loaded
from bridge.engines.registry import Workflows
from bridge.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. counts: how many sources, routes and so on there are; empty when that cannot be said."""

    problems: tuple[Problem, ...]
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def errors(self) -> int:
        return sum(problem.severity == "error" for problem in self.problems)

    @property
    def warnings(self) -> int:
        return len(self.problems) - self.errors


def check(config: Sequence[Path], overlays: Sequence[Path] = (), *, imports: bool = True) -> Report:
    """Load and compile everything and report all that is wrong, in the order of the files.

    imports: import the workflow modules and the functions of `map:`. Without, nothing of the project's own code runs,
    and names of orchestrations and entities are not looked at.
    """
    try:
        loaded = load_config(config, overlays)
    except ConfigError as error:
        return Report(error.problems)
    problems: list[Problem] = list(loaded.warnings)
    workflows = _collect(lambda: load_workflows(loaded), problems) if imports else None
    if workflows is not None:
        problems += unknown_workflows(loaded, workflows)
    for source in loaded.config.sources:
        _collect(lambda source=source: build_decoder(loaded, source), problems)
        _collect(lambda source=source: build_router(loaded, source, imports=imports), problems)
    problems += lint(loaded.config, loaded.locate)
    return Report(tuple(_sorted(problems)), _counts(loaded, workflows))


def unknown_workflows(loaded: Loaded, workflows: Workflows) -> Iterator[Problem]:
    """Orchestrations and entities that rules name and nobody runs."""
    for index, route in enumerate(loaded.config.routes):
        verb = getattr(route, route.verb)
        for kind, known, names in (
            ("orchestration", workflows.knows_orchestration, workflows.orchestrators),
            ("entity", workflows.knows_entity, workflows.entities),
        ):
            name = getattr(verb, kind, None)
            if isinstance(name, str) and not known(name):
                yield loaded.locate(("routes", index, route.verb, kind), _unknown(kind, name, names, workflows.external))


def _unknown(kind: str, name: str, names: Mapping[str, Any], external: frozenset[str]) -> str:
    near = difflib.get_close_matches(name, [*names, *external], n=1)
    meant = f"did you mean `{near[0]}`?" if near else f"the workflow modules have {', '.join(sorted(names)) or 'none'}"
    return f"there is no {kind} `{name}`; {meant} What other workers run is listed under workflows.external"


def _collect(build: Callable[[], Any], problems: list[Problem]) -> Any:
    """What `build` gives, or None after its problems were noted."""
    try:
        return build()
    except ConfigError as error:
        problems += error.problems
        return None


def _sorted(problems: Sequence[Problem]) -> list[Problem]:
    """Each once, by file and place: a rule that reads from two sources is compiled twice."""
    files = list(dict.fromkeys(problem.file for problem in problems))
    return sorted(dict.fromkeys(problems), key=lambda problem: (files.index(problem.file), problem.line, problem.column))


def _counts(loaded: Loaded, workflows: Workflows | None) -> dict[str, int]:
    config = loaded.config
    counts = {"source": len(config.sources), "route": len(config.routes), "target": len(config.targets)}
    if workflows is not None:
        counts |= {"orchestration": len(workflows.orchestrators), "activity": len(workflows.activities)}
        counts |= {"entity": len(workflows.entities)}
    return counts
