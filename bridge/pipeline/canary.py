"""Choice between the present rules of a source and those of a candidate, by ordering key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Hashable, Iterable
from dataclasses import replace

from bridge.core.canary import TAG, selected
from bridge.core.commands import Decision, RoutedCommand, ScheduleOrchestration, SignalEntity, StartFirst, StartOrRaise
from bridge.core.message import Envelope
from bridge.pipeline.lanes import domain_key
from bridge.pipeline.rule_set import CurrentRules, RuleSet
from bridge.pipeline.settings import Routes

Follow = Callable[[Decision], Awaitable[bool | None]]
"""Function that is True if the candidate has started the instance that a decision addresses; None without an instance.

Raises: EngineError.
"""


class CanaryRules(CurrentRules):
    """Chooser of a source that may have a candidate. Its `current` is the present rule set.

    Messages without an ordering key belong to the present rules.
    """

    def __init__(self, current: RuleSet) -> None:
        super().__init__(current)
        self._present = current
        """Present rule set without its link to a candidate."""
        self._link: Callable[[RuleSet], RuleSet] | None = None
        self.candidate: RuleSet | None = None
        self._share = 0.0
        self._active = False
        self._staying: dict[Hashable, RuleSet | None] = {}
        """Keys that had messages in flight at the last change: rule set of a candidate, None for the present rules."""
        self._candidates: list[RuleSet] = []
        """Candidates that may have messages in flight."""
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

    def use(self, candidate: RuleSet, share: float, follow: Follow) -> None:
        """Use another candidate, which decides about nothing until it is activated.

        Deliveries in flight keep their rule set, and the one that it follows.
        follow: finds the rules that have started the instances of a decision.
        """

        async def present_of(decision: Decision) -> RuleSet | None:
            return self.current if await follow(decision) is False else None

        async def candidate_of(decision: Decision) -> RuleSet | None:
            return linked if await follow(decision) else None

        def link(present: RuleSet) -> RuleSet:
            # Messages of the present rules may go to instances of the candidate, and so to its engines
            return replace(present, engines={**linked.engines, **present.engines}, follow=candidate_of)

        linked = replace(candidate, follow=present_of)
        self.leave()
        self.candidate, self._share, self._link = linked, share, link
        self.replace(self._present)

    def leave(self) -> None:
        """Use no candidate. Its deliveries in flight keep their rule set, and so do further ones of their keys."""
        self._active = False
        self._keep_sides()
        self.candidate = self._link = None
        self.replace(self._present)

    def replace(self, current: RuleSet) -> None:
        """Bind the following deliveries of the present rules to another rule set."""
        self._present = current
        super().replace(current if self._link is None else self._link(current))

    def activate(self, active: bool) -> None:
        """Start or end the use of the candidate. Keys with messages in flight change when these have left."""
        if active is not self._active:
            self._active = active
            self._keep_sides()

    def _keep_sides(self) -> None:
        """Let the keys with messages in flight keep their side until these have left."""
        in_flight = {domain_key(key): rules for key, rules in self._in_flight()}
        known = [*self._candidates, *([] if self.candidate is None else [self.candidate])]
        self._candidates = [each for each in known if any(rules is each for rules in in_flight.values())]
        self._staying = {
            key: next((each for each in self._candidates if each is rules), None) for key, rules in in_flight.items()
        }

    def choose(self, key: Hashable | None) -> RuleSet:
        """Rule set of the next message of a key; see `RuleChooser`."""
        if key is None:
            return self.current
        if self._staying and (found := domain_key(key)) in self._staying:
            if self._is_busy(key):
                return self._staying[found] or self.current
            del self._staying[found]
        if self._active and (candidate := self.candidate) is not None:
            return candidate if selected(key, candidate.version, self._share) else self.current
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

    def _tagged_step(self, step: RoutedCommand) -> RoutedCommand:
        command = step.command
        if isinstance(command, ScheduleOrchestration | StartOrRaise):
            return replace(step, command=replace(command, tags={**command.tags, TAG: self._version}))
        if not isinstance(command, SignalEntity) and isinstance(first := command.on_missing, StartFirst):
            return replace(step, command=replace(command, on_missing=replace(first, tags={TAG: self._version})))
        return step
