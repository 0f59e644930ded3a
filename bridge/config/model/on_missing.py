"""Treatment of messages whose instance does not exist."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from bridge.config.model.types import Duration, Expression, Model
from bridge.core.commands import OnMissing


class ParkMissing(Model):
    """Let the message wait on the engine until its instance is started."""

    park: Duration = Field(gt=0, description="Longest wait; then the message is dead-lettered.")


class StartMissing(Model):
    """Start the instance, then execute the command."""

    start: str = Field(min_length=1, description="Name of the orchestrator.")
    input: Expression = Field("payload", description="Input of the instance.")


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "start" if "start" in value else "park"
    if isinstance(value, ParkMissing | StartMissing):
        return "park" if isinstance(value, ParkMissing) else "start"
    return "word"


MissingConfig = Annotated[
    Annotated[OnMissing, Tag("word")] | Annotated[ParkMissing, Tag("park")] | Annotated[StartMissing, Tag("start")],
    Discriminator(_kind),
]
"""Treatment of a missing instance: a word, `{park: 1h}` or `{start: orchestration}`."""
