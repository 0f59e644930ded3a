"""Orchestrator of all declarative sagas.

It follows the definition in its start input, never the current configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from datetime import timedelta
from typing import Any

from durabletask import task

from bridge.core.errors import MessageError
from bridge.routing.saga import FORMAT, SAGA_ORCHESTRATION
from bridge.workflow.declared.evaluation import EVALUATE_ACTIVITY
from bridge.workflow.declared.exchange import Block, Exchange
from bridge.workflow.outcome import SagaAborted, SagaOutcome
from bridge.workflow.saga import Saga, Scope
from bridge.workflow.step import Step, describe
from bridge.workflow.tasks import Steps


def declared_saga(ctx: task.OrchestrationContext, start: dict[str, Any]) -> Generator[task.Task[Any], Any, SagaOutcome]:
    """Run a saga according to its definition.

    start: input made by `bridge.routing.saga.start_input`.
    Raises: ValueError for a definition of a later version of the bridge.
    """
    if start.get("format") != FORMAT:
        raise ValueError(f"the saga's definition has format {start.get('format')!r}; this bridge reads {FORMAT}")
    definition = start["definition"]
    saga = Saga(
        ctx,
        definition["name"],
        publish_outcome=definition["publish_outcome"],
        roll_forward_pause=timedelta(seconds=definition["roll_forward_pause"]),
        plan=definition["names"],
    )
    run = _DeclaredRun(ctx, saga, definition, start["input"])
    return (yield from saga.run(run.body()))


declared_saga.__name__ = SAGA_ORCHESTRATION


class _DeclaredRun:
    """One run of a saga. Answers are kept by step, for completed steps."""

    def __init__(self, ctx: task.OrchestrationContext, saga: Saga, definition: dict[str, Any], given: Any) -> None:
        self._ctx = ctx
        self._saga = saga
        self._definition = definition
        self._input = given
        self._answers: dict[str, Any] = {}

    def body(self) -> Steps:
        yield from self._sequence(self._saga, self._definition["steps"])
        block = self._definition["result"]
        if block is None:
            return None
        request = {"block": block, "variables": self._variables(block, {})}
        try:
            values = yield self._ctx.call_activity(EVALUATE_ACTIVITY, input=request)
        except task.TaskFailedError as error:
            if error.details.is_caused_by(MessageError):
                raise SagaAborted("expression", describe(error)) from error
            raise
        return values["result"]

    def _sequence(self, scope: Scope, entries: list[dict[str, Any]]) -> Steps:
        for entry in entries:
            if "parallel" in entry:
                yield from scope.parallel([self._branch(member) for member in entry["parallel"]])
            elif "steps" in entry:
                yield from self._sequence(scope, entry["steps"])
            elif "point_of_no_return" in entry:
                self._saga.point_of_no_return()
            else:
                self._answers[entry["name"]] = yield from scope.step(self._step(entry))

    def _branch(self, member: dict[str, Any]) -> Callable[[Scope], Steps]:
        return lambda scope: self._sequence(scope, [member])

    def _step(self, entry: dict[str, Any]) -> Step:
        undo = entry.get("compensation")
        return Step(
            entry["name"],
            self._exchange(entry["command"], entry["verdict"]),
            compensation=None if undo is None else self._exchange(undo, None),
            retry=_policy(entry["retry"]),
            timeout=_duration(entry["timeout"]),
            compensation_retry=None if undo is None else _policy(entry["compensation_retry"]),
            compensation_timeout=None if undo is None else _duration(entry["compensation_timeout"]),
        )

    def _exchange(self, command: dict[str, Any], verdict: dict[str, Any] | None) -> Exchange:
        return Exchange(command["target"], command["reply_to"], command["message"], verdict, self._variables)

    def _variables(self, block: Block, given: Mapping[str, Any]) -> dict[str, Any]:
        """Variables that a block reads, and no others. They are kept in the history with every evaluation."""
        known: dict[str, Any] = {
            "input": self._input,
            "steps": self._answers,
            "vars": self._definition["vars"],
            "saga": {"name": self._definition["name"], "id": self._ctx.instance_id},
            **given,
        }
        variables: dict[str, Any] = {}
        for name in block["reads"]:
            variable, _, member = name.partition(".")
            if not member:
                variables[variable] = dict(known[variable]) if variable == "steps" else known.get(variable)
            elif member in self._answers:
                variables.setdefault(variable, {})[member] = self._answers[member]
        return variables


def _policy(settings: Mapping[str, Any]) -> task.RetryPolicy:
    return task.RetryPolicy(
        first_retry_interval=timedelta(seconds=settings["initial"]),
        max_number_of_attempts=settings["attempts"],
        backoff_coefficient=settings["multiplier"],
        max_retry_interval=timedelta(seconds=settings["max_delay"]),
    )


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)
