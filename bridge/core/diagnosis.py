"""Results of the checks of `bridge doctor`. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

AREAS = ("settings", "machine", "engine", "kafka", "servicebus", "local", "webhook", "retention")
"""Areas of checks, in the order of the results."""


class CheckVerdict(StrEnum):
    """Verdict of a check."""

    OK = "ok"
    WARNING = "warning"
    """Works now, and may lose messages or stop in a foreseeable case."""
    PROBLEM = "problem"
    """Does not work, or loses messages."""
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class CheckAnswer:
    """Answer of a check.

    detail: finding in a sentence, without payloads and secrets; for NOT_CHECKED the reason.
    fix: command or setting that fixes it; empty for OK.
    """

    verdict: CheckVerdict
    detail: str
    fix: str = ""


def ok(detail: str) -> CheckAnswer:
    """Answer of a check that found nothing wrong."""
    return CheckAnswer(CheckVerdict.OK, detail)


def warning(detail: str, fix: str) -> CheckAnswer:
    """Answer of a check that found a danger."""
    return CheckAnswer(CheckVerdict.WARNING, detail, fix)


def problem(detail: str, fix: str) -> CheckAnswer:
    """Answer of a check that failed."""
    return CheckAnswer(CheckVerdict.PROBLEM, detail, fix)


def not_checked(why: str, fix: str = "") -> CheckAnswer:
    """Answer of a check that was not possible."""
    return CheckAnswer(CheckVerdict.NOT_CHECKED, why, fix)


def worst(answers: list[CheckAnswer], otherwise: str) -> CheckAnswer:
    """Join the answers of one check: the worst verdict with all its details. otherwise: detail if all are OK."""
    for verdict in (CheckVerdict.PROBLEM, CheckVerdict.WARNING, CheckVerdict.NOT_CHECKED):
        found = [answer for answer in answers if answer.verdict is verdict]
        if found:
            fixes = dict.fromkeys(answer.fix for answer in found if answer.fix)
            details = dict.fromkeys(answer.detail for answer in found)
            return CheckAnswer(verdict, "; ".join(details), "\n".join(fixes))
    return ok(otherwise)


class Examiner(Protocol):
    """Runner of checks, which limits their time and collects their answers."""

    @property
    def seconds(self) -> float:
        """Time limit of one check."""
        ...

    async def check(self, subject: str, name: str, run: Callable[[], Awaitable[CheckAnswer]]) -> CheckAnswer:
        """Run a check and record its answer. An error, or the end of its time, becomes NOT_CHECKED.

        The end of the time of the check `reachable` is a problem.

        subject: part of the bridge, such as `broker kafka`.
        name: name of the check.
        """
        ...

    def record(self, subject: str, name: str, answer: CheckAnswer) -> None:
        """Record an answer that needed no check."""
        ...
