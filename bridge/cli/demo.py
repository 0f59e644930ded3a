"""`bridge demo`."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from bridge.cli.shared.command import command as make

_PACKAGE = Path(__file__).parents[1]


@make(
    "demo",
    effect="reads",
    examples="""
        bridge demo
    """,
    exits={
        0: "the shop was closed with Ctrl-C",
        1: "the shop failed; its log is named",
        130: "interrupted before it opened",
    },
)
def command() -> int:
    """Open a shop to explore: a daemon with its page, and a day of orders, payments and faults.

    The shop has a local broker, an embedded engine and a directory of its own, which it removes at its end. It needs no
    network. The command prints the address of the page, a token, and what to try; Ctrl-C closes the shop.
    """
    # The wheel has the shop inside of the package, the repository beside it
    sys.path.insert(0, str(next(place for place in (_PACKAGE / "_shop", _PACKAGE.parent) if (place / "demo").is_dir())))
    found: int = import_module("demo.__main__").main(keep=True)
    return found
