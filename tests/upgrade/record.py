"""Record the state of a build for the tests of later builds.

Run the program with the interpreter of the recorded build, in any directory:

    git worktree add --detach /tmp/build COMMIT        # with a .venv of its own, see `make`
    /tmp/build/.venv/bin/python tests/upgrade/record.py tests/upgrade/v2_COMMIT

The program runs `bridge serve` on a copy of `project/`. It brings instances, messages, timers, locks and sagas to every
point at which they can stop, kills the daemon with SIGKILL, and packs its files unchanged. A recording is never
replaced: a changed format gets another recording.

state.tar.xz     configuration, workflows, engine file and local log, write-ahead logs included
finish.jsonl     messages that let everything finish
expected.json    ends of all instances, dead letters, waiting messages, end offsets of the topics
kafka.json       offsets and metadata that the build committed to a Kafka group, and the completed records
letters.json     messages as entities keep them while they wait, and the headers of their dead letters
servicebus.json  reasons and descriptions of dead letters on Service Bus, with the messages that they belong to
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bridge

ROOT = Path(bridge.__file__).parents[1]
PROJECT = Path(__file__).parent / "project"
LATER = 150.0
"""Seconds until the short timers of the project are due: longer than a recording takes."""

FAR = 36_000 * 86_400
"""Seconds of timers that never end within a test."""

COMPLETED = "COMPLETED"
CLOUDEVENT = "application/cloudevents+json"


class Recorder:
    """Daemon of the build on a copy of the project, and messages for it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.daemon: subprocess.Popen[bytes] | None = None
        self.expected: dict[str, Any] = {}
        self.finish: list[dict[str, Any]] = []
        self._pending: list[dict[str, Any]] = []
        self._answered: set[str] = set()
        self._ids = 0

    def bridge(self, *arguments: str, text: str | None = None) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "bridge", *arguments],
            cwd=self.directory, input=text, text=True, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"bridge {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def waiting(self) -> list[dict[str, Any]]:
        early = [
            {"kind": "instance", "key": None} | each for each in json.loads(self.bridge("early", "list", "--json"))
        ]
        quarantined = json.loads(self.bridge("quarantine", "list", "--json"))
        found = [*early, *({"kind": "key", "instance_id": None} | each for each in quarantined)]
        return sorted(found, key=lambda each: str(each["since"]))

    def start(self) -> None:
        ready = self.directory / "ready.json"
        with (self.directory / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-m", "bridge", "serve", "--ready-file", str(ready)],
                cwd=self.directory, stdout=log, stderr=log,
            )  # fmt: skip
        self.until("the daemon is ready", ready.exists)

    def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()

    def until(self, what: str, condition: Callable[[], Any]) -> None:
        end = time.monotonic() + 60
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"never: {what}\n{(self.directory / 'daemon.log').read_text()[-3000:]}")
            time.sleep(0.1)

    def message(self, type_: str, data: Any, topic: str = "work", key: str | None = None, **headers: str) -> Any:
        """Create a line for `bridge publish` with a CloudEvent; ids count up."""
        self._ids += 1
        event = {"specversion": "1.0", "id": f"m-{self._ids}", "source": "/recorder", "type": type_, "data": data}
        given = {"content-type": CLOUDEVENT, **headers}
        return {"body": event, "key": key or (data or {}).get("id") or type_, "topic": topic, "headers": given}

    def send(self, line: dict[str, Any]) -> dict[str, Any]:
        self._pending.append(line)
        return line

    def flush(self) -> None:
        lines, self._pending = self._pending, []
        self.bridge("publish", "local/", "--jsonl", "-", text="".join(json.dumps(line) + "\n" for line in lines))

    def begin(self, id_: str, flow: str, output: Any, status: str = COMPLETED, **plan: Any) -> dict[str, Any]:
        """Start an instance and record its expected end; a dict `output` of a saga is a part of the real one."""
        self.expects(id_, output, status)
        return self.send(self.message("start", {"id": id_, "flow": flow, **plan}))

    def expects(self, id_: str, output: Any, status: str = COMPLETED) -> None:
        self.expected[id_] = {"status": status, "output": output}

    def item(self, id_: str, data: Any, name: str = "item", topic: str = "work") -> dict[str, Any]:
        return self.message("item", {"id": id_, "name": name, "data": data}, topic)

    def topic(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.bridge("topic", "read", f"local/{name}", "--json").splitlines()]

    def answer(self, wanted: Callable[[str, str], Any]) -> None:
        """Answer requests as the service would.

        wanted: the data by type and requesting instance; None for no answer.
        """
        for asked in self.topic("service"):
            id_ = asked["headers"].get("correlation-id")
            if id_ is None or id_ in self._answered:
                continue
            data = wanted(type_of(asked), requester(id_))
            if data is not None:
                self._answered.add(id_)
                self.send(self.message("answer", data, "answers", id_, **{"correlation-id": id_}))
        if self._pending:
            self.flush()

    def instances(self) -> dict[str, dict[str, Any]]:
        listed = json.loads(self.bridge("instances", "list", "--limit", "0", "--json"))
        return {each["instance_id"]: each for each in listed}

    def effects(self) -> list[tuple[str, str]]:
        path = self.directory / "effects.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(each["what"], each["step"]) for each in map(json.loads, lines)]


