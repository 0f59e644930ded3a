"""Search for broken rules of language. `make check` runs it over code and documents."""

from __future__ import annotations

import ast

import pytest

from tests.language import counting
from tests.language.__main__ import broken
from tests.language.counting import Found, breaks_rule, docstrings_of
from tests.language.retired import PROSE


@pytest.mark.parametrize(
    ("text", "opener"),
    [
        ("What this does.", "What"),
        ("Whether it is.", "Whether"),
        ("`It` is.", "It"),
        ("\n    Those that wait.", "Those"),
        ("Their names.", "Their"),
        ("Nobody reads it.", "Nobody"),
        ("size: bytes of a record.", "size"),
        ("Counts the items of a lane.", "Counts"),
        ("Implements `Broker`.", "Implements"),
        ("Tokens a second.", None),
        ("Pass the items of a lane.", None),
        ("Limits. size: bytes of a record.", None),
        ("Number of items.", None),
        ("Return what is there.", None),
        ("Items of a lane.", None),
        ("", None),
    ],
)
def test_openers(text: str, opener: str | None) -> None:
    assert breaks_rule(text) == opener


def test_docstrings_of_constants_and_attributes_count() -> None:
    tree = ast.parse(
        '"""M."""\nA = 1\n"""C."""\n"free"\ndef f():\n    """F."""\n    x: int = 1\n    """X."""\n    "free"\n'
    )
    assert [each.value for each in sorted(docstrings_of(ast.walk(tree)), key=lambda each: each.lineno)] == [
        "M.",
        "C.",
        "F.",
        "X.",
    ]


def test_retired_words_are_found_where_they_stand() -> None:
    found = Found()
    text = (
        '"""A ward."""\nfrom a.lot import Lot as x\n'
        'def f(told): return told.mark_of(Ward=1)  # it was told so\n"Fix by hand."\n'
    )
    counting._module(found, "bridge", "bridge/salvage.py", text)
    identifiers = {name: len(places) for name, places in found.identifiers.items() if places}
    assert identifiers == {"lot": 1, "Lot": 1, "told": 2, "mark_of": 1, "Ward": 1, "salvage": 1}
    assert {name: places for name, places in found.prose.items() if places} == {
        "ward": [("bridge/salvage.py", 1, "ward")],
        "told": [("bridge/salvage.py", 3, "told")],
        "by hand": [("bridge/salvage.py", 4, "by hand")],
    }


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a lot of text", None), ("this lot waits", None), ("the lot waits", "lot"), ("Who waits?", None),
        ("It ends. Who waits is lost.", "who"), ("those who wait", None), ("toward", None), ("it is mended", "mend"),
    ],
)  # fmt: skip
def test_words_of_prose(text: str, word: str | None) -> None:
    assert [name for name, (pattern, _) in PROSE.items() if pattern.search(text)] == ([] if word is None else [word])


def test_a_broken_rule_names_its_remedy_and_its_places() -> None:
    found = Found()
    found.docstrings["bridge"] = [("a.py", 1, "What")] * 3
    found.identifiers["lot"] = [("b.py", 1, "lot")]
    assert [*broken(found)] == [
        *["a.py:1: docstrings, bridge: What; open with a noun phrase or an imperative verb"] * 3,
        "b.py:1: identifiers, lot: lot; write EarlyMessageQueue",
    ]
