"""Questions to a cluster about the operations that its ACLs allow this principal. Nothing is changed.

The cluster answers with the operations on each topic and group that it is asked about. aiokafka asks older versions of
these requests, whose answers do not have them.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocol
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Bytes, Int16, Int32, Schema, String

_UNKNOWN = -(2**31)
"""Bits of an answer without operations."""

_NAMES = {
    3: "Read", 4: "Write", 5: "Create", 6: "Delete", 7: "Alter", 8: "Describe", 9: "ClusterAction",
    10: "DescribeConfigs", 11: "AlterConfigs", 12: "IdempotentWrite",
}  # fmt: skip
"""Operations by their bit, in the words of `kafka-acls`."""

Operations = frozenset[str] | None
"""Allowed operations; None where the cluster does not tell them."""


def operations(bits: int) -> Operations:
    """Decode the bits of an answer."""
    if bits == _UNKNOWN:
        return None
    return frozenset(name for bit, name in _NAMES.items() if bits >> bit & 1)


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """Facts about a topic. error: error code of the cluster. offline: partitions without a leader."""

    error: int
    partitions: int
    offline: tuple[int, ...]
    allowed: Operations


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """Facts about a group. error: error code of the cluster. state: `Stable`, `Empty`, `Dead` and so on.

    owners: member by topic and partition, as `member id (host)`.
    """

    error: int
    state: str
    kind: str
    members: int
    allowed: Operations
    owners: Mapping[tuple[str, int], str] = field(default_factory=dict)


class _MetadataResponse(Response):  # type: ignore[misc]  # aiokafka is not typed
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            Array(("node_id", Int32), ("host", String("utf-8")), ("port", Int32), ("rack", String("utf-8"))),
        ),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("authorized_operations", Int32),
    )


class _MetadataRequestStruct(RequestStruct):  # type: ignore[misc]  # aiokafka is not typed
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class TopicsRequest(Request[_MetadataRequestStruct]):  # type: ignore[misc]  # aiokafka is not typed
    """Question about topics by name. No topic is created."""

    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: type[_MetadataRequestStruct]) -> _MetadataRequestStruct:
        return request_struct_class(self._topics, False, True, True)


class _GroupsResponse(Response):  # type: ignore[misc]  # aiokafka is not typed
    API_KEY = 15
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            Array(
                ("error_code", Int16),
                ("group", String("utf-8")),
                ("state", String("utf-8")),
                ("protocol_type", String("utf-8")),
                ("protocol", String("utf-8")),
                (
                    "members",
                    Array(
                        ("member_id", String("utf-8")),
                        ("client_id", String("utf-8")),
                        ("client_host", String("utf-8")),
                        ("member_metadata", Bytes),
                        ("member_assignment", Bytes),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
    )


class _GroupsRequestStruct(RequestStruct):  # type: ignore[misc]  # aiokafka is not typed
    API_KEY = 15
    API_VERSION = 3
    RESPONSE_TYPE = _GroupsResponse
    SCHEMA = Schema(("groups", Array(String("utf-8"))), ("include_authorized_operations", Boolean))


class GroupsRequest(Request[_GroupsRequestStruct]):  # type: ignore[misc]  # aiokafka is not typed
    """Question about groups by name, for their coordinator. No group is joined."""

    API_KEY = 15

    def __init__(self, groups: Sequence[str]) -> None:
        self._groups = list(groups)

    def build(self, request_struct_class: type[_GroupsRequestStruct]) -> _GroupsRequestStruct:
        return request_struct_class(self._groups, True)


def topic_facts(answer: Any) -> tuple[dict[str, TopicFacts], Operations]:
    """Facts about the topics of an answer by name, and the operations on the cluster itself."""
    found = answer.to_object()
    facts = {
        topic["topic"]: TopicFacts(
            topic["error_code"],
            len(topic["partitions"]),
            tuple(each["partition"] for each in topic["partitions"] if each["leader"] < 0),
            operations(topic["authorized_operations"]),
        )
        for topic in found["topics"]
    }
    return facts, operations(found["authorized_operations"])


def group_facts(answer: Any) -> dict[str, GroupFacts]:
    """Facts about the groups of an answer by name."""
    return {
        group["group"]: GroupFacts(
            group["error_code"],
            group["state"],
            group["protocol_type"],
            len(group["members"]),
            operations(group["authorized_operations"]),
            _owners(group["members"]) if group["protocol_type"] == ConsumerProtocol.PROTOCOL_TYPE else {},
        )
        for group in answer.to_object()["groups"]
    }


def _owners(members: Sequence[Any]) -> dict[tuple[str, int], str]:
    """Member by partition. Assignments that cannot be decoded are left out."""
    found: dict[tuple[str, int], str] = {}
    for member in members:
        name = f"{member['member_id']} ({member['client_host'].lstrip('/')})"
        with contextlib.suppress(ValueError, struct.error):
            if member["member_assignment"]:
                assignment = ConsumerProtocol.ASSIGNMENT.decode(member["member_assignment"])
                found |= {(tp.topic, tp.partition): name for tp in assignment.partitions()}
    return found
