"""Overview: the flow with its rates, sums of all sources, and what needs a person."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from bridge.app.graph.flow import Flow, FlowNode, NodeKind, flow
from bridge.app.graph.svg import NodeState, svg
from bridge.app.page.formats import number, rate, tone
from bridge.app.page.next_steps import page_of, resumed_source
from bridge.app.page.visit import Page, Picture, Visit, address
from bridge.config.source import Loaded
from bridge.core.states import Outcome
from bridge.core.words import plural
from bridge.ops.status import StatusDocument, age

MOST_NODES = 60
"""Most parts of a picture of the whole flow. A larger flow is shown source by source."""

_FINISHED = ("COMPLETED", "FAILED", "TERMINATED", "CANCELED")


class _Flows:
    """Flows of the configuration in use: reading the workflow modules takes long."""

    def __init__(self) -> None:
        self._version = ""
        self._known: dict[str | None, Flow] = {}

    async def of(self, loaded: Loaded, source: str | None) -> Flow:
        """Flow of one source; None: of all."""
        version = f"{loaded.base} {loaded.version}"
        if version != self._version:
            self._version, self._known = version, {}
        if source not in self._known:
            made = await asyncio.to_thread(flow, loaded, () if source is None else (source,))
            if version == self._version:
                self._known[source] = made
            return made
        return self._known[source]


_FLOWS = _Flows()


async def _read(visit: Visit) -> Mapping[str, Any]:
    status = await visit.status()
    chosen = visit.get("source")
    chosen = chosen if chosen in visit.loaded.config.sources else None
    found = await _FLOWS.of(visit.loaded, chosen)
    too_large = chosen is None and len(found.nodes) > MOST_NODES
    return {
        "status": status,
        "own": status["daemons"][0],
        "states": _states(status),
        "needs": [_need(each) for each in status["problems"]],
        "picture": None if too_large else Markup(svg(found, _live(found, status))),  # noqa: S704 - the drawing escapes
        "parts_of_flow": len(found.nodes),
        "chosen": chosen,
        "outcomes": [str(each) for each in Outcome],
        "outcomes_titles": [f"#{str(each).replace('_', ' ').capitalize()}" for each in Outcome],
        "balance": [_balance(each) for each in status["sources"]],
        "engines": [_engine(each) for each in status["engines"]],
    }


async def _file(visit: Visit) -> Picture:
    status = await visit.status()
    found = await _FLOWS.of(visit.loaded, None)
    live = {node: NodeState(each.text, each.tone) for node, each in _live(found, status).items()}
    return Picture(svg(found, live), "flow")


def _need(problem: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**problem, "page": page_of(problem["next"]), "source": resumed_source(problem["next"])}


def _balance(source: StatusDocument) -> Mapping[str, Any]:
    """Sums of one source: received = outcomes + abandoned + in flight."""
    parts = sum(source["outcomes"].values()) + source["abandoned"] + source["in_flight"]
    return {**source, "difference": source["received"] - parts, "elsewhere": _elsewhere(source)}


def _elsewhere(part: StatusDocument) -> Sequence[StatusDocument]:
    """Daemons in which a part has another state than the most urgent one."""
    return [each for each in part["daemons"] if each["state"] != part["state"]]


def _states(status: StatusDocument) -> Mapping[str, Sequence[tuple[str, str]]]:
    """Names and states of the sources of each daemon."""
    found: dict[str, list[tuple[str, str]]] = {each["id"]: [] for each in status["daemons"]}
    for source in status["sources"]:
        for each in source["daemons"]:
            found.setdefault(each["daemon"], []).append((source["name"], each["state"]))
    return found


def _engine(engine: StatusDocument) -> Mapping[str, Any]:
    early, quarantined = engine["early"] or {"messages": None}, engine["quarantined"]
    return {
        **engine,
        "elsewhere": _elsewhere(engine),
        **_numbers(engine["counts"]),
        "early_messages": early["messages"],
        "quarantined_messages": None if quarantined is None else sum(each["messages"] for each in quarantined),
    }


def _numbers(counts: StatusDocument | None) -> Mapping[str, int | None]:
    """Instances of an engine by state. counts: None where the engine does not count them, and no number is known."""
    if counts is None:
        return dict.fromkeys(("open", "ended", "failed", "undone"))
    return {
        "open": sum(each["count"] for each in counts["instances"] if each["status"] not in _FINISHED),
        "ended": sum(each["count"] for each in counts["instances"] if each["status"] in _FINISHED),
        "failed": sum(counts["failed"].values()),
        "undone": sum(each["count"] for each in counts["sagas"] if each["outcome"] == "compensation_failed"),
    }


def _live(found: Flow, status: StatusDocument) -> Mapping[str, NodeState]:
    """States of the nodes of a flow."""
    sources = {each["name"]: each for each in status["sources"]}
    routes: dict[str, dict[str, float]] = {}
    for source in sources.values():
        for name, figures in source.get("routes", {}).items():
            known = routes.setdefault(name, {"executed": 0, "per_second": 0.0})
            routes[name] = {word: known[word] + figures[word] for word in known}
    counts = {each["name"]: each["counts"] for each in status["engines"] if each["counts"]}
    live = {}
    for node in found.nodes:
        made = _of_node(node, sources, routes, status.get("targets", {}), counts)
        if made is not None:
            live[node.id] = made
    return live


def _of_node(
    node: FlowNode,
    sources: Mapping[str, StatusDocument],
    routes: Mapping[str, Mapping[str, float]],
    targets: Mapping[str, Mapping[str, float]],
    counts: Mapping[str, StatusDocument],
) -> NodeState | None:
    match node.kind:
        case NodeKind.SOURCE if node.name in sources:
            return _of_source(sources[node.name])
        case NodeKind.RULE if node.name in routes:
            figures = routes[node.name]
            return NodeState(f"{rate(figures['per_second'])} · {number(int(figures['executed']))} executed", "good")
        case NodeKind.RULE if sources:
            return NodeState("0 executed")
        case NodeKind.TARGET if node.name in targets:
            figures = targets[node.name]
            return NodeState(f"{rate(figures['per_second'])} · {number(int(figures['published']))} published", "good")
        case NodeKind.ORCHESTRATION | NodeKind.SAGA if node.engine in counts:
            return _of_workflow(node, counts[node.engine])
        case _:
            return None


def _of_source(source: StatusDocument) -> NodeState:
    state = str(source["state"])
    parts = [*(() if tone(state) == "good" else (state,)), f"in {rate(source['received_per_second'])}"]
    if source["lag"] is not None:
        behind = f" ({age(source['oldest_seconds'])})" if source["oldest_seconds"] else ""
        parts.append(f"lag {number(source['lag'])}{behind}")
    if (dead_letters := source.get("dead_letters_open")) and dead_letters["count"]:
        parts.append(plural(dead_letters["count"], "dead letter"))
    return NodeState(" · ".join(parts), tone(state), address("/dead-letters", source=source["name"]))


def _of_workflow(node: FlowNode, counts: StatusDocument) -> NodeState:
    mine: Sequence[StatusDocument] = [each for each in counts["instances"] if each["orchestration"] == node.name]
    running = sum(each["count"] for each in mine if each["status"] not in _FINISHED)
    ended = sum(each["count"] for each in mine if each["status"] in _FINISHED)
    failed = counts["failed"].get(node.name, 0)
    parts = [f"{number(running)} open", f"{number(ended)} ended", *([f"{number(failed)} failed"] if failed else ())]
    state = "bad" if counts["failed_today"].get(node.name) and failed else "good" if mine else ""
    return NodeState(" · ".join(parts), state, address("/instances", name=node.name))


OVERVIEW = Page("/", "overview.html", _read, "Overview")
FLOW_FILE = Page("/flow.svg", "", _file)
