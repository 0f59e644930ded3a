"""Groups that have a member."""

from datetime import timedelta

from durabletask import task

REGIONS = ("eu", "us")


def pay(ctx: task.ActivityContext, v):
    return v


def literal(ctx: task.OrchestrationContext, v):
    yield task.when_any([ctx.call_activity(pay), ctx.create_timer(timedelta(hours=1))])


def with_a_timer(ctx: task.OrchestrationContext, lines):
    work = [ctx.call_activity(pay, input=line) for line in lines]
    yield task.when_any([ctx.create_timer(timedelta(hours=1)), *work])


def constants(ctx: task.OrchestrationContext, v):
    yield task.when_any([ctx.call_activity(pay, input=region) for region in REGIONS])


def guarded(ctx: task.OrchestrationContext, lines):
    work = [ctx.call_activity(pay, input=line) for line in lines]
    if work:
        yield task.when_any(work)


def guarded_by_input(ctx: task.OrchestrationContext, lines):
    if not lines:
        return None
    return (yield task.when_any([ctx.call_activity(pay, input=line) for line in lines]))


def while_there_are_some(ctx: task.OrchestrationContext, lines):
    work = [ctx.call_activity(pay, input=line) for line in lines]
    while work:
        winner = yield task.when_any(work)
        work.remove(winner)


def values_while_there_are_some(ctx: task.OrchestrationContext, lines):
    work = {line: ctx.call_activity(pay, input=line) for line in lines}
    while work:
        winner = yield task.when_any(list(work.values()))
        work = {line: each for line, each in work.items() if each is not winner}


def first_of_two_once(ctx: task.OrchestrationContext, v):
    work = [ctx.call_activity(pay), ctx.call_activity(pay)]
    winner = yield task.when_any(work)
    work.remove(winner)
    return winner.get_result()


def all_by_keyword(ctx: task.OrchestrationContext, v):
    return (yield task.when_all(tasks=[ctx.call_activity(pay), ctx.call_activity(pay)]))


def helper(ctx: task.OrchestrationContext, work):
    if not work:
        return None
    return (yield task.when_any(work))


def through_a_helper(ctx: task.OrchestrationContext, lines):
    return (yield from helper(ctx, [ctx.call_activity(pay, input=line) for line in lines]))


def given_group(ctx: task.OrchestrationContext, work):
    return (yield task.when_any(work))


def through_a_helper_with_two(ctx: task.OrchestrationContext, v):
    return (yield from given_group(ctx, [ctx.call_activity(pay), ctx.create_timer(timedelta(hours=1))]))


def either_list(ctx: task.OrchestrationContext, v):
    one, other = ctx.call_activity(pay), ctx.create_timer(timedelta(hours=1))
    work = [one, other] if v else [other]
    return (yield task.when_any(work))


def asserted_lines(ctx: task.OrchestrationContext, lines: list):
    assert lines, "the schema of the message asks for a line"
    yield task.when_all([ctx.call_activity(pay, input=line) for line in lines])


def compared_with_an_empty_list(ctx: task.OrchestrationContext, lines: list):
    if lines == []:
        return
    yield task.when_all([ctx.call_activity(pay, input=line) for line in lines])


def other_than_an_empty_list(ctx: task.OrchestrationContext, lines: list):
    if lines != []:
        yield task.when_any([ctx.call_activity(pay, input=line) for line in lines])


def values_of_a_dictionary_that_is_made_of_constants(ctx: task.OrchestrationContext, _):
    tasks = {name: ctx.call_activity(pay, input=name) for name in ("a", "b")}
    yield task.when_all(list(tasks.values()))


def values_of_a_written_dictionary(ctx: task.OrchestrationContext, _):
    tasks = {"a": ctx.call_activity(pay, input="a"), "b": ctx.call_activity(pay, input="b")}
    yield task.when_any(list(tasks.values()))
