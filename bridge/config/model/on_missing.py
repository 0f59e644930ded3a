"""Treatment of messages whose instance does not exist."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from bridge.config.model.types import Duration, Expression, Model
from bridge.core.commands import OnMissing


class WaitMissing(Model):
    """Let the message wait on the engine until its instance is started."""

    wait: Duration = Field(gt=0, description="Longest wait; then the message is dead-lettered.")


class StartMissing(Model):
    """Start the instance, then execute the command."""

    start: str = Field(min_length=1, description="Name of the orchestrator.")
    input: Expression = Field("payload", description="Input of the instance.")


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "start" if "start" in value else "wait"
    if isinstance(value, WaitMissing | StartMissing):
        return "wait" if isinstance(value, WaitMissing) else "start"
    return "word"


MissingConfig = Annotated[
    Annotated[OnMissing, Tag("word")] | Annotated[WaitMissing, Tag("wait")] | Annotated[StartMissing, Tag("start")],
    Discriminator(_kind),
]
"""Treatment of a missing instance: a word, `{wait: 1h}` or `{start: orchestration}`."""
