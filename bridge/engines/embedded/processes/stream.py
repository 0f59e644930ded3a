"""Worker process as the engine sees it: a stream that writes work to the channel, and decides what stays in memory."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.engines.embedded.processes.channel import Channel
from bridge.engines.embedded.processes.framing import Item
from bridge.engines.embedded.processes.messages import ItemKind, parse_turn_done, turn_body, work_body
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.hub.leases import WorkerStream
from bridge.sqlite_engine.hub.work_items import ActivityItem, TurnRequest
from bridge.sqlite_engine.model.reply import Rejection, ThreadReply

_NO_REPLY = ThreadReply()

Inspector = Callable[[TurnRequest, Any], None]
"""Inspector of turns and their responses, as `CompatibilityMonitor.inspect_turn`."""


@dataclass(slots=True)
class _Kept:
    """End of the history that the process has of an orchestration: its last turn."""

    begin: int
    turn: list[pb.HistoryEvent]
    token: str
    size: int


class ProcessStream(WorkerStream):
    """Stream to one worker process.

    The engine's writer sends and flushes; one other thread reads the results.

    owners: table of the engine with the worker of each orchestration that is in memory.
    recalls: the process returns activities that have not begun when it is asked to.
    inspect: called with each turn and its response, in the reading thread; None where the process itself does that.
    """

    def __init__(
        self,
        channel: Channel,
        request: pb.GetWorkItemsRequest,
        *,
        owners: dict[str, WorkerStream],
        sessions: tuple[int, int],
        most_bytes: int,
        knows: Callable[[int, str], bool] | None,
        recalls: bool,
        process: object | None = None,
        inspect: Inspector | None = None,
    ) -> None:
        super().__init__(
            request,
            self._send,
            flush=self._flush,
            shares=True,
            knows=knows,
            process=process,
            sessions=sessions,
            most_bytes=most_bytes,
        )
        self._channel = channel
        self._owners = owners
        self._most, self._most_kept_bytes = sessions
        self._inspect = inspect
        self._recalls = recalls
        self._has_unbegun = False
        """True when activities were sent since the last recall."""
        self._out: list[Item] = []
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._kept_bytes = 0
        self._turns: dict[str, TurnRequest] = {}
        """Turns without a response, by token."""
        self._ended: deque[tuple[str, str, bool]] = deque()
        """Orchestrations whose record does not fit a response: id, token, and True when the process kept it."""
        self.completed = 0
        """Number of results."""

    @property
    def session_count(self) -> int:
        """Number of orchestrations that the process has in memory."""
        return len(self._kept)

    # In the writer's thread

    def _send(self, item: TurnRequest | ActivityItem | pb.WorkItem) -> int:
        """Add a work item to the next frame. Returns its size."""
        if isinstance(item, TurnRequest):
            kind, body = ItemKind.TURN, self._turn(item)
        elif isinstance(item, ActivityItem):
            kind, body = ItemKind.ACTIVITY, work_body(item.completionToken, item.activityRequest)
            self._has_unbegun = True
        else:
            kind, body = ItemKind.ENTITY, work_body(item.completionToken, item.entityRequestV2)
        self._out.append((kind, body))
        return len(body)

    def _flush(self) -> None:
        """Write the frame."""
        self._drop_ended()
        if self._out:
            out, self._out = self._out, []
            self._channel.send(out)

    def recall(self) -> bool:
        if not (self._recalls and self._has_unbegun):
            return False
        self._has_unbegun = False
        self._out.append((ItemKind.RECALL, b""))
        return True

    def _turn(self, request: TurnRequest) -> bytes:
        """Body of a turn; keeps account of what the process has in memory."""
        self._drop_ended()
        instance_id = request.instanceId
        kept = self._remove(instance_id)
        since, after = 0, ""
        if kept is not None and request.continues(kept.begin, kept.turn):
            since, after = kept.begin + len(kept.turn), kept.token
        elif kept is None and isinstance(owner := self._owners.get(instance_id), ProcessStream):
            owner.forget(instance_id)
        self._turns[request.completionToken] = request
        body = turn_body(request, since, after)
        if self._most:
            size = request.historyBytes + len(body) if since else len(body)
            self._kept[instance_id] = _Kept(len(request.pastEvents), request.newEvents, request.completionToken, size)
            self._kept_bytes += size
            self._owners[instance_id] = self
            if len(self._kept) > self._most or self._kept_bytes > self._most_kept_bytes:
                self._evict()
        return body

    def _evict(self) -> None:
        """Forget the orchestrations without a turn for the longest time, but none with a turn in flight."""
        over, over_bytes = len(self._kept) - self._most, self._kept_bytes - self._most_kept_bytes
        chosen = []
        for instance_id, kept in self._kept.items():
            if over <= 0 and over_bytes <= 0:
                break
            if kept.token not in self._turns:
                chosen.append(instance_id)
                over, over_bytes = over - 1, over_bytes - kept.size
        for instance_id in chosen:
            self.forget(instance_id)

    def forget(self, instance_id: str) -> None:
        """Let the process forget an orchestration."""
        if self._remove(instance_id) is not None:
            self._out.append((ItemKind.FORGET, instance_id.encode()))

    def _remove(self, instance_id: str) -> _Kept | None:
        kept = self._kept.pop(instance_id, None)
        if kept is not None:
            self._kept_bytes -= kept.size
            if self._owners.get(instance_id) is self:
                del self._owners[instance_id]
        return kept

    def _drop_ended(self) -> None:
        """Take over from the reading thread which orchestrations are in memory no more, or should not be."""
        while self._ended:
            instance_id, token, is_kept = self._ended.popleft()
            kept = self._kept.get(instance_id)
            if kept is not None and kept.token == token:
                self._remove(instance_id)
            elif is_kept:
                self._out.append((ItemKind.FORGET, instance_id.encode()))

    # In the reading thread

    def results(self, items: Iterable[Item]) -> Iterator[tuple[str, Any]]:
        """Results among the items, as the protocol's methods and requests. Raises: DecodeError, struct.error."""
        for kind, body in items:
            if kind == ItemKind.TURN_DONE:
                response, is_kept = parse_turn_done(body)
                token = response.completionToken
                request = self._turns.pop(token, None)
                if request is not None:
                    kept = self._kept.get(request.instanceId)
                    if is_kept != (kept is not None and kept.token == token):
                        self._ended.append((request.instanceId, token, is_kept))
                    if self._inspect is not None:
                        self._inspect(request, response)
                yield "CompleteOrchestratorTask", response
            elif kind == ItemKind.ACTIVITY_DONE:
                yield "CompleteActivityTask", pb.ActivityResponse.FromString(body)
            elif kind == ItemKind.ENTITY_DONE:
                yield "CompleteEntityTask", pb.EntityBatchResult.FromString(body)
            else:
                continue
            self.completed += 1


def take_results(database: Database, stream: ProcessStream, items: Sequence[Item]) -> None:
    """Give the results among the items to the engine, and the work that the process could not run.

    Raises: DecodeError, struct.error.
    """
    results = list(stream.results(items))  # all are read before the first one is taken
    with suppress(Rejection):  # the engine is stopping
        database.complete_all(results)
        for kind, body in items:
            if kind == ItemKind.RETURNED:
                request = pb.AbandonActivityTaskRequest(completionToken=body.decode())
                database.call("AbandonTaskActivityWorkItem", request, _NO_REPLY)
            elif kind == ItemKind.RECALLED:
                database.take_back(body.decode().splitlines())
