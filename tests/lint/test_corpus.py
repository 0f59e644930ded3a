"""Corpus of faulty and correct orchestrators: every fault is found, and no correct code is reported."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from bridge.lint import Examined, Names, examine

CORPUS = Path(__file__).parent / "corpus"
MARK = re.compile(r"# finds: ([\w, -]+)$")
SUPPORTING = {"charge", "pay", "refund", "helper", "make", "step", "live", "notify", "child", "wait", "say"}
"""Functions of the corpus that other functions call."""


def examined(kind: str) -> Examined:
    files = [CORPUS / kind]
    return examine(
        files, Names({"decisions", "replies"}, {"external_activity", "external_flow", "external_entity"}, files)
    )


def marked(kind: str) -> set[tuple[str, int, str]]:
    return {
        (path.name, number, rule.strip())
        for path in (CORPUS / kind).glob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (match := MARK.search(line))
        for rule in match[1].split(",")
    }


def found(kind: str) -> set[tuple[str, int, str]]:
    return {(Path(each.file).name, each.line, each.rule) for each in examined(kind).findings}


def flows(kind: str) -> set[tuple[str, str]]:
    """Return the orchestrators of the corpus, without supporting functions."""
    return {
        (path.name, node.name)
        for path in (CORPUS / kind).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and node.name not in SUPPORTING
        and "OrchestrationContext" in signature(node)
    }


def signature(function: ast.FunctionDef) -> str:
    """Return the annotation of the context, with the aliases of these files resolved."""
    first = next((one for one in function.args.args if one.arg not in ("self", "cls")), None)
    text = "" if first is None or first.annotation is None else ast.unparse(first.annotation)
    aliases = r"\b(OC|Alias|Declared|Chain|Text|New|Own|OwnAgain|Bound|Hidden|Context|Imported)\b"
    return re.sub(aliases, "OrchestrationContext", text)


def test_the_score() -> None:
    faults, received, noise = marked("faulty"), found("faulty"), found("correct")
    true = len(faults & received)
    precision, recall = true / max(1, len(received) + len(noise)), true / len(faults)
    counted = {kind: len(flows(kind)) for kind in ("faulty", "correct")}
    print(f"lint corpus: {counted}, {len(faults)} faults; precision {precision:.3f}, recall {recall:.3f}")
    assert sorted(faults - received) == []
    assert sorted(received - faults) == []
    assert sorted(noise) == []
    assert (precision, recall) == (1.0, 1.0)
    assert min(counted.values()) >= 60
