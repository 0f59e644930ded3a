"""Decisions by `is_replaying`."""

from durabletask import task


def charge(ctx: task.ActivityContext, v):
    return v


def skips_a_step(ctx: task.OrchestrationContext, v):
    if not ctx.is_replaying:
        yield ctx.call_activity(charge)  # finds: replaying
    return 1


def skips_in_replay(ctx: task.OrchestrationContext, v):
    if ctx.is_replaying:
        pass
    else:
        yield ctx.call_activity(charge)  # finds: replaying


def leaves_early(ctx: task.OrchestrationContext, v):
    if ctx.is_replaying:
        return 0  # finds: replaying
    yield ctx.call_activity(charge)


def raises(ctx: task.OrchestrationContext, v):
    if not ctx.is_replaying and v > 10:
        raise ValueError(v)  # finds: replaying
    yield ctx.call_activity(charge)


def remembers(ctx: task.OrchestrationContext, v):
    first = not ctx.is_replaying
    if first:
        yield ctx.call_activity(charge)  # finds: replaying


def compares(ctx: task.OrchestrationContext, v):
    if ctx.is_replaying is False:
        yield ctx.create_timer(1)  # finds: replaying


def chooses(ctx: task.OrchestrationContext, v):
    name = "charge" if ctx.is_replaying else "external_activity"
    yield ctx.call_activity(name)  # finds: replaying


def sets(ctx: task.OrchestrationContext, v):
    total = 0
    if not ctx.is_replaying:
        total += 1  # finds: replaying
    yield ctx.call_activity(charge, input=total)


def appends(ctx: task.OrchestrationContext, v):
    work = [v]
    if not ctx.is_replaying:
        work.append(1)  # finds: replaying
    yield ctx.call_activity(charge, input=work)


def signals(ctx: task.OrchestrationContext, v):
    if not ctx.is_replaying:
        ctx.signal_entity(v, "add", 1)  # finds: replaying
    yield ctx.call_activity(charge)


def sends(ctx: task.OrchestrationContext, v):
    if not ctx.is_replaying:
        ctx.send_event("other", "go")  # finds: replaying
    yield ctx.call_activity(charge)


def makes_ids(ctx: task.OrchestrationContext, v):
    if not ctx.is_replaying:
        print(ctx.new_uuid())  # finds: replaying
    yield ctx.call_activity(charge, input=ctx.new_uuid())


def short_circuit(ctx: task.OrchestrationContext, v):
    ctx.is_replaying or (yield ctx.call_activity(charge))  # finds: replaying


def passes_it_on(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(charge, input=ctx.is_replaying)  # finds: replaying


def returns_it(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(charge)
    return ctx.is_replaying  # finds: replaying


def live(ctx: task.OrchestrationContext):
    return not ctx.is_replaying


def asks_a_helper(ctx: task.OrchestrationContext, v):
    if live(ctx):
        yield ctx.call_activity(charge)  # finds: replaying


def loops(ctx: task.OrchestrationContext, v):
    while not ctx.is_replaying:
        yield ctx.create_timer(1)  # finds: replaying


def step(ctx: task.OrchestrationContext):
    if not ctx.is_replaying:
        yield ctx.call_activity(charge)  # finds: replaying


def in_a_helper(ctx: task.OrchestrationContext, v):
    yield from step(ctx)


def breaks(ctx: task.OrchestrationContext, v):
    for one in v:
        if ctx.is_replaying:
            continue  # finds: replaying
        yield ctx.call_activity(charge, input=one)
