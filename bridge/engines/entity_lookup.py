"""Read of one of the bridge's entities, including entities without a state."""

from __future__ import annotations

from durabletask.client import AsyncTaskHubGrpcClient, EntityQuery
from durabletask.entities import EntityInstanceId
from durabletask.entities.entity_metadata import EntityMetadata


async def look(
    client: AsyncTaskHubGrpcClient, entity: EntityInstanceId, *, include_state: bool = True
) -> EntityMetadata | None:
    """Return the entity, also while it has no state but queued operations; None when it has neither.

    `get_entity` does not return an entity without a state, but a query for transient entities does. No key of the
    bridge's entities is a prefix of another (`bridge.core.system_names`). The query therefore reads this entity alone.

    Raises: the client's exceptions.
    """
    query = EntityQuery(str(entity), include_state=include_state, include_transient=True)
    found = await client.get_all_entities(query)
    return next((each for each in found if each.id == entity), None)
