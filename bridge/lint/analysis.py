"""Analysis of files and directories, from paths to findings."""

from __future__ import annotations

import ast
import gc
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bridge.core.problems.suppression import UNUSED
from bridge.lint.contexts import Orchestrator, orchestrators
from bridge.lint.determinism import nondeterminism
from bridge.lint.finding import RULES, Finding
from bridge.lint.module import Function, Module
from bridge.lint.names import RULE as NAMES
from bridge.lint.names import KnownNames, known_in, unknown_names
from bridge.lint.project import Project, Reached, files
from bridge.lint.publications import PublishCall, publications
from bridge.lint.replaying import replaying
from bridge.lint.sets import unordered
from bridge.lint.shared import shared
from bridge.lint.tree import calls_in, nodes
from bridge.lint.waits import callbacks, waits


@dataclass(frozen=True, slots=True)
class Examined:
    """Findings sorted by file and place, with the number of analysed functions.

    orchestrators: functions that the bridge's workers would register as orchestrators.
    others: further functions analysed as orchestrators: methods, nested functions and private functions.
    """

    findings: list[Finding]
    orchestrators: int = 0
    others: int = 0


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the garbage collector. Syntax trees are large and hold no cycles; collection takes a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_collector_paused()
def examine(paths: Sequence[Path], names: Names | None = None) -> Examined:
    """Analyse the files at and below the paths, and the helpers that their orchestrators call, in any file.

    The findings are sorted by file and place. No analysed code runs.

    names: targets and external names of a configuration, used to check constant names too; None skips that check.
    Raises: LookupError for a path that does not exist.
    """
    project = Project()
    findings: set[Finding] = set()
    modules = _read(project, paths, findings)
    roots = {
        module.path: [(each, project.reach(module, each.function)) for each in orchestrators(project, module)]
        for module in modules
    }
    runs = [functions for each in roots.values() for _, functions in each]
    reached = {one.function for functions in runs for one in functions}
    helpers = {id(one.function) for functions in runs for one in functions[1:]}
    counts = Counter(
        one.registered and (module.package or not module.path.stem.startswith("_"))
        for module in modules
        for one, _ in roots[module.path]
    )
    places: set[tuple[str, int, int, str]] = set()
    for module in modules:
        for finding in _module(project, module, roots[module.path], helpers):
            place = (finding.file, finding.line, finding.column, finding.rule)
            if place not in places:
                places.add(place)
                findings.add(finding)
    if names is not None:
        more = _read(project, names.files, set(), modules)
        known = known_in(project, [*modules, *more], names.targets, names.external)
        findings |= set(unknown_names(project, [each for each in modules if names.cover(each.path)], known))
    kept = _kept(project, modules, findings)
    for module in modules:
        kept += _bad_suppressions(
            module, _unreached(module, reached), everything=names is not None and names.cover(module.path)
        )
    return Examined(sorted(kept), counts[True], counts[False])


@_collector_paused()
def unknown(paths: Sequence[Path], known: KnownNames) -> list[Finding]:
    """Findings for constant names in the files at and below the paths that `known` lacks. Suppressions apply."""
    project = Project()
    modules = _read(project, paths, set())
    return sorted(_kept(project, modules, set(unknown_names(project, modules, known))))


@_collector_paused()
def known_names(names: Names) -> KnownNames:
    """Names that the workflow modules of a configuration register, and those that it declares. No code runs."""
    project = Project()
    return known_in(project, _read(project, names.files, set()), names.targets, names.external)


@_collector_paused()
def published(paths: Sequence[Path]) -> dict[str, list[PublishCall]]:
    """Publications of the registered orchestrators in the files at and below the paths, by name. No code runs."""
    project = Project()
    return publications(project, _read(project, paths, set()))


@dataclass(frozen=True, slots=True)
class Names:
    """Names of a configuration.

    files: workflow modules of the configuration, whose functions are known names too. Constant names are checked in
    these files only, because another file may belong to another configuration.
    """

    targets: Collection[str]
    external: Collection[str]
    files: Sequence[Path] = ()

    def cover(self, path: Path) -> bool:
        """True if the file is one of the workflow modules, or is inside one of them."""
        absolute = path.absolute()
        return any(absolute.is_relative_to(file.absolute()) for file in self.files)


