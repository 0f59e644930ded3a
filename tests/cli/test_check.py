"""`bridge check`: output and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from bridge.cli import root
from bridge.core.problems.codes import CODES
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
    assert result.stdout == "ok: 2 sources, 3 routes, 9 orchestrations, 2 activities, 2 entities\n"


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
    assert problem.keys() == {"file", "line", "column", "path", "what", "severity", "code", "offset"}
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


# -- codes and formats

DOUBTFUL = CONFIG.replace('"waits-{{ payload.id }}"', '"waits-{payload.id}"').replace("{type: go}", "{type: 'go,%*'}")


def test_every_line_has_its_code(config: Path) -> None:
    config.write_text(DOUBTFUL)
    first, second, _ = check(config).stdout.splitlines()
    assert first.startswith(f"{config}:21:19 R010 routes[2].match.type: warning: ")
    assert second.startswith(f"{config}:22:32 R004 routes[2].raise_event.instance_id: warning: ")


def test_a_json_problem_has_its_code(config: Path) -> None:
    config.write_text(DOUBTFUL)
    received = json.loads(check(config, "--format", "json").stdout)
    assert received == json.loads(check(config, "-o", "json").stdout)
    assert [problem["code"] for problem in received["problems"]] == ["R010", "R004"]


def test_sarif(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(DOUBTFUL.replace("payload.name != ''", "payload.name =! ''"))
    monkeypatch.chdir(config.parent)
    result = check("bridge.yaml", "--format", "sarif")
    assert result.exit_code == 1
    (run,) = json.loads(result.stdout)["runs"]
    assert run["tool"]["driver"]["name"] == "bridge check"
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == CODES.keys()
    assert [(each["ruleId"], each["level"]) for each in run["results"]] == [
        ("R001", "error"), ("R010", "warning"), ("R004", "warning"),
    ]  # fmt: skip
    for each in run["results"]:
        assert run["tool"]["driver"]["rules"][each["ruleIndex"]]["id"] == each["ruleId"]
        place = each["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "bridge.yaml"
        assert place["region"]["startLine"] > 1


def test_annotations_of_github(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(DOUBTFUL.replace("payload.name != ''", "payload.name =! ''"))
    monkeypatch.chdir(config.parent)
    first, second, _, last = check("bridge.yaml", "--format", "github").stdout.splitlines()
    assert first.startswith(
        "::error file=bridge.yaml,line=13,col=24,title=R001%3A an expression that does not compile::"
    )
    assert "%0A  payload.name =! ''%0A" in first  # the whole message is one line
    assert second.startswith("::warning file=bridge.yaml,line=21,col=19,title=R010%3A a wildcard in match::")
    assert "`go,%25*`" in second
    assert last == "1 problem, 2 warnings"


@pytest.mark.parametrize(
    ("when", "place"),
    [
        ("payload.name =! ''", (13, 24)),
        ("\"payload.name\\t=! ''\"", (13, 26)),
        ("'payload.name == ''x'' =! 1'", (13, 34)),
        ("|\n      payload.name\n      =! ''", (15, 7)),
        (">\n      payload.name\n      =! ''", (15, 7)),
        ("payload.name\n      =! ''", (14, 7)),
        ("payload.a == '$${HOME}' =! ''", (13, 11)),  # the value is shorter than its text
    ],
)
def test_code_hosts_get_the_place_inside_the_expression(config: Path, when: str, place: tuple[int, int]) -> None:
    text = config.read_text()
    assert "when: payload.name != ''" in text
    config.write_text(text.replace("when: payload.name != ''", f"when: {when}"))
    (found,) = json.loads(check(config, "--format", "sarif").stdout)["runs"][0]["results"]
    region = found["locations"][0]["physicalLocation"]["region"]
    assert (region["startLine"], region["startColumn"]) == place
    assert check(config).stdout.startswith(f"{config}:13:11 R001 ")


def test_code_hosts_get_the_place_inside_a_template(config: Path) -> None:
    text = config.read_text()
    line = next(line for line in text.splitlines() if '"waits-{{ payload.id }}"' in line)
    config.write_text(text.replace("waits-{{ payload.id }}", "waits-{{  payload.id = 1 }}"))
    (found,) = json.loads(check(config, "--format", "sarif").stdout)["runs"][0]["results"]
    region = found["locations"][0]["physicalLocation"]["region"]
    assert region["startColumn"] == line.index("payload.id") + 1 + len(" payload.id ")


def test_a_file_without_lines_in_every_format(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    assert check(missing).stdout.startswith(f"{missing} C001: does not exist")
    assert check(missing, "--format", "github").stdout.startswith(f"::error file={missing},title=C001%3A ")
    (found,) = json.loads(check(missing, "--format", "sarif").stdout)["runs"][0]["results"]
    assert "region" not in found["locations"][0]["physicalLocation"]


def test_codes() -> None:
    lines = check("--codes").stdout.splitlines()
    assert len(lines) == len(CODES) + 1
    assert lines[1].split(maxsplit=2) == ["C001", "error", "a file cannot be read"]
    codes = json.loads(check("--codes", "-o", "json").stdout)
    assert codes[0]["page"] == "docs/check.md#c001-a-file-cannot-be-read"


# -- fixes and samples


def test_fix_shows_and_makes_the_changes(config: Path) -> None:
    config.write_text(DOUBTFUL)
    shown = check(config, "--fix", "--dry-run")
    assert config.read_text() == DOUBTFUL
    assert '+    raise_event: {instance_id: "waits-{{ payload.id }}", name: go, data: payload}\n' in shown.stdout
    assert shown.stdout.endswith("; 2 warnings\n")
    made = check(config, "--fix")
    assert "+    raise_event: " in made.stdout
    assert made.stdout.endswith("; 1 warning\n")
    assert '"waits-{{ payload.id }}"' in config.read_text()
    again = check(config, "--fix")
    assert "+" not in again.stdout
    assert again.stdout.endswith("; 1 warning\n")


def test_fix_follows_up_on_what_comes_to_light(config: Path) -> None:
    config.write_text(
        DOUBTFUL.replace("payload.name != ''", "\"{{ payload.name != '' }}\"") + "  # bridge: ignore[R005] x\n"
    )
    result = check(config, "--fix")
    assert "payload.name != ''" in config.read_text()
    assert "bridge: ignore" not in config.read_text()
    assert [line.split()[1] for line in result.stdout.splitlines() if str(config) + ":" in line] == ["R010"]


def test_the_changes_do_not_mix_with_a_document(config: Path) -> None:
    config.write_text(DOUBTFUL)
    result = check(config, "--fix", "--json")
    assert json.loads(result.stdout)["problems"][0]["code"] == "R010"
    assert "+    raise_event: " in result.stderr


def test_a_file_that_cannot_be_written(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text(DOUBTFUL)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    result = check(config, "--fix")
    assert result.exit_code == 1
    assert f"Could not open file '{config}': Permission denied" in result.stderr
    assert config.read_text() == DOUBTFUL


def test_samples(config: Path) -> None:
    samples = config.parent / "samples"
    samples.mkdir()
    (samples / "plain.json").write_text('{"kind": "go", "id": "1"}')
    result = check(config, "--samples", samples)
    assert [line.split()[1:3] for line in result.stdout.splitlines()[:2]] == [
        ["R024", "routes[0]:"], ["R024", "routes[1]:"],
    ]  # fmt: skip
    assert "1 sample" in result.stdout.splitlines()[-1]
    assert check(config, "--samples", samples, "--strict").exit_code == 1
    for wrong in ("none", "bridge.yaml"):
        refused = check(config, "--samples", config.parent / wrong)
        assert refused.exit_code == 2
        assert refused.stderr.startswith("error: --samples: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--codes", "--schema"], ["--fix", "--print"], ["--dry-run"], ["--cost", "--format", "sarif"],
        ["--format", "xml"],
    ],
)  # fmt: skip
def test_options_that_do_not_fit(config: Path, arguments: list[str]) -> None:
    assert check(config, *arguments).exit_code == 2
