"""Engine without scruples: a gRPC server whose answers are chosen by method, in the test's process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from durabletask.internal import orchestrator_service_pb2 as pb

Answer = bytes | Callable[[bytes, int], bytes | Iterator[bytes]]
"""Bytes of an answer; or a function of the request and the number of earlier calls, which streams give an iterator."""

STREAMS = ("StreamInstanceHistory", "GetWorkItems")


class HostileEngine:
    """Server with `answers` by method; other methods get an empty message. calls: number of calls by method."""

    def __init__(self, threads: int = 16) -> None:
        self.answers: dict[str, Answer] = {}
        self.calls: Counter[str] = Counter()
        self._server = grpc.server(ThreadPoolExecutor(threads), options=[("grpc.max_send_message_length", -1)])
        self._server.add_generic_rpc_handlers((_Handler(self),))
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def __enter__(self) -> HostileEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, engine: HostileEngine) -> None:
        self._engine = engine

    def service(self, details: Any) -> Any:
        method = details.method.rpartition("/")[2]

        def call(request: bytes, _: grpc.ServicerContext) -> Any:
            number = self._engine.calls[method]
            self._engine.calls[method] += 1
            answer = self._engine.answers.get(method, iter(()) if method in STREAMS else b"")
            return answer(request, number) if callable(answer) else answer

        if method in STREAMS:
            return grpc.unary_stream_rpc_method_handler(call)
        return grpc.unary_unary_rpc_method_handler(call)


def state(instance_id: str, payload: int = 0) -> bytes:
    """State of a running instance with an output of `payload` bytes."""
    answer = pb.GetInstanceResponse(exists=True)
    answer.orchestrationState.instanceId = instance_id
    answer.orchestrationState.output.value = "x" * payload
    return bytes(answer.SerializeToString())


def own_state(request: bytes, _: int) -> bytes:
    """State of the requested instance."""
    return state(pb.GetInstanceRequest.FromString(request).instanceId)


def endless_history(_: bytes, __: int) -> Iterator[bytes]:
    """History whose chunks do not end."""
    chunk = pb.HistoryChunk()
    for number in range(50):
        chunk.events.add(eventId=number).eventRaised.input.value = "x" * 10_000
    serialized = chunk.SerializeToString()
    while True:
        yield serialized


def _next(token: str) -> str:
    """Token of the next page: three tokens in turn, so that none follows itself."""
    return f"t{(int(token[1:] or 0) + 1) % 3}"


def endless_instances(request: bytes, number: int) -> bytes:
    """Page of a listing after which there is always another."""
    page = pb.QueryInstancesResponse()
    page.continuationToken.value = _next(pb.QueryInstancesRequest.FromString(request).query.continuationToken.value)
    page.orchestrationState.add(instanceId=f"i{number}").output.value = "x" * 200_000
    return bytes(page.SerializeToString())


def endless_ids(request: bytes, _: int) -> bytes:
    """Page of ids after which there is always another."""
    page = pb.ListInstanceIdsResponse(instanceIds=["i" * 1000] * 100)
    page.lastInstanceKey.value = _next(pb.ListInstanceIdsRequest.FromString(request).lastInstanceKey.value)
    return bytes(page.SerializeToString())


def endless_entities(request: bytes, number: int) -> bytes:
    """Page of entities after which there is always another."""
    page = pb.QueryEntitiesResponse()
    page.continuationToken.value = _next(pb.QueryEntitiesRequest.FromString(request).query.continuationToken.value)
    page.entities.add(instanceId=f"@bridge.answers@k{number}").serializedState.value = '{"a": "' + "x" * 200_000 + '"}'
    return bytes(page.SerializeToString())


def large_acknowledgement(_: bytes, __: int) -> bytes:
    """Answer to a start that holds 100 MB."""
    return bytes(pb.CreateInstanceResponse(instanceId="x" * 100_000_000).SerializeToString())