TAKEN, RESERVED = {"status": "taken"}, {"status": "reserved"}
ANSWERS: dict[tuple[str, str], Any] = {
    **{("payment.take", f"trip-{name}"): TAKEN for name in ("papers", "parcel", "undoing", "voiding", "done")},
    **{("goods.reserve", f"buy-{name}"): RESERVED for name in ("half", "retry", "parcel")},
    ("payment.take", "buy-parcel"): TAKEN,
    ("payment.take", "buy-retry"): {"status": "try_again"},
    ("payment.void", "trip-undoing"): {"status": "voided"},
    ("goods.reserve", "buy-refused"): {"status": "sold_out"},
}
"""Answers of the service before the daemon is killed, by type of the request and instance."""

OPEN = {
    ("payment.void", "trip-voiding"), ("question", "asks-1"), ("parcel.book", "buy-parcel"),
    ("payment.take", "trip-payment"), ("goods.reserve", "buy-first"), ("payment.take", "buy-half"),
}  # fmt: skip
"""Requests that must have been sent and stay unanswered before the daemon is killed; there are others."""


def requester(correlation_id: str) -> str:
    """Instance that waits for the answer. A signature may follow its id."""
    return correlation_id[37:].partition(";")[0]


def type_of(line: dict[str, Any]) -> str:
    """Return the event type of a line of `bridge topic read --json`."""
    found: str = line["headers"].get("ce_type") or line["body"]["type"]
    return found


