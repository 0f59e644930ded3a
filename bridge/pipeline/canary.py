"""Choice between the present rules of a source and those of a candidate, by ordering key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Hashable, Iterable
from dataclasses import replace

from bridge.core.canary import TAG, selected
from bridge.core.commands import Decision, ScheduleOrchestration, SignalEntity, StartFirst, StartOrRaise, Step
from bridge.core.message import Envelope
from bridge.pipeline.lanes import domain_key
from bridge.pipeline.rule_set import CurrentRules, RuleSet
from bridge.pipeline.settings import Routes

Follow = Callable[[Decision], Awaitable[bool | None]]
"""Function that is True if the candidate has started the instance that a decision addresses; None without an instance.

Raises: EngineError.
"""


class CanaryRules(CurrentRules):
    """Chooser of a source with a candidate. Its `current` is the present rule set.

    Messages without an ordering key belong to the present rules.
    """

    def __init__(self, current: RuleSet, candidate: RuleSet, share: float, follow: Follow) -> None:
        """Create the choice. follow: finds the rules that have started the instances of a decision."""
        self._follow = follow
        self.candidate = replace(candidate, follow=self._present_of)
        super().__init__(self._linked(current))
        self._share = share
        self._active = False
        self._staying: dict[Hashable, RuleSet] = {}
        """Keys that had messages in flight at the last change, with the rule set of these messages."""
        self._in_flight: Callable[[], Iterable[tuple[Hashable, RuleSet]]] = tuple
        self._is_busy: Callable[[Hashable], bool] = lambda key: False

    def observe(
        self, in_flight: Callable[[], Iterable[tuple[Hashable, RuleSet]]], is_busy: Callable[[Hashable], bool]
    ) -> None:
        """Set the views of the source's lanes.

        in_flight: keys with messages in flight, and the rule set of their last message.
        is_busy: True while a key has messages in flight.
        """
        self._in_flight, self._is_busy = in_flight, is_busy

    def replace(self, current: RuleSet) -> None:
        """Bind the following deliveries of the present rules to another rule set."""
        super().replace(self._linked(current))

    def _linked(self, present: RuleSet) -> RuleSet:
        """Present rule set whose messages may go to instances of the candidate, and so to its engines."""
        engines = {**self.candidate.engines, **present.engines}
        return replace(present, engines=engines, follow=self._candidate_of)

    async def _candidate_of(self, decision: Decision) -> RuleSet | None:
        return self.candidate if await self._follow(decision) else None

    async def _present_of(self, decision: Decision) -> RuleSet | None:
        return self.current if await self._follow(decision) is False else None

    @property
    def active(self) -> bool:
        """True while the candidate decides about its share of the keys."""
        return self._active

    def activate(self, active: bool) -> None:
        """Start or end the use of the candidate. Keys with messages in flight change when these have left."""
        if active is not self._active:
            self._active = active
            self._staying = {domain_key(key): rules for key, rules in self._in_flight()}

    def choose(self, key: Hashable | None) -> RuleSet:
        """Rule set of the next message of a key; see `RuleChooser`."""
        if key is None:
            return self.current
        if self._staying and (staying := self._staying.get(domain_key(key))) is not None:
            if self._is_busy(key):
                return staying
            del self._staying[domain_key(key)]
        if self._active and selected(key, self.candidate.version, self._share):
            return self.candidate
        return self.current


class TaggedRoutes:
    """Routes of a candidate. Instances that they start get its version as a tag."""

    def __init__(self, routes: Routes, version: str) -> None:
        self._routes = routes
        self._version = version
        self.portioned = routes.portioned

    def route(self, envelope: Envelope) -> Decision:
        return self._tagged(self._routes.route(envelope))

    def routing(self, envelope: Envelope) -> Generator[None, None, Decision]:
        return self._tagged((yield from self._routes.routing(envelope)))

    def ordering_key(self, envelope: Envelope) -> str | None:
        return self._routes.ordering_key(envelope)

    def value(self, envelope: Envelope) -> str:
        return self._routes.value(envelope)

    def _tagged(self, decision: Decision) -> Decision:
        return Decision(decision.routes, tuple(self._tagged_step(step) for step in decision.steps))

    def _tagged_step(self, step: Step) -> Step:
        command = step.command
        if isinstance(command, ScheduleOrchestration | StartOrRaise):
            return replace(step, command=replace(command, tags={**command.tags, TAG: self._version}))
        if not isinstance(command, SignalEntity) and isinstance(first := command.on_missing, StartFirst):
            return replace(step, command=replace(command, on_missing=replace(first, tags={TAG: self._version})))
        return step
