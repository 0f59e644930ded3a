"""Edited bodies of dead letters on an engine, from their submission until their job has read them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from durabletask.entities import EntityContext, EntityInstanceId

from bridge.core.system_names import REPLAY_EDIT
from bridge.engines.base import Engine
from bridge.engines.entity_reads import change, latest


def replay_edit_entity() -> Callable[[EntityContext, Any], None]:
    """Create the entity function that a worker registers under the name REPLAY_EDIT."""

    def edit(ctx: EntityContext, value: Any) -> None:
        if ctx.operation == "set":
            ctx.set_state(value)
        elif ctx.operation == "clear":
            ctx.set_state(None)

    edit.__name__ = REPLAY_EDIT
    return edit


class ReplayEdits:
    """Edited bodies on one engine. Raises: EngineError, in every method."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def store(self, name: str, body: bytes) -> None:
        """Store a body. Raises: EngineUnavailable when no worker has stored it in time."""
        entity = EntityInstanceId(REPLAY_EDIT, name)
        item = self._engine.messages.seal({"letter": {"body": base64.b64encode(body).decode()}})
        what = "store an edited message"
        late = "the engine has the edited message, but no worker has stored it; is one running?"
        await change(self._engine.client, entity, "set", item, what, late, lambda state: state is not None)

    async def read(self, name: str) -> bytes | None:
        """Read a body that was stored; None when it was cleared."""
        state, _ = await latest(self._engine.client, EntityInstanceId(REPLAY_EDIT, name), "read an edited message")
        return None if state is None else base64.b64decode(self._engine.messages.open(state)["letter"]["body"])

    async def clear(self, name: str) -> None:
        """Remove a body."""
        entity = EntityInstanceId(REPLAY_EDIT, name)
        await self._engine.client.signal_entity(entity, "clear", None, what="remove an edited message")
