"""Early-message components of a configuration; without a rule that needs them there are none."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bridge.app.composition import build_broker, build_engine, load_config
from bridge.app.serve import waiting
from bridge.app.serve.system_workflows import SystemWorkflows
from bridge.app.worker_process import user_workflows
from bridge.config.source import Loaded
from bridge.core.system_names import (
    CANARY,
    DEAD_LETTER,
    DEAD_LETTER_PACE,
    DEAD_LETTER_STATES,
    EARLY_MESSAGES,
    JOB,
    JOB_PAGE,
    JOBS,
    LINEAGE_INDEX,
    QUARANTINE,
    REPLAY,
    REPLAY_EDIT,
    ROUTE_LIMIT,
    SOURCE_PAUSE,
    SOURCE_RELOAD,
    SOURCE_SEEK,
)
from bridge.engines.commands.answers import ANSWERS, AnswerKeys
from bridge.engines.commands.cancel_grace import CANCEL_GRACE
from bridge.engines.worker.contained_worker import ContainedWorker
from bridge.engines.workflows import Workflows
from bridge.pipeline.publishing import Publishing
from bridge.routing import referenced_orchestrations
from bridge.workflow import PUBLISH_ACTIVITY
from bridge.workflow.declared import EVALUATE_ACTIVITY, SAGA_ORCHESTRATION

CONFIG = """
engines:
  default: {{type: embedded}}
  eu: {{type: scheduler, early_messages: {{max_message: 1KiB}}}}
brokers: {{local: {{type: local}}}}
sources: {{orders: {{broker: local, topics: [orders], no_match: ignore{source}}}}}
routes:
  - name: one
    from: orders
    match: {{type: one}}
    raise_event: {{instance_id: "order-{{{{ payload.id }}}}", name: one, on_missing: {first}}}
  - name: two
    from: orders
    match: {{type: two}}
    engine: {engine}
    cancel: {{instance_id: "{prefix}{{{{ payload.id }}}}", on_missing: {second}}}
"""


def loaded(
    tmp_path: Path, first: str = "retry", second: str = "retry", prefix: str = "return-", engine: str = "default",
    source: str = "",
) -> Loaded:  # fmt: skip
    config = tmp_path / "bridge.yaml"
    config.write_text(CONFIG.format(first=first, second=second, prefix=prefix, engine=engine, source=source))
    return load_config([config])


def test_only_ids_for_which_a_rule_of_the_engine_parks_are_looked_at(tmp_path: Path) -> None:
    found = loaded(tmp_path, "{wait: 1h}", "{wait: 2h}")
    assert waiting.early_prefixes(found, "default", None) == ("order-", "return-")
    found = loaded(tmp_path, "{wait: 1h}", "{wait: 2h}", prefix="order-old-")
    assert waiting.early_prefixes(found, "default", None) == ("order-",)
    found = loaded(tmp_path, "{wait: 1h}", "{start: order}", engine="eu")
    assert waiting.early_prefixes(found, "default", None) == ("order-",)
    assert waiting.early_prefixes(found, "eu", None) == ()
    assert waiting.early_prefixes(loaded(tmp_path), "default", None) == ()


def test_what_a_rule_starts_for_a_missing_instance_is_known_to_check(tmp_path: Path) -> None:
    found = loaded(tmp_path, "{start: order}")
    assert referenced_orchestrations(found.config) == [("order", ("routes", 0, "raise_event", "on_missing", "start"))]


async def test_every_worker_runs_what_keeps_messages_and_filters_its_work(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    engine = build_engine(found, "default", host=True)
    brokers = {"local": build_broker(found, "local")}
    loop = asyncio.get_running_loop()
    own = SystemWorkflows(
        found,
        {"default": engine},
        brokers,
        Publishing({}, loop),
        lambda: datetime.now(UTC),
        loop,
        {"default": AnswerKeys(engine, loop)},
        {"default": waiting.totals(found, "default")},
    )
    workflows, publishers, _ = own.groups(user_workflows(Workflows()), "default")
    assert set(publishers.activities) == {PUBLISH_ACTIVITY}
    await engine.start()
    try:
        worker = engine.worker(workflows)
        assert isinstance(worker, ContainedWorker)
        assert worker._auto_generate_work_item_filters
        registry = worker._registry
        assert set(registry.entities) == {
            ANSWERS,
            CANARY,
            DEAD_LETTER_PACE,
            DEAD_LETTER_STATES,
            EARLY_MESSAGES,
            JOB,
            JOB_PAGE,
            JOBS,
            LINEAGE_INDEX,
            QUARANTINE,
            REPLAY,
            REPLAY_EDIT,
            ROUTE_LIMIT,
            SOURCE_PAUSE,
            SOURCE_RELOAD,
            SOURCE_SEEK,
        }
        assert {DEAD_LETTER, CANCEL_GRACE, JOB, SAGA_ORCHESTRATION} == set(registry.orchestrators)
        assert {DEAD_LETTER, EVALUATE_ACTIVITY} < set(registry.activities)
    finally:
        await engine.stop()


@pytest.mark.parametrize(
    ("source", "engine"),
    [("", None), (", quarantine: {}", "default"), (", quarantine: {engine: eu}", "eu")],
)
def test_where_poisoned_keys_are_kept(tmp_path: Path, source: str, engine: str | None) -> None:
    found = loaded(tmp_path, source=source)
    engines = {name: build_engine(found, name, host=False) for name in found.config.engines}
    store = waiting.quarantine_store(found, "orders", engines, {name: waiting.totals(found, name) for name in engines})
    assert (None if store is None else store[0]) == engine
