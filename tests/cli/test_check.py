"""`bridge check`: output and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from bridge.cli import root
from tests.app.project import CONFIG, write_project

WARNING = CONFIG.replace('"waits-{{ payload.id }}"', '"{{ payload.id }}"')
BROKEN = CONFIG.replace("payload.name != ''", "payload.name =! ''")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_project(tmp_path / "checked")


def check(*arguments: object) -> Result:
    return CliRunner().invoke(root, ["check", *map(str, arguments)])


def test_a_sound_configuration(config: Path) -> None:
    result = check(config)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "ok: 2 sources, 3 routes, 8 orchestrations, 2 activities, 2 entities\n"


def test_files_may_be_given_either_way(config: Path) -> None:
    assert check("-c", config).stdout == check(config).stdout == check(config.parent).stdout


def test_problems_are_lines_and_a_summary(config: Path) -> None:
    config.write_text(BROKEN.replace("orchestration: greet,", "orchestration: great,"))
    result = check(config)
    assert (result.exit_code, result.stderr) == (1, "")
    lines = result.stdout.splitlines()
    assert lines[-1] == "2 problems"
    assert lines[0].startswith(f"{config}:13:")
    assert " routes[0].when: " in lines[0]
    assert any(line.strip() == "^" for line in lines)
    assert any(line.startswith(f"{config}:14:") and "did you mean `greet`?" in line for line in lines)


def test_warnings_stop_nothing_unless_strict(config: Path) -> None:
    config.write_text(WARNING)
    result = check(config)
    assert result.exit_code == 0
    first, last = result.stdout.splitlines()
    assert f"{config}:22:" in first
    assert " warning: " in first
    assert last.startswith("ok: ")
    assert last.endswith("; 1 warning")
    strict = check(config, "--strict")
    assert (strict.exit_code, strict.stdout.splitlines()[-1]) == (1, "1 warning")


def test_json(config: Path) -> None:
    config.write_text(BROKEN)
    result = check(config, "--json")
    received = json.loads(result.stdout)
    assert result.exit_code == 1
    assert received["ok"] is False
    assert received["counts"]["route"] == 3
    [problem] = received["problems"]
    assert problem.keys() == {"file", "line", "column", "path", "what", "severity", "code"}
    assert (problem["file"], problem["line"], problem["severity"]) == (str(config), 13, "error")


def test_no_import(config: Path) -> None:
    config.write_text(CONFIG.replace("[commanded_flows]", "[missing_flows]"))
    assert check(config).exit_code == 1
    result = check(config, "--no-import")
    assert (result.exit_code, result.stdout) == (0, "ok: 2 sources, 3 routes\n")


def test_print_tells_values_and_origins_and_no_secrets(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_TOKEN", "hush-hush")
    overlay = config.with_name("prod.yaml")
    overlay.write_text("engine: {type: scheduler, endpoint: 'http://hub:8080', token: '${HUB_TOKEN}'}\n")
    result = check(config, "--overlay", overlay, "--print")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "hush-hush" not in result.stdout
    assert f'endpoint: "http://hub:8080"  # {overlay}:1' in result.stdout
    assert "timeout: 10s  # default" in result.stdout
    assert yaml.safe_load(result.stdout)["sources"]["plain"]["codec"] == "json"


def test_print_of_a_broken_configuration(config: Path) -> None:
    config.write_text(CONFIG + "surprise: 1\n")
    result = check(config, "--print")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "surprise" in result.stderr


def test_schema() -> None:
    result = check("--schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["$schema"].startswith("https://json-schema.org/")


def test_nothing_to_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = check()
    assert result.exit_code == 1
    assert "bridge init" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 problem"


def test_options_that_exclude_each_other(config: Path) -> None:
    assert check(config, "--print", "--schema").exit_code == 2