def record(it: Recorder) -> dict[str, Any]:
    """Bring every instance and message to its stopping point. Returns expected.json."""
    begin, item, finish = it.begin, it.item, it.finish

    # Plain instances
    begin("works-held", "works", "done", hold=True)
    begin("retries-1", "retries", "done")
    begin("fans-1", "fans", [0, 1, 2, 3])
    begin("rings-soon", "rings", "rang", seconds=LATER)
    begin("rings-far", "rings", "at last", seconds=FAR)
    finish.append(item("rings-far", "at last"))
    begin("collects-half", "collects", [0, 1, 2, 3], count=4)
    begin("buffers-1", "buffers", ["a", "b"])
    it.send(item("buffers-1", "b", "second"))
    finish.append(item("buffers-1", "a", "first"))
    begin("calls-1", "calls", "of the child")
    it.expects("calls-1-child", "of the child")
    begin("generations-1", "generations", [0, 1, 2, 3])
    for id_ in ("collects-half", "generations-1"):
        seen = [it.send(item(id_, number)) for number in (0, 1)]
        finish += [*seen, *(item(id_, number) for number in (2, 3))]
    begin("locks-1", "locks", 1)
    begin("asks-1", "asks", {"status": "done"})
    begin("suspended-1", "collects", [0, 1], count=2)
    it.send(item("suspended-1", 0))
    received = it.send(it.message("start-or-tell", {"id": "tell-1", "flow": "collects", "count": 1}))
    more = it.message("start-or-tell", {"id": "tell-1", "more": True})
    it.expects("tell-1", [more["body"]["data"]])
    finish += [received, more]
    it.expects("delayed-1", "done")
    it.send(it.message("start-later", {"id": "delayed-1", "flow": "works"}))
    done = begin("done-1", "works", "done")
    finish.append(done)
    begin("failed-1", "works", None, "FAILED", fail=True)
    begin("terminated-1", "rings", None, "TERMINATED", seconds=FAR)
    it.send(it.message("terminate", {"id": "terminated-1"}))
    counted = it.send(it.message("count", {"key": "a", "amount": 5}))
    finish.append(counted)
    it.send(it.message("count-later", {"key": "a", "amount": 7}))

    # Sagas with the workflow kit
    completed, compensated = {"status": "completed", "result": "arrived"}, {"status": "compensated"}
    begin("trip-before", "trip", completed, waits=None)
    finish.append(item("trip-before", "go"))
    for step in ("stock", "hotel", "papers", "parcel"):
        begin(f"trip-{step}", "trip", completed, hold=step)
    begin("trip-payment", "trip", completed)
    begin("trip-retry", "trip", completed, flaky="stock")
    begin("trip-timeout", "trip", {**compensated, "reason": "timeout"}, waits_between=LATER)
    begin("trip-undoing", "trip", compensated, fail="papers", hold_undo="flight")
    begin("trip-voiding", "trip", compensated, fail="papers")
    begin("trip-cancelling", "trip", {**compensated, "reason": "cancelled"}, hold="stock")
    begin("trip-done", "trip", completed)

    # Sagas of the configuration
    for id_ in ("buy-first", "buy-half", "buy-retry", "buy-parcel", "buy-refused"):
        it.expects(id_, {"status": "completed", "result": {"parcel": "booked"}})
        it.send(it.message("buy", {"id": id_}))
    it.expects("buy-refused", compensated)

    # Waiting messages
    it.expects("early-1", [0, 1, 2])
    for number in (0, 1):
        it.send(item("early-1", number))
    it.expects("early-cancel", {**compensated, "reason": "cancelled"})
    it.send(it.message("cancel", {"id": "early-cancel", "reason": "too dear"}))
    it.send(it.message("brief", {"id": "brief-1", "flow": "collects"}))
    finish += [
        it.message("start", {"id": "early-1", "flow": "collects", "count": 3}), item("early-1", 2),
        it.message("start", {"id": "early-cancel", "flow": "trip", "waits": None}),
    ]  # fmt: skip
    it.expects("held-1", [0, 1, 2, 3])
    for number in (0, 1, 2):
        it.send(item("held-1", number, topic="keyed"))
    it.send({"body": "no event", "key": "held-2", "topic": "keyed", "headers": {"content-type": CLOUDEVENT}})
    it.send(item("held-2", "behind it", topic="keyed"))
    finish += [it.message("start", {"id": "held-1", "flow": "collects", "count": 4}), item("held-1", 3, topic="keyed")]

    # One message that is retried, and completed messages of the same partitions
    it.expects("slow-0", ["late"])
    it.send(item("slow-0", "late", topic="slow"))
    for number in range(1, 21):
        it.expects(f"slow-{number}", "done")
        it.send(it.message("start", {"id": f"slow-{number}", "flow": "works"}, "slow"))
    finish.append(it.message("start", {"id": "slow-0", "flow": "collects", "count": 1}))

    # Dead letters
    it.send(it.message("unheard-of", {"id": "later-1", "flow": "works"}))
    it.send({"body": "{", "key": "bad", "topic": "work", "headers": {"content-type": CLOUDEVENT}})
    it.send({"body": None, "key": "tombstone", "topic": "work"})
    it.send(it.message("halves", {"id": "halves-1", "amount": 3}))
    it.flush()

    it.until("locks-1 has its lock", lambda: it.instances().get("locks-1", {}).get("custom_status") == "locked")
    begin("locks-2", "locks", 2)
    finish += [item("locks-1", "go"), item("locks-2", "go")]
    it.until("suspended-1 has its item", lambda: it.instances()["suspended-1"]["custom_status"] == 1)
    it.send(it.message("suspend", {"id": "suspended-1"}))
    it.flush()
    it.until("suspended-1 is suspended", lambda: it.instances()["suspended-1"]["status"] == "SUSPENDED")
    it.send(item("suspended-1", 1))
    finish.append(it.message("resume", {"id": "suspended-1"}))
    it.send(it.message("cancel", {"id": "trip-cancelling", "reason": "too dear"}))
    it.flush()

    def everywhere() -> bool:
        it.answer(lambda type_, id_: ANSWERS.get((type_, id_)))
        effects, known = it.effects(), it.instances()
        statuses = {
            id_: each["custom_status"] or {} for id_, each in known.items() if id_.startswith(("trip-", "buy-"))
        }
        asked = {(type_of(each), requester(each["headers"].get("correlation-id", ""))) for each in it.topic("service")}
        return (
            effects.count(("do", "parcel")) == 2
            and effects.count(("undo", "flight")) == 1
            and known["done-1"]["status"] == known["trip-done"]["status"] == known["buy-refused"]["status"] == COMPLETED
            and known["failed-1"]["status"] == "FAILED"
            and known["terminated-1"]["status"] == "TERMINATED"
            and known["calls-1-child"]["status"] == "RUNNING"
            and known["generations-1"]["status"] == "RUNNING"
            and known["collects-half"]["custom_status"] == 2
            and all(known[f"slow-{number}"]["status"] == COMPLETED for number in range(1, 21))
            and statuses["trip-cancelling"]["status"] == "cancelling"
            and statuses["trip-timeout"]["steps"] == {"stock": "completed"}
            and statuses["buy-parcel"]["steps"]["parcel"] == statuses["buy-first"]["steps"]["goods"] == "running"
            and statuses["buy-half"]["steps"]["goods"] == "completed"
            and asked >= OPEN
            and len(it.waiting()) == 9
            and len(it.topic("work.dlq")) == 4
        )  # fmt: skip

    it.until("everything is at its point", everywhere)
    waiting = it.waiting()
    began = {id_: each for id_, each in it.instances().items() if not id_.startswith("@")}
    return {
        "instances": it.expected,
        "waiting": waiting,
        "running": sorted(id_ for id_, each in began.items() if each["status"] in ("RUNNING", "PENDING", "SUSPENDED")),
        "dead_letters": it.topic("work.dlq"),
        "steps": [json.loads(line) for line in (it.directory / "effects.jsonl").read_text().splitlines()],
    }


