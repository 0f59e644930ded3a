"""Durable calls that somebody waits for, wherever the task goes first."""

from datetime import timedelta

from durabletask import task

from bridge.workflow import publish


def pay(ctx: task.ActivityContext, v):
    return v


def later(ctx: task.OrchestrationContext, v):
    work = ctx.call_activity(pay)
    yield ctx.create_timer(timedelta(seconds=1))
    return (yield work)


def in_a_group(ctx: task.OrchestrationContext, v):
    first, second = ctx.call_activity(pay), ctx.call_activity(pay)
    return (yield task.when_all([first, second]))


def in_a_list(ctx: task.OrchestrationContext, v):
    work = [ctx.call_activity(pay)]
    for one in v:
        work.append(ctx.call_activity(pay, input=one))
    return (yield task.when_all(work))


def in_a_dict(ctx: task.OrchestrationContext, v):
    work = {}
    work["a"] = ctx.call_activity(pay)
    return (yield work["a"])


def one_by_one(ctx: task.OrchestrationContext, v):
    work = [ctx.call_activity(pay, input=one) for one in v]
    results = []
    for each in work:
        results.append((yield each))
    return results


def cancelled(ctx: task.OrchestrationContext, v):
    work = ctx.call_activity(pay)
    timer = ctx.create_timer(timedelta(hours=1))
    yield task.when_any([work, timer])
    timer.cancel()
    return work.is_complete


def make(ctx: task.OrchestrationContext, v):
    return ctx.call_activity(pay, input=v)


def made_by_a_helper(ctx: task.OrchestrationContext, v):
    return (yield make(ctx, v))


def made_by_a_helper_in_a_group(ctx: task.OrchestrationContext, v):
    return (yield task.when_all([make(ctx, 1), make(ctx, 2)]))


def wait(ctx: task.OrchestrationContext, work):
    return (yield work)


def handed_on(ctx: task.OrchestrationContext, v):
    work = ctx.call_activity(pay)
    return (yield from wait(ctx, work))


def published(ctx: task.OrchestrationContext, v):
    sent = publish(ctx, "decisions", type="x")
    yield ctx.call_activity(pay)
    yield sent


def conditional(ctx: task.OrchestrationContext, v):
    work = ctx.call_activity(pay) if v else ctx.create_timer(timedelta(seconds=1))
    return (yield work)


def returned_from_a_nested_function(ctx: task.OrchestrationContext, v):
    def ask(one):
        return ctx.call_activity(pay, input=one)

    return (yield task.when_all([ask(1), ask(2)]))


def lambda_that_makes_one(ctx: task.OrchestrationContext, v):
    ask = lambda one: ctx.call_activity(pay, input=one)
    return (yield ask(v))


def polled(ctx: task.OrchestrationContext, v):
    event = ctx.wait_for_external_event("go")
    while not event.is_complete:
        yield task.when_any([event, ctx.create_timer(timedelta(hours=1))])
    return event.get_result()


def result_of_what_was_waited_for(ctx: task.OrchestrationContext, v):
    work = ctx.call_activity(pay)
    yield work
    return work.get_result()


def status(ctx: task.OrchestrationContext, v):
    ctx.set_custom_status("x")
    ctx.signal_entity(v, "add", 1)
    ctx.send_event("other", "go")
    yield ctx.create_timer(timedelta(seconds=1))
