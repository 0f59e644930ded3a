"""Workflows of the recorded project: large values in each place of a history, and sagas that end badly."""

from durabletask import task

from bridge.workflow import Saga, Step


def double(ctx: task.ActivityContext, text):
    return text + text


def collect(ctx: task.OrchestrationContext, given):
    doubled = yield ctx.call_activity(double, input=given)
    event = yield ctx.wait_for_external_event("item")
    again = yield ctx.call_activity(double, input=event)
    return {"given": given, "doubled": doubled, "again": again}


def fails(ctx: task.OrchestrationContext, given):
    raise ValueError("as recorded")


def book(ctx: task.ActivityContext, given):
    return "booked"


def cancel(ctx: task.ActivityContext, given):
    return "cancelled"


def refuse(ctx: task.ActivityContext, given):
    raise ValueError("refused")


def undone(ctx: task.OrchestrationContext, given):
    saga = Saga(ctx, "journey")

    def body():
        yield from saga.step(Step("book", book, given, compensation=cancel, keyed=False))
        yield from saga.step(Step("pay", refuse, given, keyed=False))

    return (yield from saga.run(body()))
