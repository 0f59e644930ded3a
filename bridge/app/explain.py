"""Explanation of a message: decoded and routed as usual, without executing its commands."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from bridge.app.composition import build_decoder, build_router, require
from bridge.codecs.decoder import SourceDecoder
from bridge.config.source import Loaded
from bridge.core.errors import MessageError
from bridge.core.message import Envelope, Message, Position
from bridge.core.states import Outcome
from bridge.routing import Explanation, Router
from bridge.routing import explain as explain_rules
from bridge.routing.explain import decided

if TYPE_CHECKING:
    from bridge.codecs.confluent import Registry


@dataclass(frozen=True, slots=True)
class DecisionResult:
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
        plain: dict[str, Any] = json_form(
            {
                "source": self.source,
                "outcome": self.outcome.value,
                "routes": list(self.routes),
                "steps": [
                    step | {"command": with_ordered_values(step["command"])} for step in document.get("steps") or []
                ],
                "rules": document.get("rules") or [],
                "reason": self.reason,
                "detail": self.detail,
                "envelope": None if self.envelope is None else _envelope(self.envelope),
            }
        )
        return plain


def with_ordered_values(command: Mapping[str, Any]) -> dict[str, Any]:
    """Command whose values have sorted members: CEL makes maps in an order that differs between processes."""
    return {name: _ordered(value) for name, value in command.items()}


def _ordered(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [_ordered(each) for each in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True, slots=True)
class SourceRules:
    """Decoder and rules of one source, for many messages.

    position: position of a message that has none.
    """

    source: str
    decoder: SourceDecoder
    router: Router
    position: Position

    @classmethod
    def build(cls, loaded: Loaded, source: str, registries: Mapping[str, Registry] | None = None) -> SourceRules:
        """Compile the rules of a configured source. Raises: ConfigError with all problems.

        registries: see `source_codec`.
        """
        config = loaded.config.sources[source]
        position = Position(config.broker, next(iter(config.origins), source), 0, 0)
        return cls(source, build_decoder(loaded, source, registries), build_router(loaded, source), position)

    def explain(self, message: Message, position: Position | None = None) -> DecisionResult:
        """Explain what the source does with a message, with the verdict of every rule."""
        return self._answer(message, position, explain_rules)

    def decide(self, message: Message, position: Position | None = None) -> DecisionResult:
        """Decide as `explain`, faster and without the verdicts."""
        return self._answer(message, position, decided)

    def _answer(
        self, message: Message, position: Position | None, decide: Callable[[Router, Envelope], Explanation]
    ) -> DecisionResult:
        try:
            envelope = self.decoder.decode(message, position or self.position)
        except MessageError as error:
            return DecisionResult(self.source, Outcome.DEAD_LETTERED, None, None, error.reason, str(error))
        found = decide(self.router, envelope)
        if found.decision is None:
            return DecisionResult(self.source, Outcome.DEAD_LETTERED, envelope, found, found.reason, found.error)
        outcome = Outcome.EXECUTED if found.decision.steps else Outcome.IGNORED
        return DecisionResult(self.source, outcome, envelope, found)


def explain(loaded: Loaded, source: str, message: Message) -> DecisionResult:
    """Explain what the source does with the message, as if received from its first topic.

    Raises: LookupError for an unknown source, ConfigError when its rules do not compile.
    """
    require("source", source, loaded.config.sources)
    return SourceRules.build(loaded, source).explain(message)


def _envelope(envelope: Envelope) -> dict[str, Any]:
    names = [field.name for field in fields(envelope) if field.name not in ("position", "message")]
    members = {name: getattr(envelope, name) for name in names}
    return members | {"topic": envelope.position.topic}


def json_form(value: Any) -> Any:
    """Value in JSON types. Bytes are base64 under the key `base64`."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {key: json_form(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_form(part) for part in value]
    return value
