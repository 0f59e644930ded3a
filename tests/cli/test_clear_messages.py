"""Messages that tell a new user what to do next."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.cli import root
from bridge.config.source import load
from tests.app.project import CONFIG, EngineThread, write_project
from tests.app.test_publish import consume


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Project in the current directory."""
    directory = write_project(tmp_path / "shop").parent
    monkeypatch.chdir(directory)
    return directory


def run(*arguments: str, input: str | bytes | None = None) -> Result:  # noqa: A002 -- click's name
    result = CliRunner().invoke(root, list(arguments), input=input, prog_name="bridge")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def checked(text: str) -> str:
    Path("bridge.yaml").write_text(text)
    return run("check", "--no-import").stdout


# -- data


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("source", ["@ada.json", "@-"])
def test_route_reads_data_from_a_file(source: str) -> None:
    Path("ada.json").write_text('{"name": "ada"}')
    result = run("route", "orders", "--type", "greeting.asked", "--data", source, input='{"name": "ada"}')
    assert '"greet-ada"' in result.stdout


def test_publish_reads_data_from_a_file(project: Path) -> None:
    Path("one.json").write_text('{"kind": "file"}')
    assert run("publish", "plain", "--data", "@one.json").exit_code == 0
    assert run("publish", "plain", "--raw", "--data", "@@one.json").exit_code == 0
    loaded = load([project / "bridge.yaml"])
    bodies = [message.body for message in asyncio.run(consume(loaded, "plain", 2))]
    assert sorted(filter(None, bodies)) == [b"@one.json", b'{"kind": "file"}']


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("command", [["publish", "plain"], ["route", "plain"]])
def test_data_of_a_file_that_does_not_exist(command: list[str]) -> None:
    result = run(*command, "--data", "@none.json")
    assert result.exit_code == 2
    assert "none.json: No such file or directory; a text that begins with @ is written @@" in result.stderr


# -- messages that were read


@pytest.mark.usefixtures("project")
def test_route_takes_a_line_of_topic_read() -> None:
    assert (
        run("publish", "plain", "--key", "k", "--header", "a=b", "--data", '{"kind": "go", "id": "7"}').exit_code == 0
    )
    line = run("topic", "read", "plain", "--json").stdout
    result = run("route", "plain", "--json", input=line)
    answer = json.loads(result.stdout)
    assert (answer["outcome"], answer["routes"]) == ("executed", ["go"])
    assert (answer["envelope"]["key"], answer["envelope"]["headers"]) == ("k", {"a": "b"})
    several = run("route", "plain", input=line * 2)
    assert several.exit_code == 2
    assert "standard input holds 2 messages, and one is expected" in several.stderr
    wrapped = run("route", "plain", "--type", "x", input=line)
    assert "remove --type and --id" in wrapped.stderr


@pytest.mark.usefixtures("project")
def test_a_payload_that_looks_like_a_line_is_a_payload() -> None:
    body = {"kind": "go", "id": "7", "topic": "t", "offset": 1, "body": {}}
    answer = json.loads(run("route", "plain", "--json", input=json.dumps(body)).stdout)
    assert answer["envelope"]["data"] == body


@pytest.mark.usefixtures("project")
def test_one_message_on_the_standard_input_of_publish() -> None:
    result = run("publish", "plain", input='{\n  "kind": "go"\n}\n')
    assert result.exit_code == 1
    assert "each line of standard input is a message, and `--file -` reads one message from it" in result.stderr


LINES = '{"body": {"kind": "go", "id": "1"}, "key": "a"}\n{"body": {"kind": "go", "id": "2"}}\n'
PLAIN_LINES = '{"kind": "go", "id": "1"}\n\n{"kind": "go", "id": "2"}\n'


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("lines", [LINES, PLAIN_LINES])
def test_several_lines_where_one_message_is_expected(lines: str) -> None:
    Path("lines.jsonl").write_text(lines)
    published = run("publish", "plain", "--file", "lines.jsonl")
    assert published.exit_code == 1
    assert "lines.jsonl:2: another message begins; publish these 2 lines with `--jsonl lines.jsonl`" in published.stderr
    assert "0 messages published" in published.stderr
    assert "standard input:2: another" in run("publish", "plain", "--file", "-", input=lines).stderr
    assert "with `--jsonl FILE`" in run("publish", "plain", "--data", lines).stderr
    routed = run("route", "plain", input=lines)
    assert routed.exit_code == 2
    assert "standard input:2: another message begins; give one of the 2 lines, with `head -n 1`" in routed.stderr
    assert run("publish", "plain", "--raw", "--file", "lines.jsonl").exit_code == 0


