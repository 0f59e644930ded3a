"""Topic checks at the start of a daemon, on a real broker or the test server."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.app.composition import load_config
from bridge.app.serve.daemon import Daemon
from bridge.core.errors import ConfigError
from tests.brokers.kafka.conftest import bootstrap, harness
from tests.brokers.kafka.harness import KafkaHarness, unique

__all__ = ["bootstrap", "harness"]

CONFIG = """
engine: {{type: embedded}}
ops: {{http: {{port: 0}}}}
brokers:
  one: {{type: kafka, bootstrap_servers: "{bootstrap}", create_topics: {create}}}
  two: {{type: kafka, bootstrap_servers: "{other}", client_id: other}}
sources:
  orders: {{broker: one, topics: [{topic}], group: "{group}", no_match: dead_letter}}
{more}
targets:
  results: {{broker: one, topic: {topic}-results}}
"""


def daemon(directory: Path, harness: KafkaHarness, topic: str, *, create: bool, more: str = "") -> Daemon:
    path = directory / "bridge.yaml"
    other = harness.bootstrap.replace("127.0.0.1", "localhost")
    text = CONFIG.format(
        bootstrap=harness.bootstrap, other=other, topic=topic, group=topic, more=more, create=str(create).lower()
    )
    path.write_text(text)
    return Daemon(load_config([path]))


async def problems(it: Daemon) -> list[str]:
    with pytest.raises(ConfigError) as received:
        await it.start()
    assert all(problem.line > 0 for problem in received.value.problems)
    return [f"{problem.path}: {problem.what}" for problem in received.value.problems]


async def test_all_that_is_missing_is_told_at_once_with_the_remedy(tmp_path: Path, harness: KafkaHarness) -> None:
    topic = unique("orders")
    found = await problems(daemon(tmp_path, harness, topic, create=False))
    assert [each.partition(" (")[0] for each in found] == [
        f"{path}: one: no topic {name}; create it, or set `create_topics: true` on the broker"
        for path, name in (
            ("targets.results.topic", f"{topic}-results"),
            ("sources.orders.topics[0]", topic),
            ("sources.orders.topics", f"{topic}.dlq"),
        )
    ]
    for name in (topic, f"{topic}-results"):
        await harness.create_topic(name, 1)
    [only] = await problems(daemon(tmp_path, harness, topic, create=False))
    assert f"no topic {topic}.dlq" in only
    await harness.create_topic(f"{topic}.dlq", 1)
    it = daemon(tmp_path, harness, topic, create=False)
    await it.start()
    await it.stop(5)


async def test_they_are_made_where_that_is_wanted(tmp_path: Path, harness: KafkaHarness) -> None:
    topic = unique("orders")
    it = daemon(tmp_path, harness, topic, create=True)
    await it.start()
    await it.stop(5)
    there = await (await harness.broker()).topics()
    assert {topic, f"{topic}-results", f"{topic}.dlq"} <= there.keys()


@pytest.mark.parametrize("how", ["topics: [{topic}]", "topics: [], kafka: {{pattern: '{topic}$'}}"])
async def test_one_cluster_under_two_names_is_found_out(tmp_path: Path, harness: KafkaHarness, how: str) -> None:
    topic = unique("orders")
    for name in (topic, f"{topic}-results", f"{topic}.dlq"):
        await harness.create_topic(name, 1)
    same = f'  same: {{broker: two, {how.format(topic=topic)}, group: "{topic}", no_match: dead_letter}}'
    [only] = await problems(daemon(tmp_path, harness, topic, create=False, more=same))
    assert only == (
        f"sources.same.topics: `{topic}` is read by the source `orders` in the same group `{topic}` already, and the "
        "brokers `one` and `two` are one cluster; give one of them another group"
    )
    it = daemon(tmp_path, harness, topic, create=False, more=same.replace(f'group: "{topic}"', "group: other"))
    await it.start()
    await it.stop(5)
