"""`bridge instances check`: histories of running instances against new code, through the real executable."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

from bridge.app.composition import load_config
from bridge.app.connection import attached
from bridge.app.operations.instances.instances import InstanceOperations
from bridge.core.errors import EngineRejected
from bridge.engines.recording import UnreadableRecording
from bridge.testing.histories import check as histories
from bridge.testing.histories.child import WorkflowCode
from tests.kit.processes import DaemonProcess, bridge, run_bridge
from tests.kit.waiting import eventually_blocking

pytestmark = pytest.mark.long

CONFIG = """
engine: {type: embedded}
workflows: {modules: [flows], external: [elsewhere]}
brokers: {local: {type: local}}
sources: {orders: {broker: local, topics: [orders], no_match: ignore}}
routes: [{name: nothing, from: orders, ignore: {reason: a test}}]
ops: {http: {port: 0}}
"""

FLOWS = """\
from datetime import timedelta
from durabletask import task


def charge(ctx: task.ActivityContext, amount):
    return amount


def ship(ctx: task.ActivityContext, amount):
    return amount


def order(ctx: task.OrchestrationContext, amount):
    paid = yield ctx.call_activity("charge", input=amount)
    yield ctx.create_timer(timedelta(days=1))
    yield ctx.wait_for_external_event("approved")
    yield ctx.call_activity("ship", input=paid)


def child(ctx: task.OrchestrationContext, _):
    yield ctx.wait_for_external_event("never")


