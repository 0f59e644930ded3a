"""`bridge topic read`, over the local broker, Kafka and Service Bus."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.cli import root, topic
from bridge.core.message import Message, Position, Unreadable
from tests.app.project import write_project
from tests.brokers.kafka.harness import unique
from tests.cli.conftest import Bridge
from tests.kafka.batches import batch, record
from tests.kafka.produce import produce
from tests.kafka.server import ThreadedServer
from tests.kit.forkserver import fork_server
from tests.kit.waiting import TIMEOUT
from tests.servicebus.process import ServerProcess
from tests.servicebus.server import QueueConfig, SubscriptionConfig, TopicConfig

LINES = [
    {"body": {"id": "1", "total": 1.5}, "key": "k", "headers": {"a": "b"}},
    {"body": "no\tjson\nat all", "key": "k"},
    {"body": None, "key": "k"},
]


def on(config: Path) -> Bridge:
    def run(*arguments: str, input: str | bytes | None = None) -> Result:  # noqa: A002 -- click's name
        result = CliRunner().invoke(root, [*arguments, "-c", str(config)], input=input)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_project(tmp_path)


@pytest.fixture
def bridge(config: Path) -> Bridge:
    return on(config)


def with_broker(directory: Path, broker: str) -> Bridge:
    config = directory / "bridge.yaml"
    config.write_text(f"engine: {{type: embedded}}\nbrokers: {{it: {broker}}}\n")
    return on(config)


def put(bridge: Bridge, *lines: object, place: str = "local/things") -> None:
    assert bridge("publish", place, "--jsonl", "-", input="\n".join(map(json.dumps, lines))).exit_code == 0


def objects(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_broker_that_publishes_only_is_named(tmp_path: Path) -> None:
    result = with_broker(tmp_path, "{type: webhook, url: 'https://hook.test'}")("topic", "read", "it/orders")
    assert (result.exit_code, result.stderr) == (
        1,
        "error: nothing can be read from the broker 'it': it publishes only\n",
    )


def test_messages_for_people(bridge: Bridge) -> None:
    put(bridge, *LINES)
    result = bridge("topic", "read", "local/things")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line.split("  ")[0][-2:] for line in lines if "  key k" in line] == ["@0", "@1", "@2"]
    assert lines[1:3] == ["  a: b", '  {"id": "1", "total": 1.5}']
    assert lines[4:6] == [r"  no\tjson", "  at all"]
    assert lines[7] == "  (no body)"


def copied(bridge: Bridge, place: str, copies: str) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Copy a topic; return the messages of both topics without the topic name."""
    text = bridge("topic", "read", place, "--json").stdout
    result = bridge("publish", copies, input=text)
    assert (result.exit_code, result.stderr) == (0, "")
    received = objects(text), objects(bridge("topic", "read", copies, "--json").stdout)
    for one in (line for lines in received for line in lines):
        del one["topic"]
    return received


def test_json_lines_can_be_published_unaltered(bridge: Bridge) -> None:
    put(bridge, *LINES)
    text = bridge("topic", "read", "local/things", "--json").stdout
    received = objects(text)
    assert [list(one) for one in received] == [
        ["topic", "partition", "offset", "timestamp", "key", "headers", "body"]
    ] * 3
    assert [one["body"] for one in received] == [line["body"] for line in LINES]  # type: ignore[index]  # wider than its annotation, on purpose
    one, other = copied(bridge, "local/things", "local/copies")
    assert one == other
    assert bridge("publish", "local/", input=text).exit_code == 0
    assert len(objects(bridge("topic", "read", "local/things", "--json").stdout)) == 6, "each line names its topic"


def test_what_was_read_is_what_lies_there(bridge: Bridge, tmp_path: Path) -> None:
    for body in ('{"id": 1, "a": 1e400}', '{"amount": 12345678901234567890.123456789, "b": 1.10, "b": 2}'):
        assert bridge("publish", "local/things", "--raw", "--key", "k", "--data", body).exit_code == 0
        assert body in bridge("topic", "read", "local/things").stdout
    text = bridge("topic", "read", "local/things", "--json").stdout
    first, second = text.splitlines()
    assert '"body": "{\\"id\\": 1, \\"a\\": 1e400}"}' in first
    assert '"body": {"amount": 12345678901234567890.123456789, "b": 1.10, "b": 2}}' in second


