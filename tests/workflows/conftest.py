"""In-memory task hub with the sample workflows on a real worker."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from durabletask import task
from durabletask.client import OrchestrationState, TaskHubGrpcClient
from durabletask.testing import create_test_backend
from durabletask.worker import TaskHubGrpcWorker

import workflows
from bridge.workflow import PUBLISH_ACTIVITY, message_aware
from tests.kit.ports import free_port
from tests.kit.waiting import TIMEOUT, eventually_blocking
from workflows.purchase import Order

CARRIER_IS_AWAY = "carrier-is-away"
"""Part of order ids whose carrier does not answer."""


def request_shipment(ctx: task.ActivityContext, order: Order) -> dict[str, Any]:
    if CARRIER_IS_AWAY in order.id:
        raise ConnectionError("the carrier does not answer")
    return workflows.request_shipment(ctx, order)


class WorkflowFixture:
    """Backend, worker and client. published: publications of workflows, in order."""

    def __init__(self) -> None:
        port = free_port()
        self.backend = create_test_backend(port=port)
        self.backend.start()
        quiet = logging.getLogger("tests.workflows")
        quiet.setLevel(logging.WARNING)
        self.client = TaskHubGrpcClient(host_address=f"localhost:{port}", logger=quiet)
        self._answers()
        self.worker = TaskHubGrpcWorker(host_address=f"localhost:{port}", logger=quiet)
        self.published: list[dict[str, Any]] = []
        self.reminders: list[dict[str, Any]] = []
        for orchestrator in (
            workflows.fulfil_order,
            workflows.order_saga,
            workflows.approval,
            workflows.shipment_watch,
        ):
            self.worker.add_orchestrator(message_aware(orchestrator))
        for activity in (
            workflows.reserve_stock, workflows.release_stock, workflows.request_payment, workflows.void_payment,
            workflows.refund_payment, workflows.return_payment, request_shipment, workflows.cancel_shipment,
        ):  # fmt: skip
            self.worker.add_activity(activity)
        self.worker._registry.add_named_activity("send_reminder", self._remind)
        self.worker._registry.add_named_activity(PUBLISH_ACTIVITY, self._publish)
        for entity in (workflows.CustomerAccount, workflows.StockLevel):
            self.worker.add_entity(entity)
        self.worker.start()

    def _answers(self) -> None:
        """Wait until the server answers; a gRPC server that has just started may cancel calls."""

        def answers() -> bool:
            with contextlib.suppress(grpc.RpcError):
                self.client.get_orchestration_state("nobody")
                return True
            return False

        eventually_blocking(answers, "the server answers")

    def _publish(self, ctx: task.ActivityContext, event: dict[str, Any]) -> str:
        self.published.append(event)
        return str(event["id"])

    def _remind(self, ctx: task.ActivityContext, reminder: dict[str, Any]) -> dict[str, Any]:
        self.reminders.append(reminder)
        return workflows.send_reminder(ctx, reminder)

    def close(self) -> None:
        stopping = threading.Thread(target=self.worker.stop, daemon=True)
        stopping.start()
        stopping.join(5.0)
        self.client.close()
        self.backend.stop()

    def start(self, orchestrator: Any, instance_id: str, input_: Any) -> None:
        self.client.schedule_new_orchestration(orchestrator, input=input_, instance_id=instance_id)

    def tell(self, instance_id: str, event: str, data: Any = None) -> None:
        self.client.raise_orchestration_event(instance_id, event, data=data)

    def state(self, instance_id: str) -> OrchestrationState:
        state = self.client.get_orchestration_state(instance_id)
        assert state is not None
        return state

    def reaches(self, instance_id: str, wanted: str) -> None:
        """Wait until the custom status contains the text `wanted`."""
        eventually_blocking(
            lambda: wanted in (self.state(instance_id).serialized_custom_status or ""),
            lambda: f"{instance_id} never reached {wanted}: {self.state(instance_id)}",
        )

    def result(self, instance_id: str) -> dict[str, Any]:
        """Wait for the end and return the output; a failed orchestration fails the test."""
        state = self.client.wait_for_orchestration_completion(instance_id, timeout=int(TIMEOUT))
        assert state is not None
        state.raise_if_failed()
        output = state.get_output()
        assert isinstance(output, dict)
        return output

    def published_for(self, subject: str) -> list[dict[str, Any]]:
        return [event for event in self.published if event["subject"] == subject]


@pytest.fixture(scope="module")
def hub() -> Iterator[WorkflowFixture]:
    hub = WorkflowFixture()
    yield hub
    hub.close()
