"""Early-message protocol under every interleaving of its participants, with crashes between any two steps.

The model: one instance, one lane of messages, the entity with its queue and its timers. A crash of an operation keeps
delivered messages and drops uncommitted state; a crash of the lane redelivers the message.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from bridge.config.model.engines import EarlyMessagesConfig
from bridge.core.commands import Command
from bridge.core.errors import EngineUnavailable, InstanceNotFound
from bridge.core.origin import MessageOrigin
from bridge.core.settlement import RetryPolicy
from bridge.core.system_names import dead_letter_id
from bridge.early_messages.state_machine import DEDUPLICATION_WINDOW, EarlyMessageQueue, command_key
from tests.kit.examples import examples
from tests.waiting.sample import waiting

LIMITS = EarlyMessagesConfig(max_messages=4)
TTLS = (60.0, 20.0, 200.0)
"""Seconds that messages wait, in turn."""


class World(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.started = False
        self.untold = False
        self.outage = False
        self.queue: list[tuple[str, dict[str, Any]]] = []
        self.timers: list[float] = []
        self.state: dict[str, Any] | None = None
        self.lane: list[int] = []
        self.published = 0
        self.phase = "look"
        self.effects: list[int] = []
        self.dead_letters: dict[str, int] = {}
        self.repeatable: set[int] = set()
        """Messages with an effect that was not recorded, or is no longer remembered."""
        self.redelivered: set[int] = set()
        self.direct: set[int] = set()
        self.told_at: dict[int, float] = {}
        self.hurt = False

    # -- parts of the steps

    def early_messages(self) -> EarlyMessageQueue:
        return EarlyMessageQueue(
            LIMITS, 30.0, RetryPolicy(), None if self.state is None else json.loads(json.dumps(self.state))
        )

    def tell(self, command: Command, origin: MessageOrigin | None) -> None:
        if self.outage:
            raise EngineUnavailable("away")
        if not self.started:
            raise InstanceNotFound("no such instance")
        assert origin is not None
        number = int(origin.message_id.removeprefix("m-"))
        self.effects.append(number)
        if self.now - self.told_at.setdefault(number, self.now) >= DEDUPLICATION_WINDOW:
            self.repeatable.add(number)

    def waits(self) -> bool:
        return bool(self.queue) or bool((self.state or {}).get("items"))

    def operate(self, crash: bool) -> None:
        operation, value = self.queue[0]
        early_messages = self.early_messages()
        before = len(self.effects)
        if operation == "park":
            turn = early_messages.store(value, 100, self.tell, self.now)
        elif operation == "tick":
            turn = early_messages.on_timer(value["at"], self.tell, self.now)
        else:
            turn = early_messages.deliver_now(self.tell, self.now)
        self.hurt = self.hurt or self.outage
        if crash:
            self.repeatable.update(self.effects[before:])
            return
        self.queue.pop(0)
        self.state = early_messages.to_json()
        for each in turn.undelivered:
            number = int(each.item["id"].removeprefix("m-"))
            self.dead_letters[dead_letter_id("k", each.item["mark"], each.item["since"])] = number
            assert each.reason in ("early_full", "early_expired")
        if turn.wake is not None:
            self.timers.append(turn.wake)
        if not early_messages.items:
            self.hurt = False
        if not self.queue and self.started and not self.untold and not self.hurt:
            assert not early_messages.items, "a message waits though its instance is there and both sides were notified"

    def step(self) -> None:
        """Execute one step of the lane's head."""
        number = self.lane[0]
        item = waiting(number, self.now, TTLS[number % len(TTLS)])
        if self.phase == "look":
            received = self.state or {}
            if command_key(item.to_json()) in received.get("delivered", ()):
                self.settle()
            else:
                self.phase = "park" if self.waits() else "tell"
        elif self.phase == "tell":
            try:
                self.tell(item.command, item.origin)
            except InstanceNotFound:
                self.phase = "park"
            except EngineUnavailable:
                self.phase = "look"
            else:
                self.settle()
                self.direct.add(number)
        else:
            self.queue.append(("park", item.to_json()))
            self.settle()

    def settle(self) -> None:
        self.lane.pop(0)
        self.phase = "look"

    # -- actions

    @initialize(started=st.booleans())
    def begin(self, started: bool) -> None:
        self.started = started

    @rule()
    def publish(self) -> None:
        self.lane.append(self.published)
        self.published += 1

    @rule(count=st.integers(1, 3))
    def publish_and_settle(self, count: int) -> None:
        for _ in range(count):
            self.publish()
        for _ in range(10 * count):
            if self.lane:
                self.step()

    @precondition(lambda self: self.lane)
    @rule()
    def work(self) -> None:
        self.step()

    @precondition(lambda self: self.lane)
    @rule()
    def work_and_die_before_it_is_settled(self) -> None:
        number = self.lane[0]
        self.step()
        if number not in self.lane:
            self.lane.insert(0, number)
            self.redelivered.add(number)
            if number in self.direct:
                self.repeatable.add(number)  # the message was not stored, and is therefore not remembered
        self.phase = "look"

    @precondition(lambda self: not self.started)
    @rule(tells=st.booleans())
    def start(self, tells: bool) -> None:
        self.started = True
        if tells:
            self.queue.append(("started", {}))
        else:
            self.untold = True

    @precondition(lambda self: self.untold)
    @rule()
    def the_starter_comes_back_and_tells(self) -> None:
        self.untold = False
        self.queue.append(("started", {}))

    @precondition(lambda self: self.queue)
    @rule()
    def process(self) -> None:
        self.operate(crash=False)

    @precondition(lambda self: self.queue)
    @rule()
    def process_all(self) -> None:
        while self.queue:
            self.operate(crash=False)

    @precondition(lambda self: self.queue)
    @rule()
    def process_and_die_before_it_is_committed(self) -> None:
        self.operate(crash=True)

    @rule(seconds=st.sampled_from([1.0, 10.0, 31.0, 61.0, DEDUPLICATION_WINDOW + 1]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        due = sorted(at for at in self.timers if at <= self.now)
        self.timers = [at for at in self.timers if at > self.now]
        self.queue += [("tick", {"at": at}) for at in due]

    @rule(away=st.booleans())
    def the_engine_goes_or_comes(self, away: bool) -> None:
        self.outage = away

    # -- final assertions

    def teardown(self) -> None:
        self.outage = False
        while self.lane:
            self.step()
            while self.queue:
                self.operate(crash=False)
        for _ in range(200):
            while self.queue:
                self.operate(crash=False)
            if not self.timers:
                break
            self.wait(max(0.0, min(self.timers) - self.now))
        assert not self.queue
        assert not self.timers, "somebody ticks for ever"
        assert self.state is None, "something is remembered for ever"
        dead = list(self.dead_letters.values())
        for number in range(self.published):
            assert number in self.effects or number in dead, f"{number} is lost"
            if number not in self.repeatable and not (number in self.redelivered and number in dead):
                assert self.effects.count(number) + dead.count(number) == 1, f"{number} is doubled"
        first = list(dict.fromkeys(self.effects))
        assert first == sorted(first), f"out of order: {self.effects}"


World.TestCase.settings = settings(
    max_examples=examples(500), stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestProtocol = World.TestCase
