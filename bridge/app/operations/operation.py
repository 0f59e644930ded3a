"""Operations: parameters, function, place in the API, role, and audit line."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar
from urllib.parse import quote
from uuid import NAMESPACE_OID, uuid4, uuid5

from pydantic import BeforeValidator, Field, ValidationError

from bridge.app import state
from bridge.config.model.types import Model
from bridge.config.source import Loaded
from bridge.core.errors import InvalidCommand, Problem
from bridge.core.origin import MessageOrigin, UnknownEnvelope, check
from bridge.engines.base import Engine
from bridge.engines.workload import Workload
from bridge.ops.access import Caller, Role
from bridge.ops.audit import Actor, AuditedChange, Denied, audited_async
from bridge.ops.trail import AuditTrail

FREE = frozenset({"input", "data", "output"})
"""Parameters that are any JSON value, which is stored as JSON text."""
TABLE = 6
"""Number of the table of operations, which grows with each operation or parameter of those that read.

A command reads through a daemon with the same number only: an earlier one would refuse what it does not know.
"""
LONGEST_SECONDS = 10 * 366 * 86_400.0
"""Seconds of the longest duration in a request: times beyond the calendar cannot be stored."""
JOB_ID = r"^[0-9a-z]{1,32}$"
"""Pattern of the id of a job."""
NEW = "(new)"
"""Target of an operation whose result names what it has made."""

Reload = Callable[[bool, str], Awaitable[Mapping[str, Any]]]
"""Reload of a daemon's configuration: True only plans it. The text is the name of the person. Returns the answer."""


class Parameters(Model):
    """Parameters of every operation.

    engine: None is `default`, or the only one.
    reason: kept in the audit line.
    """

    engine: str | None = None
    reason: str | None = None


class MessageParameters(Parameters):
    """Parameters of an operation that counts as a message.

    bare: it does not.
    message_id: random when None.
    """

    message_id: str | None = None
    bare: bool = False

    def origin(self, what: str) -> MessageOrigin | None:
        if self.message_id == "":
            raise InvalidCommand("`message_id` is empty")
        return None if self.bare else MessageOrigin(self.message_id or str(uuid4()), what)


class JobParameters(Parameters):
    """Parameters of a job.

    rate, ramp, stop_after_failures: see `bridge.jobs.kind.JobRequest`.
    """

    rate: float | None = Field(None, gt=0)
    ramp: tuple[Annotated[int, Field(ge=1)], ...] = Field((), max_length=20)
    stop_after_failures: int | None = Field(None, ge=0)

    @property
    def failures(self) -> int | None:
        """Failed items at which the job stops: 1 with a ramp, unless stated otherwise; 0 is never."""
        if self.stop_after_failures is None:
            return 1 if self.ramp else None
        return self.stop_after_failures or None


def checked(value: Any) -> Any:
    """JSON value of a parameter. Raises: InvalidCommand for an envelope that this version does not know."""
    try:
        check(value)
    except UnknownEnvelope as error:
        raise InvalidCommand(str(error)) from None
    return value


def words(value: Any) -> Any:
    """Words of a query: separated by commas, or a JSON list, for words that have commas."""
    if not isinstance(value, str):
        return value
    if value.startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("it is not a JSON list") from None
    return tuple(filter(None, value.split(",")))


