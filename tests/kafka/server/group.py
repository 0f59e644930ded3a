"""Consumer groups: join, sync, heartbeat, leave and committed offsets."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from enum import Enum

from tests.kafka.server import errors


class State(Enum):
    """Group states, named as in DescribeGroups responses."""

    EMPTY = "Empty"
    PREPARING = "PreparingRebalance"
    COMPLETING = "CompletingRebalance"
    STABLE = "Stable"


@dataclass(eq=False)
class Member:
    """Group member. joining, syncing: futures of pending requests; their result is an error code."""

    id: str
    instance: str | None
    session: float = 10.0
    rebalance: float = 10.0
    protocols: dict[str, bytes] = field(default_factory=dict)
    assignment: bytes = b""
    joining: asyncio.Future[int] | None = None
    syncing: asyncio.Future[int] | None = None
    timer: asyncio.TimerHandle | None = None


def answer(waiting: asyncio.Future[int] | None, code: int) -> None:
    """Complete the future of a pending request with an error code."""
    if waiting is not None and not waiting.done():
        waiting.set_result(code)


class Group:
    """Consumer group with its members and committed offsets."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.state = State.EMPTY
        self.generation = 0
        self.members: dict[str, Member] = {}
        self.pending: set[str] = set()
        self.leader = ""
        self.protocol = ""
        self.kind = ""
        self.loading = False
        """True while the coordinator has just taken over the group and does not know its positions yet."""
        self.offsets: dict[tuple[str, int], tuple[int, str | None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def check(self, member_id: str, generation: int) -> int:
        """Return the error code for a member's request."""
        if member_id not in self.members:
            return errors.UNKNOWN_MEMBER
        return errors.NONE if generation == self.generation else errors.ILLEGAL_GENERATION

    def touch(self, member: Member) -> None:
        """Restart the session timer of a member."""
        if member.timer is not None:
            member.timer.cancel()
        member.timer = self._loop.call_later(member.session, self._expire, member)

    def admit(self, member_id: str, instance: str | None) -> tuple[int, str, Member | None]:
        """Admit a member. Returns the error code, the member id and the joining member."""
        known = next((each for each in self.members.values() if instance and each.instance == instance), None)
        if known is not None and not member_id:
            # A returning static member keeps its place under a new id
            del self.members[known.id]
            was_leader = self.leader == known.id
            known.id = f"{instance}-{uuid.uuid4()}"
            answer(known.joining, errors.FENCED_INSTANCE)
            answer(known.syncing, errors.FENCED_INSTANCE)
            known.joining = known.syncing = None
            self.members[known.id] = known
            if was_leader:
                self.leader = known.id
            return errors.NONE, known.id, known
        if known is not None and member_id != known.id:
            return errors.FENCED_INSTANCE, member_id, None
        if not member_id and not instance:
            fresh = f"member-{uuid.uuid4()}"
            self.pending.add(fresh)
            return errors.MEMBER_ID_REQUIRED, fresh, None
        if member_id and member_id not in self.members and member_id not in self.pending:
            return errors.UNKNOWN_MEMBER, member_id, None
        member = self.members.get(member_id)
        if member is None:
            member = Member(member_id or f"{instance}-{uuid.uuid4()}", instance)
            self.pending.discard(member_id)
            self.members[member.id] = member
        return errors.NONE, member.id, member

    async def join(self, member: Member, protocols: dict[str, bytes]) -> int:
        """Wait until the other members have joined. Returns an error code."""
        changed = member.protocols != protocols
        member.protocols = protocols
        self.touch(member)
        if self.state is State.STABLE and not changed and (member.id != self.leader or member.instance):
            return errors.NONE
        member.joining = self._loop.create_future()
        if self.state is State.PREPARING:
            self._maybe_complete()
        else:
            self.prepare()
        waiting = member.joining
        return errors.NONE if waiting is None else await waiting

    async def sync(self, member: Member, assignments: dict[str, bytes]) -> int:
        """Wait for the leader's assignment. Returns an error code."""
        if self.state is State.PREPARING:
            return errors.REBALANCE_IN_PROGRESS
        if self.state is State.STABLE:
            return errors.NONE
        self.touch(member)
        member.syncing = waiting = self._loop.create_future()
        if member.id == self.leader:
            self.state = State.STABLE
            self._stop_timer()
            for each in self.members.values():
                each.assignment = assignments.get(each.id, b"")
                answer(each.syncing, errors.NONE)
        return await waiting

    def remove(self, member: Member) -> None:
        """Remove a member that left or whose session expired."""
        self.members.pop(member.id, None)
        if member.timer is not None:
            member.timer.cancel()
        answer(member.joining, errors.UNKNOWN_MEMBER)
        answer(member.syncing, errors.UNKNOWN_MEMBER)
        if self.state in (State.STABLE, State.COMPLETING):
            self.prepare()
        elif self.state is State.PREPARING:
            self._maybe_complete()

    def prepare(self) -> None:
        """Start a rebalance: every member must join again."""
        self.state = State.PREPARING
        for member in self.members.values():
            answer(member.syncing, errors.REBALANCE_IN_PROGRESS)
            member.syncing = None
        self._stop_timer()
        timeout = max((member.rebalance for member in self.members.values()), default=0.0)
        self._timer = self._loop.call_later(timeout, self._complete)
        self._maybe_complete()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _maybe_complete(self) -> None:
        if all(member.joining is not None for member in self.members.values()):
            self._complete()

    def _complete(self) -> None:
        self._stop_timer()
        for member in [each for each in self.members.values() if each.joining is None and each.instance is None]:
            del self.members[member.id]
            if member.timer is not None:
                member.timer.cancel()
        self.generation += 1
        joined = [member for member in self.members.values() if member.joining is not None]
        if not joined:
            self.state = State.EMPTY if not self.members else State.STABLE
            return
        if self.leader not in {member.id for member in joined}:
            self.leader = joined[0].id
        shared = [name for name in joined[0].protocols if all(name in each.protocols for each in joined)]
        self.protocol = shared[0] if shared else ""
        self.state = State.COMPLETING
        for member in joined:
            self.touch(member)
            waiting, member.joining = member.joining, None
            answer(waiting, errors.NONE if shared else errors.INCONSISTENT_PROTOCOL)
        timeout = max(member.rebalance for member in joined)
        self._timer = self._loop.call_later(timeout, self._give_up_sync)

    def _give_up_sync(self) -> None:
        for member in [each for each in self.members.values() if each.syncing is None]:
            del self.members[member.id]
        self.prepare()

    def _expire(self, member: Member) -> None:
        if member.joining is not None:
            self.touch(member)
        elif self.members.get(member.id) is member:
            self.remove(member)
