"""From paths to findings."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

from bridge.lint.determinism import nondeterminism
from bridge.lint.finding import RULES, Finding
from bridge.lint.module import Function, Module
from bridge.lint.project import Project, files, orchestrators
from bridge.lint.sets import unordered
from bridge.lint.shared import shared
from bridge.lint.tree import calls_in
from bridge.lint.waits import callbacks, waits


def lint(paths: Sequence[Path]) -> list[Finding]:
    """Every finding in the files at and below the paths, by file and place. None of their code runs.

    Helpers in the same package that orchestrators call are looked at too, wherever they are.
    Raises: LookupError for a path that is not there.
    """
    project = Project()
    modules: list[Module] = []
    findings: set[Finding] = set()
    for path in files(list(paths)):
        try:
            module = Module.read(path)
        except SyntaxError as error:
            what, line, column = error.msg, error.lineno or 1, error.offset or 1
            findings.add(Finding(str(path), line, column, "syntax", what, "correct it"))
        except ValueError as error:
            findings.add(Finding(str(path), 1, 1, "syntax", str(error), "write it in UTF-8"))
        else:
            project.add(module)
            modules.append(module)
    places: set[tuple[str, int, int, str]] = set()
    reached: set[Function] = set()
    for module in modules:
        for finding in _module(project, module, reached):
            place = (finding.file, finding.line, finding.column, finding.rule)
            if place not in places:
                places.add(place)
                findings.add(finding)
    known = {str(module.path): module for module in [*modules, *project.modules.values()] if module is not None}
    kept = [finding for finding in findings if not _suppressed(known.get(finding.file), finding)]
    for module in modules:
        kept += _bad_suppressions(module, _unreached(module, reached))
    return sorted(kept)


def _unreached(module: Module, reached: set[Function]) -> set[int]:
    """Lines of functions of which nobody can say that nothing is found: what calls them is not among the files."""
    functions = [each for each in ast.walk(module.tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)]
    known = {line for each in functions if each in reached for line in _lines(each)}
    return {line for each in functions for line in _lines(each)} - known


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> range:
    return range(function.lineno, (function.end_lineno or function.lineno) + 1)


def _module(project: Project, module: Module, reached: set[Function]) -> Iterator[Finding]:
    """Findings of a module; what its orchestrators run is added to `reached`."""
    yield from callbacks(module)
    yield from _retry_policies(module)
    for function in orchestrators(module):
        if isinstance(function, ast.AsyncFunctionDef):
            what = f"orchestrator {function.name} is `async def`"
            remedy = "write `def`, and `yield` instead of `await`"
            yield Finding(str(module.path), function.lineno, function.col_offset + 1, "async", what, remedy)
            continue
        reach = project.reach(module, function)
        for one in reach.functions:
            reached.add(one.function)
            yield from nondeterminism(one)
            yield from shared(project, one)
            yield from unordered(project, one)
        yield from waits(project, reach)


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
                remedy = "limit max_number_of_attempts, or give a saga's step a timeout"
                yield Finding(
                    str(module.path), keyword.value.lineno, keyword.value.col_offset + 1, "retry-timeout", what, remedy
                )


def _suppressed(module: Module | None, finding: Finding) -> bool:
    suppression = None if module is None else module.suppressions.get(finding.line)
    if suppression is None or finding.rule not in suppression.rules:
        return False
    suppression.used = True
    return bool(suppression.reason)


def _bad_suppressions(module: Module, unreached: set[int]) -> Iterator[Finding]:
    for suppression in module.suppressions.values():
        unknown = [rule for rule in suppression.rules if rule not in RULES]
        if not suppression.rules:
            what, remedy = "it names no rule", "write `# bridge: ignore[rule] reason`"
        elif unknown:
            what, remedy = f"there is no rule {', '.join(unknown)}", "see `bridge lint --rules`"
        elif not suppression.reason:
            what, remedy = "it gives no reason", "write why behind the bracket"
        elif not suppression.used and suppression.line not in unreached:
            what, remedy = "nothing is found here", "remove it"
        else:
            continue
        yield Finding(str(module.path), suppression.line, 1, "suppression", what, remedy)
