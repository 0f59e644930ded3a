"""Repeated suspensions in the events of a turn.

An engine may store each call that suspends an instance, also for one that is suspended already; durabletask-go does. At
the resumption the SDK's executor (1.12) then suspends the instance again, and adds the events that it should process to
the list from which it takes them: the turn never ends, and its memory grows.
"""

from __future__ import annotations

from durabletask.internal import orchestrator_service_pb2 as pb


def drop_repeated_suspensions(turn: pb.OrchestratorRequest) -> None:
    """Remove suspensions of a suspended instance from the events of a turn. They have no effect of their own."""
    is_suspended = False
    for events in (turn.pastEvents, turn.newEvents):
        repeated = []
        for index, event in enumerate(events):
            if event.HasField("executionSuspended"):
                if is_suspended:
                    repeated.append(index)
                is_suspended = True
            elif event.HasField("executionResumed"):
                is_suspended = False
        for index in reversed(repeated):
            del events[index]
