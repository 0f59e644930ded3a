"""Query of an engine's instances with their tags, which the SDK's own query leaves out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from durabletask.client import AsyncTaskHubGrpcClient, OrchestrationQuery, OrchestrationStatus
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.client_helpers import build_query_instances_req
from google.protobuf.wrappers_pb2 import StringValue  # type: ignore[import-untyped]  # it ships no type information


async def instances(
    client: AsyncTaskHubGrpcClient, query: OrchestrationQuery
) -> AsyncIterator[tuple[str, OrchestrationStatus, Mapping[str, str]]]:
    """Id, status and tags of the instances that match a query, page by page.

    Raises: the exceptions of the SDK's client.
    """
    token: StringValue | None = None
    while True:
        page: pb.QueryInstancesResponse = await client._get_stub().QueryInstances(
            build_query_instances_req(query, token)
        )
        for state in page.orchestrationState:
            yield state.instanceId, OrchestrationStatus(state.orchestrationStatus), state.tags
        # As in the SDK: "0" ends the pages too, and a page whose token repeats is the last
        if page.continuationToken.value in ("", "0", "" if token is None else token.value):
            return
        token = page.continuationToken
