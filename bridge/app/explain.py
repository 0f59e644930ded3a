"""Explanation of a message: decoded and routed as usual, without executing its commands."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from bridge.app.composition import build_decoder, build_router, require
from bridge.config.source import Loaded
from bridge.core.errors import MessageError
from bridge.core.message import Envelope, Message, Position
from bridge.core.states import Outcome
from bridge.routing import Explanation
from bridge.routing import explain as explain_rules


@dataclass(frozen=True, slots=True)
class Answer:
    """Outcome of the message if the engine accepts its commands.

    envelope: None when the message cannot be decoded; explanation is None then, too.
    reason, detail: cause of the dead letter, else None.
    """

    source: str
    outcome: Outcome
    envelope: Envelope | None = None
    explanation: Explanation | None = None
    reason: str | None = None
    detail: str | None = None

    @property
    def routes(self) -> tuple[str, ...]:
        """Names of the routes that matched."""
        decision = self.explanation.decision if self.explanation is not None else None
        return decision.routes if decision is not None else ()

    def to_dict(self) -> dict[str, Any]:
        """Answer as JSON types; bytes of a payload are base64 under the key `base64`."""
        document = self.explanation.to_dict() if self.explanation is not None else {}
        plain: dict[str, Any] = _plain(
            {
                "source": self.source,
                "outcome": self.outcome.value,
                "routes": list(self.routes),
                "steps": document.get("steps") or [],
                "rules": document.get("rules") or [],
                "reason": self.reason,
                "detail": self.detail,
                "envelope": None if self.envelope is None else _envelope(self.envelope),
            }
        )
        return plain


def explain(loaded: Loaded, source: str, message: Message) -> Answer:
    """Explain what the source does with the message, as if received from its first topic.

    Raises: LookupError for an unknown source, ConfigError when its rules do not compile.
    """
    require("source", source, loaded.config.sources)
    config = loaded.config.sources[source]
    decoder, router = build_decoder(loaded, source), build_router(loaded, source)
    try:
        envelope = decoder.decode(message, Position(config.broker, next(iter(config.origins), source), 0, 0))
    except MessageError as error:
        return Answer(source, Outcome.DEAD_LETTERED, None, None, error.reason, str(error))
    explanation = explain_rules(router, envelope)
    if explanation.decision is None:
        return Answer(source, Outcome.DEAD_LETTERED, envelope, explanation, explanation.reason, explanation.error)
    outcome = Outcome.EXECUTED if explanation.decision.steps else Outcome.IGNORED
    return Answer(source, outcome, envelope, explanation)


def _envelope(envelope: Envelope) -> dict[str, Any]:
    names = [field.name for field in fields(envelope) if field.name not in ("position", "message")]
    members = {name: getattr(envelope, name) for name in names}
    return members | {"topic": envelope.position.topic}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value