def test_messages_that_cannot_be_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    damaged = Message(b"\xff", b"k", unreadable=Unreadable("crc", "the checksum is\x1b wrong", last=9), timestamp=1.0)
    for show in (topic._print, topic._line):
        show(Position("c", "things", 0, 7), damaged)
    head, body, line = capsys.readouterr().out.splitlines()
    assert head == "things/0@7  1970-01-01T00:00:01.000Z  key k"
    assert body == r"  (unreadable, up to offset 9: crc: the checksum is\x1b wrong; --json has the raw bytes)"
    assert json.loads(line)["unreadable"]["fault"] == "crc"


@pytest.mark.parametrize(
    ("timestamp", "shown"),
    [(1706700000000000, "1706700000000000ms"), ("0001-01-01T00:00:00.001Z", "0001-01-01T00:00:00.001Z")],
)
def test_times_far_away(bridge: Bridge, timestamp: object, shown: str) -> None:
    put(bridge, {"body": "far", "key": "k", "timestamp": timestamp}, {"body": "behind", "key": "k"})
    first, _, second, _ = bridge("topic", "read", "local/things").stdout.splitlines()
    assert (f"@0  {shown}  key k" in first, "@1  20" in second) == (True, True)
    received = objects(bridge("topic", "read", "local/things", "--json").stdout)
    assert (received[0]["timestamp"], received[1]["body"]) == (timestamp, "behind")


def test_output_that_is_not_utf_8(bridge: Bridge, config: Path) -> None:
    line = json.dumps({"body": {"name": "ключ"}, "headers": {"a": "\u009b"}}, ensure_ascii=False)
    assert bridge("publish", "local/things", input=line).exit_code == 0
    command = f"{sys.executable} -m bridge topic read local/things --json -c {config}"
    for encoding in ("ascii", "utf-8"):
        run = subprocess.run(
            command.split(), capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, check=True
        )
        assert b"\xc2\x9b" not in run.stdout
        assert run.stdout.isascii() == (encoding == "ascii")
        [received] = objects(run.stdout.decode())
        assert received["headers"] == {"a": "\u009b"}
        assert "ключ" in str(received["body"])


