"""Rules and findings of the analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

RULES: Mapping[str, str] = MappingProxyType(
    {
        "clock": "the clock is read; a replay reads another time",
        "uuid": "an id is made up; a replay makes another one",
        "random": "chance decides; a replay decides differently",
        "sleep": "the thread sleeps, again in every replay",
        "http": "the network is used; a replay calls again and may hear something else",
        "database": "a database is used; a replay may read something else",
        "files": "files are used; a replay may find something else",
        "environment": "the environment is read; another worker has another one",
        "threads": "threads, processes or an event loop run what no replay can repeat",
        "globals": "a global that changes is used; another process or a replay has another value",
        "unordered": "a set is iterated; its order differs from process to process",
        "missing-yield": "a durable call is made and nobody waits for it",
        "async": "an orchestrator is `async def`, which the SDK cannot run",
        "retry-timeout": "`retry_timeout` reads the wall clock; a replay decides differently",
        "continue-as-new": "`continue_as_new` drops events that have arrived and were not read",
        "rearmed-wait": "a durable call in a callback of a composite task hangs the orchestration",
        "losing-wait": "a wait that lost is not cancelled and swallows the next event of its name",
        "empty-when-all": "`when_all` of an empty list never completes",
        "replaying": "a replay takes another way: `is_replaying` decides about more than logging",
        "empty-when-any": "`when_any` of an empty list never completes",
        "unknown-name": "a target, activity, orchestration or entity is named that does not exist",
        "suppression": "a suppression is not in order",
        "syntax": "the file cannot be read as Python",
    }
)
"""Rules by name, with a description of each."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A place that violates a rule. line and column start at 1. remedy: the code to write instead."""

    file: str
    line: int
    column: int
    rule: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column} {self.rule}: {self.what}; {self.remedy}"