def _read(
    project: Project, paths: Sequence[Path], findings: set[Finding], known: Sequence[Module] = ()
) -> list[Module]:
    """Modules at and below the paths that are not known yet. Unreadable files become `syntax` findings."""
    seen = {module.path.absolute() for module in known}
    modules: list[Module] = []
    for path in files(list(paths)):
        if path.absolute() in seen:
            continue
        seen.add(path.absolute())
        try:
            module = Module.read(path)
        except SyntaxError as error:
            what, line, column = error.msg, error.lineno or 1, error.offset or 1
            findings.add(Finding(str(path), line, column, "syntax", what, "correct it"))
        except ValueError as error:
            findings.add(Finding(str(path), 1, 1, "syntax", str(error), "save it as UTF-8"))
        else:
            project.add(module)
            modules.append(module)
    return modules


def _kept(project: Project, modules: Sequence[Module], findings: set[Finding]) -> list[Finding]:
    """Findings that no comment suppresses."""
    known = {str(module.path): module for module in [*modules, *project.modules.values()] if module is not None}
    return [finding for finding in findings if not _suppressed(known.get(finding.file), finding)]


def _unreached(module: Module, reached: set[Function]) -> set[int]:
    """Lines of functions that no analysed orchestrator reaches.

    Unused suppressions on them are not reported, because their callers may lie outside the analysed files.
    """
    functions = [each for each in nodes(module.tree) if isinstance(each, Function)]
    known = {line for each in functions if each in reached for line in _lines(each)}
    return {line for each in functions for line in _lines(each)} - known


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> range:
    return range(function.lineno, (function.end_lineno or function.lineno) + 1)


def _module(
    project: Project, module: Module, roots: Sequence[tuple[Orchestrator, Sequence[Reached]]], helpers: Collection[int]
) -> Iterator[Finding]:
    """Findings in one module. helpers: ids of functions that an orchestrator calls."""
    yield from callbacks(module)
    yield from _retry_policies(module)
    for root, functions in roots:
        function = root.function
        if isinstance(function, ast.AsyncFunctionDef):
            what = f"orchestrator {function.name} is `async def`"
            remedy = "write `def`, and `yield` instead of `await`"
            yield Finding(str(module.path), function.lineno, function.col_offset + 1, "async", what, remedy)
            continue
        for each in functions:
            yield from nondeterminism(project, each)
            yield from replaying(project, each)
            yield from shared(project, each)
            yield from unordered(project, each)
        yield from waits(project, functions, helpers)


def _retry_policies(module: Module) -> Iterator[Finding]:
    for call in calls_in(module.tree):
        name = module.resolve(call.func) or ""
        if not name.startswith("durabletask.") or name.rpartition(".")[2] != "RetryPolicy":
            continue
        for keyword in call.keywords:
            if keyword.arg == "retry_timeout" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is None
            ):
                what = "retry_timeout reads the wall clock, which a replay does not repeat"
                remedy = "use max_number_of_attempts, or give the step of a saga a timeout"
                yield Finding(
                    str(module.path), keyword.value.lineno, keyword.value.col_offset + 1, "retry-timeout", what, remedy
                )


def _suppressed(module: Module | None, finding: Finding) -> bool:
    suppression = None if module is None else module.suppressions.get(finding.line)
    return suppression is not None and suppression.suppresses(finding.rule)


def _bad_suppressions(module: Module, unreached: set[int], *, everything: bool) -> Iterator[Finding]:
    """Findings for invalid or unused suppressions. everything: all rules ran, including the check of names."""
    for suppression in module.suppressions.values():
        defect = suppression.defect(RULES, "`bridge lint --rules`")
        if defect is None:
            if (not everything and NAMES in suppression.rules) or suppression.used or suppression.line in unreached:
                continue
            defect = UNUSED
        what, remedy = defect
        yield Finding(str(module.path), suppression.line, 1, "suppression", what, remedy)
