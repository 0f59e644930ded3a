"""Effective configuration: it reads back unchanged, and every value names its origin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.config.source import load
from tests.config.conftest import MINIMAL, Write, loaded
from tests.kit.examples import examples

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12)  # type: ignore[arg-type]  # wider than its annotation, on purpose
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["yes", "2020-01-01", "1e3", "7", "null", "${X}", "$${X}",
                       "a: b", "- x", "#", "<<", "10s", "007"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT.filter(bool), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def test_every_value_tells_its_origin(write: Write, tmp_path: Path) -> None:
    file = write(MINIMAL + 'ops: {drain: "${DRAIN}"}\n')
    top = write("ops: {log: {level: debug}}", "prod.yaml")
    lines = loaded(file, overlays=(top,), DRAIN="5s").effective().splitlines()
    assert f"    type: embedded  # {file}:1" in lines
    assert "    timeout: 10s  # default" in lines
    assert f"  drain: 5s  # environment DRAIN, {file}:10" in lines
    assert f"    level: debug  # {top}:1" in lines
    assert all("#" in line or line.rstrip().endswith((":", "-")) for line in lines)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=examples(60))
@given(st.dictionaries(TEXT.filter(bool), VALUES, max_size=4))
def test_the_rendering_reads_back_the_same(tmp_path: Path, values: dict[str, Any]) -> None:
    first = load([_written(tmp_path / "a.yaml", values)], environ={})
    assert first.config.vars == values
    file = tmp_path / "b.yaml"
    file.write_text(first.effective(), encoding="utf-8")
    second = load([file], environ={})
    assert second.config == first.config
    assert second.version == first.version


def _written(file: Path, values: dict[str, Any]) -> Path:
    file.write_text(f"{MINIMAL}vars: {_flow(values)}\n", encoding="utf-8")
    return file


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(part) for part in value) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(character):08x}" for character in value.replace("${", "$${")) + '"'
    return (
        {None: "null", True: "true", False: "false"}.get(value, repr(value))
        if not isinstance(value, float)
        else repr(value)
    )
