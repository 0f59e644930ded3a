"""Uses of `is_replaying` that decide about nothing but logs."""

import logging

from durabletask import task

log = logging.getLogger("flows")


def pay(ctx: task.ActivityContext, v):
    return v


def logs(ctx: task.OrchestrationContext, v):
    if not ctx.is_replaying:
        log.info("begun %s", v)
    yield ctx.call_activity(pay)


def logs_in_branches(ctx: task.OrchestrationContext, v):
    if ctx.is_replaying:
        log.debug("again")
    else:
        log.info("first")
    yield ctx.call_activity(pay)


def logs_with_it(ctx: task.OrchestrationContext, v):
    log.info("step", extra={"replaying": ctx.is_replaying})
    yield ctx.call_activity(pay)


def prints(ctx: task.OrchestrationContext, v):
    live = not ctx.is_replaying
    if live:
        print("first")
    yield ctx.call_activity(pay)


def text_for_a_log(ctx: task.OrchestrationContext, v):
    if not ctx.is_replaying:
        text = f"begun {v}"
        log.info(text)
    yield ctx.call_activity(pay)


def say(ctx: task.OrchestrationContext, text):
    if not ctx.is_replaying:
        log.info(text)


def by_a_helper(ctx: task.OrchestrationContext, v):
    say(ctx, "begun")
    yield ctx.call_activity(pay)


def loops_over_lines(ctx: task.OrchestrationContext, v):
    if not ctx.is_replaying:
        for one in v:
            log.info("line %s", one)
    yield ctx.call_activity(pay)


def status(ctx: task.OrchestrationContext, v):
    if not ctx.is_replaying:
        ctx.set_custom_status("begun")
    yield ctx.call_activity(pay)


def silent(ctx: task.OrchestrationContext, text):
    if ctx.is_replaying:
        return
    log.info(text)


def by_a_silent_helper(ctx: task.OrchestrationContext, v):
    silent(ctx, "begun")
    yield ctx.call_activity(pay)
