"""Recognition of orchestrators: the registry, which imports, and the analysis, which reads, agree."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path

import pytest

from bridge.app.check.configuration import check
from bridge.app.check.workflows import names
from bridge.app.composition import load_config
from bridge.core.user_code.kinds import FunctionKind
from bridge.engines.workflows import load
from bridge.lint import examine
from bridge.lint.contexts import registered
from bridge.lint.module import Module
from bridge.lint.project import Project

CORPUS = Path(__file__).parent / "corpus"
HEAD = """
from __future__ import annotations
import functools
import typing
from typing import TYPE_CHECKING, Annotated, NewType, Optional, Union
from durabletask import entities, task
import durabletask.task as dt
from durabletask.task import ActivityContext as AC, OrchestrationContext as OC
if TYPE_CHECKING:
    from durabletask.task import OrchestrationContext as Hidden
    HiddenAlias = Hidden
Alias = OC
Text = "OC"
Deep = Optional[Alias]
New = NewType("New", OC)
Bound = typing.TypeVar("Bound", bound=OC)
T = typing.TypeVar("T")
class Own(OC): pass
class Typed(OC, typing.Generic[T]): pass
class Plain: pass
class OrchestrationLike: pass
"""
ANNOTATIONS = [
    "", "OC", "'OC'", "task.OrchestrationContext", "dt.OrchestrationContext", "Alias", "Text", "Deep", "New", "Bound",
    "Own", "Typed[int]", "Hidden", "HiddenAlias", "Optional[OC]", "OC | None", "None | OC", "Union[OC, Own]",
    "Annotated[OC, 1]", "'Optional[OC]'", "Plain", "OrchestrationLike", "str", "list[int]", "AC",
    "task.ActivityContext", "entities.EntityContext", "nowhere.OrchestrationContext", "typing.Any",
]  # fmt: skip
SIGNATURES = [
    "{0}", "{0}, v", "{0}, v=None", "{0}, v, w", "{0}, v, w=1", "{0}, *args", "{0}, *, key", "{0}, v, *, key",
    "{0}, v, *, key=1", "{0}, v, **more", "{0}, /, v", "*, {0}", "*{0}",
]  # fmt: skip
BODIES = ["return 1", "yield 1", "x = lambda: (yield)", "def inner():\n        yield"]


def answers(module: Path) -> tuple[set[tuple[FunctionKind, str]], set[tuple[FunctionKind, str]]]:
    """Return the workflows that the registry finds, and those that the analysis finds."""
    found = load([module.stem], module.parent)
    kinds = {
        FunctionKind.ORCHESTRATOR: found.orchestrators,
        FunctionKind.ACTIVITY: found.activities,
        FunctionKind.ENTITY: found.entities,
    }
    project, read = Project(), Module.read(module)
    project.add(read)
    return {(kind, name) for kind, each in kinds.items() for name in each}, set(registered(project, read))


def test_every_way_to_write_a_signature(tmp_path: Path) -> None:
    functions = []
    combined = itertools.product(("ctx", "context", "c"), ANNOTATIONS, SIGNATURES, BODIES)
    for number, (name, annotation, signature, body) in enumerate(combined):
        first = f"{name}: {annotation}" if annotation else name
        if signature.startswith("*{") and annotation.startswith("*"):
            continue
        functions.append(f"def f{number}({signature.format(first)}):\n    {body}\n")
    path = tmp_path / "signatures_written.py"
    path.write_text(HEAD + "".join(functions))
    importlib.invalidate_caches()
    registry, analysis = answers(path)
    assert len(functions) > 4000
    assert len([one for one in registry if one[0] is FunctionKind.ORCHESTRATOR]) > 500
    assert registry == analysis


PLACES = """
def _hidden(ctx: OC, v): yield 1
shown = _hidden
if True:
    def inside_if(ctx: OC, v): yield 1
try:
    def inside_try(ctx: OC, v): yield 1
except ImportError:
    pass
def maker():
    def nested(ctx: OC, v): yield 1
    return 1
class Flows:
    def method(self, ctx: OC, v): yield 1
@functools.wraps(maker)
def _wrapped(ctx: OC, v): yield 1
def twice(ctx: OC, v): yield 1
def twice(ctx: AC, v): return 1
class Counter(entities.DurableEntity):
    def add(self, v): return v
class Derived(Counter): pass
class _Private(Counter): pass
def counting(ctx: entities.EntityContext, v): return v
"""


def test_every_place_of_a_function(tmp_path: Path) -> None:
    path = tmp_path / "places_of_functions.py"
    path.write_text(HEAD + PLACES)
    registry, analysis = answers(path)
    assert registry == analysis
    assert (FunctionKind.ORCHESTRATOR, "inside_try") in analysis
    assert (FunctionKind.ENTITY, "derived") in analysis


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*.py")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_corpus(tmp_path: Path, path: Path) -> None:
    others = {each.stem for each in path.parent.glob("*.py")}
    for name in others:  # a copy with a unique name: two folders of the corpus have modules of one name
        text = (path.parent / f"{name}.py").read_text()
        for other in others:
            text = text.replace(f"from {other} import", f"from {path.parent.name}_{other} import")
        (tmp_path / f"{path.parent.name}_{name}.py").write_text(text)
    copied = tmp_path / f"{path.parent.name}_{path.stem}.py"
    if path.stem == "contexts_elsewhere":
        assert examine([copied]).findings == []
        return
    registry, analysis = answers(copied)
    assert registry == analysis
    assert examine([copied]).orchestrators == len([one for one in registry if one[0] is FunctionKind.ORCHESTRATOR])


def test_check_and_lint_count_the_same(tmp_path: Path) -> None:
    package = tmp_path / "counted_flows"
    package.mkdir()
    (package / "__init__.py").write_text("from counted_flows.more import other\n")
    (package / "more.py").write_text(
        "from durabletask.task import OrchestrationContext as OC\n"
        "def other(c: OC, v):\n    yield c.create_timer(1)\n"
        "def _part(c: OC, v):\n    yield c.create_timer(1)\n"
        "def flow(c: 'OC', v):\n    yield from _part(c, v)\n"
    )
    (package / "_private.py").write_text("def hidden(ctx, v):\n    yield ctx.create_timer(1)\n")
    config = tmp_path / "bridge.yaml"
    config.write_text(
        "engine: {type: embedded}\nworkflows: [counted_flows]\nbrokers: {local: {type: local}}\n"
        "sources: {orders: {broker: local, topics: [orders], no_match: ignore}}\n"
        "routes: [{name: nothing, from: orders, ignore: {reason: a test}}]\n"
    )
    examined = examine([package], names(load_config([config])))
    assert check([config]).counts["orchestration"] == examined.orchestrators == 2
    assert (examined.others, examined.findings) == (2, [])
