"""`bridge publish`, and the messages that arrive on the local broker."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.cli import root
from bridge.config.source import load
from bridge.core.message import Message
from tests.app.project import write_project
from tests.app.test_publish import consume
from tests.kit.forkserver import fork_server
from tests.kit.waiting import TIMEOUT

EVENT = json.dumps({"specversion": "1.0", "id": "1", "source": "/test", "type": "go", "data": {"id": "1"}})
Publish = Callable[..., Result]
PLACE = re.compile(r"[a-z]+/[01]@\d+$", re.MULTILINE)


def ids(output: str | bytes) -> str:
    """Output without the positions."""
    return PLACE.sub("@", output if isinstance(output, str) else output.decode())


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_project(tmp_path / "publishing")


@pytest.fixture
def publish(config: Path) -> Publish:
    def run(*arguments: str, input: str | bytes | None = None) -> Result:  # noqa: A002 -- click's name
        result = CliRunner().invoke(root, ["publish", *arguments, "-c", str(config)], input=input)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def arrived(config: Path, topic: str, count: int) -> list[Message]:
    return asyncio.run(consume(load([config], environ={}), topic, count))


def test_files_and_standard_input(publish: Publish, config: Path, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(EVENT)
    result = publish("orders", "--file", f"{tmp_path}/a.json", "--file", "-", "--key", "k", input=EVENT)
    assert (result.exit_code, ids(result.stdout), result.stderr) == (
        0,
        "1  @\n1  @\n2 messages published to local/orders\n",
        "",
    )
    assert [(message.body, message.key) for message in arrived(config, "orders", 2)] == [(EVENT.encode(), b"k")] * 2


def test_a_byte_order_mark_is_not_sent(publish: Publish, config: Path, tmp_path: Path) -> None:
    """Editors on Windows write a byte order mark; it would break JSON, and would turn a CloudEvent's data into a
    string."""
    mark = b"\xef\xbb\xbf"
    (tmp_path / "bom.json").write_bytes(mark + b'{"id": "1"}')
    (tmp_path / "event.json").write_bytes(mark + EVENT.encode())
    lines = mark + EVENT.encode() + b'\n{"body": {"id": "1"}}\n'
    assert publish("orders", "--key", "k", "--file", f"{tmp_path}/bom.json", "--type", "go").exit_code == 0
    assert publish("orders", "--key", "k", "--file", f"{tmp_path}/event.json").exit_code == 0
    (tmp_path / "bom.csv").write_bytes(mark + b"a;b")
    files = ("--file", f"{tmp_path}/bom.json", "--file", f"{tmp_path}/bom.csv")
    assert publish("local/files", "--key", "k", *files).exit_code == 0
    assert [message.body for message in arrived(config, "files", 2)] == [b'{"id": "1"}', mark + b"a;b"]
    assert publish("orders", "--key", "k", "--jsonl", "-", input=lines).exit_code == 0
    assert publish("local/orders", "--key", "k", "--raw", "--file", f"{tmp_path}/bom.json").exit_code == 0
    bodies = [message.body or b"" for message in arrived(config, "orders", 5)]
    assert json.loads(bodies[0])["data"] == {"id": "1"}
    expected = [EVENT.encode(), EVENT.encode(), b'{"id": "1"}', mark + b'{"id": "1"}']
    assert bodies[1:] == expected


def test_data_with_a_type_is_wrapped(publish: Publish, config: Path) -> None:
    options = ("--type", "go", "--id", "7", "--key", "k", "--header", "a=b=c", "--data", '{"id": "1"}')
    assert publish("orders", *options).exit_code == 0
    [message] = arrived(config, "orders", 1)
    event = json.loads(message.body or b"")
    assert (event["type"], event["id"], event["data"]) == ("go", "7", {"id": "1"})
    assert (message.key, message.headers[0]) == (b"k", ("a", b"b=c"))


def test_the_id_of_each_message_is_printed(publish: Publish, config: Path) -> None:
    made = publish("orders", "--type", "go", "--key", "k", "--data", "{}")
    line, summary = made.stdout.splitlines()
    assert summary == "1 message published to local/orders"
    [message] = arrived(config, "orders", 1)
    id_, place = line.split()
    assert id_ == json.loads(message.body or b"")["id"]
    assert PLACE.fullmatch(place)
    binary = '{"body": 1, "headers": {"ce_id": "b-1"}, "topic": "x"}\n{"body": 2, "topic": "y"}\n'
    for form in (("-o", "json"), ("--json",)):
        result = publish("local/", "--jsonl", "-", *form, input=binary)
        printed = [json.loads(line) for line in result.stdout.splitlines()]
        for topic, each in zip("xy", printed, strict=True):
            assert PLACE.fullmatch(each.pop("position"))[0].startswith(topic)
        assert printed == [{"id": "b-1", "destination": "local/x"}, {"id": None, "destination": "local/y"}]


def test_the_position_is_where_the_message_lies(publish: Publish, config: Path) -> None:
    text = "".join(json.dumps({"body": {"n": n}, "key": f"k{n % 5}"}) + "\n" for n in range(50))
    result = publish("local/many", "--jsonl", "-", "-o", "json", input=text)
    places = [json.loads(line)["position"] for line in result.stdout.splitlines()]
    read = CliRunner().invoke(root, ["topic", "read", "local/many", "--json", "-c", str(config)])
    found = {}
    for each in map(json.loads, read.stdout.splitlines()):
        found[f"{each['topic']}/{each['partition']}@{each['offset']}"] = each["body"]["n"]
    assert [found[place] for place in places] == list(range(50))


def test_any_topic_of_a_broker(publish: Publish, config: Path) -> None:
    assert publish("local/anywhere", "--data", "not json").exit_code == 0
    assert [message.body for message in arrived(config, "anywhere", 1)] == [b"not json"]


def test_json_lines(publish: Publish, config: Path) -> None:
    text = '{"body": {"n": 1}, "key": "k", "headers": {"a": "b"}}\n' + EVENT + '\n{"body": "{broken", "key": "k"}\n'
    result = publish("orders", "--jsonl", "-", input=text)
    assert (result.exit_code, ids(result.stdout)) == (0, "@\n1  @\n@\n3 messages published to local/orders\n")
    messages = arrived(config, "orders", 3)
    assert {message.body for message in messages} == {b'{"n": 1}', EVENT.encode(), b"{broken"}


def test_json_lines_on_standard_input(publish: Publish, config: Path) -> None:
    result = publish("orders", input=f"{EVENT}\n{EVENT}\n")
    assert (result.exit_code, ids(result.stdout)) == (0, "1  @\n1  @\n2 messages published to local/orders\n")
    assert [message.body for message in arrived(config, "orders", 2)] == [EVENT.encode()] * 2


def test_json_lines_name_their_topics(publish: Publish, config: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"topic": topic, "body": number}) for number, topic in enumerate("aab")]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    result = publish("local/", "--jsonl", f"{tmp_path}/lines.jsonl")
    assert (result.exit_code, ids(result.stdout)) == (0, "@\n@\n@\n3 messages published to local/\n")
    assert len(arrived(config, "a", 2)) == 2
    assert len(arrived(config, "b", 1)) == 1


def test_a_bad_line(publish: Publish, config: Path) -> None:
    result = publish("orders", "--jsonl", "-", input='{"body": 1}\n{"body": 2}\n{"boddy": 3}\n{"body": 4}\n')
    assert (result.exit_code, ids(result.stdout)) == (1, "@\n@\n")
    first, second = result.stderr.splitlines()
    assert first.startswith("error: stdin:3: ")
    assert second == "2 messages published before that"
    assert len(arrived(config, "orders", 2)) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("orders",), 2, "use one of --file, --data and --jsonl"),
        (("orders", "--data", "x", "--jsonl", "-"), 2, "use one of --file, --data and --jsonl"),
        (("orders", "--file", "-", "--file", "-"), 2, "standard input can be read only once"),
        (("orders", "--jsonl", "-", "--type", "t"), 2, "lines of --jsonl are sent unchanged"),
        (("orders", "--data", "x", "--raw", "--type", "t"), 2, "--raw sends the data unchanged"),
        (("orders", "--file", "a", "--file", "b", "--type", "t", "--id", "1"), 2, "ids must differ"),
        (("orders", "--data", "x", "--id", "1"), 2, "--id needs --type"),
        (("order", "--data", "x"), 2, "did you mean 'orders'?"),
        (("local/", "--data", "x"), 2, "add the topic"),
        (("orders", "--data", "{}"), 1, "wrap it with --type"),
        (("plain", "--data", "{}", "--type", "t"), 1, "this source reads json"),
        (("orders", "--file", "/nowhere.json"), 1, "/nowhere.json"),
    ],
)
def test_mistakes(publish: Publish, arguments: tuple[str, ...], code: int, said: str) -> None:
    result = publish(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith("error: ")
    assert said in result.stderr


def test_a_broker_that_cannot_be_reached(publish: Publish, config: Path) -> None:
    (config.parent / ".bridge").write_text("in the way")
    result = publish("plain", "--data", "{}")
    assert result.exit_code == 3
    assert result.stderr.startswith("error: ")


def test_another_process_and_a_live_pipe(config: Path) -> None:
    """Lines in a pipe are published while the pipe is still open."""
    command = [str(fork_server().command() / "bridge"), "publish", "plain", "--jsonl", "-", "-c", str(config)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ)
    assert process.stdin is not None
    process.stdin.write(b'{"body": 1}\n')
    process.stdin.flush()
    assert len(arrived(config, "plain", 1)) == 1
    assert process.poll() is None
    output, _ = process.communicate(b'{"body": 2}', timeout=TIMEOUT)
    assert (process.returncode, ids(output)) == (0, "@\n@\n2 messages published to local/plain\n")


def test_ctrl_c_ends_the_wait_for_more(config: Path) -> None:
    command = [str(fork_server().command() / "bridge"), "publish", "plain", "--jsonl", "-", "-c", str(config)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b'{"body": 1}\n')
    process.stdin.flush()
    assert len(arrived(config, "plain", 1)) == 1
    process.send_signal(signal.SIGINT)
    process.wait(TIMEOUT)  # with standard input open: its end would also end the wait
    _, errors = process.communicate()
    assert (process.returncode, errors.lstrip()) == (130, b"error: interrupted\n")
