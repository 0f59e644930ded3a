"""Times in the answers of the API, and in the JSON of commands, are RFC 3339 in UTC: no number is a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bridge.app.operations.table import OPERATIONS
from bridge.app.serve.control import operate
from bridge.config.source import Loaded, load
from tests.kit.processes import DaemonProcess, bridge, run_bridge

FLOWS = """
from durabletask import entities, task


def order(ctx: task.OrchestrationContext, _):
    return (yield ctx.wait_for_external_event("paid"))


class Counter(entities.DurableEntity):
    def add(self, number):
        self.set_state(self.get_state(int, 0) + number)
"""
CONFIG = """
engine: {type: embedded}
workflows: [times_flows]
brokers: {local: {type: local}}
sources:
  orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter, attributes: {type: "headers['kind']"}}
  held: {broker: local, topics: [held], codec: json, no_match: dead_letter, quarantine: {poll: 50ms}}
  slow: {broker: local, topics: [slow], codec: json, no_match: ignore, retry: {in_memory: 1h}}
routes:
  - {name: retried, from: slow, raise_event: {instance_id: "missing-{{ payload.id }}", name: paid}}
  - name: start
    from: orders
    match: {type: start}
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}
  - name: early
    from: orders
    match: {type: early}
    raise_event: {instance_id: "order-m{{ payload.id }}", name: paid, on_missing: {wait: 1h}}
  - name: poison
    from: held
    raise_event: {instance_id: "missing-{{ payload.id }}", name: paid, on_missing: dead_letter}
ops: {http: {port: 0}}
"""
WITHIN = range(10**9, 10**10), range(10**12, 10**13), range(10**15, 10**16), range(10**18, 10**19)
"""Seconds, milliseconds, microseconds and nanoseconds since the Unix epoch of this time."""
NO_TIMES = {"stamp", "state"}
"""Members whose numbers are no times: `stamp` numbers the moves of a partition; `state` is stored
by an entity."""
ELSEWHERE = {"canary.list", "canary.show", "config.diff"}
"""Operations on a candidate for the rules: `tests/cli/test_canary.py`."""
KNOWN: dict[str, Any] = {
    "instance_id": "order-1", "entity": "counter", "key": "k", "source": "orders", "message": "orders/3@1",
    "job": "job0", "id": "orders.dlq/3@0", "to": "end", "prefix": "order-", "seconds": 0, "trend": 60.0,
}  # fmt: skip
"""Parameters of all operations that have them."""
SPECIAL: dict[str, dict[str, Any]] = {
    "quarantine.list": {"source": "held"},
    "quarantine.match": {"source": "held", "action": "drop", "prefix": None},
    "early.match": {"action": "drop"},
    "instances.match": {"action": "terminate"},
    "messages.show": {"message": "waits"},
}
EMPTY = {"instances.cause", "instances.wait", "config.problems", "targets.list"}
"""Operations without an answer here."""
CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("sources.pause", {"source": "held"}),
    ("limits.set", {"route": "early", "rate": 1.0, "seconds": 9.0}),
    ("sources.seek", {"source": "orders", "positions": {"orders/3": 2}}),
    ("reload.all", {}),
    ("reload", {}),
)
LINES = (("audit", "--json"), ("topic", "read", "orders", "--json"))
"""Commands whose output is lines of JSON."""
COMMANDS = (
    ("status", "-o", "json"), ("instances", "list", "--json"), ("instances", "show", "order-1", "--history", "--json"),
    ("jobs", "list", "-o", "json"), ("jobs", "show", "job0", "-o", "json"), ("entities", "list", "--json"),
    ("early", "list", "--json"), ("quarantine", "list", "--json"), ("sources", "list", "--json"),
    ("sources", "lag", "-o", "json"), ("sources", "seek", "orders", "--to", "end", "--dry-run", "-o", "json"),
    ("limits", "list", "-o", "json"), ("dlq", "groups", "--json"), ("dlq", "list", "--state", "all", "--json"),
    ("dlq", "show", "orders.dlq/3@0", "--json"), ("dlq", "check", "--json"), ("audit", "--json"),
    ("keys", "list", "--json"), ("reload", "--dry-run", "-o", "json"),
    ("trace", "order-1", "-o", "json"), ("topic", "read", "orders", "--json"),
    ("instances", "terminate", "--prefix", "none", "--dry-run", "-o", "json"),
    ("dlq", "drop", "orders", "--reason", "x", "--dry-run", "--json"), ("doctor", "-o", "json"),
    ("check", "-o", "json"),
)  # fmt: skip


def numbers(found: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers of a JSON value that may be times, with the names of their members."""
    match found:
        case dict():
            for member, each in found.items():
                if member not in NO_TIMES:
                    yield from numbers(each, f"{name}.{member}")
        case list():
            for each in found:
                yield from numbers(each, name)
        case int() | float() if not isinstance(found, bool) and any(int(abs(found)) in each for each in WITHIN):
            yield name, found