def test_bytes_that_are_no_text(bridge: Bridge, tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\x00\x1b[2J")
    assert bridge("publish", "local/things", "--raw", "--file", str(tmp_path / "bytes")).exit_code == 0
    [received] = objects(bridge("topic", "read", "local/things", "--json").stdout)
    assert (received["body_base64"], "body" in received) == ("/wAbWzJK", False)
    assert r"\xff\x00\x1b[2J" in bridge("topic", "read", "local/things").stdout


def test_a_part_of_a_topic(bridge: Bridge) -> None:
    put(bridge, *({"body": {"n": n}, "key": "k"} for n in range(10)))

    def numbers(*options: str) -> list[object]:
        return [one["body"]["n"] for one in objects(bridge("topic", "read", "local/things", "--json", *options).stdout)]  # type: ignore[index]

    [partition] = {one["partition"] for one in objects(bridge("topic", "read", "local/things", "--json").stdout)}
    assert numbers("--limit", "3") == [0, 1, 2]
    assert numbers("--from", "7") == [7, 8, 9]
    assert numbers("--from", "7", "--limit", "1", "--partition", str(partition)) == [7]
    assert numbers("--partition", str(1 - int(str(partition)))) == []


def test_the_name_of_a_source(bridge: Bridge) -> None:
    put(bridge, {"body": "x"}, place="local/plain")
    assert bridge("topic", "read", "plain").stdout.startswith("plain/")


def test_nothing_there(bridge: Bridge) -> None:
    put(bridge, {"body": "x"})
    result = bridge("topic", "read", "local/things", "--from", "5")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no messages\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("local/nowhere",), 1, "no topic nowhere"),
        (("local/things", "--partition", "7"), 1, "no partition 7; it has 2"),
        (("locl/things",), 2, "did you mean 'local'"),
        (("local/",), 2, "needs a topic, like local/TOPIC"),
        (("things",), 2, "there is no source 'things'"),
        (("local/things", "--from", "yesterday"), 2, "not one of earliest, latest or an offset"),
        (("local/things", "--from", "latest"), 2, "add --follow"),
    ],
)
def test_what_cannot_be_read(bridge: Bridge, arguments: tuple[str, ...], code: int, said: str) -> None:
    put(bridge, {"body": "x"})
    result = bridge("topic", "read", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr


def test_a_source_of_several_topics_names_them(bridge: Bridge, config: Path) -> None:
    config.write_text(config.read_text().replace("topics: [plain]", "topics: [plain, more]"))
    result = bridge("topic", "read", "plain")
    assert (result.exit_code, "local/plain, local/more" in result.stderr) == (2, True)


def test_what_comes_is_shown_at_once_until_ctrl_c(bridge: Bridge, config: Path) -> None:
    put(bridge, {"body": "first"})
    command = f"{fork_server().command()}/bridge topic read local/things --follow --json -c {config}"
    with subprocess.Popen(command.split(), stdout=subprocess.PIPE, text=True) as reading:
        assert reading.stdout is not None
        assert json.loads(reading.stdout.readline())["body"] == "first"
        put(bridge, {"body": "second"})
        assert json.loads(reading.stdout.readline())["body"] == "second"
        os.kill(reading.pid, signal.SIGINT)
        assert reading.wait(TIMEOUT) == 130


def test_kafka(tmp_path: Path) -> None:
    server = ThreadedServer()
    try:
        bridge = with_broker(tmp_path, f"{{type: kafka, bootstrap_servers: '{server.bootstrap}', create_topics: true}}")
        topic = unique("things")
        put(bridge, *LINES, place=f"it/{topic}")
        received = objects(bridge("topic", "read", f"it/{topic}", "--json").stdout)
        assert [one["body"] for one in received] == [line["body"] for line in LINES]  # type: ignore[index]  # wider than its annotation, on purpose
        one, other = copied(bridge, f"it/{topic}", f"it/{topic}-copies")
        assert one == other
        missing = bridge("topic", "read", "it/nowhere")
        assert (missing.exit_code, "no topic nowhere" in missing.stderr) == (1, True)
    finally:
        server.stop()
    assert bridge("topic", "read", f"it/{topic}").exit_code == 3


def test_records_that_no_client_can_read_are_shown_and_passed(tmp_path: Path) -> None:
    server = ThreadedServer()
    try:
        bridge = with_broker(tmp_path, f"{{type: kafka, bootstrap_servers: '{server.bootstrap}', create_topics: true}}")
        topic = unique("things")
        put(bridge, LINES[0], place=f"it/{topic}")
        bad = batch([record(0, b"raw \xff", b"k", [(b"caf\xe9", b"1"), (b"ok", b"2")])])
        asyncio.run(produce(server.bootstrap, topic, 0, bad, batch([record(0, b"after")])))
        received = objects(bridge("topic", "read", f"it/{topic}", "--json", "--partition", "0").stdout)
        [shown] = [one for one in received if "unreadable" in one]
        assert base64.b64decode(shown["raw_base64"]) == b"raw \xff"  # type: ignore[arg-type]  # wider than its annotation, on purpose
        assert shown["unreadable"]["fault"] == "header_name"  # type: ignore[index]  # wider than its annotation, on purpose
        assert received[-1]["body"] == "after"
        assert "the name of a header is not UTF-8" in bridge("topic", "read", f"it/{topic}").stdout
    finally:
        server.stop()


def test_service_bus(tmp_path: Path) -> None:
    topic = TopicConfig("news", (SubscriptionConfig("billing"),))
    with ServerProcess((QueueConfig("things"), QueueConfig("copies")), (topic,)) as server:
        bridge = with_broker(tmp_path, f"{{type: servicebus, connection_string: '{server.connection_string}'}}")
        put(bridge, *LINES[:2], place="it/things")
        put(bridge, {"body": "new"}, place="it/news")
        for _ in range(2):
            received = objects(bridge("topic", "read", "it/things", "--json").stdout)
            assert [(one["body"], one["offset"]) for one in received] == [(LINES[0]["body"], 1), (LINES[1]["body"], 2)]  # type: ignore[index]  # wider than its annotation, on purpose
        one, other = copied(bridge, "it/things", "it/copies")
        for line in (*one, *other):
            del line["timestamp"]  # set by the service
        assert one == other
        assert "  new\n" in bridge("topic", "read", "it/news/Subscriptions/billing").stdout
        assert bridge("topic", "read", "it/things/$DeadLetterQueue").stderr == "no messages\n"
        assert bridge("topic", "read", "it/nowhere").exit_code in (1, 3)
