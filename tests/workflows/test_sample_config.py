"""Consistency of the sample configuration and the sample workflows."""

from __future__ import annotations

from pathlib import Path

import pytest

import workflows
from bridge.config.model.engines import SchedulerEngineConfig
from bridge.config.model.routes import COMMANDS
from bridge.config.source import load
from bridge.engines.workflows import load as load_workflows
from workflows import order, parcel

CONFIG = Path(__file__).resolve().parents[2] / "config"


def test_every_command_has_a_sample() -> None:
    commands = {
        name: {route.command for route in load([CONFIG / name], environ={}).config.routes}
        for name in ("bridge.yaml", "sagas.yaml")
    }
    assert commands["bridge.yaml"] == set(COMMANDS) - {"reply"}
    assert "reply" in commands["sagas.yaml"]


def test_it_loads_without_warnings() -> None:
    assert load([CONFIG / "bridge.yaml"], environ={}).warnings == ()


def test_what_it_starts_and_signals_exists() -> None:
    config = load([CONFIG / "bridge.yaml"], environ={}).config
    started = {verb.orchestration for route in config.routes if (verb := route.schedule or route.start_or_raise)}
    assert started == {"fulfil_order", "approval", "shipment_watch"}
    assert started <= set(workflows.__all__)
    signalled = {route.signal_entity.entity for route in config.routes if route.signal_entity}
    known = {workflows.CustomerAccount.__durable_entity_name__, workflows.StockLevel.__durable_entity_name__}
    assert signalled == known


def test_the_bridge_finds_the_workflows() -> None:
    found = load_workflows(["workflows"], CONFIG.parent)
    patterns = load_workflows(["workflows.patterns"], CONFIG.parent)
    assert found.orchestrators.keys() - patterns.orchestrators.keys() == {
        "fulfil_order", "order_saga", "approval", "shipment_watch",
    }  # fmt: skip
    assert found.entities.keys() - patterns.entities.keys() == {"customer_account", "stock_level"}
    functions = {getattr(workflows, name) for name in workflows.__all__}
    others = {*patterns.orchestrators.values(), *patterns.activities.values(), *patterns.entities.values()}
    every = {*found.orchestrators.values(), *found.activities.values(), *found.entities.values()}
    assert every - others == functions
    assert others < every


def test_every_pattern_is_started_by_a_message() -> None:
    config = load([CONFIG / "patterns.yaml"], environ={}).config
    started = {route.schedule.orchestration for route in config.routes if route.schedule}
    found = load_workflows(["workflows.patterns"], CONFIG.parent)
    assert started | {"pick_order"} == set(found.orchestrators)


def test_targets_that_workflows_publish_to_exist() -> None:
    config = load([CONFIG / "bridge.yaml"], environ={}).config
    assert {order.RESULTS, parcel.ALERTS} == set(config.targets)


@pytest.mark.parametrize(
    ("environ", "endpoint", "task_hub"),
    [
        ({}, "http://localhost:8080", "default"),
        ({"ENDPOINT": "https://x.durabletask.io", "TASKHUB": "shop"}, "https://x.durabletask.io", "shop"),
    ],
)
def test_the_scheduler_is_an_overlay(environ: dict[str, str], endpoint: str, task_hub: str) -> None:
    config = load([CONFIG / "bridge.yaml"], [CONFIG / "overlays" / "scheduler.yaml"], environ=environ).config
    engine = config.engines["default"]
    assert isinstance(engine, SchedulerEngineConfig)
    assert (engine.endpoint, engine.task_hub) == (endpoint, task_hub)
