"""Suppression of warnings of `bridge check`, by comments in the files and by `check.ignore`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from bridge.config.model.bridge import BridgeConfig
from bridge.config.source import Loaded
from bridge.core.errors import Problem
from bridge.core.problems.codes import CODES, PAGE, SUPPRESSION, coded
from bridge.core.problems.suppression import UNUSED, Suppression

_INDEX = re.compile(r"routes\[(\d+)\]")


def unsuppressed(loaded: Loaded, problems: Sequence[Problem], ran: Collection[str], *, whole: bool) -> list[Problem]:
    """Problems without the suppressed warnings, and with those of suppressions that are not valid or not used.

    ran: inputs of checks that were there: `imports`, `samples`, `schemas`. Suppressions of other checks may be unused.
    whole: every check ran. Otherwise no suppression is reported as unused.
    """
    by_line: defaultdict[tuple[str, int], list[Suppression]] = defaultdict(list)
    for each in loaded.document.suppressions:
        by_line[each.file, each.suppression.applies_to].append(each.suppression)
    used: set[int] = set()
    kept = []
    for problem in problems:
        comments = [each.suppresses(problem.code) for each in by_line[problem.file, problem.line]]
        ignored = list(_ignoring(loaded.config, problem))
        used.update(ignored)
        if problem.severity == "error" or not (any(comments) or ignored):
            kept.append(problem)
    checked = {"", *ran} if whole else None
    return [*kept, *_bad_comments(loaded, checked), *_bad_settings(loaded, used, checked)]


def _ignoring(config: BridgeConfig, problem: Problem) -> Iterator[int]:
    """Positions of the entries of `check.ignore` that suppress a warning."""
    for index, each in enumerate(config.check.ignore):
        if each.code == problem.code and (each.at is None or _is_below(_named(config, problem.path), each.at)):
            yield index


def _named(config: BridgeConfig, path: str) -> str:
    """Path of a problem with the name of its route in place of the position."""
    found = _INDEX.match(path)
    if found is None or int(found[1]) >= len(config.routes):
        return path
    return f"routes.{config.routes[int(found[1])].name}{path[found.end() :]}"


def _is_below(path: str, entry: str) -> bool:
    return path == entry or path.startswith((f"{entry}.", f"{entry}["))


def _bad_comments(loaded: Loaded, checked: Collection[str] | None) -> Iterator[Problem]:
    for each in loaded.document.suppressions:
        found = each.suppression
        what = found.defect(CODES, PAGE) or _unsuppressible(found.rules)
        if what is None and checked is not None and not found.used and _ran(found.rules, checked):
            what = UNUSED
        if what is not None:
            yield coded(SUPPRESSION, Problem(each.file, found.line, 1, "", "; ".join(what)))


def _bad_settings(loaded: Loaded, used: Collection[int], checked: Collection[str] | None) -> Iterator[Problem]:
    for index, each in enumerate(loaded.config.check.ignore):
        what = _unsuppressible((each.code,))
        if each.code not in CODES:
            what = f"there is no code {each.code}", f"see {PAGE}"
        elif what is None and checked is not None and index not in used and _ran((each.code,), checked):
            what = "there is no such warning", "remove this entry"
        if what is not None:
            yield coded(SUPPRESSION, loaded.locate(("check", "ignore", index, "code"), "; ".join(what)))


def _unsuppressible(codes: Sequence[str]) -> tuple[str, str] | None:
    errors = [code for code in codes if code in CODES and CODES[code].severity == "error"]
    if errors:
        return f"{errors[0]} is an error, and cannot be suppressed", "fix it"
    return (f"{SUPPRESSION} cannot be suppressed", "fix it") if SUPPRESSION in codes else None


def _ran(codes: Sequence[str], checked: Collection[str]) -> bool:
    """True if all checks with these codes ran."""
    return all(CODES[code].needs in checked for code in codes)
