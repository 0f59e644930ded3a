"""Diagram of a flow as SVG: four columns, with few crossings of edges, and with the present state of its nodes.

The drawing needs no script, no style sheet and no font of its own, so a page with a strict content security policy can
contain it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from xml.sax.saxutils import escape, quoteattr

from bridge.app.graph.flow import COLUMNS, Flow, FlowEdge, FlowNode, NodeKind
from bridge.core.bytetext import printable

SWEEPS = 8
"""Passes that reorder the columns."""
LONGEST = 38
"""Characters of the longest text in a box. The title of the box has the whole text."""

_LETTER = 6.6
"""Width of a letter at 12 pixels, rounded up."""
_HEIGHT = 42
_ROW = 58
_SPACE = 150
"""Width between two columns, for the labels of edges."""
_MARGIN = 24
_TITLE = 26
"""Height of the title of an engine."""

_COLORS: Mapping[NodeKind, tuple[str, str]] = {
    NodeKind.SOURCE: ("#e3f2fd", "#1565c0"),
    NodeKind.DEAD_LETTERS: ("#ffebee", "#b71c1c"),
    NodeKind.RULE: ("#ffffff", "#455a64"),
    NodeKind.ORCHESTRATION: ("#e8f5e9", "#2e7d32"),
    NodeKind.SAGA: ("#e8f5e9", "#2e7d32"),
    NodeKind.ENTITY: ("#f3e5f5", "#6a1b9a"),
    NodeKind.INSTANCES: ("#f5f5f5", "#616161"),
    NodeKind.TARGET: ("#fff8e1", "#e65100"),
}
"""Fill and stroke."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """Present state of a node. text: instead of its detail. tone: good, warn, bad or empty. link: address of a page."""

    text: str = ""
    tone: str = ""
    link: str = ""


_DOTS: Mapping[str, str] = {"good": "#2e7d32", "warn": "#b26a00", "bad": "#b71c1c"}


@dataclass(frozen=True, slots=True)
class Box:
    """Place of a node."""

    x: float
    y: float
    width: float

    @property
    def middle(self) -> float:
        return self.y + _HEIGHT / 2


def svg(flow: Flow, live: Mapping[str, NodeState] | None = None) -> str:
    """Diagram as an SVG document. live: present states of nodes by id."""
    states = live or {}
    flow = replace(
        flow, nodes=[replace(node, detail=states.get(node.id, NodeState()).text or node.detail) for node in flow.nodes]
    )
    return "\n".join(_document(flow, layout(flow), states)) + "\n"


def layout(flow: Flow) -> dict[str, Box]:
    """Places of the nodes by id. No two boxes overlap."""
    columns = _ordered(flow)
    titles = [len(title) * _LETTER for title in flow.engines.values()]
    widths = [
        max((*(_width(node) for node in column), *(titles if any(node.engine for node in column) else ())), default=0.0)
        for column in columns
    ]
    places: dict[str, Box] = {}
    x = float(_MARGIN)
    tallest = max((_column_height(column) for column in columns), default=0.0)
    for column, width in zip(columns, widths, strict=True):
        if not column:
            continue
        y = _MARGIN + (tallest - _column_height(column)) / 2
        engine = ""
        for node in column:
            if node.engine != engine:
                engine = node.engine
                y += _TITLE
            places[node.id] = Box(x, y, width)
            y += _ROW
        x += width + _SPACE
    return places


def _column_height(column: Sequence[FlowNode]) -> float:
    engines = len({node.engine for node in column} - {""})
    return len(column) * _ROW + engines * _TITLE


def _ordered(flow: Flow) -> list[list[FlowNode]]:
    """Columns with their nodes from top to bottom: each near its neighbours, engines and dead letters together."""
    columns: list[list[FlowNode]] = [[] for _ in range(max(COLUMNS.values()) + 1)]
    for node in flow.nodes:
        columns[COLUMNS[node.kind]].append(node)
    column_of = {node.id: COLUMNS[node.kind] for node in flow.nodes}
    neighbours: dict[str, list[str]] = {node.id: [] for node in flow.nodes}
    owner: dict[str, str] = {}
    for edge in flow.edges:
        if column_of[edge.start] == column_of[edge.end]:
            owner.setdefault(edge.end, edge.start)
            continue
        neighbours[edge.start].append(edge.end)
        neighbours[edge.end].append(edge.start)
    height = {node.id: float(at) for column in columns for at, node in enumerate(column)}
    for sweep in range(SWEEPS):
        for column in columns if sweep % 2 else reversed(columns):
            wanted = {
                node.id: sum(height[each] for each in near) / len(near)
                if (near := neighbours[node.id])
                else height[node.id]
                for node in column
            }
            # A dead-letter topic belongs below its source
            wanted |= {node.id: wanted[owner[node.id]] for node in column if owner.get(node.id) in wanted}
            groups: dict[str, list[float]] = {}
            for node in column:
                groups.setdefault(node.engine, []).append(wanted[node.id])
            mean = {engine: sum(each) / len(each) for engine, each in groups.items()}
            column.sort(
                key=lambda node: (
                    mean[node.engine],
                    node.engine,
                    wanted[node.id],
                    owner.get(node.id, node.id),
                    node.kind is NodeKind.DEAD_LETTERS,
                )
            )
            for at, node in enumerate(column):
                height[node.id] = at - len(column) / 2
    return columns


def _width(node: FlowNode) -> float:
    return max(len(_short(node.name)), len(_short(node.detail))) * _LETTER + 20


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _document(flow: Flow, places: Mapping[str, Box], live: Mapping[str, NodeState]) -> Iterator[str]:
    # Assistive technology does not look for links inside a picture
    role = "group" if any(each.link for each in live.values()) else "img"
    width = max((box.x + box.width for box in places.values()), default=0.0) + _MARGIN
    height = max((box.y for box in places.values()), default=0.0) + _ROW + _MARGIN
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" font-size="12" role="{role}" '
        'aria-label="Flow of the configuration">'
    )
    yield (
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#607d8b"/></marker></defs>'
    )
    yield f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>'
    for engine, title in flow.engines.items():
        boxes = [places[node.id] for node in flow.nodes if node.engine == engine]
        yield _engine(title, boxes)
    leaving, arriving = Counter(edge.start for edge in flow.edges), Counter(edge.end for edge in flow.edges)
    labelled: set[tuple[str, str]] = set()
    for edge in flow.edges:
        fans_in = arriving[edge.end] > leaving[edge.start]
        # Two edges with one label, to one node, would have it twice in nearly the same place
        place = edge.start if fans_in else edge.end, edge.label
        yield _edge(edge, places[edge.start], places[edge.end], fans_in=fans_in, has_label=place not in labelled)
        labelled.add(place)
    for node in flow.nodes:
        yield _box(node, places[node.id], live.get(node.id, NodeState()))
    yield "</svg>"


def _engine(title: str, boxes: Sequence[Box]) -> str:
    x, width = boxes[0].x - 10, boxes[0].width + 20
    y = min(box.y for box in boxes) - _TITLE + 6
    height = max(box.y for box in boxes) + _HEIGHT + 6 - y
    text = _text(x + 8, y + 13, title, LONGEST, color="#546e7a", size=11)
    return (
        f'<g class="engine"><rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="8" '
        f'fill="#f4f6f8" stroke="#b0bec5" stroke-dasharray="4 3"/>{text}</g>'
    )


def _box(node: FlowNode, box: Box, live: NodeState) -> str:
    fill, stroke = _COLORS[node.kind]
    radius = 20 if node.kind in (NodeKind.SOURCE, NodeKind.TARGET) else 4
    title = escape(printable(f"{node.kind} {node.name}" + (f": {node.detail}" if node.detail else "")))
    lines = [(node.name, "#17212b", 12, box.y + (17 if node.detail else 25))]
    if node.detail:
        lines.append((node.detail, "#546e7a", 11, box.y + 33))
    texts = "".join(_text(box.x + 10, y, text, LONGEST, color=color, size=size) for text, color, size, y in lines)
    dot = ""
    if live.tone:
        dot = (
            f'<circle class="{live.tone}" cx="{box.x + box.width - 10:.1f}" cy="{box.y + 10:.1f}" r="4" '
            f'fill="{_DOTS[live.tone]}"/>'
        )
    drawn = (
        f'<g class={quoteattr(str(node.kind).replace(" ", "-"))}><title>{title}</title><rect x="{box.x:.1f}" '
        f'y="{box.y:.1f}" width="{box.width:.1f}" height="{_HEIGHT}" rx="{radius}" fill="{fill}" stroke="{stroke}"/>'
        f"{texts}{dot}</g>"
    )
    return f"<a href={quoteattr(live.link)}>{drawn}</a>" if live.link else drawn


def _edge(edge: FlowEdge, start: Box, end: Box, *, fans_in: bool, has_label: bool) -> str:
    """Edge with its label. fans_in: more edges meet at its end than part at its start, where the label is then."""
    dashes = ' stroke-dasharray="5 4"' if edge.is_side else ""
    if start.x == end.x:  # a source and its dead letters
        x = start.x + 16
        first, last = (start.y + _HEIGHT, end.y) if end.y > start.y else (start.y, end.y + _HEIGHT)
        path = f"M{x:.1f} {first:.1f}L{x:.1f} {last:.1f}"
        if abs(first - last) > _ROW - _HEIGHT + 1:  # around the boxes between them
            out = start.x - 14
            path = (
                f"M{start.x:.1f} {start.middle:.1f}C{out:.1f} {start.middle:.1f} {out:.1f} {end.middle:.1f} "
                f"{end.x:.1f} {end.middle:.1f}"
            )
    else:
        left, right = start.x + start.width, end.x
        bend = (right - left) / 2
        path = (
            f"M{left:.1f} {start.middle:.1f}C{left + bend:.1f} {start.middle:.1f} {right - bend:.1f} "
            f"{end.middle:.1f} {right:.1f} {end.middle:.1f}"
        )
    line = f'<path d="{path}" fill="none" stroke="#607d8b"{dashes} marker-end="url(#arrow)"/>'
    if not edge.label:
        return line
    near, far, x, anchor = (
        (start, end, start.x + start.width + 8, "start") if fans_in else (end, start, end.x - 8, "end")
    )
    y = near.middle + (far.middle - near.middle) * 0.06 - 4
    label = _text(x, y, edge.label, 21, color="#37474f", size=10, anchor=anchor, halo=3) if has_label else ""
    return f'<g class="edge"><title>{escape(printable(edge.label))}</title>{line}{label}</g>'


def _text(
    x: float, y: float, text: str, longest: int, *, color: str, size: int, anchor: str = "start", halo: int = 0
) -> str:
    shown = printable(text)
    shown = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{color}" font-size="{size}" text-anchor="{anchor}" stroke="#ffffff" '
        f'stroke-width="{halo}" paint-order="stroke">{escape(shown)}</text>'
    )
