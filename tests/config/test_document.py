"""YAML parsing: positions, the core schema, and a corpus of hostile files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.config.yaml.document import MAX_BYTES, parse, read
from bridge.config.yaml.node import MappingNode, Node, ScalarNode, SequenceNode, plain
from bridge.core.errors import Problem

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn")), max_size=12)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT.filter(bool), inner, max_size=4)
)


def values(text: str) -> tuple[Any, list[Problem]]:
    problems: list[Problem] = []
    node = parse(text, "f.yaml", problems)
    return (plain(node) if node is not None else None), problems


def block(value: Any, indent: int, lines: list[str], marks: dict[tuple[Any, ...], int], path: tuple[Any, ...]) -> None:
    """Write block YAML and record the line of each scalar."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        lead = " " * indent + (f"{json.dumps(key, ensure_ascii=False)}:" if isinstance(value, dict) else "-")
        if isinstance(part, dict | list) and part:
            lines.append(lead)
            block(part, indent + 2, lines, marks, (*path, key))
        else:
            lines.append(f"{lead} {json.dumps(part, ensure_ascii=False)}")
            marks[(*path, key)] = len(lines)


def scalars(node: Node, path: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], int]:
    if isinstance(node, MappingNode):
        parts: list[tuple[Any, Node]] = list(node.entries.items())
    elif isinstance(node, SequenceNode):
        parts = list(enumerate(node.items))
    else:
        return {path: node.mark.line}
    if not parts:
        return {path: node.mark.line}
    return {at: line for key, part in parts for at, line in scalars(part, (*path, key)).items()}


@given(st.dictionaries(TEXT.filter(bool), TREES, min_size=1, max_size=5))
def test_a_tree_is_read_with_the_line_of_every_value(tree: dict[str, Any]) -> None:
    lines: list[str] = []
    marks: dict[tuple[Any, ...], int] = {}
    block(tree, 0, lines, marks, ())
    problems: list[Problem] = []
    node = parse("\n".join(lines), "f.yaml", problems)
    assert problems == []
    assert node is not None
    assert plain(node) == tree
    assert scalars(node) == marks


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("true", True), ("False", False), ("~", None),
        ("", None), ("2020-01-01", "2020-01-01"), ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"),
        ("12:30:45", "12:30:45"), ("0o17", "0o17"), ("007", "007"), ("0x1f", "0x1f"), ("1_000", "1_000"),
        ("17", 17), ("-3", -3), ("1.5", 1.5), ("1e3", 1000.0), ("'1'", "1"), ("!!str 1", "1"), ("1.2.3", "1.2.3"),
        ("-", None), ("+", "+"), (".", "."),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema(written: str, value: Any) -> None:
    read_value, problems = values(f"a: {written}" if written != "-" else "a: ")
    assert problems == []
    assert read_value == {"a": value}
    assert type(read_value["a"]) is type(value)


def test_on_is_a_key_like_any_other() -> None:
    assert values("on: 1\n3: x\ntrue: y") == ({"on": 1, "3": "x", "true": "y"}, [])


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf", "1e999", "9223372036854775808", "9" * 5000])
def test_numbers_that_nothing_could_equal_are_refused(number: str) -> None:
    _, [problem] = values(f"x: 1\na: {number}")
    assert (problem.line, problem.column) == (2, 4)
    assert "quotes" in problem.what


