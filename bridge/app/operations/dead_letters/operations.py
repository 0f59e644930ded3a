"""Operations on dead letters: replay, edit, drop and restore, each as a job."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field
from typing_extensions import TypedDict

from bridge.app.claims import build_claims
from bridge.app.dead_letters.check import expected
from bridge.app.dead_letters.reading import DeadLetterSelection, FoundDeadLetter, visited
from bridge.app.operations.dead_letters.batches import DeadLetterBatch, Submitted, select, submit
from bridge.app.operations.dead_letters.jobs import DROP_KIND, RESTORE_KIND
from bridge.app.operations.dead_letters.replays import ReplayBatch, described, submit_edited
from bridge.app.operations.operation import LONGEST_SECONDS, Ids, Operation, Parameters, Scene
from bridge.core.errors import InvalidCommand
from bridge.core.states import Outcome
from bridge.dead_letters.state_machine import DeadLetterState
from bridge.engines.base import Engine
from bridge.jobs.kind import DEFAULT_FOLLOW, JobRequest
from bridge.replay.kind import REPLAY_KIND


class ChangeDeadLetters(Parameters):
    """Dead letters of a job.

    sources, routes, causes, ids, keys, since, until, states: see `bridge.app.dead_letters.reading.DeadLetterSelection`.
    all: all dead letters in these states; required without another condition.
    ends: offsets after the last selected one, by broker, topic and partition.
    rate: see `bridge.jobs.kind.JobRequest`.
    """

    sources: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    ids: Ids = ()
    keys: tuple[str, ...] = ()
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    all: bool = False
    limit: int | None = Field(None, ge=1)
    ends: Mapping[str, int] | None = None
    rate: float | None = Field(None, gt=0)
    states: tuple[DeadLetterState, ...] = (DeadLetterState.OPEN,)

    @property
    def selection(self) -> DeadLetterSelection:
        """Selection of the conditions. Raises: InvalidCommand without one."""
        since, until = (None if each is None else each.timestamp() for each in (self.since, self.until))
        found = DeadLetterSelection(self.sources, self.routes, self.causes, self.ids, self.keys, since, until)
        if found == DeadLetterSelection() and not self.all:
            raise InvalidCommand("no condition is given; `all` selects all dead letters")
        return replace(found, states=frozenset(self.states))

    @property
    def audited(self) -> Mapping[str, Any]:
        """Filter for the audit line. Keys may name persons."""
        given = self.model_dump(mode="json", exclude={"engine", "reason", "ends", "keys"}, exclude_defaults=True)
        return given | ({"keys": len(self.keys)} if self.keys else {})


class ReplayDeadLetters(ChangeDeadLetters):
    """Dead letters to replay.

    force: also those of which `limits.max_replays` replays have failed.
    ramp, stop_after_failures, follow: see `bridge.jobs.kind.JobRequest`.
    """

    states: tuple[Literal[DeadLetterState.OPEN]] = (DeadLetterState.OPEN,)
    force: bool = False
    ramp: tuple[Annotated[int, Field(ge=1)], ...] = ()
    stop_after_failures: int | None = Field(None, ge=1)
    follow: float = Field(DEFAULT_FOLLOW, ge=0, le=LONGEST_SECONDS)


class DropDeadLetters(ChangeDeadLetters):
    """Dead letters to drop."""

    reason: str = Field(min_length=1)
    states: tuple[Literal[DeadLetterState.OPEN]] = (DeadLetterState.OPEN,)


class RestoreDeadLetters(ChangeDeadLetters):
    """Dead letters to open again. states: those that end."""

    states: tuple[
        Literal[DeadLetterState.DROPPED, DeadLetterState.REPLAYED, DeadLetterState.RETURNED, DeadLetterState.REPLAYING],
        ...,
    ] = Field((DeadLetterState.DROPPED,), min_length=1)


class EditDeadLetter(Parameters):
    """Dead letter to replay with another body. body: as base64; or text: as text.

    dry_run: only decode and route it, with the schema and the rules.
    """

    id: str
    body: str | None = None
    text: str | None = None
    dry_run: bool = False
    force: bool = False
    follow: float = Field(DEFAULT_FOLLOW, ge=0, le=LONGEST_SECONDS)


async def _replay(scene: Scene, given: ReplayDeadLetters) -> Any:
    request = JobRequest(
        REPLAY_KIND,
        {"force": True} if given.force else {},
        ramp=given.ramp, stop_after_failures=given.stop_after_failures, follow=given.follow,
    )  # fmt: skip
    return await _submit(scene, given, ReplayBatch, request)


async def _drop_dead_letters(scene: Scene, given: DropDeadLetters) -> Any:
    return await _submit(scene, given, DeadLetterBatch, JobRequest(DROP_KIND))


async def _restore_dead_letters(scene: Scene, given: RestoreDeadLetters) -> Any:
    return await _submit(scene, given, DeadLetterBatch, JobRequest(RESTORE_KIND, {"states": list(given.states)}))


async def _submit(scene: Scene, given: ChangeDeadLetters, batch: type[DeadLetterBatch], request: JobRequest) -> Any:
    """Select dead letters, and submit their jobs on the engine of the scene."""
    engine, selection = await scene.engine(), given.selection
    found = await select(scene.loaded, selection, batch, given.limit, engines={engine.name: engine}, ends=given.ends)
    request = replace(
        request,
        selection=described(selection, given.limit), rate=given.rate, reason=given.reason or "", by=scene.actor.name,
    )  # fmt: skip
    return [asdict(each) for each in await submit(engine, found, request)]


class EditVerdict(TypedDict):
    """Dry run of an edit: what would become of the message. fails: it would be dead-lettered again."""

    would: str
    detail: str | None
    fails: bool


async def _editable(scene: Scene, id_: str, engines: Mapping[str, Engine]) -> tuple[FoundDeadLetter, str]:
    """Dead letter whose body can be edited, and its source. Raises: InvalidCommand."""
    found = [each async for each in visited(scene.loaded, _open(id_), engines=engines)]
    if len(found) != 1:
        raise _ambiguous(id_, len(found))
    [one] = found
    source = one.place.owner(one.dead_letter.source)
    claims = build_claims(scene.loaded, source)
    if claims is not None and claims.replaces_body and claims.refers(one.message):
        raise InvalidCommand(
            "the payload of this dead letter lies elsewhere, and a replay fetches it: correct it there, and replay the "
            "dead letter (`bridge dlq replay`)"
        )
    return one, source


async def _try(scene: Scene, given: EditDeadLetter, body: bytes) -> EditVerdict:
    engines = await scene.engines(None)
    one, source = await _editable(scene, given.id, engines)
    message = replace(one.message, body=body)
    verdict = await expected(scene.loaded, one.dead_letter, message, source, engines)
    return {"would": verdict.text, "detail": verdict.detail, "fails": verdict.outcome is Outcome.DEAD_LETTERED}


def _open(id_: str) -> DeadLetterSelection:
    return DeadLetterSelection(ids=(id_,), states=frozenset({DeadLetterState.OPEN}))


def _ambiguous(id_: str, count: int) -> InvalidCommand:
    return InvalidCommand(f"{id_!r} names {count or 'no'} open dead letters; give the id of one")


async def _edit(scene: Scene, given: EditDeadLetter) -> Any:
    body = _body(given)
    if given.dry_run:
        return await _try(scene, given, body)
    engines = await scene.engines(given.engine)
    await _editable(scene, given.id, engines)
    found = await select(scene.loaded, _open(given.id), ReplayBatch, engines=engines)
    batches = [batch for batch in found.batches if batch.engine in engines]
    if (count := sum(batch.count for batch in batches)) != 1:
        raise _ambiguous(given.id, count)
    engine = engines[batches[0].engine]
    arguments = {"force": True} if given.force else {}
    request = JobRequest(
        REPLAY_KIND, arguments, f"id {given.id}, edited", follow=given.follow, reason=given.reason or "",
        by=scene.actor.name,
    )  # fmt: skip
    [submitted] = await submit_edited(engine, found, request, body)
    return asdict(submitted)


def _body(given: EditDeadLetter) -> bytes:
    if (given.body is None) == (given.text is None):
        raise InvalidCommand("use either `body` or `text`")
    if given.text is not None:
        return given.text.encode()
    try:
        return base64.b64decode(given.body or "", validate=True)
    except ValueError:
        raise InvalidCommand("`body` is not base64") from None


DEAD_LETTER_OPERATIONS: tuple[Operation[Any], ...] = (
    Operation(
        "dlq.replay", "operator", "dead-letters:replay", ReplayDeadLetters, _replay, list[Submitted],
        filter=lambda given: given.audited, submits=True,
    ),
    Operation(
        "dlq.drop", "operator", "dead-letters:drop", DropDeadLetters, _drop_dead_letters, list[Submitted],
        filter=lambda given: given.audited, submits=True,
    ),
    Operation(
        "dlq.restore", "operator", "dead-letters:restore", RestoreDeadLetters, _restore_dead_letters, list[Submitted],
        filter=lambda given: given.audited, submits=True,
    ),
    Operation(
        "dlq.edit", "operator", "dead-letters:edit", EditDeadLetter, _edit, Submitted | EditVerdict,
        lambda given: given.id,
        lambda given: {"force": given.force, **({"dry_run": True} if given.dry_run else {})},
        submits=True,
    ),
)  # fmt: skip