def ends(it: Recorder, topics: list[str]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for topic in topics:
        for line in it.topic(topic):
            partitions = found.setdefault(topic, {})
            number = str(line["partition"])
            partitions[number] = max(partitions.get(number, 0), line["offset"] + 1)
    return found


async def kafka() -> dict[str, Any]:
    """Return the commits of a group on the small Kafka server of the build's tests, some records completed out of
    order."""
    sys.path.insert(0, str(ROOT))
    from aiokafka import AIOKafkaConsumer, TopicPartition

    from bridge.brokers.base import SubscribeOptions
    from bridge.brokers.kafka import KafkaBroker
    from bridge.brokers.kafka.commits import decode_metadata, encode_metadata
    from bridge.config.model.brokers import KafkaBrokerConfig
    from bridge.core.message import Message
    from tests.kafka.server import ThreadedServer

    class Listener:
        async def assigned(self, partitions: Any) -> None: ...
        async def revoked(self, partitions: Any) -> None: ...

    server = ThreadedServer()
    config = KafkaBrokerConfig.model_validate(
        {
            "type": "kafka",
            "bootstrap_servers": server.bootstrap,
            "create_topics": True,
            "partitions": 1,
            "commit_interval": "50ms",
        }
    )
    broker = KafkaBroker("kafka", config, lambda field, value: Path(value))
    await broker.start()
    await broker.publish("orders", [Message(b"%d" % number, b"k") for number in range(200)])
    subscription = await broker.subscribe(SubscribeOptions(("orders",), "bridge"), Listener())
    deliveries: list[Any] = []
    while len(deliveries) < 200:
        deliveries += await subscription.receive(200)
    done = [*range(20), *(number for number in range(20, 190) if number % 7 and number % 11)]
    for number in done:
        await deliveries[number].complete()
    await subscription.flush()
    consumer = AIOKafkaConsumer(bootstrap_servers=server.bootstrap, group_id="bridge", enable_auto_commit=False)
    await consumer.start()
    committed = await consumer._coordinator.fetch_committed_offsets([TopicPartition("orders", 0)])
    await consumer.stop()
    [position] = committed.values()
    await subscription.close()
    await broker.stop()
    server.stop()
    shapes = {
        "none": (10, []),
        "one": (0, [3]),
        "run": (1_000_000, list(range(1_000_005, 1_000_900))),
        "scattered": (7, [7 + number * number for number in range(1, 300)]),
        "far": (0, [1, 1 << 19]),
        "past what fits": (0, [number for number in range(1, 200_000) if number * 2654435761 % 5 < 2]),
    }
    return {
        "records": 200,
        "done": done,
        "offset": position.offset,
        "metadata": position.metadata,
        "shapes": {
            name: {
                "base": base,
                "text": (text := encode_metadata(base, given)),
                "done": decode_metadata(base, text),
            }
            for name, (base, given) in shapes.items()
            if name != "past what fits"
        },
    }


def servicebus() -> list[dict[str, Any]]:
    """Return reasons and descriptions of dead letters as the build writes them on Service Bus."""
    from bridge.brokers.servicebus.dead_letters import describe
    from bridge.core.message import Message, Position
    from bridge.core.provenance import Cause

    position = Position("sb://shop", "orders", 0, 41)
    plain = Message(b'{"id": "o-1"}', b"k", (("type", b"start"),), 1_700_000_000.25, "broker-id", "application/json")
    causes = {
        "no route": Cause("no_route", "no rule matched", "NoRoute", "orders", config="0123", message_id="m-1"),
        "one executed": Cause(
            "instance_not_found", "order-1 is not known", "InstanceNotFound", "orders", "tell", ("start", "count"), 4,
            "0123", "m-2", deliveries=3,
        ),
        "other letters": Cause("invalid_payload", "zeile 1: „nein“", "DecodeError", "orders", message_id="ä/1"),
        "too many executed": Cause(
            "invalid_command", "too large", "InvalidCommand", "orders", "last", tuple(f"route-{n}" for n in range(900)),
        ),
        "no room": Cause("invalid_payload", "x" * 4080, "DecodeError", "orders"),
    }  # fmt: skip
    found = []
    for name, cause in causes.items():
        reason, description = describe(plain, position, cause)[0]
        found.append({"name": name, "reason": reason, "description": description, "executed": list(cause.executed),
                      "message_id": cause.message_id, "detail": cause.detail})  # fmt: skip
    return found


def dead_letters() -> list[dict[str, Any]]:
    """Return messages of all shapes as entities keep them, and the headers of their dead letters."""
    from bridge.core.message import Message, Position
    from bridge.core.provenance import dead_letter
    from bridge.core.stored_message import StoredMessage

    position = Position("cluster", "orders", 3, 1 << 33)
    shapes = {
        "text": Message(b'{"id": 1}', b"k", (("type", b"start"), ("type", b"again")), 1_700_000_000.25),
        "bytes": Message(b"\xff\x00", b"\xfe", (("raw", b"\x80"), ("empty", b""))),
        "tombstone": Message(None, b"k"),
        "of a queue": Message(b"", None, (), 1_700_000_000.0, "broker-id", "application/json"),
    }
    found = []
    for name, message in shapes.items():
        entry = StoredMessage(
            message, position, "local", "orders.dlq", "orders", "m-1", "0123", ("start", "count"), True
        )
        dead = dead_letter(message, position, entry.cause("parking_expired", "it never came", "Expired", "tell", 4))
        encoded = [[header, base64.b64encode(value or b"").decode()] for header, value in dead.headers]
        found.append({"name": name, "letter": entry.to_json(), "headers": encoded})
    return found


def main(target: Path) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    target.mkdir(parents=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="record-") as name:
        directory = Path(name)
        shutil.copytree(PROJECT, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        it = Recorder(directory)
        it.start()
        try:
            expected = record(it)
        finally:
            it.kill()
        if time.monotonic() - began > LATER - 10:
            raise SystemExit("too slow: timers that should be under way have fired")
        # Written while the daemon is down; today's daemon finds these messages
        it.begin("after-1", "works", "done")
        it.flush()
        topics = ["work", "answers", "keyed", "slow", "service", "results", "work.dlq"]
        expected |= {"commit": commit.strip(), "at": datetime.now(UTC).isoformat(), "ends": ends(it, topics)}
        shutil.rmtree(directory / "__pycache__", ignore_errors=True)
        with tarfile.open(target / "state.tar.xz", "w:xz") as archive:
            for path in sorted(directory.rglob("*")):
                if path.is_file() and path.name not in ("ready.json", "daemon.log"):
                    archive.add(path, str(path.relative_to(directory)))

    def write(name: str, value: Any) -> None:
        (target / name).write_text(json.dumps(value, ensure_ascii=False) + "\n")

    write("expected.json", expected)
    write("kafka.json", asyncio.run(kafka()))
    write("servicebus.json", servicebus())
    write("letters.json", dead_letters())
    (target / "finish.jsonl").write_text("".join(json.dumps(line) + "\n" for line in it.finish))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
