"""Names that are known, declared elsewhere, or made while running."""

from durabletask import entities, task

from bridge.workflow import PUBLISH_ACTIVITY, Child, Command, Saga, Step, publish, request

TARGET = "decisions"


def pay(ctx: task.ActivityContext, v):
    return v


class Counter(entities.DurableEntity):
    def add(self, amount):
        return amount


def target(ctx: task.OrchestrationContext, v):
    yield publish(ctx, "decisions", type="x")


def target_of_a_constant(ctx: task.OrchestrationContext, v):
    yield publish(ctx, TARGET, type="x")


def target_of_the_input(ctx: task.OrchestrationContext, v):
    yield publish(ctx, v["target"], type="x")


def target_that_is_made(ctx: task.OrchestrationContext, v):
    yield publish(ctx, f"decisions-{v}", type="x")


def notify(ctx: task.OrchestrationContext, where):
    yield publish(ctx, where, type="x")


def target_of_a_helper(ctx: task.OrchestrationContext, v):
    yield from notify(ctx, "decisions")


def asks(ctx: task.OrchestrationContext, v):
    yield from request(ctx, "decisions", type="x", reply_to="anything")


def activity(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity("pay")
    yield ctx.call_activity(pay)


def external(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity("external_activity")
    yield ctx.call_sub_orchestrator("external_flow")
    yield ctx.call_entity(entities.EntityInstanceId("External_Entity", "1"), "add", 1)


def own(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(PUBLISH_ACTIVITY, input={"target": "decisions"})


def child(ctx: task.OrchestrationContext, v):
    yield ctx.call_sub_orchestrator("target")
    yield ctx.call_sub_orchestrator(target)


def counts(ctx: task.OrchestrationContext, v):
    yield ctx.call_entity(entities.EntityInstanceId("Counter", "1"), "add", 1)


def saga(ctx: task.OrchestrationContext, v):
    trip = Saga(ctx, "trip", publish_outcome=TARGET)

    def body():
        yield from trip.step(Step("a", pay, compensation="pay"))
        yield from trip.step(Step("b", Child("target"), compensation=Command("decisions", "x")))

    return (yield from trip.run(body()))


class Targets:
    DECISIONS = "decisions"


TABLE = {"a": "decisions", "b": "replies"}


def by_class(ctx: task.OrchestrationContext, v):
    yield publish(ctx, Targets.DECISIONS, type="x")


def by_table(ctx: task.OrchestrationContext, v):
    yield publish(ctx, TABLE[v], type="x")


def by_loop(ctx: task.OrchestrationContext, v):
    for target in ("decisions", "replies"):
        yield publish(ctx, target, type="x")


def by_input(ctx: task.OrchestrationContext, order):
    yield ctx.call_activity(order.activity)
    yield ctx.call_activity(order["activity"])
    yield ctx.call_activity(f"pay_{order}")
