"""Suppressions of findings: comments `# bridge: ignore[rule] reason`, shared by `bridge lint` and `bridge check`."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass

MARK = "bridge: ignore"

_SUPPRESSION = re.compile(r"#\s*bridge: ignore\s*(?:\[(?P<rules>[^\]]*)\])?\s*(?:--|:)?\s*(?P<reason>.*)$")


@dataclass(slots=True)
class Suppression:
    """A comment that disables rules for one line and gives the reason.

    line: line of the comment.
    applies_to: line whose findings are suppressed.
    """

    line: int
    applies_to: int
    rules: tuple[str, ...]
    reason: str
    used: bool = False

    def suppresses(self, rule: str) -> bool:
        """True if findings of a rule are suppressed. The suppression counts as used then, even without a reason."""
        if rule not in self.rules:
            return False
        self.used = True
        return bool(self.reason)

    def defect(self, known: Container[str], listing: str) -> tuple[str, str] | None:
        """Problem and remedy of an invalid suppression; None for a valid one.

        known: names of all rules. listing: command or page that lists them.
        """
        unknown = [rule for rule in self.rules if rule not in known]
        if not self.rules:
            return "the suppression names no rule", "write `# bridge: ignore[rule] reason`"
        if unknown:
            return f"there is no rule {', '.join(unknown)}", f"see {listing}"
        if not self.reason:
            return "the suppression has no reason", "write the reason after the bracket"
        return None


UNUSED = ("there is no finding here", "remove it")
"""Problem and remedy of a suppression without effect."""


def parse_suppression(comment: str, line: int, *, alone: bool) -> Suppression | None:
    """Suppression in a comment; None for any other comment.

    alone: the line holds nothing else. The comment then applies to the next line.
    """
    found = _SUPPRESSION.search(comment)
    if found is None:
        return None
    rules = tuple(rule.strip() for rule in (found["rules"] or "").split(",") if rule.strip())
    return Suppression(line, line + 1 if alone else line, rules, found["reason"].strip())