def json_object(value: Any) -> Any:
    """Object of a query, which is JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None


Words = Annotated[tuple[str, ...], BeforeValidator(words)]
"""Words, separated by commas in a query."""

MOST_IDS = 10_000
"""Most ids of one request with a body: they fit into a body of 1 MiB."""
MOST_IDS_OF_QUERY = 1_000
"""Most ids in the query of one request: they fit into the first line of a request."""
Ids = Annotated[tuple[str, ...], Field(max_length=MOST_IDS)]
"""Ids in a body."""
QueryIds = Annotated[tuple[str, ...], Field(max_length=MOST_IDS_OF_QUERY), BeforeValidator(words)]
"""Ids in a query; see `Words`."""

P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True, slots=True)
class Scene:
    """Context of an operation.

    engine: returns the running engine of the request.
    open: returns the running engine of a name.
    caller: asks for it.
    in_flight: returns messages in flight in a daemon; None outside of one.
    elsewhere: returns messages in flight in the other daemons of the configuration, and the number of those that do not
    answer; None outside of a daemon.
    problems: checks the configuration; imports no code.
    reload: reloads the configuration of a daemon, or with True plans it only, for a person of this name; None outside
    of one.
    candidate: version of the candidate for the rules in use in a daemon; None without one.
    held: returns the work items that the workers of a daemon have for an engine; None without workers.
    """

    loaded: Loaded
    engine: Callable[[], Awaitable[Engine]]
    caller: Caller
    in_flight: Callable[[str], Sequence[Mapping[str, Any]]] | None = None
    elsewhere: Callable[[str], Awaitable[tuple[Sequence[Mapping[str, Any]], int]]] | None = None
    problems: Callable[[], Sequence[Problem]] = tuple
    reload: Reload | None = None
    open: Callable[[str], Awaitable[Engine]] | None = None
    candidate: str | None = None
    held: Callable[[str], Workload | None] = lambda name: None

    async def engines(self, named: str | None) -> dict[str, Engine]:
        """Running engines by name: the one of the request if it names one, else all of the configuration."""
        if named is not None or self.open is None:
            engine = await self.engine()
            return {engine.name: engine}
        return {name: await self.open(name) for name in self.loaded.config.engines}

    @property
    def actor(self) -> Actor:
        return self.caller.actor


@dataclass(frozen=True, slots=True)
class Operation(Generic[P]):
    """One operation.

    name: action of its audit line.
    path: path below /api/v1; `{names}` in it are parameters.
    target, filter: members of the audit line, without payload.
    run: function whose result can be written as JSON.
    result: type of the result, for the description of the API.
    payloads: members of the result that are payload, at any depth; a caller without the right gets null.
    reads_payloads: True for parameters whose answer says something about payloads.
    only_reads: changes nothing although it needs a higher role than reader.
    submits: it only submits jobs, which its result names.
    place: engine of a request that names none; None: `default`, or the only one.
    failure: reason of a failure that the result reports, for the audit line; None for success.
    """

    name: str
    role: Role
    path: str
    parameters: type[P]
    run: Callable[[Scene, P], Awaitable[Any]]
    result: Any
    target: Callable[[P], str] = lambda given: "*"
    filter: Callable[[P], Mapping[str, Any]] = lambda given: {}
    payloads: frozenset[str] = frozenset()
    reads_payloads: Callable[[P], bool] = lambda given: False
    only_reads: bool = False
    submits: bool = False
    failure: Callable[[Any], str | None] = lambda result: None
    place: Callable[[Loaded, Mapping[str, Any]], str | None] = lambda loaded, given: None

    def engine_of(self, loaded: Loaded, given: Mapping[str, Any]) -> str | None:
        """Name of the engine of a request. given: its parameters, not validated."""
        name = given.get("engine")
        return name if isinstance(name, str) else self.place(loaded, given)

    @property
    def changes(self) -> bool:
        return self.role != "reader" and not self.only_reads

    @property
    def method(self) -> Literal["GET", "POST"]:
        return "POST" if self.changes else "GET"

    def parse(self, given: Mapping[str, Any]) -> P:
        """Validate the parameters. Raises: InvalidCommand, without their values."""
        for name, value in given.items():
            if name not in FREE and not _is_unicode(value):
                raise InvalidCommand(f"{self.name}: `{name}` has a lone surrogate, which no engine can store")
        try:
            return self.parameters(**given)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            where = ".".join(str(part)[:100] for part in first["loc"])
            match first["type"]:
                case "extra_forbidden" if len(first["loc"]) == 1:
                    known = ", ".join(self.parameters.model_fields)
                    text = f"there is no parameter `{where}` (known: {known})"
                case "too_long" if where == "ids":
                    most = MOST_IDS if self.changes else MOST_IDS_OF_QUERY
                    text = (
                        f"`ids` has more than {most:,} ids, the most of one request. Next: send the others in further "
                        "requests, or select by a filter"
                    )
                case "missing":
                    text = f"the parameter `{where}` is missing"
                case _:
                    text = f"`{where}`: {first['msg']}"
            raise InvalidCommand(f"{self.name}: {text}") from None


def _is_unicode(value: Any) -> bool:
    """True if UTF-8 can encode all texts of a JSON value."""
    match value:
        case str():
            return value.isascii() or not any("\ud800" <= each <= "\udfff" for each in value)
        case Mapping():
            return all(_is_unicode(name) and _is_unicode(each) for name, each in value.items())
        case list() | tuple():
            return all(map(_is_unicode, value))
    return True


def instance_of(operation: Operation[Any], given: Mapping[str, Any]) -> object:
    """Id of the instance that an operation is about, not validated; None for an operation about something else."""
    return given.get("instance_id") if operation.name.startswith("instances.") else None


async def perform(operation: Operation[Any], given: Mapping[str, Any], scene: Scene) -> Any:
    """Run an operation, and write the audit line of a change.

    Raises: InvalidCommand, LookupError for an unknown engine, Denied when the caller's rights do not allow it,
    BridgeError.
    """
    if not operation.changes:
        return await _permitted(operation, given, scene, None)
    trail, change = begun(operation, given, scene.actor, scene.loaded)
    async with audited_async(trail, change):
        result = await _permitted(operation, given, scene, change)
        if (failure := operation.failure(result)) is not None:
            change.fail(failure)
        jobs = jobs_of(result)
        if change.target == NEW:
            change.describe(target=result["instance_id"] if "instance_id" in result else f"job {jobs[0]}")
        elif jobs:
            change.describe(filter_={**change.filter, "jobs": jobs})
        return result


def jobs_of(result: Any) -> list[str]:
    """Ids of the jobs that an operation has submitted."""
    found = result if isinstance(result, list) else [result]
    return [each["job"] for each in found if isinstance(each, Mapping) and "job" in each and "count" in each]


def location_of(operation: Operation[Any], given: Mapping[str, Any], result: Any) -> str | None:
    """Path, below `/api/v1`, of the job that an operation has submitted, or of all jobs for several; None without one.

    given: parameters of the request, which may name an engine.
    """
    jobs = jobs_of(result) if operation.submits else []
    if not jobs:
        return None
    first = result[0] if isinstance(result, list) else result
    engine = first.get("engine") or given.get("engine")
    path = f"jobs/{jobs[0]}" if len(jobs) == 1 else "jobs"
    return path if engine is None else f"{path}?engine={quote(engine, safe='')}"


async def _permitted(
    operation: Operation[Any], given: Mapping[str, Any], scene: Scene, change: AuditedChange | None
) -> Any:
    caller = scene.caller
    if not caller.has(operation.role):
        raise Denied(f"{operation.name} needs the role {operation.role}; {caller.actor.name} is {caller.role}")
    parameters = operation.parse(given)
    if change is not None:
        change.describe(target=operation.target(parameters), filter_=operation.filter(parameters))
    if not caller.payloads and operation.reads_payloads(parameters):
        raise Denied(f"{operation.name}: these parameters need the right to read payloads")
    result = await operation.run(scene, parameters)
    return result if caller.payloads or not operation.payloads else withheld(result, operation.payloads)


def withheld(value: Any, members: frozenset[str]) -> Any:
    """Copy of a result with null in place of its members that are payload."""
    if isinstance(value, Mapping):
        return {name: None if name in members else withheld(each, members) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [withheld(each, members) for each in value]
    return value


def keyed(operation: Operation[Any], given: Mapping[str, Any], actor: Actor, key: str | None) -> Mapping[str, Any]:
    """Parameters of a request with an Idempotency-Key: ids that are not given are derived from it.

    A repetition has no second effect then, also in another daemon or after a restart.
    """
    if key is None:
        return given
    derived = uuid5(NAMESPACE_OID, f"{actor.via} {actor.name} {operation.name} {key}").hex
    fields = operation.parameters.model_fields
    return {name: derived for name in ("message_id", "job") if name in fields and name not in given} | dict(given)


def begun(
    operation: Operation[Any], given: Mapping[str, Any], actor: Actor, loaded: Loaded
) -> tuple[AuditTrail, AuditedChange]:
    """Audit line of a change whose parameters are not validated yet, and the copy for it."""
    text = {name: value for name, value in given.items() if isinstance(value, str)}
    parts = [text[name] for name in ("instance_id", "entity", "key", "source") if name in text]
    change = AuditedChange(actor, operation.name, "@".join(parts) or "?", reason=text.get("reason"))
    return state.trail(loaded, operation.engine_of(loaded, given)), change
