"""Declarative sagas of the configuration: the orchestrator and the activity that run them in the bridge's worker."""

from bridge.routing.saga import SAGA_ORCHESTRATION
from bridge.workflow.declared.evaluation import EVALUATE_ACTIVITY, evaluate
from bridge.workflow.declared.orchestrator import declared_saga

__all__ = ["EVALUATE_ACTIVITY", "SAGA_ORCHESTRATION", "declared_saga", "evaluate"]
