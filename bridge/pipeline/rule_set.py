"""Rule sets: compiled rules of a source. A delivery is bound to one at its admission, and keeps it for all attempts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol

from bridge.core.commands import Decision
from bridge.core.message import Message
from bridge.core.settlement import RetryPolicy
from bridge.pipeline.settings import Decode, EnginePort, Prepare, Routes, SourceClaims


@dataclass(frozen=True, slots=True, eq=False)
class RuleSet:
    """Compiled rules of one source in one version of the configuration. Immutable.

    version: content hash of the configuration.
    routes: router of the source.
    decode: decoder of its messages.
    retry: attempts of failing messages.
    engines: engines of the rules, by name.
    prepare: awaited before `decode` of the same messages; None: no preparation.
    claims: payloads that lie elsewhere; None: every message has its own.
    follow: rule set of the instances that a decision addresses; None: all instances follow this one.
    """

    version: str
    routes: Routes
    decode: Decode
    retry: RetryPolicy
    engines: Mapping[str, EnginePort]
    prepare: Prepare | None = None
    follow: Callable[[Decision], Awaitable[RuleSet | None]] | None = None
    claims: SourceClaims | None = None


def refers(rules: RuleSet, message: Message) -> bool:
    """True when the payload of a message may lie elsewhere: it is decoded after that was fetched."""
    return rules.claims is not None and rules.claims.refers(message)


async def payload_of(rules: RuleSet, message: Message) -> Message:
    """Message with its payload, which the rule set can decode.

    Raises: MessageError, ClaimStoreUnavailable, RegistryUnavailable.
    """
    if rules.claims is not None and rules.claims.refers(message):
        message = await rules.claims.resolve(message)
    if rules.prepare is not None and message.unreadable is None:
        await rules.prepare([message])
    return message


class RuleChooser(Protocol):
    """Protocol of the choice between the rule sets of a source, which have the same ordering.

    Called on the event loop, for each delivery.
    """

    @property
    def current(self) -> RuleSet:
        """Rule set that decodes new deliveries and gives their ordering keys."""
        ...

    def choose(self, key: Hashable | None) -> RuleSet:
        """Rule set of a new delivery. key: its ordering key; None: it has none.

        A rule set whose `decode` is not that of `current` decodes the delivery again.
        """
        ...

    def replace(self, current: RuleSet) -> None:
        """Bind the following deliveries to another rule set. Admitted ones keep theirs."""
        ...


class CurrentRules:
    """Chooser of a source with one rule set at a time: each new delivery gets the current one."""

    def __init__(self, current: RuleSet) -> None:
        self.current = current

    def choose(self, key: Hashable | None) -> RuleSet:
        """Return the current rule set."""
        return self.current

    def replace(self, current: RuleSet) -> None:
        """Bind the following deliveries to another rule set."""
        self.current = current
