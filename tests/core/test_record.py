from __future__ import annotations

from bridge.core.commands import RoutedCommand
from bridge.core.message import Position


def test_records_are_values() -> None:
    one, same, other = Position("c", "t", 0, 1), Position("c", "t", 0, 1), Position("c", "t", 0, 2)
    assert one == same != other
    assert len({one, same, other}) == 2
    assert not hasattr(one, "__dict__")


def test_the_type_checker_alone_freezes_them() -> None:
    """Frozen fields need one call each, which was most of the cost of a message here."""
    assert not any("__setattr__" in vars(kind) for kind in (Position, RoutedCommand))
