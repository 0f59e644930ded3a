"""Compiler of declarative sagas: checks their expressions and builds the definition stored with each instance.

The definition is plain JSON in a format of its own. An instance thus follows the definition it was started with,
independent of later changes to the configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bridge.config.model.bridge import BridgeConfig
from bridge.config.model.sagas import AttemptsConfig, CommandConfig, SagaConfig, SagaStepConfig
from bridge.core.errors import ConfigPath, Locate
from bridge.core.system_names import SAGA
from bridge.routing.cel.expression import Compiler
from bridge.routing.cel.template import compile_template, expressions
from bridge.routing.cel.tokens import readings

SAGA_ORCHESTRATION = SAGA
"""Name of the orchestrator that the bridge's worker registers for declarative sagas."""

FORMAT = 1
"""Version of the definition's format, and of the start input around it."""

STEP = frozenset(("input", "steps", "vars", "saga"))
ANSWER = STEP | {"reply"}
UNDO = ANSWER | {"known"}
SAGA_MEMBERS = ("name", "id")


def start_input(definition: Any, value: Any) -> dict[str, Any]:
    """Input of an instance of SAGA_ORCHESTRATION."""
    return {"format": FORMAT, "definition": definition, "input": value}


@dataclass
class SagaCompiler:
    """Compiler of the definition of one saga. `compile` reports problems of its expressions."""

    name: str
    config: BridgeConfig
    locate: Locate
    _names: list[str] = field(default_factory=list)
    _vars: set[str] = field(default_factory=set)

    def compile(self, compiler: Compiler) -> dict[str, Any]:
        """Definition of the saga. Unusable if a problem was reported."""
        self._compiler = Compiler(self.locate, self.config.vars)
        saga = self.config.sagas[self.name]
        path: ConfigPath = ("sagas", self.name)
        topic = self._reply_topic(saga)
        known: list[str] = []
        steps = self._steps(saga.steps, (*path, "steps"), known, topic)
        result = self._block(path, STEP, known, {"value": {"result": saga.result}} if saga.result else {})
        compiler.join(self._compiler)
        return {
            "name": self.name,
            "names": self._names,
            "steps": steps,
            "result": result if saga.result else None,
            "publish_outcome": saga.publish_outcome,
            "roll_forward_pause": saga.roll_forward_pause,
            "vars": {name: self.config.vars[name] for name in sorted(self._vars) if name in self.config.vars},
        }

    def _reply_topic(self, saga: SagaConfig) -> str | None:
        source = self.config.sources.get(saga.replies or "")
        return source.topics[0] if source is not None and source.topics else None

    def _steps(
        self, entries: tuple[SagaStepConfig, ...], path: ConfigPath, known: list[str], topic: str | None
    ) -> list[dict[str, Any]]:
        """Compile a list of steps. known: names of steps that are complete before; names of these steps are added."""
        return [self._entry(entry, (*path, index), known, topic) for index, entry in enumerate(entries)]

    def _entry(self, entry: SagaStepConfig, path: ConfigPath, known: list[str], topic: str | None) -> dict[str, Any]:
        if entry.command is not None:
            return self._step(entry, entry.command, path, known, topic)
        if entry.steps is not None:
            return {"steps": self._steps(entry.steps, (*path, "steps"), known, topic)}
        if entry.parallel is None:
            return {"point_of_no_return": True}
        # Concurrent steps cannot read each other's answers
        before, members = list(known), []
        for position, member in enumerate(entry.parallel):
            own = list(before)
            members.append(self._entry(member, (*path, "parallel", position), own, topic))
            known += own[len(before) :]
        return {"parallel": members}

    def _step(
        self, entry: SagaStepConfig, command: CommandConfig, path: ConfigPath, known: list[str], topic: str | None
    ) -> dict[str, Any]:
        name = entry.name or ""
        awaits = command.reply is not False
        step = {
            "name": name,
            "command": self._command(command, (*path, "command"), STEP, known, topic if awaits else None),
            "verdict": self._verdict(entry, path, known) if awaits else None,
            "timeout": entry.timeout,
            "retry": _attempts(entry.retry),
        }
        if entry.compensation is not None:
            answered = topic if entry.compensation.reply else None
            undo = self._command(entry.compensation, (*path, "compensation"), UNDO, known, answered)
            step |= {
                "compensation": undo,
                "compensation_timeout": entry.compensation_timeout,
                "compensation_retry": _attempts(entry.compensation_retry),
            }
        self._names.append(name)
        known.append(name)
        return step

    def _command(
        self, command: CommandConfig, path: ConfigPath, names: frozenset[str], known: list[str], topic: str | None
    ) -> dict[str, Any]:
        texts = {"type": command.type, "subject": command.subject, "key": command.key}
        texts |= {f"headers.{name}": text for name, text in command.headers.items()}
        parts = {
            "value": {"data": command.data},
            "text": {field: text for field, text in texts.items() if text is not None},
        }
        return {"target": command.target, "reply_to": topic, "message": self._block(path, names, known, parts)}

    def _verdict(self, entry: SagaStepConfig, path: ConfigPath, known: list[str]) -> dict[str, Any] | None:
        conditions = {"refused": entry.refused, "failed": entry.failed}
        parts: dict[str, dict[str, str]] = {
            "condition": {field: text for field, text in conditions.items() if text is not None}
        }
        if not parts["condition"]:
            return None
        if entry.detail is not None:
            parts["text"] = {"detail": entry.detail}
        return self._block(path, ANSWER, known, parts)

    def _block(
        self, path: ConfigPath, names: frozenset[str], known: list[str], parts: dict[str, dict[str, str]]
    ) -> dict[str, Any]:
        """Expressions that are evaluated together, with the variables they read."""
        compiler = self._compiler
        compiler.set_members({"steps": tuple(known), "saga": SAGA_MEMBERS})
        reads: set[str] = set()
        for kind, fields in parts.items():
            for name, text in fields.items():
                at, where = (*path, *name.split(".", 1)), self._where(path, name)
                if kind == "text":
                    compile_template(text, at, where, compiler, names)
                elif kind == "condition":
                    compiler.condition(text, at, where, names)
                else:
                    compiler.value(text, at, where, names)
                for source in expressions(text) if kind == "text" else [text]:
                    reads |= self._reads(source, names)
        return {"where": self._where(path), "names": sorted(names), "reads": sorted(reads), **parts}

    def _where(self, path: ConfigPath, field: str = "") -> str:
        """Place of an expression for errors: `saga payout, steps[0].command, data`."""
        inner = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path[2:]).lstrip(".")
        return ", ".join(part for part in (f"saga {self.name}", inner, field) if part)

    def _reads(self, source: str, names: frozenset[str]) -> set[str]:
        found: set[str] = set()
        for reading in readings(source, names):
            member = reading.path[0] if reading.path else None
            if reading.variable == "vars":
                self._vars |= set(self.config.vars) if member is None else {member}
            found.add(f"steps.{member}" if reading.variable == "steps" and member is not None else reading.variable)
        return found


def _attempts(config: AttemptsConfig) -> dict[str, Any]:
    return config.model_dump(mode="python")
