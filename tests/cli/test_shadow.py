"""`bridge shadow` beside real daemons, and alone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bridge.app.rules.comparison import ConfigurationRules, RulesComparison
from bridge.app.serve import shadow as serve_shadow
from bridge.app.serve.shadow import Shadow, ShadowOptions
from bridge.app.shadow import compare_topics
from bridge.config.source import load
from bridge.core.message import Message, Position
from bridge.core.states import Outcome
from bridge.pipeline.decisions import SettledDelivery
from tests.kit.forkserver import fork_server
from tests.kit.processes import DaemonProcess, bridge, run_bridge
from tests.kit.waiting import eventually, eventually_blocking

pytestmark = pytest.mark.long

CONFIG = """
engine: {type: embedded, path: engine.db}
workflows: {external: [ship]}
brokers: {local: {type: local, path: local}}
sources:
  orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}
  bills: {broker: local, topics: [bills], codec: json, no_match: ignore}
routes:
  - name: small
    from: orders
    when: payload.total < LIMIT
    ignore: {}
  - name: large
    from: orders
    schedule: {orchestration: ship, instance_id: "order-{{ payload.id }}", input: payload}
ops: {http: {port: 0}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "bridge.yaml").write_text(CONFIG.replace("LIMIT", "10.0"))
    (tmp_path / "new.yaml").write_text(CONFIG.replace("LIMIT", "20.0"))
    return tmp_path


def publish(project: Path, *totals: float, topic: str = "orders") -> None:
    found = [{"topic": topic, "key": str(at), "body": {"id": f"{at}", "total": each}} for at, each in enumerate(totals)]
    bridge("publish", "local/", "--jsonl", "-", cwd=project, text="".join(json.dumps(each) + "\n" for each in found))


def report(project: Path) -> dict[str, Any]:
    done = run_bridge("shadow", "--report", "--json", cwd=project)
    return json.loads(done.stdout) if done.returncode < 2 else {"messages": -1, "running": False, "daemons": []}


def started(project: Path, *arguments: str, number: int = 1) -> Any:
    out = (project / "shadow.out").open("wb")
    process = fork_server().start(
        ["shadow", "--config", "new.yaml", *arguments], project, stdout=out, stderr=out, umask=None
    )
    eventually_blocking(lambda: report(project)["running"], lambda: (project / "shadow.out").read_text())
    assert len(report(project)["daemons"]) == number
    return process


