"""Constant names that come by other ways."""

import enum

from durabletask import task
from durabletask.entities import EntityInstanceId

import bridge.workflow as bw
from bridge.workflow import publish


class Targets:
    DECISIONS = "decisionz"


class Names(enum.StrEnum):
    DECISIONS = "decisionz"


TABLE = {"a": "decisionz"}


def by_module(ctx: task.OrchestrationContext, v):
    yield bw.publish(ctx, "decisionz", type="x")  # finds: unknown-name


def by_class(ctx: task.OrchestrationContext, v):
    yield publish(ctx, Targets.DECISIONS, type="x")  # finds: unknown-name


def by_enumeration(ctx: task.OrchestrationContext, v):
    yield publish(ctx, Names.DECISIONS, type="x")  # finds: unknown-name


def by_value(ctx: task.OrchestrationContext, v):
    yield publish(ctx, Names.DECISIONS.value, type="x")  # finds: unknown-name


def by_loop(ctx: task.OrchestrationContext, v):
    for target in ("decisions", "decisionz"):  # finds: unknown-name
        yield publish(ctx, target, type="x")


def by_branch(ctx: task.OrchestrationContext, v):
    target = "decisions"
    if v:
        target = "decisionz"  # finds: unknown-name
    yield publish(ctx, target, type="x")


def by_sum(ctx: task.OrchestrationContext, v):
    yield publish(ctx, "deci" + "sionz", type="x")  # finds: unknown-name


def by_table(ctx: task.OrchestrationContext, v):
    yield publish(ctx, TABLE[v], type="x")  # finds: unknown-name


def helper(ctx: task.OrchestrationContext, target="decisionz"):  # finds: unknown-name
    yield publish(ctx, target, type="x")


def by_default(ctx: task.OrchestrationContext, v):
    yield from helper(ctx)


def locked(ctx: task.OrchestrationContext, v):
    with (yield ctx.lock_entities([EntityInstanceId("kounter", "1")])):  # finds: unknown-name
        yield ctx.create_timer(1)


def parsed(ctx: task.OrchestrationContext, v):
    ctx.signal_entity(EntityInstanceId.parse("@kounter@1"), "x")  # finds: unknown-name
    yield ctx.create_timer(1)
