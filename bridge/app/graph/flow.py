"""Flow of a configuration as a graph: sources, rules, workflows by engine, targets and dead-letter topics."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bridge.app.check.workflows import workflow_files
from bridge.app.composition import subscribe_options
from bridge.config.model.routes import RouteConfig
from bridge.config.model.sagas import CommandConfig, SagaConfig, SagaStepConfig
from bridge.config.model.sources import SourceConfig
from bridge.config.source import Loaded
from bridge.lint import PublishCall, published
from bridge.routing.cel.template import constant_prefix

MOST_LABELS = 3
"""Most event types or commands in the label of an edge."""


class NodeKind(StrEnum):
    """Kind of a node, and its column from left to right."""

    SOURCE = "source"
    DEAD_LETTERS = "dead letters"
    RULE = "rule"
    ORCHESTRATION = "orchestration"
    SAGA = "saga"
    ENTITY = "entity"
    INSTANCES = "instances"
    """Instances that no rule of the configuration starts."""
    TARGET = "target"


COLUMNS: Mapping[NodeKind, int] = {
    NodeKind.SOURCE: 0, NodeKind.DEAD_LETTERS: 0, NodeKind.RULE: 1, NodeKind.ORCHESTRATION: 2, NodeKind.SAGA: 2,
    NodeKind.ENTITY: 2, NodeKind.INSTANCES: 2, NodeKind.TARGET: 3,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class FlowNode:
    """Node. detail: second line of its text. engine: engine of a workflow; empty for others."""

    id: str
    kind: NodeKind
    name: str
    detail: str = ""
    engine: str = ""


@dataclass(frozen=True, slots=True)
class FlowEdge:
    """Edge. is_side: answers and dead letters, which are not the main flow."""

    start: str
    end: str
    label: str = ""
    is_side: bool = False


@dataclass(frozen=True, slots=True)
class Flow:
    """Nodes in the order of the configuration, and edges between them. engines: descriptions by name."""

    nodes: Sequence[FlowNode]
    edges: Sequence[FlowEdge]
    engines: Mapping[str, str]


def flow(loaded: Loaded, sources: Sequence[str] = ()) -> Flow:
    """Flow of a configuration, without opening a connection or importing a workflow.

    sources: names; only their part of the flow; empty: all.
    """
    return _Builder(loaded, sources).flow()


def publications(loaded: Loaded) -> dict[str, list[PublishCall]]:
    """Constant publications of the orchestrators in the workflow modules, by name of the orchestrator."""
    try:
        return published(workflow_files(loaded))
    except LookupError:
        return {}  # a module that is installed elsewhere


def saga_commands(saga: SagaConfig) -> Iterator[CommandConfig]:
    """All commands of a saga, with those of its compensations."""
    waiting: list[SagaStepConfig] = list(saga.steps)
    while waiting:
        step = waiting.pop(0)
        yield from (each for each in (step.command, step.compensation) if each is not None)
        waiting[:0] = [*(step.parallel or ()), *(step.steps or ())]


class _Builder:
    def __init__(self, loaded: Loaded, sources: Sequence[str]) -> None:
        self._loaded = loaded
        self._config = config = loaded.config
        self._sources = {name: each for name, each in config.sources.items() if not sources or name in sources}
        self._routes = [route for route in config.routes if not self._sources.keys().isdisjoint(route.from_)]
        self._nodes: dict[tuple[NodeKind, str, str], FlowNode] = {}
        self._edges: dict[tuple[str, str, bool], dict[str, None]] = {}
        """Labels by start, end and `is_side`."""
        self._publications = publications(loaded)
        self._starts: dict[tuple[str, str], list[FlowNode]] = {}
        """Workflows by engine and prefix of the ids under which rules start them."""

    def flow(self) -> Flow:
        for name, source in self._sources.items():
            self._source(name, source)
        for route in self._routes:
            self._node(NodeKind.RULE, route.name, _condition(route))
            for name in route.from_:
                if name in self._sources:
                    self._edge(NodeKind.SOURCE, name, NodeKind.RULE, route.name, label=_types(route))
        for route in self._routes:
            self._start(route)
        for route in self._routes:
            self._command(route)
        if len(self._sources) == len(self._config.sources):
            for target in self._config.targets:
                self._target(target)
        engines = {
            name: f"engine {name} ({engine.type})"
            for name, engine in self._config.engines.items()
            if any(node.engine == name for node in self._nodes.values())
        }
        edges = [FlowEdge(start, end, _listed(labels), side) for (start, end, side), labels in self._edges.items()]
        return Flow(tuple(self._nodes.values()), edges, engines)

    def _node(self, kind: NodeKind, name: str, detail: str = "", engine: str = "") -> FlowNode:
        key = (kind, name, engine)
        if key not in self._nodes:
            self._nodes[key] = FlowNode(f"n{len(self._nodes)}", kind, name, detail, engine)
        return self._nodes[key]

    def _edge(self, start_kind: NodeKind, start: str, end_kind: NodeKind, end: str, *, label: str = "") -> None:
        self._connect(self._nodes[start_kind, start, ""], self._nodes[end_kind, end, ""], label)

    def _connect(self, start: FlowNode, end: FlowNode, label: str = "", *, is_side: bool = False) -> None:
        labels = self._edges.setdefault((start.id, end.id, is_side), {})
        if label:
            labels[label] = None

    def _source(self, name: str, source: SourceConfig) -> None:
        node = self._node(NodeKind.SOURCE, name, f"{source.broker}: {', '.join(source.origins) or 'topics by pattern'}")
        dead_letters = subscribe_options(self._loaded, name).dead_letter or "{topic}/$DeadLetterQueue"
        for origin in source.origins or ("{topic}",):
            topic = self._node(NodeKind.DEAD_LETTERS, dead_letters.replace("{topic}", origin), source.broker)
            self._connect(node, topic, is_side=True)

    def _start(self, route: RouteConfig) -> None:
        """Connect a rule with the workflow that it starts, and that with its targets."""
        command = route.schedule or route.start_or_raise
        if command is None:
            missing = getattr(getattr(route, route.command), "on_missing", None)
            started = getattr(missing, "start", None)
            if started is not None:
                self._workflow(route, started, "starts", getattr(route, route.command).instance_id)
            return
        saga = route.schedule.saga if route.schedule is not None else None
        if saga is not None:
            node = self._node(NodeKind.SAGA, saga, "saga", route.engine)
            self._connect(self._rule(route), node, "starts")
            self._starts.setdefault((route.engine, constant_prefix(command.instance_id)), []).append(node)
            self._saga(node, self._config.sagas[saga])
            return
        assert command.orchestration is not None
        label = "starts" if route.schedule is not None else "starts or raises"
        self._workflow(route, command.orchestration, label, command.instance_id)

    def _workflow(self, route: RouteConfig, name: str, label: str, instance_id: str) -> None:
        node = self._node(NodeKind.ORCHESTRATION, name, "orchestration", route.engine)
        self._connect(self._rule(route), node, label)
        self._starts.setdefault((route.engine, constant_prefix(instance_id)), []).append(node)
        for each in self._publications.get(name, ()):
            self._publish(node, each.target, each.type)

    def _saga(self, node: FlowNode, saga: SagaConfig) -> None:
        for command in saga_commands(saga):
            self._publish(node, command.target, None if "{{" in command.type else command.type)
        if saga.publish_outcome is not None:
            self._publish(node, saga.publish_outcome, None)

    def _publish(self, node: FlowNode, target: str, type_: str | None) -> None:
        self._connect(node, self._target(target), type_ or "")

    def _target(self, target: str) -> FlowNode:
        config = self._config.targets.get(target)
        detail = "not configured" if config is None else f"{config.broker}: {config.address}"
        readers = [
            name
            for name, source in self._config.sources.items()
            if config is not None and source.broker == config.broker and config.address == source.entrance
        ]
        if readers:
            detail += f" (read by {', '.join(readers)})"
        return self._node(NodeKind.TARGET, target, detail)

    def _command(self, route: RouteConfig) -> None:
        """Connect a rule with the workflow that its command addresses."""
        rule = self._rule(route)
        command: Any = getattr(route, route.command)
        if route.signal_entity is not None:
            node = self._node(NodeKind.ENTITY, route.signal_entity.entity, "entity", route.engine)
            self._connect(rule, node, "signals")
        elif route.reply is not None:
            for node in self._waiting(route):
                self._connect(rule, node, "answers", is_side=True)
        elif route.schedule is None and route.start_or_raise is None and route.ignore is None:
            prefix = constant_prefix(command.instance_id)
            label = "raises" if route.raise_event is not None else f"{route.command}s"
            found = self._starts.get((route.engine, prefix)) or [
                self._node(NodeKind.INSTANCES, f"{prefix}...", "instances", route.engine)
            ]
            for node in dict.fromkeys(found):
                self._connect(rule, node, label)

    def _waiting(self, route: RouteConfig) -> Iterator[FlowNode]:
        """Workflows that may wait for the answers of a rule."""
        for node in list(self._nodes.values()):
            if node.kind is NodeKind.SAGA:
                waits = self._config.sagas[node.name].replies in route.from_
            else:
                waits = any(each.awaits_answer for each in self._publications.get(node.name, ()))
            if waits and node.engine == route.engine:
                yield node

    def _rule(self, route: RouteConfig) -> FlowNode:
        return self._nodes[NodeKind.RULE, route.name, ""]


def _types(route: RouteConfig) -> str:
    """Event types that a rule matches, as far as they are equalities."""
    wanted = route.match.get("type")
    return _listed([] if wanted is None else wanted if isinstance(wanted, tuple) else [wanted])


def _listed(values: Collection[Any]) -> str:
    shown = ", ".join(map(str, list(values)[:MOST_LABELS]))
    more = len(values) - MOST_LABELS
    return f"{shown} and {more} more" if more > 0 else shown


def _condition(route: RouteConfig) -> str:
    others = [name for name in route.match if name != "type"]
    parts = [*(["match " + ", ".join(others)] if others else ()), *(["when"] if route.when is not None else ())]
    parts += ["for each"] if route.for_each is not None else []
    parts += ["limits"] if route.limits is not None else []
    if route.ignore is not None:
        parts.append("ignores")
    return ", ".join(parts)
