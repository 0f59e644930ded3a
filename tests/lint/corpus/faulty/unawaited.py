"""Durable calls that nobody waits for."""

import logging

from durabletask import task

from bridge.workflow import publish

log = logging.getLogger("flows")


def charge(ctx: task.ActivityContext, v):
    return v


def returned(ctx: task.OrchestrationContext, v):
    yield ctx.create_timer(1)
    return ctx.call_activity(charge)  # finds: missing-yield


def returned_by_no_generator(ctx: task.OrchestrationContext, v):
    return ctx.call_activity(charge)  # finds: missing-yield


def returned_by_name(ctx: task.OrchestrationContext, v):
    work = ctx.call_activity(charge)  # finds: missing-yield
    yield ctx.create_timer(1)
    return work


def returned_group(ctx: task.OrchestrationContext, v):
    yield ctx.create_timer(1)
    return task.when_all([ctx.call_activity(charge)])  # finds: missing-yield


def returned_publish(ctx: task.OrchestrationContext, v):
    yield ctx.create_timer(1)
    return publish(ctx, "decisions", type="x")  # finds: missing-yield


def forgotten(ctx: task.OrchestrationContext, v):
    ctx.call_activity(charge)  # finds: missing-yield
    yield ctx.create_timer(1)


def only_logged(ctx: task.OrchestrationContext, v):
    work = ctx.call_activity(charge)  # finds: missing-yield
    log.info("asked %s", work)
    yield ctx.create_timer(1)


def only_looked_at(ctx: task.OrchestrationContext, v):
    work = ctx.call_activity(charge)  # finds: missing-yield
    yield ctx.create_timer(1)
    return work.get_result()


def only_tested(ctx: task.OrchestrationContext, v):
    work = ctx.call_sub_orchestrator("child")  # finds: missing-yield
    if work:
        yield ctx.create_timer(1)


def list_that_nobody_waits_for(ctx: task.OrchestrationContext, v):
    work = []
    for one in v:
        work.append(ctx.call_activity(charge, input=one))  # finds: missing-yield
    yield ctx.create_timer(1)


def comprehension_that_nobody_waits_for(ctx: task.OrchestrationContext, v):
    work = [ctx.call_activity(charge, input=one) for one in v]  # finds: missing-yield
    yield ctx.create_timer(1)
    return len(work)


def make(ctx: task.OrchestrationContext, v):
    return ctx.call_activity(charge, input=v)


def through_a_helper(ctx: task.OrchestrationContext, v):
    make(ctx, v)  # finds: missing-yield
    yield ctx.create_timer(1)


def helper_returned(ctx: task.OrchestrationContext, v):
    yield ctx.create_timer(1)
    return make(ctx, v)  # finds: missing-yield


def child(ctx: task.OrchestrationContext, v):
    yield ctx.create_timer(1)
