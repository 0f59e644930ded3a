"""A look at one of the bridge's entities."""

from __future__ import annotations

from durabletask.client import AsyncTaskHubGrpcClient, EntityQuery
from durabletask.entities import EntityInstanceId
from durabletask.entities.entity_metadata import EntityMetadata


async def look(
    client: AsyncTaskHubGrpcClient, entity: EntityInstanceId, *, include_state: bool = True
) -> EntityMetadata | None:
    """The entity, also while it has no state but operations before it; None when it has neither.

    `get_entity` tells of no entity without a state; a query does that asks for transient ones. The keys of the bridge's
    entities do not begin like each other (`bridge.parking.names`), so that it reads this entity alone.

    Raises: what the client raises.
    """
    query = EntityQuery(str(entity), include_state=include_state, include_transient=True)
    found = await client.get_all_entities(query)
    return next((each for each in found if each.id == entity), None)
