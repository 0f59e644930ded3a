"""Names that nothing registers."""

from durabletask import entities, task

from bridge.workflow import Child, Command, Saga, Step, publish, request

TARGET = "decisionz"
REPLIES = "replies"


def pay(ctx: task.ActivityContext, v):
    return v


def _private(ctx: task.ActivityContext, v):
    return v


def target(ctx: task.OrchestrationContext, v):
    yield publish(ctx, "decisionz", type="x")  # finds: unknown-name


def target_by_keyword(ctx: task.OrchestrationContext, v):
    yield publish(ctx, target="decisionz", type="x")  # finds: unknown-name


def target_of_a_constant(ctx: task.OrchestrationContext, v):
    yield publish(ctx, TARGET, type="x")  # finds: unknown-name


def target_of_a_local(ctx: task.OrchestrationContext, v):
    name = "decisionz"  # finds: unknown-name
    yield publish(ctx, name, type="x")


def target_of_a_choice(ctx: task.OrchestrationContext, v):
    yield publish(ctx, "decisions" if v else "decisionz", type="x")  # finds: unknown-name


def notify(ctx: task.OrchestrationContext, where):
    yield publish(ctx, where, type="x")


def target_of_a_helper(ctx: task.OrchestrationContext, v):
    yield from notify(ctx, "decisionz")  # finds: unknown-name


def target_of_a_request(ctx: task.OrchestrationContext, v):
    yield from request(ctx, "decisionz", type="x", reply_to=REPLIES)  # finds: unknown-name


def target_of_a_saga(ctx: task.OrchestrationContext, v):
    saga = Saga(ctx, "x", publish_outcome="decisionz")  # finds: unknown-name

    def body():
        yield from saga.step(Step("a", Command("decisionz", "x")))  # finds: unknown-name

    yield from saga.run(body())


def activity(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity("paye")  # finds: unknown-name


def private_activity(ctx: task.OrchestrationContext, v):
    yield ctx.call_activity(_private)  # finds: unknown-name


def activity_of_a_step(ctx: task.OrchestrationContext, v):
    saga = Saga(ctx, "x")

    def body():
        yield from saga.step(Step("a", "paye", compensation="unpay"))  # finds: unknown-name

    yield from saga.run(body())


def orchestration(ctx: task.OrchestrationContext, v):
    yield ctx.call_sub_orchestrator("targett")  # finds: unknown-name


def activity_as_orchestration(ctx: task.OrchestrationContext, v):
    yield ctx.call_sub_orchestrator(pay)  # finds: unknown-name


def child_of_a_step(ctx: task.OrchestrationContext, v):
    saga = Saga(ctx, "x")

    def body():
        yield from saga.step(Step("a", Child("targett")))  # finds: unknown-name

    yield from saga.run(body())


class Counter(entities.DurableEntity):
    def add(self, amount):
        return amount


def entity(ctx: task.OrchestrationContext, v):
    yield ctx.call_entity(entities.EntityInstanceId("countre", "1"), "add", 1)  # finds: unknown-name


def signalled_entity(ctx: task.OrchestrationContext, v):
    ctx.signal_entity(entities.EntityInstanceId("countre", "1"), "add", 1)  # finds: unknown-name
    yield ctx.create_timer(1)