HOSTILE = {
    "tab": ("a:\n\tb: 1", 2, "does not allow tabs"),
    "deep": ("a: " + "[" * 100_000, 1, "deeper than 100"),
    "deep block": ("\n".join(" " * n + "a:" for n in range(200)), 101, "deeper than 100"),
    "cyclic mapping": ("a: &x {b: *x}", 1, "a value that contains it"),
    "cyclic list": ("a: &x [1, *x]", 1, "a value that contains it"),
    "undefined alias": ("a: *nowhere", 1, "not defined"),
    "python object": ("a: !!python/object/apply:os.system ['true']", 1, "not supported"),
    "python name": ("a: !!python/name:os.system x", 1, "not supported"),
    "local tag": ("a: !secret x", 1, "not supported"),
    "second document": ("a: 1\n---\nb: 2", 2, "second document"),
    "list as key": ("? [a]\n: b", 1, "a key must be text"),
    "unquoted template": ("a: {{ payload.id }}", 1, "needs quotes"),
    "empty key": ("a: 1\n'': x", 2, "must not be empty"),
    "control character": ("a: 1\nb: \x00", 2, "control character"),
    "surrogate": ('a: "\\ud800"', 1, "not YAML"),
    "unclosed": ("a: [1, 2", 2, "not YAML"),
    "unclosed quote": ("a: 'x\nb: 1", 0, "not YAML"),
    "two colons": ("a: b: c", 1, "quote"),
    "list at the top": ("- a\n- b", 1, "must be a mapping"),
    "text at the top": ("hello", 1, "must be a mapping"),
    "nothing": ("", 1, "bridge init"),
    "only comments": ("# nothing\n", 1, "bridge init"),
    "merge of text": ("a: {<<: x}", 1, "needs a mapping"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_clear_problem(name: str) -> None:
    text, line, what = HOSTILE[name]
    _, [problem] = values(text)
    assert what in problem.what
    assert problem.file == "f.yaml"
    assert problem.line == line or (line == 0 and problem.line > 0)
    assert problem.column > 0


@pytest.mark.parametrize("shape", ["[{0}]", "{{k0: {1}, k1: {1}, k2: {1}}}"])
def test_anchors_do_not_multiply_without_bound(shape: str) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 20):
        alias = f"*a{level - 1}"
        lines.append(f"a{level}: &a{level} " + shape.format(", ".join([alias] * 9), alias))
    began = time.monotonic()
    _, [problem] = values("\n".join(lines))
    assert "holds more than" in problem.what
    assert time.monotonic() - began < 20


def test_nesting_through_anchors_counts() -> None:
    lines = ["a0: &a0 [[[[[[[[[[1]]]]]]]]]]"]
    lines += [f"a{level}: &a{level} [[[[[[[[[*a{level - 1}]]]]]]]]]" for level in range(1, 12)]
    _, [problem] = values("\n".join(lines))
    assert "deeper than 100" in problem.what


def test_anchors_and_merge_keys_keep_the_place_they_are_written_at() -> None:
    problems: list[Problem] = []
    node = parse("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\n", "f.yaml", problems)
    assert problems == []
    assert node is not None
    assert plain(node) == {"base": {"x": 1, "y": 2}, "use": {"y": 3, "x": 1}}
    assert node is not None
    use = node["use"]
    assert isinstance(use, MappingNode)
    assert isinstance(use["x"], ScalarNode)
    assert (use["x"].mark.line, use["y"].mark.line) == (1, 4)


def test_a_key_that_stands_twice_names_both_lines() -> None:
    _, [problem] = values("a: 1\nb: 2\na: 3")
    assert (problem.line, problem.path) == (3, "a")
    assert "line 1" in problem.what


@pytest.mark.parametrize(
    ("raw", "line", "column", "what"),
    [
        (b"a: 1\nb: \xff", 2, 4, "UTF-8"),
        ("a: ä".encode("utf-16"), 1, 1, "UTF-8"),
        (b"#" * (MAX_BYTES + 1), 0, 0, "larger"),
    ],
    ids=["latin", "utf-16", "huge"],
)
def test_bytes_that_are_no_text_are_told(tmp_path: Path, raw: bytes, line: int, column: int, what: str) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(raw)
    problems: list[Problem] = []
    assert read(file, problems) is None
    [problem] = problems
    assert (problem.line, problem.column) == (line, column)
    assert what in problem.what


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1")
    node = read(file, [])
    assert node is not None
    assert plain(node) == {"a": 1}


@given(st.text(max_size=60))
def test_any_text_ends_in_a_mapping_or_in_placed_problems(text: str) -> None:
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        return
    problems: list[Problem] = []
    node = parse(text, "f.yaml", problems)
    assert node is not None or problems
    assert all(problem.line > 0 and problem.column > 0 for problem in problems)


def test_a_quoted_merge_key_is_a_key() -> None:
    problems: list[Problem] = []
    node = parse('a: {"<<": 1, b: 2}\n', "f.yaml", problems)
    assert problems == []
    assert node is not None
    assert plain(node) == {"a": {"<<": 1, "b": 2}}
