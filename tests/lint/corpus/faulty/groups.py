"""Groups that may be empty."""

from durabletask import task


def charge(ctx: task.ActivityContext, v):
    return v


def any_of_input(ctx: task.OrchestrationContext, lines):
    yield task.when_any([ctx.call_activity(charge, input=line) for line in lines])  # finds: empty-when-any


def any_of_appended(ctx: task.OrchestrationContext, lines):
    work = []
    for line in lines:
        work.append(ctx.call_activity(charge, input=line))
    winner = yield task.when_any(work)  # finds: empty-when-any
    return winner.get_result()


def any_of_nothing(ctx: task.OrchestrationContext, v):
    yield task.when_any([])  # finds: empty-when-any


def any_of_values(ctx: task.OrchestrationContext, lines):
    work = {line: ctx.call_activity(charge, input=line) for line in lines}
    yield task.when_any(list(work.values()))  # finds: empty-when-any


def any_of_filtered(ctx: task.OrchestrationContext, lines):
    work = [ctx.call_activity(charge, input=line) for line in ("a", "b") if line in lines]
    yield task.when_any(work)  # finds: empty-when-any


def all_of_input(ctx: task.OrchestrationContext, lines):
    yield task.when_all([ctx.call_activity(charge, input=line) for line in lines])  # finds: empty-when-all


def all_by_keyword(ctx: task.OrchestrationContext, lines):
    yield task.when_all(tasks=[ctx.call_activity(charge, input=line) for line in lines])  # finds: empty-when-all


def any_of_starred(ctx: task.OrchestrationContext, lines):
    work = [ctx.call_activity(charge, input=line) for line in lines]
    yield task.when_any([*work])  # finds: empty-when-any


def drained(ctx: task.OrchestrationContext, v):
    work = [ctx.call_activity(charge), ctx.call_activity(charge)]
    while True:
        winner = yield task.when_any(work)  # finds: empty-when-any
        work.remove(winner)


def guarded_by_another(ctx: task.OrchestrationContext, lines):
    work = [ctx.call_activity(charge, input=line) for line in lines]
    if lines is not None:
        yield task.when_any(work)  # finds: empty-when-any


def helper(ctx: task.OrchestrationContext, work):
    return (yield task.when_any(work))  # finds: empty-when-any


def through_a_helper(ctx: task.OrchestrationContext, lines):
    work = [ctx.call_activity(charge, input=line) for line in lines]
    yield from helper(ctx, work)
