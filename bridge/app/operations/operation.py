"""Operations: parameters, function, place in the API, role, and audit line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from pydantic import ValidationError

from bridge.app import state
from bridge.config.model.types import Model
from bridge.config.source import Loaded
from bridge.core.errors import InvalidCommand
from bridge.engines.base import Engine
from bridge.ops.audit import Actor, Change, audited_async
from bridge.ops.trail import Trail

NEW = "(new)"
"""Target of an operation whose result names what it has made."""

Reload = Callable[[bool, str], Awaitable[Mapping[str, Any]]]
"""Reload of a daemon's configuration: True only plans it. The text is the name of the person. Returns the answer."""

Role = Literal["reader", "operator", "admin"]


class Parameters(Model):
    """Parameters of every operation.

    engine: None is `default`, or the only one.
    reason: kept in the audit line.
    """

    engine: str | None = None
    reason: str | None = None


P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True, slots=True)
class Scene:
    """Context of an operation.

    engine: returns the running engine of the request.
    actor: person that asks for it.
    in_flight: returns messages in flight in a daemon; None outside of one.
    reload: reloads the configuration of a daemon, or with True plans it only, for a person of this name; None outside
    of one.
    """

    loaded: Loaded
    engine: Callable[[], Awaitable[Engine]]
    actor: Actor
    in_flight: Callable[[str], Sequence[Mapping[str, Any]]] | None = None
    reload: Reload | None = None


@dataclass(frozen=True, slots=True)
class Operation(Generic[P]):
    """One operation.

    name: action of its audit line.
    path: path below /api/v1; `{names}` in it are parameters.
    target, filter: members of the audit line, without payload.
    run: function whose result can be written as JSON.
    failure: reason of a failure that the result reports, for the audit line; None for success.
    """

    name: str
    role: Role
    path: str
    parameters: type[P]
    run: Callable[[Scene, P], Awaitable[Any]]
    target: Callable[[P], str] = lambda given: "*"
    filter: Callable[[P], Mapping[str, Any]] = lambda given: {}
    failure: Callable[[Any], str | None] = lambda result: None

    @property
    def changes(self) -> bool:
        return self.role != "reader"

    @property
    def method(self) -> Literal["GET", "POST"]:
        return "POST" if self.changes else "GET"

    def parse(self, given: Mapping[str, Any]) -> P:
        """Validate the parameters. Raises: InvalidCommand, without their values."""
        try:
            return self.parameters(**given)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            where = ".".join(str(part)[:100] for part in first["loc"])
            raise InvalidCommand(f"{self.name}: `{where}`: {first['msg']}") from None


async def perform(
    operation: Operation[Any],
    given: Mapping[str, Any],
    actor: Actor,
    loaded: Loaded,
    engine: Callable[[], Awaitable[Engine]],
    in_flight: Callable[[str], Sequence[Mapping[str, Any]]] | None = None,
    reload: Reload | None = None,
) -> Any:
    """Run an operation, and write the audit line of a change. engine, in_flight, reload: see `Scene`.

    Raises: InvalidCommand, LookupError for an unknown engine, BridgeError.
    """
    scene = Scene(loaded, engine, actor, in_flight, reload)
    if not operation.changes:
        return await operation.run(scene, operation.parse(given))
    trail, change = begun(operation, given, actor, loaded)
    async with audited_async(trail, change):
        parameters = operation.parse(given)
        change.target, change.filter = operation.target(parameters), operation.filter(parameters)
        result = await operation.run(scene, parameters)
        if (failure := operation.failure(result)) is not None:
            change.result, change.error = "failed", failure
        if change.target == NEW:
            change.target = result["instance_id"] if "instance_id" in result else f"job {result['job']}"
        return result


def begun(operation: Operation[Any], given: Mapping[str, Any], actor: Actor, loaded: Loaded) -> tuple[Trail, Change]:
    """Audit line of a change whose parameters are not validated yet, and the copy for it."""
    text = {name: value for name, value in given.items() if isinstance(value, str)}
    parts = [text[name] for name in ("instance_id", "entity", "key", "source") if name in text]
    change = Change(actor, operation.name, "@".join(parts) or "?", reason=text.get("reason"))
    return state.trail(loaded, text.get("engine")), change
