"""Several files, overlays, shorthands and defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.config.yaml.document import parse
from bridge.config.yaml.merge import apply_defaults, expand, join, overlay
from bridge.config.yaml.node import MappingNode, plain
from bridge.core.errors import Problem
from tests.config.conftest import MINIMAL, Write, loaded, problems


def node(text: str, file: str = "a.yaml") -> MappingNode:
    found: list[Problem] = []
    parsed = parse(text, file, found)
    assert found == []
    assert parsed is not None
    return parsed


def joined(first: str, second: str) -> tuple[Any, list[Problem]]:
    found: list[Problem] = []
    result = join(node(first, "a.yaml"), node(second, "b.yaml"), found)
    return plain(result), found


def test_files_merge_and_lists_of_routes_line_up() -> None:
    result, found = joined(
        "brokers: {a: {type: x}}\nops: {http: {port: 1}}\nroutes: [1, 2]\nworkflows: {modules: [m]}\nvars: {v: {x: 1}}",
        "brokers: {b: {type: y}}\nops: {log: {level: x}}\nroutes: [3]\nworkflows: {modules: [n]}\nvars: {v: {y: 2}}",
    )
    assert found == []
    assert result == {
        "brokers": {"a": {"type": "x"}, "b": {"type": "y"}},
        "ops": {"http": {"port": 1}, "log": {"level": "x"}},
        "routes": [1, 2, 3],
        "workflows": {"modules": ["m", "n"]},
        "vars": {"v": {"x": 1, "y": 2}},
    }


@pytest.mark.parametrize(
    ("first", "second", "path"),
    [
        ("ops: {drain: 1s}", "ops: {drain: 1s}", "ops.drain"),
        ("brokers: {a: {type: x}}", "brokers: {a: {path: y}}", "brokers.a"),
        ("vars: {l: [1]}", "vars: {l: [2]}", "vars.l"),
        ("vars: {l: 1}", "vars: {l: {a: 1}}", "vars.l"),
        ("routes: [1]", "routes: {a: 1}", "routes"),
    ],
)
def test_a_clash_names_both_places(first: str, second: str, path: str) -> None:
    _, [problem] = joined(f"\n{first}", f"\n\n{second}")
    assert (problem.file, problem.line, problem.path) == ("b.yaml", 3, path)
    assert "a.yaml:2" in problem.what


LEAVES = st.dictionaries(st.text("abc", min_size=1, max_size=2), st.integers(0, 9), max_size=4)


def written(values: dict[str, int]) -> str:
    return "vars: {" + ", ".join(f"{key}: {value}" for key, value in values.items()) + "}"


@given(LEAVES, LEAVES)
def test_joining_loses_nothing_and_clashes_once_per_shared_key(first: dict[str, int], second: dict[str, int]) -> None:
    result, found = joined(written(first), written(second))
    assert result["vars"] == second | first
    assert {problem.path for problem in found} == {f"vars.{key}" for key in first.keys() & second.keys()}


@given(LEAVES, LEAVES)
def test_an_overlay_wins(first: dict[str, int], second: dict[str, int]) -> None:
    found: list[Problem] = []
    result = overlay(node(written(first)), node(written(second)), found)
    assert found == []
    assert plain(result)["vars"] == first | second


def test_a_directory_is_read_in_the_order_of_names(write: Write, tmp_path: Path) -> None:
    write(MINIMAL, "conf/10-main.yaml")
    route = "routes:\n  - {{name: {0}, from: orders, ignore: {{}}}}\n"
    write(route.format("late"), "conf/30.yml")
    write(route.format("early"), "conf/20.yaml")
    write("not yaml: [", "conf/notes.txt")
    write("not: [", "conf/sub/x.yaml")
    found = loaded(tmp_path / "conf")
    assert [route.name for route in found.config.routes] == ["start", "early", "late"]
    assert found.base == tmp_path / "conf"
    assert found.locate(("routes", 2, "name"), "x").file.endswith("30.yml")


def test_problems_of_all_files_are_told_at_once(write: Write) -> None:
    first, second, third = write(MINIMAL + "opps: 1\n"), write("a: [", "b.yaml"), write("routes: [{name: x}]", "c.yaml")
    found = problems(first, second, third)
    assert [Path(problem.file).name for problem in found][:3] == ["bridge.yaml", "b.yaml", "c.yaml"]


def test_an_overlay_changes_the_route_of_its_name(write: Write) -> None:
    top = write("routes:\n  - name: start\n    when: payload.x > 1\n    schedule: {version: '2'}\n", "prod.yaml")
    found = loaded(write(MINIMAL), overlays=(top,))
    [route] = found.config.routes
    assert route.when == "payload.x > 1"
    assert route.schedule is not None
    assert (route.schedule.orchestration, route.schedule.version) == ("saga", "2")
    assert found.locate(("routes", 0, "when"), "x").file == str(top)


def test_a_command_in_an_overlay_replaces_the_command(write: Write) -> None:
    found = loaded(write(MINIMAL), overlays=(write("routes: [{name: start, ignore: {}}]", "off.yaml"),))
    assert found.config.routes[0].command == "ignore"


@pytest.mark.parametrize(
    ("route", "what"), [("{name: strat, ignore: {}}", "no route `strat`"), ("{ignore: {}}", "needs the `name`")]
)
def test_an_overlay_adds_no_routes(write: Write, route: str, what: str) -> None:
    top = write(f"routes:\n  - {route}\n", "prod.yaml")
    [problem] = problems(write(MINIMAL), overlays=(top,))
    assert what in problem.what
    assert (problem.file, problem.line) == (str(top), 2)


def test_an_engine_of_another_type_replaces_the_whole_engine(write: Write) -> None:
    base = write(MINIMAL.replace("{type: embedded}", "{type: embedded, path: elsewhere}"))
    top = write('engine: {type: scheduler, endpoint: "http://x"}', "prod.yaml")
    assert loaded(base, overlays=(top,)).config.engines["default"].type == "scheduler"
    same = write("engine: {timeout: 3s}", "same.yaml")
    engine = loaded(base, overlays=(same,)).config.engines["default"]
    assert (engine.timeout, engine.model_dump()["path"]) == (3.0, "elsewhere")


def test_later_overlays_win(write: Write) -> None:
    tops = tuple(write(f"ops: {{drain: {n}s}}", f"{n}.yaml") for n in (1, 2))
    assert loaded(write(MINIMAL), overlays=tops).config.ops.drain == 2.0


def test_shorthands_are_written_out() -> None:
    found: list[Problem] = []
    assert plain(expand(node("engine: {type: x}\nworkflows: [a, b]"), found)) == {
        "engines": {"default": {"type": "x"}},
        "workflows": {"modules": ["a", "b"]},
    }
    assert found == []


def test_engine_and_engines_exclude_each_other(write: Write) -> None:
    [problem] = problems(write(MINIMAL + "engines: {eu: {type: embedded}}\n"))
    assert (problem.line, problem.path) == (1, "engine")


def test_defaults_lie_under_every_entry_and_keep_their_place(write: Write) -> None:
    text = MINIMAL.replace(", no_match: dead_letter", ", retry: {initial: 1s}") + (
        "defaults:\n  source:\n    no_match: ignore\n    retry: {initial: 9s, in_memory: 7s}\n  target: {timeout: 5s}\n"
    )
    found = loaded(write(text))
    source = found.config.sources["orders"]
    assert (source.no_match, source.retry.initial, source.retry.in_memory) == ("ignore", 1.0, 7.0)
    assert found.locate(("sources", "orders", "no_match"), "x").line == 12


def test_defaults_of_a_command_do_not_give_the_command() -> None:
    document = node("defaults: {route: {schedule: {version: '1'}}}\nroutes: [{schedule: {x: 1}}, {ignore: {}}]")
    assert plain(apply_defaults(document)) == {"routes": [{"schedule": {"version": "1", "x": 1}}, {"ignore": {}}]}


@pytest.mark.parametrize(
    ("defaults", "path", "what"),
    [
        ("{sauce: {}}", "defaults.sauce", "did you mean `source`"),
        ("{source: {codecc: x}}", "defaults.source.codecc", "did you mean `codec`"),
        ("{target: {codecc: x}}", "defaults.target.codecc", "did you mean `codec`"),
        ("{source: 3}", "defaults.source", "expected a mapping"),
        ("[]", "defaults", "expected a mapping"),
    ],
)
def test_wrong_defaults_are_told_once(write: Write, defaults: str, path: str, what: str) -> None:
    [problem] = problems(write(MINIMAL + f"defaults: {defaults}\n"))
    assert (problem.path, problem.line) == (path, 10)
    assert what in problem.what


@pytest.mark.parametrize(("name", "what"), [("missing.yaml", "does not exist"), ("empty", "holds no")])
def test_nothing_there_points_to_init(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "empty").mkdir()
    [problem] = problems(tmp_path / name)
    assert what in problem.what
    assert "bridge init" in problem.what


def test_no_paths_point_to_init() -> None:
    [problem] = problems()
    assert "bridge init" in problem.what
