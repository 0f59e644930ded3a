"""Versioned orchestration: instances end with the rules they were started with."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from durabletask import task

from bridge.workflow import publish
from workflows.patterns.chaining import RESULTS


@dataclass
class Membership:
    """Input of `membership`."""

    number: str
    years: int = 0


def welcome(ctx: task.ActivityContext, number: str) -> str:
    """Send the welcome letter."""
    return f"welcome {number}"


def check_credit(ctx: task.ActivityContext, number: str) -> bool:
    """Ask for the credit rating. Used since version 2."""
    return not number.endswith("-bad")


def membership(ctx: task.OrchestrationContext, asked: Membership) -> Generator[task.Task[Any], Any, dict[str, Any]]:
    """Decide on a membership. New code runs only for instances of the new version; running ones replay their decisions.

    The route that starts it sets `version: "2"`; older instances have no version.
    """
    version = ctx.version or "1"
    accepted = True
    if version != "1":
        accepted = yield ctx.call_activity(check_credit, input=asked.number)
    if accepted:
        yield ctx.call_activity(welcome, input=asked.number)
    result = {"number": asked.number, "accepted": accepted, "rules": version}
    yield publish(ctx, RESULTS, result, type="membership.decided", subject=asked.number)
    return result
