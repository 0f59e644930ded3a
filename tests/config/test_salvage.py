"""A problem in one place hides no problem elsewhere, whatever the wrong value is."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.config.source import survey

SOUND: dict[str, Any] = {
    "engines": {"default": {"type": "embedded", "retention": "7d"}, "eu": {"type": "scheduler", "task_hub": "orders"}},
    "workflows": {"modules": ["flows"], "external": ["elsewhere"]},
    "vars": {"currency": "EUR"},
    "brokers": {"local": {"type": "local", "partitions": 2}},
    "targets": {"results": {"broker": "local", "topic": "results"}},
    "ops": {"http": {"port": 0}, "drain": "5s"},
    "sources": {
        "orders": {
            "broker": "local",
            "topics": ["orders", "more"],
            "no_match": "ignore",
            "attributes": {"type": "headers['t']"},
            "retry": {"in_memory": "2s"},
        }
    },
    "routes": [
        {
            "name": "first",
            "from": ["orders"],
            "match": {"type": ["a", "b"]},
            "schedule": {"orchestration": "greet", "instance_id": "greet-{{ payload.id }}", "tags": {"by": "me"}},
        },
        {"name": "second", "from": "orders", "when": "payload.x", "ignore": {}},
    ],
}
WRONG: tuple[Any, ...] = (None, True, -1, 1.5, "", "?? no such thing", [], [None], [{}], {}, {"??": {"a": []}})


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from places(inner, (*path, key))


def container(config: Any, path: tuple[str | int, ...]) -> Any:
    for part in path[:-1]:
        config = config[part]
    return config


@pytest.mark.parametrize("path", list(places(SOUND)), ids=str)
def test_whatever_is_wrong_the_rest_can_be_looked_at(path: tuple[str | int, ...], tmp_path: Path) -> None:
    file = tmp_path / "bridge.yaml"
    for wrong in WRONG:
        broken = copy.deepcopy(SOUND)
        container(broken, path)[path[-1]] = wrong
        file.write_text(json.dumps(broken))
        found = survey([file])
        assert found.loaded is not None
        assert found.whole or any(problem.severity == "error" for problem in found.problems)
    missing = copy.deepcopy(SOUND)
    del container(missing, path)[path[-1]]
    file.write_text(json.dumps(missing))
    assert survey([file]).loaded is not None


def test_stand_ins_keep_what_is_right(tmp_path: Path) -> None:
    broken = copy.deepcopy(SOUND)
    broken["sources"]["orders"] |= {"retry": {"in_memory": "soon"}, "nope": 1}
    del broken["sources"]["orders"]["no_match"]
    broken["routes"][0] |= {"mach": {}, "ignore": {}}
    broken["routes"].insert(0, "text")
    del broken["routes"][2]["ignore"]
    file = tmp_path / "bridge.yaml"
    file.write_text(json.dumps(broken))
    found = survey([file])
    assert found.loaded is not None
    assert not found.whole
    config = found.loaded.config
    assert config.sources["orders"].topics == ("orders", "more")
    assert [route.name for route in config.routes] == ["route-0", "first", "second"]
    assert config.routes[1].schedule is not None
    assert config.routes[2].when == "payload.x"
    assert "orders" not in config.routes[0].from_


def test_what_stands_in_an_unreadable_file_is_not_missed_in_the_others(tmp_path: Path) -> None:
    tmp_path.joinpath("a.yaml").write_text("engine: {type: embedded}\nbrokers: {local: {type: local}\n")
    tmp_path.joinpath("b.yaml").write_text(
        "sources: {orders: {broker: local, topics: [orders], no_match: ignore}}\n"
        "routes: [{name: all, from: orders, ignore: {}, huh: 1}]\n"
    )
    found = survey([tmp_path])
    assert [(Path(problem.file).name, problem.path) for problem in found.problems] == [
        ("a.yaml", ""),
        ("b.yaml", "routes[0].huh"),
    ]