def _ask(loaded: Loaded, name: str, **given: Any) -> Any:
    [found] = asyncio.run(operate(loaded, None, [(name, given)]))
    return found


def _fill(daemon: DaemonProcess, project: Path, ask: Callable[..., Any]) -> None:
    """Give each list of the daemon an entry."""
    for topic, kind, key in (
        ("orders", "start", "a"), ("orders", "early", "a"), ("orders", "none", "a"), ("held", "none", "b"),
    ):  # fmt: skip
        bridge("publish", topic, "--data", '{"id": 1}', "--key", key, "--header", f"kind={kind}", cwd=project)
    daemon.wait(lambda: daemon.settled() == 4, "all messages are settled")
    bridge("publish", "slow", "--data", '{"id": 5}', "--key", "waits", cwd=project)
    ask("keys.rotate")
    ask("entities.signal", entity="counter", key="k", operation="add", input=1)
    ask("limits.set", route="start", rate=100.0, seconds=60.0)
    ask("instances.suspend_by", prefix="order-", job="job0")
    ask("reload.all")
    ask("sources.pause", source="orders")
    ask("sources.seek", source="orders", positions={"orders/3": 1})
    daemon.wait(lambda: ask("messages.show", message="waits"), "a message in flight")
    daemon.wait(lambda: ask("jobs.show", job="job0")["ended"], "the end of the job")
    daemon.wait(lambda: "moved" in json.dumps(ask("sources.seek.show", source="orders")), "the move is applied")


def test_no_number_is_a_time(tmp_path: Path) -> None:
    (tmp_path / "times_flows.py").write_text(FLOWS)
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    loaded = load([tmp_path / "bridge.yaml"])
    with DaemonProcess(tmp_path) as daemon:
        ask = partial(_ask, loaded)
        _fill(daemon, tmp_path, ask)
        for operation in OPERATIONS:
            if operation.changes or operation.name in ELSEWHERE:
                continue
            fields = operation.parameters.model_fields
            given = {name: each for name, each in KNOWN.items() if name in fields} | SPECIAL.get(operation.name, {})
            given |= {"states": ()} if operation.name.startswith("dlq.") and "states" in fields else {}
            for more in ({}, {"cursor": "start"}) if "cursor" in fields else ({},):
                found = ask(operation.name, **given, **more)
                assert found or operation.name in EMPTY, operation.name
                assert not [*numbers(found)], operation.name
        for name, given in CHANGES:
            assert not [*numbers(ask(name, **given))], name
        for arguments in COMMANDS:
            done = run_bridge(*arguments, cwd=tmp_path)
            text = done.stdout.strip()
            documents = [json.loads(line) for line in text.splitlines()] if arguments in LINES else [json.loads(text)]
            assert documents, (arguments, done.stderr)
            assert not [*numbers(documents)], arguments
