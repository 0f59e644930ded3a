"""Timeline of an instance as SVG: a line for each call, wait and event, with its duration.

The time axis is linear while something runs. A long wait is drawn short, with its length beside it: a workflow that
runs for milliseconds may wait for days.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from bridge.app.operations.instances.instances import InstanceInfo
from bridge.app.operations.instances.sagas import SagaInfo, saga_of
from bridge.app.operations.instances.spans import HistorySpan, Lifetime, SpanKind, Undoing, lifetime
from bridge.app.operations.instances.timeline import duration
from bridge.core.bytetext import printable

MOST_ROWS = 200
"""Most lines of a picture. The list of events has all of them."""

_LABELS = 250
_AXIS = 620
_DURATIONS = 110
_ROW = 22
_TOP = 34
_LONGEST = 36
"""Characters of the longest label. Its title has the whole text."""
_SHORT_WAIT = 0.12
"""Most share of the axis that one wait takes while others run."""
_COLORS = {
    "run": "#0b6577", "child": "#5b7f95", "failed": "#a31d22", "undo": "#b26a00", "wait": "#c9d1d6", "busy": "#0b6577",
    "idle": "#e3e8eb",
}  # fmt: skip


def timeline_svg(
    one: InstanceInfo, history: Sequence[Mapping[str, Any]], link: Callable[[str], str] | None = None
) -> str | None:
    """Picture of an instance; None without a history.

    history: result of `instances.history`. link: address of the page of a child instance.
    """
    found = lifetime(history, _undoing(saga_of(one)))
    return None if found is None else drawn(found, one.shown_name, time.time(), link)


def _undoing(saga: SagaInfo | None) -> Undoing | None:
    if saga is None or not saga.state.startswith("compensat"):
        return None
    begun = sum(state.startswith("compensat") for state in saga.steps.values())
    return Undoing(begun if saga.steps else None, f"{saga.saga}.{saga.state}")


def drawn(lifetime: Lifetime, name: str, now: float, link: Callable[[str], str] | None = None) -> str:
    """Picture of a lifetime. now: present time, for what lasts."""
    end = max(now, lifetime.last) if lifetime.end is None else lifetime.end
    return "\n".join(_document(lifetime, lifetime.spans[:MOST_ROWS], end, name, link)) + "\n"


class _Axis:
    """Place of a time on the axis."""

    def __init__(self, lifetime: Lifetime, end: float) -> None:
        self.segments = list(_segments(lifetime, end))
        busy = sum(end - start for start, end, runs in self.segments if runs)
        total = max(end - lifetime.start, 1e-6)
        most = busy * _SHORT_WAIT / (1 - _SHORT_WAIT) if busy else total
        lengths = [end - start if runs else min(end - start, most) for start, end, runs in self.segments]
        whole = sum(lengths) or 1.0
        self._places: list[tuple[float, float, float, float]] = []
        x = float(_LABELS)
        for (start, finish, _), length in zip(self.segments, lengths, strict=True):
            width = length / whole * _AXIS
            self._places.append((start, finish, x, x + width))
            x += width

    def at(self, moment: float) -> float:
        for start, end, left, right in self._places:
            if moment <= end:
                share = (moment - start) / (end - start) if end > start else 0.0
                return left + max(0.0, share) * (right - left)
        return float(_LABELS + _AXIS)


def _segments(lifetime: Lifetime, end: float) -> Iterator[tuple[float, float, bool]]:
    """Parts of the life, one after the other, in which something runs or nothing does."""
    running = sorted(
        (span.start, end if span.end is None else span.end)
        for span in lifetime.spans
        if not span.waits and span.kind is not SpanKind.MOMENT
    )
    at = lifetime.start
    for start, finish in running:
        if start > at:
            yield at, start, False
        if finish > max(at, start):
            yield max(at, start), finish, True
            at = finish
    if end > at or at == lifetime.start:
        yield at, max(end, at), False


def _document(
    lifetime: Lifetime, shown: Sequence[HistorySpan], end: float, name: str, link: Callable[[str], str] | None
) -> Iterator[str]:
    width = _LABELS + _AXIS + _DURATIONS
    rest = len(lifetime.spans) - len(shown)
    height = _TOP + (len(shown) + 1 + bool(rest)) * _ROW + 10
    axis = _Axis(lifetime, end)
    role = "group" if link is not None and any(span.instance_id for span in shown) else "img"
    label = quoteattr(f"Timeline of {printable(name)}, {duration(end - lifetime.start)}")
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="12" role="{role}" aria-label={label}>'
    )
    yield f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    busy = sum(finish - start for start, finish, runs in axis.segments if runs)
    summary = f"runs {duration(busy)}, waits {duration(max(0.0, end - lifetime.start - busy))}"
    yield _text(8, 18, summary, "quiet", 11)
    y = _TOP - 8
    for start, finish, runs in axis.segments:
        title = f"{'runs' if runs else 'waits'} {duration(finish - start)}"
        yield _bar(axis.at(start), axis.at(finish), y, "busy" if runs else "idle", title, height=10)
        if not runs and axis.at(finish) - axis.at(start) > 40:
            yield _text((axis.at(start) + axis.at(finish)) / 2, y - 3, duration(finish - start), "quiet", 10, "middle")
    yield _text(_LABELS + _AXIS + 8, y + 9, duration(end - lifetime.start), "quiet", 11)
    yield _text(8, y + 10, name, "", 12)
    for number, span in enumerate(shown, 1):
        yield _row(span, _TOP + number * _ROW, axis, end, link)
    if rest:
        yield _text(8, _TOP + (len(shown) + 1) * _ROW + 8, f"{rest:,} more in the list of events", "quiet", 11)
    yield "</svg>"


def _row(span: HistorySpan, y: float, axis: _Axis, end: float, link: Callable[[str], str] | None) -> str:
    finish = end if span.end is None else span.end
    left, right = axis.at(span.start), axis.at(finish)
    notes = [
        *([f"attempt {span.attempt}"] if span.attempt > 1 else ()),
        *(["compensation"] if span.is_compensation else ()),
        *(["failed"] if span.failed else ()),
        *(["open"] if span.end is None else ()),
    ]
    title = " · ".join([f"{span.kind} {span.name}", *notes])
    label = _text(20, y + 4, " · ".join([span.name, *notes[:1]]), "", 12)
    if span.instance_id is not None and link is not None:
        label = f"<a href={quoteattr(link(span.instance_id))}>{label}</a>"
    if span.kind is SpanKind.MOMENT:
        mark = f'<path class="moment" d="M{left:.1f} {y - 5:.1f}l4 5-4 5-4-5z" fill="#56636b"/>'
        took = ""
    else:
        mark = _bar(left, right, y - 5, _tone(span), title, height=10)
        took = f"{duration(finish - span.start)}{' …' if span.end is None else ''}"
    taken = _text(_LABELS + _AXIS + 8, y + 4, took, "quiet", 11)
    line = f'<path class="line" d="M{_LABELS} {y:.1f}H{_LABELS + _AXIS}" stroke="#eef1f3" fill="none"/>'
    return f"<g><title>{escape(printable(title))}</title>{line}{label}{mark}{taken}</g>"


def _tone(span: HistorySpan) -> str:
    if span.waits:
        return "wait"
    if span.failed:
        return "failed"
    if span.is_compensation:
        return "undo"
    return "child" if span.kind is SpanKind.CHILD else "run"


def _bar(left: float, right: float, y: float, tone: str, title: str, *, height: float) -> str:
    return (
        f'<rect class="{tone}" x="{left:.1f}" y="{y:.1f}" width="{max(2.0, right - left):.1f}" height="{height:g}" '
        f'rx="2" fill="{_COLORS[tone]}"><title>{escape(printable(title))}</title></rect>'
    )


def _text(x: float, y: float, text: str, tone: str, size: int, anchor: str = "start") -> str:
    shown = printable(text)
    shown = shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"
    color = "#56636b" if tone else "#1b2327"
    return (
        f'<text{f" class={quoteattr(tone)}" if tone else ""} x="{x:.1f}" y="{y:.1f}" font-size="{size}" '
        f'text-anchor="{anchor}" fill="{color}">{escape(shown)}</text>'
    )