def parent(ctx: task.OrchestrationContext, _):
    yield ctx.call_sub_orchestrator("child", instance_id=f"{ctx.instance_id}-child")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Project with a daemon and five running instances."""
    directory = tmp_path_factory.mktemp("histories")
    (directory / "bridge.yaml").write_text(CONFIG)
    (directory / "flows.py").write_text(FLOWS)
    with DaemonProcess(directory):
        for number in range(3):
            bridge("instances", "start", "order", "--id", f"order-{number}", "--input", f"{number}", cwd=directory)
        bridge("instances", "start", "parent", "--id", "parent-1", cwd=directory)
        bridge("instances", "start", "elsewhere", "--id", "elsewhere-1", cwd=directory)

        def turned() -> bool:
            shown = [bridge("instances", "show", f"order-{n}", "--history", cwd=directory) for n in range(3)]
            return all("timer" in text for text in shown) and "RUNNING" in bridge(
                "instances", "show", "parent-1-child", cwd=directory, expect=None
            )

        eventually_blocking(turned, "the instances wait")
        yield directory


def check(project: Path, flows: str, *arguments: str, expect: int) -> dict[str, Any]:
    """Report of a check of new code, by orchestration."""
    new = project / "new"
    new.mkdir(exist_ok=True)
    (new / "flows.py").write_text(flows)
    done = run_bridge("instances", "check", "--workflows", "new", "--json", *arguments, cwd=project)
    assert done.returncode == expect, (done.stdout, done.stderr)
    report = json.loads(done.stdout)
    assert report["ok"] is (expect == 0)
    return {each["orchestration"]: each for each in report["orchestrations"]}


def line(flows: str, text: str) -> int:
    return next(number for number, each in enumerate(flows.splitlines(), 1) if text in each)


def test_the_same_code_is_compatible(project: Path) -> None:
    found = check(project, FLOWS, "--strict", expect=0)
    assert {name: (each["running"], each["compatible"]) for name, each in found.items()} == {
        "order": (3, 3), "parent": (1, 1), "child": (1, 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "recorded", "now", "place"),
    [
        ('ctx.call_activity("charge", input=amount)', 'ctx.call_activity("charge_card", input=amount)',
         "activity `charge`", "activity `charge_card`", "charge_card"),
        ("    yield ctx.create_timer(timedelta(days=1))\n", "", "timer", "nothing", "approved"),
        ("    yield ctx.create_timer(timedelta(days=1))\n", "    return paid\n", "timer", "it ends", 'charge"'),
        ("    yield ctx.create_timer(timedelta(days=1))\n", "    raise KeyError(paid)\n",
         "timer", "it fails with KeyError", "raise KeyError"),
        ('    paid = yield', '    raise KeyError\n    paid = yield',
         "activity `charge`", "it fails with KeyError", "raise KeyError"),
        ("def order(", "def order_v2(", "the instance goes on", "the modules have no orchestrator `order`", ""),
    ],
)  # fmt: skip
def test_a_break_has_its_event_and_place(
    project: Path, old: str, new: str, recorded: str, now: str, place: str
) -> None:
    flows = FLOWS.replace(old, new)
    found = check(project, flows, expect=1)
    assert found["parent"]["compatible"] == 1
    order = found["order"]
    assert (order["broken"], order["compatible"]) == (3, 0)
    [difference] = order["differences"]
    assert difference["breaks"]
    assert (difference["recorded"], difference["now"]) == (recorded, now)
    assert sorted(difference["instances"]) == ["order-0", "order-1", "order-2"]
    if place:
        number = line(flows, place)
        assert difference["place"] == f"{project / 'new' / 'flows.py'}:{number}"


def test_another_input_of_the_past_breaks_nothing(project: Path) -> None:
    flows = FLOWS.replace('"charge", input=amount', '"charge", input=[amount]')
    [difference] = check(project, flows, expect=0)["order"]["differences"]
    assert (difference["breaks"], difference["count"]) == (False, 3)
    assert difference["now"] == "activity `charge` with another input or another id"
    check(project, flows, "--strict", expect=1)
    flows = FLOWS.replace("days=1", "days=2")
    [difference] = check(project, flows, expect=0)["order"]["differences"]
    assert difference["now"] == "timer with another time"
    flows = FLOWS.replace("    yield ctx.wait", '    ctx.call_activity("charge", input=2)\n    yield ctx.wait', 1)
    assert check(project, flows, expect=0)["order"]["compatible"] == 3  # not reached yet


def test_a_new_call_at_the_place_where_instances_wait(project: Path) -> None:
    flows = FLOWS.replace(
        "    yield ctx.create_timer", '    ctx.call_activity("ship", input=2)\n    yield ctx.create_timer'
    )
    [difference] = check(project, flows, expect=1)["order"]["differences"]
    assert (difference["recorded"], difference["now"]) == ("timer", "activity `ship`")
    flows = FLOWS.replace(
        '    yield ctx.wait_for_external_event("never")',
        '    yield task.when_any([ctx.wait_for_external_event("never"), ctx.call_activity("ship", input=1)])',
    )
    [difference] = check(project, flows, expect=0)["child"]["differences"]
    assert (difference["recorded"], difference["now"]) == ("nothing", "activity `ship`")


@pytest.mark.parametrize(("new", "now"), [("raise KeyError", "it fails with KeyError"), ("return", "it ends")])
def test_an_end_where_instances_wait(project: Path, new: str, now: str) -> None:
    flows = FLOWS.replace('yield ctx.wait_for_external_event("never")', f"{new}\n    yield")
    [difference] = check(project, flows, expect=1)["child"]["differences"]
    assert (difference["recorded"], difference["now"]) == ("the instance goes on", now)
    assert (line(flows, "raise") if "raise" in new else 0) == int(difference["place"].rpartition(":")[2] or 0)


def test_a_sample_and_a_name(project: Path) -> None:
    found = check(project, FLOWS, "--sample", "2", "--orchestration", "order", expect=0)
    assert found.keys() == {"order"}
    assert (found["order"]["running"], found["order"]["selected"], found["order"]["compatible"]) == (3, 2, 2)


def test_the_text_names_what_breaks(project: Path) -> None:
    new = project / "new"
    new.mkdir(exist_ok=True)
    flows = FLOWS.replace('"charge", input', '"bill", input')
    (new / "flows.py").write_text(flows)
    output = bridge("instances", "check", "--workflows", "new", "--all-running", cwd=project, expect=1)
    assert "order: 3 running, 3 checked: 3 broken\n" in output
    place = f"new/flows.py:{line(flows, 'bill')}"
    assert f"and 2 more, event 3: recorded activity `charge`; now activity `bill` ({place})\n" in output
    assert output.endswith("3 of 5 checked instances would fail; deploy the code as a new version\n")


def test_the_module_in_place_of_the_configured_one(project: Path) -> None:
    (project / "flows_next.py").write_text(FLOWS.replace('"charge", input', '"bill", input'))
    for workflows in ("flows_next", "flows_next.py"):
        assert "3 broken" in bridge("instances", "check", "--workflows", workflows, cwd=project, expect=1)
    bridge("instances", "check", "--workflows", "flows", cwd=project)


def test_code_that_cannot_be_used(project: Path) -> None:
    new = project / "broken"
    new.mkdir()
    for text, expected in (
        ("import nothing_of_this_name\n", "No module named 'nothing_of_this_name'"),
        ("import os\nos._exit(3)\n", "cannot be imported"),
        ("print('words on standard output')\n" + FLOWS, ""),
    ):
        (new / "flows.py").write_text(text)
        done = run_bridge("instances", "check", "--workflows", "broken", cwd=project)
        assert (done.returncode, expected in done.stderr) == (1 if expected else 0, True), done.stderr
    (project / "empty").mkdir()
    for wrong in ("empty", "no/where"):
        assert run_bridge("instances", "check", "--workflows", wrong, cwd=project).returncode == 2
    both = run_bridge("instances", "check", "--workflows", "new", "--sample", "2", "--all-running", cwd=project)
    assert both.returncode == 2


def test_code_that_ends_its_process_is_reported(project: Path) -> None:
    flows = FLOWS.replace(
        "    paid = yield", "    import os\n    os._exit(1) if amount == 1 else None\n    paid = yield"
    )
    order = check(project, flows, expect=0)["order"]
    assert (order["compatible"], sum(each["count"] for each in order["unchecked"])) == (2, 1)
    check(project, flows, "--strict", expect=1)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("MAX_EVENTS", 2, "the history has more than 2 events"),
        ("record", AsyncMock(side_effect=EngineRejected("larger than 9 bytes")),
         "the history cannot be read: larger than 9 bytes"),
        ("record", AsyncMock(side_effect=UnreadableRecording("no start")), "the history cannot be read: no start"),
    ],
)  # fmt: skip
def test_histories_that_cannot_be_replayed_are_counted(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any, reason: str
) -> None:
    monkeypatch.setattr(histories, name, value)
    loaded = load_config([project / "bridge.yaml"], [])

    async def run() -> list[histories.Checked]:
        async with attached(loaded) as engine:
            code = WorkflowCode(str(project), str(project), ("flows",))
            return await histories.check_histories(
                InstanceOperations(engine), engine.client, code, sample=None, only=("order",)
            )

    [found] = asyncio.run(run())
    assert found.as_json()["unchecked"] == [{"reason": reason, "count": 3}]
    assert (found.compatible, found.broken) == (0, 0)


def test_instances_of_a_scheduler(tmp_path: Path) -> None:
    (tmp_path / "flows.py").write_text(FLOWS)
    (tmp_path / "engine").mkdir()
    with DaemonProcess(tmp_path / "engine", "--listen", "127.0.0.1:0", "--path", "hubs", command="engine") as engine:
        scheduler = f'engine: {{type: scheduler, endpoint: "{engine.url}"}}'
        (tmp_path / "bridge.yaml").write_text(CONFIG.replace("engine: {type: embedded}", scheduler))
        with DaemonProcess(tmp_path):
            bridge("instances", "start", "child", "--id", "child-1", cwd=tmp_path)
            bridge("instances", "wait", "child-1", "--for", "start", cwd=tmp_path)
        # A scheduler is read directly: no daemon runs
        assert check(tmp_path, FLOWS, expect=0)["child"]["compatible"] == 1
        flows = FLOWS.replace('yield ctx.wait_for_external_event("never")', "return\n    yield")
        assert check(tmp_path, flows, expect=1)["child"]["broken"] == 1


def test_a_sample_is_spread() -> None:
    members: Any = [*range(10)]
    for count, expected in ((4, [0, 3, 6, 9]), (1, [0]), (99, members)):
        found: Any = histories._spread(members, count)
        assert found == expected