def test_beside_a_daemon(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        process = started(project, "--source", "orders", "--for", "1h")
        publish(project, 5, 15, 25, 12)
        publish(project, 1, topic="bills")
        eventually_blocking(lambda: report(project)["messages"] == 4, lambda: str(report(project)))
        refused = run_bridge("shadow", "--config", "new.yaml", cwd=project)
        assert refused.returncode == 1
        assert "has a shadow already; wait for its end, or `bridge shadow --stop`" in refused.stderr
        found = json.loads(bridge("shadow", "--stop", "--json", cwd=project, expect=1))
        assert (found["different"], found["settled"], found["shed"], found["running"]) == (2, 4, 0, False)
        [group] = found["groups"]
        assert (group["old"]["text"], group["new"]["text"]) == ("large (schedule)", "ignored by small")
        assert group["condition"]["old_at"].endswith("bridge.yaml:11:11")
        assert process.wait(60) == 1
        text = (project / "shadow.out").read_text()
        assert "2 messages of orders: large (schedule) -> ignored by small" in text
        assert text.endswith("2 of 4 messages would be routed differently\n")
        diff = json.loads(
            bridge("diff", "bridge.yaml", "new.yaml", "--messages", "orders", "--json", cwd=project, expect=1)
        )
        assert [(each["count"], each["old"], each["new"]) for each in diff["groups"]] == [
            (each["count"], each["old"], each["new"]) for each in found["groups"]
        ]
        daemon.stop()


def test_it_ends_at_its_time_without_the_command(project: Path) -> None:
    with DaemonProcess(project) as daemon:
        started(project, "--for", "5s").kill()
        publish(project, 15)
        eventually_blocking(lambda: not report(project)["running"], "the end of the shadow")
        assert report(project)["different"] == 1
        assert daemon.runs
        started(project, "--for", "1h").kill()  # a further one begins
        daemon.stop()


def test_an_invalid_candidate_reaches_no_daemon(project: Path) -> None:
    (project / "bad.yaml").write_text(CONFIG.replace("LIMIT", "10.0 +"))
    done = run_bridge("shadow", "--config", "bad.yaml", cwd=project)
    assert (done.returncode, "bad.yaml:11:11" in done.stderr) == (3, True)
    for arguments in ((), ("--config", "new.yaml", "--stop"), ("--config", "new.yaml", "--share", "0%")):
        assert run_bridge("shadow", *arguments, cwd=project).returncode == 2
    for duration, text in (("25h", "the greatest value is 24h"), ("0s", "the least value is 1ms")):
        done = run_bridge("shadow", "--config", "new.yaml", "--for", duration, cwd=project)
        assert (done.returncode, "--for" in done.stderr, text in done.stderr) == (2, True, True), done.stderr
    assert "no daemon of this configuration" in run_bridge("shadow", "--report", cwd=project).stderr


def shadow_of(project: Path, **options: Any) -> tuple[Shadow, RulesComparison]:
    sides = [ConfigurationRules(load([project / name], environ={})) for name in ("bridge.yaml", "new.yaml")]
    found = RulesComparison(sides[0], sides[1])
    return Shadow(found, "v", ShadowOptions(candidate=("new.yaml",), **options)), found


def settled(offset: int, *, size: int = 0, source: str = "orders", stored: bool = False) -> SettledDelivery:
    body = json.dumps({"id": "a", "total": 15, "text": "x" * size}).encode()

    delivery: Any = SimpleNamespace(message=Message(body), position=Position("local", "orders", 0, offset))
    return SettledDelivery(
        source, delivery, None, None, (), Outcome.EXECUTED, None, None, None, "", 0.0, 1, stored, "v"
    )


async def test_what_waits_is_bounded_in_number_and_bytes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, comparison = shadow_of(project, sources=("orders",))
    for offset in range(serve_shadow.MOST_MESSAGES + 5):
        found.offer(settled(offset))
    found.offer(settled(0, source="bills"))
    found.offer(settled(0, stored=True))
    assert (found.to_dict()["settled"], found.to_dict()["shed"]) == (serve_shadow.MOST_MESSAGES + 5, 5)
    await found.finish()
    assert comparison.messages + found.to_dict()["waiting"] == serve_shadow.MOST_MESSAGES
    found, _ = shadow_of(project)
    for offset in range(20):
        found.offer(settled(offset, size=1024 * 1024))
    assert (found.to_dict()["shed"], found.to_dict()["waiting"]) == (5, 15)


async def test_a_share_of_the_messages(project: Path) -> None:
    found, _ = shadow_of(project, share=0.25)
    for offset in range(100):
        found.offer(settled(offset))
    assert (found.to_dict()["settled"], found.to_dict()["waiting"]) == (100, 25)


async def test_comparisons_take_a_share_of_the_processor(project: Path) -> None:
    found, comparison = shadow_of(project)
    for offset in range(300):
        found.offer(settled(offset))
    began, worked = asyncio.get_running_loop().time(), []
    compare = found._compare

    def measured(batch: Any) -> Any:
        result = compare(batch)
        worked.append(result[0])
        return result

    found._compare = measured  # type: ignore[method-assign]
    await found.finish()
    elapsed = asyncio.get_running_loop().time() - began
    assert comparison.messages == 300
    assert sum(worked) <= elapsed * serve_shadow.PROCESSOR * 1.5


async def test_alone_on_topics_without_a_daemon(project: Path) -> None:
    sides = [load([project / name], environ={}) for name in ("bridge.yaml", "new.yaml")]
    publish(project, 15)
    counted: list[int] = []
    task = asyncio.create_task(compare_topics(sides[0], sides[1], ("orders",), 3600.0, 1.0, counted.append))

    async def arrives() -> int:
        await asyncio.to_thread(publish, project, 15, 5)
        return len(counted)

    await eventually(arrives, "messages that come after the beginning")
    task.cancel()
    found = await task
    assert found.comparison.messages >= 1
    assert found.comparison.different == sum(each.count for each in found.comparison.groups)
    assert found.seen == {}
