"""Values of `${...}`, allowed places, and secrecy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.config.yaml.interpolation import SECTIONS, interpolate
from bridge.config.yaml.node import FilePosition, MappingNode, Node, ScalarNode, SequenceNode, plain
from bridge.core.errors import Problem
from tests.config.conftest import MINIMAL, Write, loaded, problems

SECRET = "hunter2-7f3a"
MARK = FilePosition("f.yaml", 3, 5)


def tree(value: Any) -> Node:
    if isinstance(value, dict):
        return MappingNode({key: tree(part) for key, part in value.items()}, dict.fromkeys(value, MARK), MARK)
    if isinstance(value, list):
        return SequenceNode(tuple(tree(part) for part in value), MARK)
    return ScalarNode(value, MARK)


def interpolated(document: dict[str, Any], environ: dict[str, str]) -> tuple[dict[str, Any], list[Problem]]:
    found: list[Problem] = []
    root = tree(document)
    assert isinstance(root, MappingNode)
    result: dict[str, Any] = plain(interpolate(root, environ, lambda mark, value: Path(value), found))
    return result, found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${A}", "one"), ("x-${A}-${B}", "x-one-two"), ("${NO:-d}", "d"), ("${EMPTY:-d}", "d"),
        ("${EMPTY}", ""), ("${NO:-}", ""),
        ("${A:-d}", "one"), ("$${A}", "${A}"), ("$$${A}", "$${A}"), ("a$b", "a$b"), ("$A", "$A"), ("{A}", "{A}"),
        ("${NO:-http://x:1}", "http://x:1"), ("${TRICK}", "${A}"),
    ],
)  # fmt: skip
def test_text_is_replaced(text: str, value: str) -> None:
    environ = {"A": "one", "B": "two", "EMPTY": "", "TRICK": "${A}"}
    result, found = interpolated({"brokers": {"b": {"path": text}}}, environ)
    assert found == []
    assert result["brokers"]["b"]["path"] == value


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("${NO}", "NO is not set"), ("${}", "is not one of"), ("${a b}", "is not one of"), ("${1A}", "is not one of"),
        ("${A", "not closed"),
        ("${A-x}", "is not one of"), ("${file:x}", "secrets_dir"),
    ],
)  # fmt: skip
def test_what_cannot_be_replaced_is_told(text: str, what: str) -> None:
    _, [problem] = interpolated({"engines": {"e": [{"path": text}]}}, {})
    assert what in problem.what
    assert (problem.line, problem.path) == (3, "engines.e[0].path")


KEYS = st.sampled_from(["vars", "routes", "sources", "targets", "workflows", "other"])
TOKENS = st.sampled_from(["${LEAK}", "${LEAK:-x}", "${file:LEAK}", "a ${LEAK} b", "${LEAK"])
SHAPES = st.recursive(
    TOKENS, lambda inner: st.lists(inner, min_size=1) | st.dictionaries(st.text("ab$", max_size=3), inner, min_size=1)
)


@given(st.dictionaries(KEYS, SHAPES, min_size=1))
def test_nothing_is_replaced_outside_the_three_sections(document: dict[str, Any]) -> None:
    result, found = interpolated(document, {"LEAK": SECRET})
    assert SECRET not in str(result)
    assert found
    assert all("brokers" in problem.what and SECRET not in problem.what for problem in found)


@given(st.text(max_size=30))
def test_escaped_text_is_the_text(text: str) -> None:
    for section in (*SECTIONS, "vars"):
        result, found = interpolated({section: {"x": text.replace("${", "$${")}}, {})
        assert found == []
        assert result[section]["x"] == text


def with_secret(write: Write, tmp_path: Path, engine: str) -> Path:
    (tmp_path / "secrets").mkdir(exist_ok=True)
    (tmp_path / "secrets" / "token").write_text(f"{SECRET}\n")
    text = MINIMAL.replace("engine: {type: embedded}", f"engine: {engine}")
    return write(f"{text}ops: {{secrets_dir: secrets}}\n")


def test_a_secret_file_is_read_and_never_shown(write: Write, tmp_path: Path) -> None:
    engine = '{type: scheduler, token: "${file:token}", endpoint: "http://x/${file:token}", task_hub: "${MY_TOKEN}"}'
    found = loaded(with_secret(write, tmp_path, engine), MY_TOKEN=SECRET)
    config = found.config.engines["default"]
    assert config.type == "scheduler"
    assert config.token is not None
    assert config.token.get_secret_value() == SECRET
    assert config.endpoint == f"http://x/{SECRET}"
    assert SECRET not in found.effective()
    assert SECRET not in repr(found)
    assert found.effective().count("**********") == 3


def test_the_version_does_not_tell_secrets_apart(write: Write, tmp_path: Path) -> None:
    file = with_secret(write, tmp_path, '{type: scheduler, client_id: "${file:token}"}')
    first = loaded(file).version
    (tmp_path / "secrets" / "token").write_text("another")
    assert loaded(file).version == first


@pytest.mark.parametrize("field", ["timeout", "max_request", "credential", "worker", "type", "client_idd", "retention"])
def test_a_secret_in_the_wrong_place_is_not_shown(write: Write, tmp_path: Path, field: str) -> None:
    kind = "" if field == "type" else "type: scheduler, "
    found = problems(with_secret(write, tmp_path, f'{{{kind}{field}: "${{file:token}}"}}'))
    assert found
    assert all(SECRET not in str(problem) and problem.line == 1 for problem in found)


@pytest.mark.parametrize("value", ["${HIDDEN}", "x${HIDDEN}"])
def test_a_value_of_the_environment_is_not_told_in_problems(write: Write, value: str) -> None:
    text = MINIMAL.replace(
        "{type: embedded}", f'{{type: embedded, timeout: "{value}", worker: {{threads: "{value}"}}}}'
    )
    found = problems(write(text), HIDDEN=SECRET)
    assert len(found) == 2
    assert all(SECRET not in str(problem) and "HIDDEN" in problem.what for problem in found)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "link", "up/../../outside", "", "folder", "missing", "pipe", "bad"]
)
def test_only_plain_files_below_the_directory_are_read(write: Write, tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_text(SECRET)
    secrets = tmp_path / "secrets"
    (secrets / "folder").mkdir(parents=True)
    (secrets / "up").mkdir()
    (secrets / "link").symlink_to(tmp_path / "outside")
    os.mkfifo(secrets / "pipe")
    (secrets / "bad").write_bytes(b"\xff")
    [problem] = problems(with_secret(write, tmp_path, f'{{type: embedded, path: "${{file:{name}}}"}}'))
    assert problem.line == 1
    assert SECRET not in problem.what


def test_links_that_stay_inside_are_followed(write: Write, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "..data").mkdir()
    (secrets / "..data" / "path").write_text("inside\r\n")
    (secrets / "path").symlink_to("..data/path")
    found = loaded(with_secret(write, tmp_path, '{type: embedded, path: "${file:path}"}'))
    assert found.config.engines["default"].model_dump()["path"] == "inside"


def test_the_directory_itself_may_come_from_the_environment(write: Write, tmp_path: Path) -> None:
    file = with_secret(write, tmp_path, '{type: embedded, path: "${file:token}"}')
    file.write_text(file.read_text().replace("secrets_dir: secrets", 'secrets_dir: "${CREDENTIALS}"'))
    found = loaded(file, CREDENTIALS=str(tmp_path / "secrets"))
    assert found.config.engines["default"].model_dump()["path"] == SECRET
    assert any("CREDENTIALS is not set" in problem.what for problem in problems(file))


def test_numbers_from_the_environment_are_numbers(write: Write) -> None:
    found = loaded(write(MINIMAL + 'ops: {http: {port: "${PORT}"}}\n'), PORT="1234")
    assert found.config.ops.http.port == 1234


def test_what_could_not_be_replaced_is_one_problem(write: Write) -> None:
    file = write(MINIMAL + 'ops: {log: {level: "${LEVEL}"}, http: {port: "${PORT}"}, drain: "${file:drain}"}\n')
    found = problems(file)
    assert [problem.path for problem in found] == ["ops.log.level", "ops.http.port", "ops.drain"]
