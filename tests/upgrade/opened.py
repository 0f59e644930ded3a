"""Copy of recorded state under today's daemon."""

from __future__ import annotations

import json
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from bridge.cli import root
from tests.kit.processes import DaemonProcess
from tests.kit.waiting import eventually_blocking

RECORDINGS = sorted(path.parent for path in Path(__file__).parent.glob("v*/state.tar.xz"))

FINISHED_WITHIN = 180.0
"""Seconds until everything must have finished; timers of a fresh recording are due after 150 s."""

CLOUDEVENT = {"content-type": "application/cloudevents+json"}

ANSWERS = {
    "payment.take": {"status": "taken"},
    "payment.void": {"status": "voided"},
    "goods.reserve": {"status": "reserved"},
    "parcel.book": {"status": "booked"},
    "question": {"status": "done"},
}
"""Answers of the project's service, by the type of the request."""


def in_current_form(config: str) -> str:
    """Return a recorded configuration with the keys of today's build."""
    return config.replace("on_missing: {park: ", "on_missing: {wait: ")


class Opened:
    """Files of a recording in a directory, and `bridge` commands on them.

    expected: `expected.json` of the recording. configs: configuration files of all commands.
    """

    def __init__(self, recording: Path, directory: Path) -> None:
        self.recording = recording
        self.directory = directory
        self.expected: dict[str, Any] = json.loads((recording / "expected.json").read_text())
        self.configs: tuple[str, ...] = ("bridge.yaml",)
        with tarfile.open(recording / "state.tar.xz") as archive:
            archive.extractall(directory, filter="data")
        config = directory / "bridge.yaml"
        config.write_text(in_current_form(config.read_text()))

    def bridge(self, *arguments: str, text: str | None = None, expect: int | None = 0) -> str:
        """Run a command in this process, which takes a tenth of the time of a new process."""
        files = [part for config in self.configs for part in ("-c", str(self.directory / config))]
        done = CliRunner().invoke(root, [*arguments, *files], input=text)
        assert expect is None or done.exit_code == expect, (arguments, done.output, done.stderr, done.exception)
        return done.stdout

    def serve(self) -> DaemonProcess:
        return DaemonProcess(self.directory, *(part for config in self.configs for part in ("-c", config)))

    def until(self, what: str, condition: Callable[[], Any]) -> Any:
        """Wait for a true result and return it; the condition is evaluated repeatedly."""
        log = self.directory / "daemon.log"
        return eventually_blocking(
            condition, lambda: f"{what}\n{log.read_text()[-4000:]}", within=FINISHED_WITHIN, poll=0.05
        )

    def open_gate(self) -> None:
        """Let the activities that wait for the file `open` finish."""
        (self.directory / "open").touch()

    def publish(self, lines: list[dict[str, Any]]) -> None:
        self.bridge("publish", "local/", "--jsonl", "-", text="".join(json.dumps(line) + "\n" for line in lines))

    def start(self, id_: str, **plan: Any) -> None:
        """Publish a message that starts an instance."""
        self.event("start", {"id": id_, **plan})

    def event(self, type_: str, data: dict[str, Any], topic: str = "work") -> None:
        body = {"specversion": "1.0", "id": f"today-{time.monotonic_ns()}", "source": "/today", "type": type_}
        self.publish([{"body": body | {"data": data}, "key": data["id"], "topic": topic, "headers": CLOUDEVENT}])

    def topic(self, name: str) -> list[dict[str, Any]]:
        """Return the messages of a topic in the order of their partitions; empty when there is no such topic."""
        out = self.bridge("topic", "read", f"local/{name}", "--json", expect=None)
        return [json.loads(line) for line in out.splitlines()]

    def instances(self) -> dict[str, dict[str, Any]]:
        listed = json.loads(self.bridge("instances", "list", "--limit", "0", "--json"))
        return {each["instance_id"]: each for each in listed}

    def waiting(self) -> list[dict[str, Any]]:
        early = [{"kind": "instance", "key": None} | each for each in self.early()]
        quarantined = [{"kind": "key", "instance_id": None} | each for each in self.quarantined()]
        return sorted([*early, *quarantined], key=lambda each: str(each["since"]))

    def early(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.bridge("early", "list", "--json"))
        return found

    def quarantined(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.bridge("quarantine", "list", "--json"))
        return found

    def output(self, id_: str) -> Any:
        return json.loads(self.bridge("instances", "show", id_, "--json")).get("output")

    def answer(self) -> None:
        """Answer every request without an answer."""
        answered = {each["headers"]["correlation-id"] for each in self.topic("answers")}
        lines = []
        for asked in self.topic("service"):
            id_ = asked["headers"].get("correlation-id")
            if id_ is not None and id_ not in answered:
                type_ = asked["headers"].get("ce_type") or asked["body"]["type"]
                body = {"specversion": "1.0", "id": f"answer-{id_}", "source": "/service", "type": "answer"}
                lines.append({
                    "body": body | {"data": ANSWERS[type_]}, "key": id_, "topic": "answers",
                    "headers": CLOUDEVENT | {"correlation-id": id_},
                })  # fmt: skip
        if lines:
            self.publish(lines)
