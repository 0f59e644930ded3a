"""Small bar chart of counts as SVG, for a line of text. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

_BAR, _GAP, _HEIGHT = 4, 1, 18


def sparkline(counts: Sequence[int], title: str) -> Markup:
    """Bars of counts from old to new; empty without counts. A count above zero is always visible."""
    if not counts:
        return Markup("")
    most = max(counts) or 1
    bars = Markup("").join(
        Markup('<rect x="{}" y="{}" width="{}" height="{}"/>').format(
            at * (_BAR + _GAP), _HEIGHT - height, _BAR, height
        )
        for at, count in enumerate(counts)
        if (height := max(2, round(count / most * _HEIGHT)) if count else 1)
    )
    width = len(counts) * (_BAR + _GAP) - _GAP
    return Markup(
        '<svg class="spark" role="img" width="{0}" height="{1}" viewBox="0 0 {0} {1}"><title>{2}</title>{3}</svg>'
    ).format(width, _HEIGHT, title, bars)
