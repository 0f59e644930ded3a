"""Workflows in the style of the SDK's documentation; the contract suite runs them on every engine."""

from datetime import timedelta

from durabletask import entities, task

from bridge.workflow import Entity, Inbox, continue_as_new, origin, wait_for_message


def echo(ctx: task.OrchestrationContext, value):
    return value


def add_one(ctx: task.ActivityContext, value: int) -> int:
    return value + 1


def chain(ctx: task.OrchestrationContext, value: int):
    first = yield ctx.call_activity(add_one, input=value)
    return (yield ctx.call_activity(add_one, input=first))


def fan_out(ctx: task.OrchestrationContext, width: int):
    results = yield task.when_all([ctx.call_activity(add_one, input=number) for number in range(width)])
    return sum(results)


def approval(ctx: task.OrchestrationContext, _):
    return (yield ctx.wait_for_external_event("approve"))


def twice(ctx: task.OrchestrationContext, _):
    first = yield ctx.wait_for_external_event("item")
    second = yield ctx.wait_for_external_event("item")
    return [first, second]


def patient(ctx: task.OrchestrationContext, seconds: float):
    yield ctx.create_timer(timedelta(seconds=seconds))
    return "woke"


def parent(ctx: task.OrchestrationContext, value: int):
    return (yield ctx.call_sub_orchestrator(chain, input=value))


def waits_for_child(ctx: task.OrchestrationContext, child: str):
    return (yield ctx.call_sub_orchestrator(approval, instance_id=child))


def countdown(ctx: task.OrchestrationContext, left: int):
    if left > 0:
        ctx.continue_as_new(left - 1)
    return "done"


def reporting(ctx: task.OrchestrationContext, status: str):
    ctx.set_custom_status(status)
    yield ctx.wait_for_external_event("go")


def cancellable(ctx: task.OrchestrationContext, _):
    return (yield ctx.wait_for_external_event("cancel"))


def versioned(ctx: task.OrchestrationContext, _):
    return ctx.version


def failing(ctx: task.OrchestrationContext, _):
    raise RuntimeError("as planned")


class Counter(entities.DurableEntity):
    def add(self, amount: int):
        self.set_state(self.get_state(int, 0) + amount)


def collect(ctx: task.OrchestrationContext, value):
    taken = [value]
    for _ in range(value[0]):
        taken.append((yield from wait_for_message(ctx, "item")).data)  # noqa: PERF401 -- a comprehension cannot yield
    return taken


def forgetful(ctx: task.OrchestrationContext, items):
    """Remember a single message, and take messages in the second generation."""
    Inbox(ctx, remember=1)
    if items > 0:
        return continue_as_new(ctx, -items)
    for _ in range(-items):
        yield from wait_for_message(ctx, "item")


def generations(ctx: task.OrchestrationContext, state):
    if not state["left"]:
        return [state["taken"], origin(ctx).message_id]
    item = yield from wait_for_message(ctx, "item")
    return continue_as_new(ctx, {"left": state["left"] - 1, "taken": [*state["taken"], item.data]})


class Remembering(Entity):
    def add(self, amount: int):
        self.set_state(self.get_state(int, 0) + amount)


def noted(ctx: task.OrchestrationContext, value):
    ctx.signal_entity(entities.EntityInstanceId("notes", "all"), "add", value)
    yield ctx.create_timer(timedelta())


def ledger(ctx: task.OrchestrationContext, value):
    """Note the input, with an awaited entry when the input ends in `+`."""
    if value.endswith("+"):
        value += (yield from wait_for_message(ctx, "entry")).data
    yield from noted(ctx, value)


class Notes(entities.DurableEntity):
    def add(self, value: str):
        self.set_state([*self.get_state(list, []), value])
