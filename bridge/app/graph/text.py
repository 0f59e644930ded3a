"""Diagrams of a flow as text: Mermaid and DOT."""

from __future__ import annotations

from collections.abc import Iterator

from bridge.app.graph.flow import Flow, FlowNode, NodeKind
from bridge.core.bytetext import printable

_MERMAID = {
    NodeKind.SOURCE: ("([", "])"),
    NodeKind.DEAD_LETTERS: ("[(", ")]"),
    NodeKind.RULE: ("[", "]"),
    NodeKind.ORCHESTRATION: ("[[", "]]"),
    NodeKind.SAGA: ("[[", "]]"),
    NodeKind.ENTITY: ("{{", "}}"),
    NodeKind.INSTANCES: ("[/", "/]"),
    NodeKind.TARGET: ("([", "])"),
}
_DOT = {
    NodeKind.SOURCE: "box, style=rounded",
    NodeKind.DEAD_LETTERS: "cylinder",
    NodeKind.RULE: "box",
    NodeKind.ORCHESTRATION: "component",
    NodeKind.SAGA: "component",
    NodeKind.ENTITY: "hexagon",
    NodeKind.INSTANCES: "parallelogram",
    NodeKind.TARGET: "box, style=rounded",
}


def mermaid(flow: Flow) -> str:
    """Flowchart in Mermaid."""
    return "\n".join(_mermaid_lines(flow)) + "\n"


def dot(flow: Flow) -> str:
    """Graph in the language of Graphviz."""
    return "\n".join(_dot_lines(flow)) + "\n"


def _mermaid_lines(flow: Flow) -> Iterator[str]:
    yield "flowchart LR"
    yield from (f"    {_mermaid_node(node)}" for node in flow.nodes if not node.engine)
    for number, (engine, title) in enumerate(flow.engines.items()):
        yield f'    subgraph e{number}["{_entities(title)}"]'
        yield from (f"        {_mermaid_node(node)}" for node in flow.nodes if node.engine == engine)
        yield "    end"
    for edge in flow.edges:
        arrow = "-.->" if edge.is_side else "-->"
        label = f'|"{_entities(edge.label)}"|' if edge.label else ""
        yield f"    {edge.start} {arrow}{label} {edge.end}"


def _mermaid_node(node: FlowNode) -> str:
    opened, closed = _MERMAID[node.kind]
    detail = f"<br/>{_entities(node.detail)}" if node.detail else ""
    return f'{node.id}{opened}"{_entities(node.name)}{detail}"{closed}'


def _entities(text: str) -> str:
    """Text of a label. Characters that could end it, or begin markup, are entity codes."""
    return "".join(
        character if character.isalnum() or character in " _-.,:/()$@" else f"#{ord(character)};"
        for character in printable(text)
    )


def _dot_lines(flow: Flow) -> Iterator[str]:
    yield "digraph bridge {"
    yield "    rankdir=LR;"
    yield "    node [fontname=sans];"
    yield from (f"    {_dot_node(node)}" for node in flow.nodes if not node.engine)
    for number, (engine, title) in enumerate(flow.engines.items()):
        yield f"    subgraph cluster_{number} {{"
        yield f"        label={_quoted(title)};"
        yield from (f"        {_dot_node(node)}" for node in flow.nodes if node.engine == engine)
        yield "    }"
    for edge in flow.edges:
        attributes = [f"label={_quoted(edge.label)}"] if edge.label else []
        attributes += ["style=dashed"] if edge.is_side else []
        yield f"    {edge.start} -> {edge.end}" + (f" [{', '.join(attributes)}];" if attributes else ";")
    yield "}"


def _dot_node(node: FlowNode) -> str:
    label = _quoted(node.name, node.detail)
    return f"{node.id} [label={label}, shape={_DOT[node.kind]}];"


def _quoted(*lines: str) -> str:
    escaped = (printable(line).replace("\\", "\\\\").replace('"', '\\"') for line in lines if line)
    return '"' + "\\n".join(escaped) + '"'
