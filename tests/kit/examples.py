"""Numbers of examples of property tests."""

from __future__ import annotations

import os

SEARCH = os.environ.get("HYPOTHESIS_PROFILE") == "search"
"""True under `make search`, which tries new examples."""

FEW = 40
"""Examples that a test always has, unless it has fewer."""


def examples(count: int) -> int:
    """Number of examples for this run: all of them under `make search`.

    `make test` tries the same examples each time, and a third of them.
    """
    return count if SEARCH else max(min(count, FEW), count // 3)
