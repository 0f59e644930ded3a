"""Query of an engine's instances with their tags, which the SDK's own query leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from durabletask.client import AsyncTaskHubGrpcClient, OrchestrationQuery, OrchestrationStatus
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.client_helpers import build_query_instances_req
from google.protobuf.wrappers_pb2 import StringValue

from bridge.engines.response_limits import one_response


async def instances(
    client: AsyncTaskHubGrpcClient, query: OrchestrationQuery
) -> Sequence[tuple[str, OrchestrationStatus, Mapping[str, str]]]:
    """Id, status and tags of the instances that match a query.

    Raises: the exceptions of the SDK's client.
    """
    token: StringValue | None = None
    found: list[tuple[str, OrchestrationStatus, Mapping[str, str]]] = []
    with one_response():
        while True:
            page: pb.QueryInstancesResponse = await client._get_stub().QueryInstances(
                build_query_instances_req(query, token)
            )
            found += [
                (each.instanceId, OrchestrationStatus(each.orchestrationStatus), dict(each.tags))
                for each in page.orchestrationState
            ]
            # As in the SDK: "0" ends the pages too, and a page whose token repeats is the last
            if page.continuationToken.value in ("", "0", "" if token is None else token.value):
                return found
            token = page.continuationToken
