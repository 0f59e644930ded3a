"""Durable entities that process every message once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import structlog
from durabletask.entities import EntityContext

from bridge.core.deduplication import REMEMBERED, DeduplicationWindow
from bridge.core.origin import CommandKey, key_of
from bridge.workflow.messages import EVERYTHING, REPEATS, EnvelopeArgument, carrying
from bridge.workflow.sdk_internals import ContextualEntity, StoredStateContext, input_type

log = structlog.get_logger("bridge.workflow")

STATE_KEY = "bridge:entity"
"""Single key of a stored state with remembered messages: {"bridge:entity": {"v": 1, "seen": ..., "state": ...}}."""

_VERSION = 1
_NOTHING: Any = object()


class Entity(ContextualEntity):
    """Base class of entities whose operations run once for each message that signals them.

    The last `remember` messages are part of the entity's stored state; `get_state` does not return them. A failed
    operation is not remembered, and deletion of the state forgets all messages. Calls by orchestrations, and signals
    from clients other than the bridge, have no message and never count as repeats. Every public method is an
    operation.
    """

    remember: int = REMEMBERED

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        for name, member in list(vars(cls).items()):
            if inspect.isfunction(member) and not name.startswith("_"):
                setattr(cls, name, _once(member))

    def _wrap_context(self, context: EntityContext) -> EntityContext:
        return _Context(context, self.remember)


class _Context(StoredStateContext):
    """Context that stores the remembered messages next to the state that the entity sees."""

    def __init__(self, context: EntityContext, remember: int) -> None:
        super().__init__(context)
        self._remember = remember
        self._seen: str | None = _NOTHING

    def get_state(self, intended_type: Any = None, default: Any = None) -> Any:
        state = self._stored()[1]
        if state is None:
            return default
        if intended_type is None:
            return state
        result = self.convert(state, intended_type)
        if isinstance(intended_type, type) and not isinstance(result, intended_type):
            raise TypeError(f"Could not convert state of type '{type(result).__name__}' to '{intended_type.__name__}'")
        return result

    def set_state(self, new_state: Any) -> None:
        seen = self._stored()[0] if self._seen is _NOTHING else self._seen
        self.write_stored(new_state if seen is None or new_state is None else _remembering(seen, new_state))

    def is_repeat(self, key: CommandKey) -> bool:
        """True if the message was processed before. Otherwise it is remembered from now on."""
        text, state = self._stored()
        seen = DeduplicationWindow(text or "", self._remember)
        if not seen.add(key):
            return True
        self._seen = seen.text()
        self.write_stored(_remembering(self._seen, state))
        return False

    def _stored(self) -> tuple[str | None, Any]:
        """Digests of the messages seen, None if there never were any, and the entity's own state."""
        stored = self.read_stored()
        if isinstance(stored, dict) and len(stored) == 1:
            inside = stored.get(STATE_KEY)
            if isinstance(inside, dict) and inside.get("v") == _VERSION:
                self._seen = inside.get("seen", "")
                return self._seen, inside.get("state")
        self._seen = None
        return None, stored


def _remembering(seen: str, state: Any) -> dict[str, Any]:
    return {STATE_KEY: {"v": _VERSION, "seen": seen, "state": state}}


def bare_state(stored: Any) -> Any:
    """State as the entity sees it, from the state that an engine stores."""
    if isinstance(stored, dict) and len(stored) == 1 and isinstance(stored.get(STATE_KEY), dict):
        return stored[STATE_KEY].get("state")
    return stored


def _once(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an operation to run once for each message. The SDK passes the wrapper a signal's data and envelope."""
    parameters = list(inspect.signature(operation).parameters.values())[1:]
    required = any(
        parameter.default is parameter.empty
        for parameter in parameters
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    )

    def run(self: Entity, given: Any = _NOTHING, *more: Any, **named: Any) -> Any:
        if not isinstance(given, EnvelopeArgument):
            # A call of the entity's own method, or a call without a message
            plain = () if given is _NOTHING else (given,)
            if not plain and required and not named:
                plain = (None,)
            return operation(self, *plain, *more, **named)
        key = None if given.inside is None else key_of(given.inside)
        context = self.entity_context
        if key is not None and isinstance(context, _Context) and context.is_repeat(key):
            REPEATS.add("entity")
            log.debug(
                "repeat dropped", action="repeat", entity=str(context.entity_id), message=key[0], route=key[1],
            )  # fmt: skip
            return None
        return operation(self, given.data) if required or given.data is not None else operation(self)

    run.__name__ = operation.__name__
    run.__qualname__ = operation.__qualname__
    run.__module__ = operation.__module__
    run.__doc__ = operation.__doc__
    run.__annotations__ = {"given": carrying(input_type(operation, EVERYTHING))}
    return run
