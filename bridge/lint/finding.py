"""Rules and findings of the analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

RULES: Mapping[str, str] = MappingProxyType(
    {
        "clock": "the clock is read; a replay reads another time",
        "uuid": "an id is generated; a replay generates another one",
        "random": "a random value is used; a replay gets another one",
        "sleep": "the thread sleeps, again in every replay",
        "http": "the network is used; a replay calls again and may get another answer",
        "database": "a database is used; a replay may read other data",
        "files": "files are used; a replay may read other data",
        "environment": "the environment is read; another worker has another environment",
        "threads": "threads, processes or an event loop are used; a replay cannot repeat their work",
        "globals": "a global that changes is used; another process or a replay has another value",
        "unordered": "a set is iterated; its order differs from process to process",
        "missing-yield": "a durable call is made without a wait for its result",
        "async": "an orchestrator is `async def`, which the SDK cannot run",
        "retry-timeout": "`retry_timeout` reads the wall clock; a replay decides differently",
        "continue-as-new": "`continue_as_new` drops events that have arrived and were not read",
        "rearmed-wait": "a durable call in a callback of a composite task hangs the orchestration",
        "losing-wait": "a wait that lost is not cancelled; it takes the next event of its name",
        "empty-when-all": "`when_all` of an empty list never completes",
        "replaying": "`is_replaying` decides about more than logging; a replay takes another path",
        "empty-when-any": "`when_any` of an empty list never completes",
        "unknown-name": "a name of a target, activity, orchestration or entity does not exist",
        "suppression": "a suppression is not valid",
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
