"""Operations that explain: decisions, dead letters with their trend and dry run, versions of the configuration."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bridge.app import configurations
from bridge.app.composition import load_config
from bridge.app.dead_letters.reading import DeadLetterSelection, visit
from bridge.app.operations.table import BY_NAME
from bridge.brokers.base import ReadOptions
from bridge.brokers.local.broker import LocalBroker
from bridge.core.errors import InstanceNotFound, InvalidCommand
from bridge.ops.access import ANONYMOUS, Caller
from tests.kit.daemon import DaemonFixture, running

FLOWS = """
def order(ctx, order):
    return order
"""
CONFIG = """
vars: {limit: 10}
sources:
  orders:
    broker: local
    topics: [orders]
    codec: json
    no_match: dead_letter
    attributes: {type: "headers['type']"}
routes:
  - {name: large, from: orders, match: {type: created}, when: "payload.total > 100 && has(payload.id)",
     schedule: {orchestration: order, instance_id: "large-{{ payload.id }}"}}
  - {name: start, from: orders, match: {type: [created, again]}, when: "payload.total > vars.limit",
     schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}}
  - {name: rest, from: orders, match: {type: other}, ignore: {}}
"""
READER = replace(ANONYMOUS, payloads=False)
OPERATOR = replace(READER, role="operator")
SECRET = replace(READER, payloads=True)


@asynccontextmanager
async def bridge(path: Path, **more: Any) -> AsyncIterator[DaemonFixture]:
    async with running(path, CONFIG, FLOWS, broker="{type: local, partitions: 1}", **more) as it:
        yield it


async def ask(it: DaemonFixture, name: str, caller: Caller = READER, **given: Any) -> Any:
    """Answer of an operation as the API gives it."""
    operation = BY_NAME[name]
    [route] = [each for each in it.daemon.routes if (each.method, each.path) == (operation.method, operation.path)]
    return json.loads(json.dumps(await route.answer(given, caller, None)))


async def test_a_decision_names_every_condition_of_every_rule(tmp_path: Path) -> None:
    async with bridge(tmp_path) as it:
        await it.publish("orders", {"id": "1", "total": 50}, "k", type="created")
        await it.settled(1)
        [found] = await ask(it, "messages.explain", SECRET, message="orders/0@0")
        assert [found[name] for name in ("outcome", "source", "type", "key")] == ["executed", "orders", "created", "k"]
        large, start, rest = found["rules"]
        assert [(each["text"], each["holds"], each["actual"]) for each in large["conditions"]] == [
            ('type: "created"', True, "created"), ("payload.total > 100", False, None), ("has(payload.id)", True, None),
        ]  # fmt: skip
        assert (large["verdict"], start["verdict"], rest["verdict"]) == ("when false", "matched", "not considered")
        assert rest["conditions"] == []
        assert start["at"].endswith(f"bridge.yaml:{_line(tmp_path, 'name: start')}")
        assert found["steps"] == [
            {"route": "start", "engine": "default",
             "command": {"type": "ScheduleOrchestration", "orchestration": "order", "instance_id": "order-1",
                         "event": None}},
        ]  # fmt: skip
        # Values of the message are payload, names of commands are not
        [hidden] = await ask(it, "messages.explain", READER, message="orders/0@0")
        assert {each["actual"] for rule in hidden["rules"] for each in rule["conditions"]} == {None}
        # The id that a history names leads to the position
        [again] = await ask(it, "messages.explain", READER, message="local/orders/0@0")
        assert again == hidden


def _line(path: Path, text: str) -> int:
    lines = (path / "bridge.yaml").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


async def test_a_message_that_no_rule_takes_and_its_dead_letter(tmp_path: Path) -> None:
    async with bridge(tmp_path) as it:
        await it.publish("orders", {"id": "1", "total": 5}, type="created")
        await it.publish("orders", "no object", type="created")
        await it.settled(2)
        [found] = await ask(it, "messages.explain", message="orders.dlq/0@0")
        assert (found["outcome"], found["reason"]) == ("dead_lettered", "no_route")
        assert found["position"].endswith("/orders/0@0")
        assert [each["verdict"] for each in found["rules"]] == ["when false", "when false", "equality failed"]
        [failed] = await ask(it, "messages.explain", message="orders/0@1")
        assert (failed["reason"], failed["failed"]) == ("expression_error", "large")
        assert [each["holds"] for each in failed["rules"][0]["conditions"]] == [True, None, None]
        for missing in ("orders/0@7", "nothing", "a/b@1"):
            with pytest.raises(InstanceNotFound):
                await ask(it, "messages.explain", message=missing)


async def test_a_position_is_traced_through_the_api_too(tmp_path: Path) -> None:
    async with bridge(tmp_path) as it:
        await it.publish("orders", {"id": "1"}, type="other")
        await it.publish("orders", {"id": "2", "total": 1}, type="created")
        await it.settled(2)
        [ignored] = (await ask(it, "messages.trace", message="orders/0@0"))["answers"]
        assert (ignored["outcome"], ignored["route"]) == ("ignored", "rest")
        found = await ask(it, "messages.trace", message="orders.dlq/0@0")
        assert found["behind"] == {"what": "dead letter", "id": "orders/0@1", "state": "open", "job": None}
        assert found["answers"][0]["outcome"] == "dead_lettered"


async def test_rules_of_that_time_and_of_now(tmp_path: Path) -> None:
    async with bridge(tmp_path) as it:
        configurations.store(it.daemon.loaded)
        await it.publish("orders", {"id": "1", "total": 5}, type="created")
        await it.settled(1)
        before = it.daemon.loaded
        config = tmp_path / "bridge.yaml"
        config.write_text(config.read_text().replace("limit: 10", "limit: 1"))
        it.daemon.use(load_config([config]), None)
        configurations.store(it.daemon.loaded)
        then, now = [
            (await ask(it, "messages.explain", message="orders/0@0", rules=rules))[0] for rules in ("then", "now")
        ]
        assert (then["outcome"], then["is_current"], then["config"]) == ("dead_lettered", False, before.version)
        assert (now["outcome"], now["is_current"]) == ("executed", True)
        history = await ask(it, "config.history", OPERATOR)
        assert [(each["version"], each["kept"], each["is_current"]) for each in history] == [
            (it.daemon.loaded.version, True, True), (before.version, True, False),
        ]  # fmt: skip
        difference = await ask(it, "config.diff", OPERATOR, other=before.version)
        assert difference == {
            "old": before.version,
            "new": it.daemon.loaded.version,
            "settings": [{"path": "vars.limit", "old": 10, "new": 1}],
        }
        with pytest.raises(InstanceNotFound, match="not kept"):
            await ask(it, "config.diff", OPERATOR, other="0" * 12)
        with pytest.raises(InstanceNotFound, match="no candidate"):
            await ask(it, "config.diff", OPERATOR)


async def test_a_candidate_is_compared_route_by_route(tmp_path: Path) -> None:
    candidate = CONFIG.replace("name: large", "name: huge").replace("total > 100", "total > 1000")
    async with bridge(tmp_path) as it:
        text = (tmp_path / "bridge.yaml").read_text()
        (tmp_path / "candidate.yaml").write_text(text.replace(CONFIG, candidate))
        (tmp_path / "bridge.yaml").write_text(text + "rules: {candidate: candidate.yaml}\n")
        it.daemon.use(load_config([tmp_path / "bridge.yaml"]), None)
        found = await ask(it, "config.diff", OPERATOR)
        changed = {each["path"]: (each["old"], each["new"]) for each in found["settings"]}
        assert changed["routes.huge"][0] is None
        assert changed["routes.huge"][1]["when"] == "payload.total > 1000 && has(payload.id)"
        assert changed["routes.large"][1] is None
        (tmp_path / "candidate.yaml").write_text("nonsense: 1\n")
        with pytest.raises(InvalidCommand, match="the candidate cannot be used"):
            await ask(it, "config.diff", OPERATOR)


async def test_dead_letters_newest_first_by_pages(tmp_path: Path) -> None:
    async with bridge(tmp_path) as it:
        for number in range(7):
            kind = "created" if number % 2 else "unknown"
            await it.publish("orders", {"id": str(number), "total": 1} if number % 2 else 1, type=kind)
        await it.settled(7)
        seen: list[str] = []
        before = None
        while True:
            page = await ask(it, "dlq.newest", limit=3, **({} if before is None else {"before": before}))
            assert page["total"] == 7
            seen += [each["id"] for each in page["dead_letters"]]
            if (before := page["next"]) is None:
                break
        assert seen == [f"orders.dlq/0@{number}" for number in reversed(range(7))]
        groups = (await ask(it, "dlq.groups", trend=3600))["groups"]
        assert [(each["count"], sum(each["trend"]), len(each["trend"])) for each in groups] == [(7, 7, 24)]
        [group] = groups
        page = await ask(it, "dlq.newest", causes=group["group"], limit=1)
        [newest] = page["dead_letters"]
        assert (newest["state"], newest["reason"], newest["group"]) == ("open", "no_route", group["group"])
        assert newest["time"] == pytest.approx(group["last"])
        assert (await ask(it, "dlq.newest", states="dropped"))["dead_letters"] == []
        assert [each["trend"] for each in (await ask(it, "dlq.groups"))["groups"]] == [[]]
        for bad in ("x", "1 y", "1e9999 orders/0@1x", ""):
            with pytest.raises(InvalidCommand, match="`before`"):
                await ask(it, "dlq.newest", before=bad)


async def test_a_replay_is_tried_with_the_rules_of_now(tmp_path: Path) -> None:
    async with bridge(tmp_path) as it:
        await it.publish("orders", {"id": "1", "total": 5}, type="created")
        await it.publish("orders", {"id": "2", "total": 5}, type="none")
        await it.settled(2)
        still = await ask(it, "dlq.check")
        assert (still["total"], still["failing"]) == (2, 2)
        config = tmp_path / "bridge.yaml"
        config.write_text(config.read_text().replace("limit: 10", "limit: 1"))
        it.daemon.use(load_config([config]), None)
        found = await ask(it, "dlq.check")
        assert (found["total"], found["failing"]) == (2, 1)
        assert {each["would"] for each in found["lines"]} == {"start order", "still fails: no_route"}
        one = await ask(it, "dlq.check", ids="orders.dlq/0@0")
        assert [(each["count"], each["outcome"]) for each in one["lines"]] == [(1, "executed")]
        assert (await ask(it, "dlq.check", limit=1))["total"] == 1


async def test_named_positions_are_read_alone(tmp_path: Path) -> None:
    """Few positions are read one by one; other ids, and many, with the whole topic. The answer is the same."""
    async with bridge(tmp_path) as it:
        for number in range(30):
            await it.publish("orders", {"id": str(number), "total": 1}, type="created")
        await it.settled(30)
        loaded = it.daemon.loaded

        async def found(*ids: str) -> list[str]:
            return [entry.id async for _, entry, _ in visit(loaded, DeadLetterSelection(ids=ids))]

        assert await found("orders.dlq/0@7", "orders.dlq/0@3", "orders.dlq/0@99", "orders.dlq/9@0") == [
            "orders.dlq/0@3", "orders.dlq/0@7",
        ]  # fmt: skip
        assert await found("orders.dlq/0@7", "orders/0@3") == ["orders.dlq/0@3", "orders.dlq/0@7"]
        many = [f"orders.dlq/0@{number}" for number in range(25)]
        assert await found(*many) == many
        read = Counter[str]()
        original = LocalBroker.read

        def counting(self: LocalBroker, options: ReadOptions) -> AsyncIterator[Any]:
            read[options.topic] += 1 if options.ranges is None else 100
            return original(self, options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LocalBroker, "read", counting)
            assert await found("orders.dlq/0@7") == ["orders.dlq/0@7"]
        assert read == {"orders.dlq": 100}


async def test_an_edit_has_one_body(tmp_path: Path) -> None:
    async with bridge(tmp_path) as it:
        for given in ({}, {"body": "e30=", "text": "{}"}):
            with pytest.raises(InvalidCommand, match="either `body` or `text`"):
                await ask(it, "dlq.edit", OPERATOR, id="orders.dlq/0@0", **given)
        with pytest.raises(InvalidCommand, match="not base64"):
            await ask(it, "dlq.edit", OPERATOR, id="orders.dlq/0@0", body="{}")
