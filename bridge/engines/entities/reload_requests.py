"""Reload of all daemons on an engine: one entity with the last request, the daemons, and their answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from durabletask.entities import EntityContext, EntityInstanceId

from bridge.core.system_names import SOURCE_RELOAD, SOURCE_RELOAD_KEY
from bridge.engines.base import Engine
from bridge.engines.entity_reads import latest, read_effect

REGISTERED_SECONDS = 30.0
"""Seconds between two registrations of a daemon."""
_EARLIER_SECONDS = 600.0
"""Seconds between two registrations of a daemon of an earlier version, which does not tell them."""
_LATEST_SECONDS = 3600.0
"""Largest number of seconds between two registrations that a daemon may tell."""
_MOST_MISSED = 10
"""Registrations that a daemon may miss before the entity forgets it. The clocks of daemons differ, so it is generous.

Running daemons judge by `MISSED` of `bridge.ops.status`, without clocks.
"""
_EARLIER_MISSED = 2.5
"""As `_MOST_MISSED`, for a daemon of an earlier version."""
_MOST_DAEMONS = 500
"""Most daemons in the entity; those that registered last are kept."""
_URL = re.compile(r"https?://([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}")
State = Mapping[str, Any]
"""State of the entity.

`request`: the last one, with `id`, `at` (seconds since the Unix epoch), `by` and `reason`.
`daemons`: by id an object with `at`, `version` (of its configuration), `every` (seconds between two registrations),
`url` (address at which it answers other daemons; None: it does not) and, after a request, `request`, `result` and
`detail`. Daemons of earlier versions have neither `every` nor `url`.
"""


def interval_of(registration: Mapping[str, Any]) -> float:
    """Seconds between two registrations of a daemon."""
    every = registration.get("every", _EARLIER_SECONDS)
    if not isinstance(every, int | float) or not every >= 1:
        return _EARLIER_SECONDS
    return min(float(every), _LATEST_SECONDS)


def url_of(registration: Mapping[str, Any]) -> str | None:
    """Address at which a daemon answers others; None where it has none, or none that can be shown in a command."""
    url = registration.get("url")
    return url if isinstance(url, str) and _URL.fullmatch(url) else None


def _kept_seconds(registration: Mapping[str, Any]) -> float:
    """Seconds after which a daemon that has not registered again is forgotten."""
    return interval_of(registration) * (_MOST_MISSED if "every" in registration else _EARLIER_MISSED)


def apply(state: State | None, operation: str, value: Mapping[str, Any]) -> State | None:
    """State after one operation. Pure. Unknown operations of later versions change nothing.

    `request`: a new request replaces the last one. `register`, `answer`: a daemon is added or updated. `leave`: a
    daemon is removed.
    """
    found = dict(as_state(state))
    daemons: dict[str, dict[str, Any]] = dict(found["daemons"])
    if operation == "request":
        found["request"] = dict(value)
    elif operation in ("register", "answer"):
        name = value["daemon"]
        daemons[name] = daemons.get(name, {}) | {key: each for key, each in value.items() if key != "daemon"}
        fresh = {each: known for each, known in daemons.items() if known["at"] > value["at"] - _kept_seconds(known)}
        newest = sorted(fresh, key=lambda each: -float(fresh[each]["at"]))[:_MOST_DAEMONS]
        daemons = {each: fresh[each] for each in fresh if each in newest}
    elif operation == "leave":
        daemons.pop(value["daemon"], None)
    else:
        return state
    return found | {"daemons": daemons}


def as_state(stored: State | None) -> State:
    """Stored state with all its members."""
    return {"request": None, "daemons": {}} | dict(stored or {})


def reload_entity(changed: Callable[[], None] = lambda: None) -> Callable[[EntityContext, Any], None]:
    """Create the entity function that a worker registers under the name SOURCE_RELOAD.

    changed: called in the worker's thread after a request, before the engine has stored it.
    """

    def reload(ctx: EntityContext, value: Any) -> None:
        ctx.set_state(apply(ctx.get_state(), ctx.operation, value or {}))
        if ctx.operation == "request":
            changed()

    reload.__name__ = SOURCE_RELOAD
    return reload


class ReloadRequests:
    """Client of the entity on one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._entity = EntityInstanceId(SOURCE_RELOAD, SOURCE_RELOAD_KEY)

    async def load(self) -> State:
        """Load the state. Raises: EngineError."""
        state, _ = await latest(self._engine.client, self._entity, "read the reloads of daemons")
        return as_state(state)

    async def request(self, value: Mapping[str, Any]) -> State:
        """Request a reload of all daemons; return the state with it.

        Raises: EngineError; EngineUnavailable when no worker has stored the request in time.
        """
        await self.send("request", value)
        late = "the engine has the request, but no worker has processed it; is one running?"
        what = "request the reload of all daemons"

        def stored(state: State | None) -> State | None:
            request = as_state(state)["request"]
            return state if request is not None and request["id"] == value["id"] else None

        return await read_effect(self._engine.client, self._entity, what, late, stored)

    async def send(self, operation: str, value: Mapping[str, Any]) -> None:
        """Send an operation; return when the engine has durably accepted it. Raises: EngineError."""
        await self._engine.client.signal_entity(self._entity, operation, dict(value), what=f"reloads: {operation}")
