"""Discovery of workflows in modules, and reports of invalid ones."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from bridge.core.errors import ConfigError, Problem
from bridge.engines.workflows import ImportFailed, Workflows, functions, load


@pytest.fixture(autouse=True)
def clean_path() -> Any:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(base: Path, **files: str) -> Path:
    for name, text in files.items():
        base.mkdir(exist_ok=True)
        (base / f"{name}.py").write_text(dedent(text))
    return base


def names(workflows: Workflows) -> tuple[set[str], set[str], set[str]]:
    return set(workflows.orchestrators), set(workflows.activities), set(workflows.entities)


def problems(modules: list[str], base: Path) -> list[Problem]:
    def locate(path: tuple[str | int, ...], what: str) -> Problem:
        return Problem("bridge.yaml", 7, 3, ".".join(map(str, path)), what)

    with pytest.raises(ConfigError) as caught:
        load(modules, base, locate)
    return list(caught.value.problems)


ANNOTATED = """
    from durabletask import entities, task
    from durabletask.task import ActivityContext

    def saga(ctx: task.OrchestrationContext, order):
        yield ctx.call_activity(charge, input=order)

    def plain_orchestrator(anything: task.OrchestrationContext, order):
        return order

    def charge(ctx: ActivityContext, order: dict) -> str:
        return "paid"

    def counter(ctx: entities.EntityContext, amount: int):
        ctx.set_state(amount)

    class Account(entities.DurableEntity):
        def deposit(self, amount: int): ...

    class Named(entities.DurableEntity):
        __durable_entity_name__ = "Ledger"

    def _private(ctx: task.OrchestrationContext, order): ...

    def helper(ctx: task.OrchestrationContext, order, amount):
        yield ctx.create_timer(amount)

    def unrelated(a, b): ...

    class Unrelated: ...
    """


@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
def test_annotated(tmp_path: Path, future: Any) -> None:
    (tmp_path / "flows_a.py").write_text(future + dedent(ANNOTATED))
    found = load(["flows_a"], tmp_path)
    assert names(found) == ({"saga", "plain_orchestrator"}, {"charge"}, {"counter", "account", "ledger"})
    assert found.orchestrators["saga"].__module__ == "flows_a"


def test_annotations_for_type_checkers_only(tmp_path: Path) -> None:
    write(
        tmp_path,
        flows_b="""
        from __future__ import annotations
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            import durabletask.task as dt

        def saga(c: dt.OrchestrationContext, order):
            yield
        def charge(c: "dt.ActivityContext", order): ...
        """,
    )
    assert names(load(["flows_b"], tmp_path)) == ({"saga"}, {"charge"}, set())


def test_without_annotations(tmp_path: Path) -> None:
    write(
        tmp_path,
        flows_c="""
        def saga(ctx, order):
            yield ctx.call_activity("charge")
        def charge(context, order):
            return 1
        def add(a, b):
            return a + b
        """,
    )
    assert names(load(["flows_c"], tmp_path)) == ({"saga"}, {"charge"}, set())


def test_packages_are_walked_and_reexports_are_not_taken_twice(tmp_path: Path) -> None:
    (tmp_path / "shop" / "sub").mkdir(parents=True)
    for name, text in {
        "__init__": "from shop.orders import saga",
        "orders": "def saga(ctx, order):\n    yield",
        "sub/__init__": "",
        "sub/money": "def charge(ctx, order): ...",
        "_hidden": "raise RuntimeError('never imported')",
        "__main__": "raise RuntimeError('never imported')",
    }.items():
        (tmp_path / "shop" / f"{name}.py").write_text(text)
    assert names(load(["shop"], tmp_path)) == ({"saga"}, {"charge"}, set())


def test_a_single_member(tmp_path: Path) -> None:
    write(tmp_path, flows_d="def saga(ctx, o):\n    yield\ndef other(ctx, o):\n    yield\nVALUE = 1")
    assert names(load(["flows_d:other"], tmp_path)) == ({"other"}, set(), set())
    (problem,) = problems(["flows_d:missing"], tmp_path)
    assert problem.what == "module 'flows_d' has no 'missing'"
    (problem,) = problems(["flows_d:VALUE"], tmp_path)
    assert "'flows_d:VALUE' is not an orchestrator, activity or entity" in problem.what


def test_naming_a_module_twice_is_no_clash(tmp_path: Path) -> None:
    write(tmp_path, flows_e="def saga(ctx, o):\n    yield")
    assert names(load(["flows_e", "flows_e:saga"], tmp_path))[0] == {"saga"}


def test_an_async_orchestrator_is_a_problem_and_an_async_activity_is_not(tmp_path: Path) -> None:
    write(
        tmp_path,
        flows_f="""
        from durabletask import task
        async def saga(ctx: task.OrchestrationContext, order): ...
        async def charge(ctx: task.ActivityContext, order): ...
        """,
    )
    (problem,) = problems(["flows_f"], tmp_path)
    assert "orchestrator 'saga' is async" in problem.what
    assert f"{tmp_path / 'flows_f.py'}:3" in problem.what


def test_clashes_name_both_places(tmp_path: Path) -> None:
    write(tmp_path, flows_g="def saga(ctx, o):\n    yield", flows_h="\ndef saga(ctx, o):\n    yield")
    (problem,) = problems(["flows_g", "flows_h"], tmp_path)
    assert f"{tmp_path / 'flows_g.py'}:1" in problem.what
    assert f"{tmp_path / 'flows_h.py'}:2" in problem.what
    assert str(problem).startswith("bridge.yaml:7:3 C010 workflows.modules.1: orchestrator 'saga' is defined twice")


def test_import_errors_say_where(tmp_path: Path) -> None:
    write(
        tmp_path,
        flows_i="import flows_j",
        flows_j="x = 1\nimport no_such_library",
        flows_k="def broken(:\n",
        flows_l="import sys\nsys.exit(3)",
    )
    missing, absent, syntax, exits = problems(["flows_i", "flows_none", "flows_k", "flows_l"], tmp_path)
    assert missing.what.startswith("cannot import 'flows_i': ModuleNotFoundError: No module named 'no_such_library'")
    assert f"{tmp_path / 'flows_j.py'}:2" in missing.what
    assert "ModuleNotFoundError: No module named 'flows_none'" in absent.what
    assert "SyntaxError" in syntax.what
    assert f"{tmp_path / 'flows_k.py'}:1" in syntax.what
    assert "SystemExit: 3" in exits.what


def test_a_module_without_workflows_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path, flows_m="def add(a, b): ...")
    (problem,) = problems(["flows_m"], tmp_path)
    assert problem.what == "no orchestrators, activities or entities in 'flows_m'"


def test_the_same_name_beside_another_configuration(tmp_path: Path) -> None:
    one = write(tmp_path / "one", flows_n="def first(ctx, o):\n    yield")
    two = write(tmp_path / "two", flows_n="def second(ctx, o):\n    yield")
    assert names(load(["flows_n"], one))[0] == {"first"}
    assert names(load(["flows_n"], two))[0] == {"second"}


def test_the_name_of_a_library_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path, json="def saga(ctx, o):\n    yield")
    (problem,) = problems(["json"], tmp_path)
    assert "rename it" in problem.what


def test_external_names_are_known() -> None:
    found = load([], Path(), external=["billing"])
    assert found.knows_orchestration("billing")
    assert not found.knows_orchestration("other")


def test_function_references(tmp_path: Path) -> None:
    write(tmp_path, maps="def total(envelope):\n    return 3\nNUMBER = 4")
    resolve = functions(tmp_path)
    assert resolve("maps:total")(None) == 3
    for reference, text in (
        ("maps:NUMBER", "not a function"),
        ("maps:none", "has no 'none'"),
        ("maps", "must have the form"),
        ("nowhere:f", "ModuleNotFoundError"),
    ):
        with pytest.raises(ImportFailed, match=text):
            resolve(reference)