@pytest.mark.usefixtures("project")
def test_one_line_of_publish_where_a_body_is_expected() -> None:
    line = LINES.splitlines()[0]
    assert "looks like a line of --jsonl" in run("publish", "plain", "--data", line).stderr
    assert "looks like a line of `bridge publish --jsonl`" in run("route", "plain", "--data", line).stderr
    for other in ('{"body": {"a": 1}}', '{"body": 1, "key": "a", "mine": 2}', '{"kind": "go", "id": "body"}', '"body"'):
        assert "looks like" not in run("route", "plain", "--data", other).stderr


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    "command",
    [
        ["test", "--record", "new.yaml"],
        ["check", "--samples", "one.jsonl"],
        ["diff", ".", ".", "--messages", "one.jsonl"],
    ],
)
def test_one_message_on_several_lines_where_lines_are_expected(command: list[str]) -> None:
    text = '{\n  "body": {"kind": "go"}\n}\n'
    Path("one.jsonl").write_text(text)
    result = run(*command, input=text)
    assert result.exit_code == 2
    assert ":1: the line is not valid JSON" in result.stderr
    assert "each line is one message, as of `bridge topic read --json`" in result.stderr


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("command", [["publish", "orders"], ["route", "orders"]])
def test_an_id_without_a_type(command: list[str]) -> None:
    assert "--id needs --type, which makes a CloudEvent" in run(*command, "--data", "{}", "--id", "5").stderr


# -- names


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("word", "meant"),
    [("strat", "serve"), ("start", "serve"), ("chekc", "check"), ("validate", "check"), ("ruote", "route")],
)
def test_a_mistyped_command(word: str, meant: str) -> None:
    assert f"there is no command '{word}'; did you mean '{meant}'?" in run(word).stderr


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        (["serve", "--port", "80"], "`ops.http.port`"),
        (["serve", "--brokers", "x"], "`brokers`"),
        (["publish", "orders", "--topics", "x", "--data", "{}"], "`sources.NAME.topics`"),
        (["serve", "--max-in-flight", "5"], "`sources.NAME.limits.max_in_flight`"),
    ],
)
def test_an_option_that_is_a_setting(arguments: list[str], setting: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert f"It is a setting of the configuration: {setting}" in result.stderr


@pytest.mark.usefixtures("project")
def test_an_option_that_is_nothing() -> None:
    assert "setting" not in run("serve", "--surprise").stderr


@pytest.mark.usefixtures("project")
def test_a_mistyped_topic() -> None:
    note = "note: no source or target has the topic ordesr; did you mean local/orders?"
    assert note in run("publish", "local/ordesr", "--raw", "--data", "x").stderr
    assert note in run("topic", "read", "local/ordesr").stderr
    for known in ("local/orders", "local/orders.dlq", "local/anything"):
        assert "note:" not in run("publish", known, "--raw", "--data", "x").stderr


@pytest.mark.usefixtures("project")
def test_the_start_of_an_orchestration_that_nothing_has() -> None:
    engine = EngineThread(Path.cwd())
    engine.start()
    try:
        unknown = run("instances", "start", "gret")
        assert unknown.exit_code == 0
        assert "warning: no module under `workflows` has an orchestration gret: did you mean greet?" in unknown.stderr
        known = run("instances", "start", "greet", "--input", '"ada"')
        assert (known.exit_code, known.stderr) == (0, "")
    finally:
        engine.stop()


# -- configurations


@pytest.mark.usefixtures("project")
def test_a_missing_overlay() -> None:
    result = run("check", "--overlay", "none.yaml")
    assert (
        "none.yaml C001: does not exist; name the file of the overlay, relative to the current directory"
        in result.stdout
    )
    assert "bridge init" not in result.stdout


@pytest.mark.usefixtures("project")
def test_an_overlay_beside_the_configuration() -> None:
    Path("prod.yaml").write_text("engine: {type: embedded}\n")
    result = run("check", "-c", ".")
    assert "if prod.yaml is an overlay, move it to another directory and name it with --overlay" in result.stdout


@pytest.mark.usefixtures("project")
def test_a_missing_no_match() -> None:
    assert "the key `no_match` is missing; write `dead_letter` or `ignore`" in checked(
        CONFIG.replace(", no_match: ignore", "")
    )


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("{id: payload.id, sum: payload.total}", "\"{'id': payload.id, 'sum': payload.total}\""),
        ("{id: {a: 1}}", "\"{'id': payload.id}\""),
        ("[payload.id]", '"[payload.id]"'),
    ],
)
def test_a_mapping_as_input(value: str, shown: str) -> None:
    output = checked(CONFIG.replace("input: payload.name", f"input: {value}"))
    assert f"it is CEL in quotes, like `{shown}`" in output


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "objekt"}, 'at /type: "objekt" is not a type; did you mean "object"?'),
        ({"properties": {"n": {"type": "int"}}}, 'at /properties/n/type: "int" is not a type; did you mean "integer"?'),
        ({"type": ["string", "zzz"]}, '"zzz" is not a type; write one of array, boolean'),
        ({"properties": {"n": {"minLength": "3"}}}, 'at /properties/n/minLength: "3" is not of type "integer"'),
    ],
)
def test_a_wrong_word_in_a_schema(schema: object, text: str) -> None:
    Path("order.json").write_text(json.dumps(schema))
    assert text in checked(CONFIG.replace("topics: [orders],", "topics: [orders], schema: order.json,"))


@pytest.mark.usefixtures("project")
def test_commands_below_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    below = Path("deep/er")
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    Path("ada.json").write_text('{"name": "ada"}')
    assert run("check").stdout.startswith("ok: 2 sources")
    assert '"greet-ada"' in run("route", "orders", "--type", "greeting.asked", "--data", "@ada.json").stdout


def test_a_project_of_another_user_is_not_taken(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "below").mkdir()
    if os.geteuid() == 0:
        os.chown(project / "bridge.yaml", 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.chdir(project / "below")
    assert "found neither bridge.yaml" in run("check").stdout
