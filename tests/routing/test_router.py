from datetime import UTC, datetime
from typing import Any

import pytest

from bridge.core.commands import (
    Cancel,
    Decision,
    OnExisting,
    OnFinished,
    OnMissing,
    RaiseEvent,
    Resume,
    RoutedCommand,
    ScheduleOrchestration,
    SignalEntity,
    StartOrRaise,
    Suspend,
    Terminate,
)
from bridge.core.errors import ExpressionError, InvalidCommand, NoRoute, SchemaError, TooManyCommands
from bridge.core.message import Envelope
from tests.routing.config import envelope, problems, route, router

ID = "order-{{ payload.id }}"


def steps(*routes: dict[str, Any], message: Envelope | None = None, **rest: Any) -> list[Any]:
    decision = router(*routes, **rest).route(message or envelope({"id": "o-1", "n": 2}))
    return [step.command for step in decision.steps]


COMMANDS: list[tuple[dict[str, Any], Any]] = [
    (
        {"schedule": {"orchestration": "saga", "instance_id": ID}},
        ScheduleOrchestration("saga", "order-o-1", {"id": "o-1", "n": 2}),
    ),
    (
        {
            "schedule": {
                "orchestration": "saga",
                "instance_id": ID,
                "input": "{'n': payload.n + 1}",
                "version": "{{ payload.n }}.0",
                "tags": {"kind": "{{ event.type }}", "fixed": "x"},
                "start_at": "2030-01-31T10:00:00+02:00",
                "on_existing": "restart",
            }
        },
        ScheduleOrchestration(
            "saga",
            "order-o-1",
            {"n": 3},
            "2.0",
            {"kind": "order.created", "fixed": "x"},
            datetime(2030, 1, 31, 8, tzinfo=UTC),
            None,
            OnExisting.RESTART,
        ),
    ),
    (
        {
            "schedule": {
                "orchestration": "saga",
                "instance_id": ID,
                "on_existing": "raise",
                "event": "{{ event.type }}",
                "on_finished": "restart",
            }
        },
        ScheduleOrchestration(
            "saga",
            "order-o-1",
            {"id": "o-1", "n": 2},
            on_existing=OnExisting.RAISE,
            event="order.created",
            on_finished=OnFinished.RESTART,
        ),
    ),
    (
        {"raise_event": {"instance_id": ID, "name": "paid", "on_finished": "restart"}},
        RaiseEvent("order-o-1", "paid", {"id": "o-1", "n": 2}, on_finished=OnFinished.RESTART),
    ),
    (
        {"schedule": {"orchestration": "saga", "instance_id": ID, "delay": "{{ payload.n }}m"}},
        ScheduleOrchestration("saga", "order-o-1", {"id": "o-1", "n": 2}, delay=120.0),
    ),
    (
        {"schedule": {"orchestration": "saga", "instance_id": ID, "delay": "90s", "input": "null"}},
        ScheduleOrchestration("saga", "order-o-1", None, delay=90.0),
    ),
    (
        {"raise_event": {"instance_id": ID, "name": "paid", "data": "payload.n", "on_missing": "ignore"}},
        RaiseEvent("order-o-1", "paid", 2, OnMissing.IGNORE),
    ),
    (
        {"raise_event": {"instance_id": ID, "name": "{{ event.type }}", "on_finished": "ignore"}},
        RaiseEvent("order-o-1", "order.created", {"id": "o-1", "n": 2}, on_finished=OnFinished.IGNORE),
    ),
    (
        {"start_or_raise": {"orchestration": "saga", "instance_id": ID, "event": "e", "input": "1", "data": "2"}},
        StartOrRaise("saga", "order-o-1", "e", 1, 2),
    ),
    ({"cancel": {"instance_id": ID}}, Cancel("order-o-1")),
    ({"cancel": {"instance_id": ID, "event": "stop", "reason": "r{{ payload.n }}"}}, Cancel("order-o-1", "stop", "r2")),
    ({"terminate": {"instance_id": ID}}, Terminate("order-o-1")),
    (
        {"terminate": {"instance_id": ID, "output": "payload.n", "recursive": False}},
        Terminate("order-o-1", 2, False),
    ),
    ({"suspend": {"instance_id": ID, "reason": "why"}}, Suspend("order-o-1", "why")),
    ({"resume": {"instance_id": ID}}, Resume("order-o-1")),
    (
        {"signal_entity": {"entity": "counter", "key": "{{ payload.id }}", "operation": "add", "input": "payload.n"}},
        SignalEntity("counter", "o-1", "add", 2),
    ),
    (
        {"signal_entity": {"entity": "counter", "key": "k", "operation": "add", "at": "2030-01-31T08:00:00Z"}},
        SignalEntity("counter", "k", "add", {"id": "o-1", "n": 2}, datetime(2030, 1, 31, 8, tzinfo=UTC)),
    ),
]


@pytest.mark.parametrize(("rule", "command"), COMMANDS)
def test_every_rule_makes_its_command(rule: dict[str, Any], command: Any) -> None:
    assert steps(route(**rule)) == [command]


def test_ignore_matches_without_a_command() -> None:
    assert router(route(ignore={"reason": "noise"})).route(envelope()) == Decision(("a",), ())


def test_the_engine_is_the_routes() -> None:
    decision = router(route(cancel={"instance_id": "x"}, engine="eu")).route(envelope())
    assert decision.steps == (RoutedCommand("a", Cancel("x"), "eu"),)


def test_the_first_match_wins_and_continue_goes_on() -> None:
    rules = router(
        route("never", match={"type": "other"}),
        route("one", continue_=True, when="payload.n > 1"),
        route("two", match={"type": ["x", "order.created"]}, continue_=True),
        route("three", when="payload.n == 2"),
        route("four"),
    )
    assert rules.route(envelope({"id": "1", "n": 2})).routes == ("one", "two", "three")
    assert rules.route(envelope({"id": "1", "n": 1})).routes == ("two", "four")


def test_no_match() -> None:
    with pytest.raises(NoRoute, match="the only route from orders does not match"):
        router(route(match={"type": "x"})).route(envelope())
    silent = router(route(match={"type": "x"}), source={"no_match": "ignore"})
    assert silent.route(envelope()) == Decision((), ())


def test_only_the_sources_own_routes_count() -> None:
    rules = router(
        {**route("theirs"), "from": ["other"]},
        {**route("ours"), "from": ["other", "orders"]},
    )
    assert rules.route(envelope()).routes == ("ours",)


def test_a_condition_that_fails() -> None:
    with pytest.raises(ExpressionError, match="route a, when: there is no key"):
        router(route(when="payload.nope > 1")).route(envelope())
    rules = router(route(when="payload.nope > 1", on_error="no_match"), route("b"))
    assert rules.route(envelope()).routes == ("b",)


def test_on_error_is_about_the_condition_only() -> None:
    with pytest.raises(ExpressionError, match=r"route a, cancel.instance_id: there is no key"):
        router(route(cancel={"instance_id": "{{ payload.nope }}"}, on_error="no_match")).route(envelope())


def test_for_each_keeps_the_order() -> None:
    each = route(
        for_each="payload.items",
        raise_event={"instance_id": "i-{{ item.id }}-{{ index }}", "name": "e", "data": "[item.n, index, payload.x]"},
    )
    message = envelope({"x": 9, "items": [{"id": "b", "n": 1}, {"id": "a", "n": 2}, {"id": "b", "n": 3}]})
    assert steps(each, message=message) == [
        RaiseEvent("i-b-0", "e", [1, 0, 9]),
        RaiseEvent("i-a-1", "e", [2, 1, 9]),
        RaiseEvent("i-b-2", "e", [3, 2, 9]),
    ]
    assert router(each).route(envelope({"items": []})) == Decision(("a",), ())


@pytest.mark.parametrize(
    ("items", "error", "said"),
    [
        ({"a": 1}, ExpressionError, "needs a list"),
        ("text", ExpressionError, "needs a list"),
        ([1] * 1001, TooManyCommands, "1001 items, more than the 1000 that limits.max_commands allows"),
    ],
)
def test_for_each_over_what_it_cannot(items: Any, error: type[Exception], said: str) -> None:
    each = route(for_each="payload.items", cancel={"instance_id": "x-{{ index }}"})
    with pytest.raises(error, match=said):
        router(each).route(envelope({"items": items}))


def test_for_each_up_to_its_limit() -> None:
    each = route(for_each="payload.items", cancel={"instance_id": "x-{{ index }}"})
    assert len(steps(each, message=envelope({"items": [1] * 1000}))) == 1000


def test_for_each_up_to_a_limit_of_the_source() -> None:
    each = route(for_each="payload.items", cancel={"instance_id": "x-{{ index }}"})
    wider, narrower = (router(each, source={"limits": {"max_commands": number}}) for number in (1_001, 2))
    assert len(wider.route(envelope({"items": [1] * 1_001})).steps) == 1_001
    with pytest.raises(TooManyCommands, match="3 items, more than the 2 that"):
        narrower.route(envelope({"items": [1] * 3}))


def test_item_is_known_below_for_each_only() -> None:
    (problem,) = problems(route(cancel={"instance_id": "{{ item }}"}))
    assert "there is no variable `item`" in problem.what
    assert problem.path == "routes.0.cancel.instance_id"


def test_map_changes_what_the_command_sees() -> None:
    def shaped(message: Envelope) -> Any:
        return {"id": message.data["id"].upper(), "items": [1, 2]}

    mapped = route(
        map="shop.shape:order", when="payload.id == 'o-1'", for_each="payload.items", cancel={"instance_id": ID}
    )
    decision = router(mapped, route("b"), functions={"shop.shape:order": shaped}.__getitem__).route(envelope())
    assert [step.command for step in decision.steps] == [Cancel("order-O-1")] * 2


def test_map_that_fails_tells_no_payload() -> None:
    def broken(message: Envelope) -> Any:
        raise ValueError(f"bad {message.data}")

    mapped = router(route(map="shop:f"), functions=lambda _: broken)
    with pytest.raises(ExpressionError) as raised:
        mapped.route(envelope({"id": "s3cr3t"}))
    assert str(raised.value) == "route a, map shop:f: the function raised ValueError"


def test_map_without_functions_fails_when_run() -> None:
    with pytest.raises(ExpressionError, match="was not loaded"):
        router(route(map="shop:f")).route(envelope())


def test_map_that_cannot_be_resolved_is_a_problem() -> None:
    def missing(reference: str) -> Any:
        raise ImportError(f"no module for {reference}")

    (problem,) = problems(route(map="shop:f"), functions=missing)
    assert (problem.path, problem.what) == ("routes.0.map", "no module for shop:f")


def test_a_schema_of_the_route_is_for_messages_it_matches() -> None:
    def refuse(payload: Any) -> None:
        raise SchemaError("no")

    rules = router(route("a", when="payload.n == 1"), route("b"), validators={"a": refuse})
    assert rules.route(envelope({"id": "1", "n": 2})).routes == ("b",)
    with pytest.raises(SchemaError):
        rules.route(envelope({"id": "1", "n": 1}))


HOSTILE: list[Any] = ["", "@x", "bridge:x", "a/b", "a\nb", "x" * 10_000, "\ud800", "a\0b", "a?", "a#", "a\\"]


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("template", ["{{ payload.id }}", "{{ dyn(payload.id) }}"])
def test_hostile_ids_never_reach_an_engine(hostile: str, template: str) -> None:
    for command in (
        {"schedule": {"orchestration": "saga", "instance_id": template}},
        {"raise_event": {"instance_id": template, "name": "e"}},
        {"terminate": {"instance_id": template}},
    ):
        with pytest.raises((InvalidCommand, ExpressionError), match="route a") as raised:
            router(route(**command)).route(envelope({"id": hostile}))  # type: ignore[arg-type]  # wider than its annotation, on purpose
        str(raised.value).encode()
        assert len(str(raised.value)) < 300


@pytest.mark.parametrize("field", ["name", "operation", "key", "version"])
def test_hostile_names_never_reach_an_engine(field: str) -> None:
    command: dict[str, Any] = {
        "name": {"raise_event": {"instance_id": "x", "name": "{{ payload.v }}"}},
        "operation": {"signal_entity": {"entity": "e", "key": "k", "operation": "{{ payload.v }}"}},
        "key": {"signal_entity": {"entity": "e", "key": "{{ payload.v }}", "operation": "o"}},
        "version": {"schedule": {"orchestration": "s", "instance_id": "x", "version": "{{ payload.v }}"}},
    }[field]
    for hostile in ("", "x" * 257, "a\nb", "\ud800"):
        with pytest.raises((InvalidCommand, ExpressionError), match="route a"):
            router(route(**command)).route(envelope({"v": hostile}))


def test_a_tag_may_not_hold_a_surrogate() -> None:
    tagged = route(schedule={"orchestration": "s", "instance_id": "x", "tags": {"t": "{{ payload.v }}"}})
    with pytest.raises(ExpressionError, match="surrogate"):
        router(tagged).route(envelope({"v": "\ud800"}))


@pytest.mark.parametrize("odd", [2**70, float("nan"), "\ud800", b"x", None])
def test_odd_payloads_pass_through(odd: Any) -> None:
    (command,) = steps(route(schedule={"orchestration": "s", "instance_id": "x"}), message=envelope({"odd": odd}))
    assert command.input["odd"] is odd


@pytest.mark.parametrize("data", [b"\xff", "text", 7, [1], None])
def test_payloads_that_are_no_map(data: Any) -> None:
    message = envelope()
    message = Envelope(**{name: getattr(message, name) for name in Envelope.__slots__} | {"data": data})
    with pytest.raises(ExpressionError, match="not a map"):
        router(route()).route(message)
    with pytest.raises(NoRoute):
        router(route(match={"payload.a": 1})).route(message)


def test_all_problems_of_a_source_are_told_at_once() -> None:
    found = problems(
        route("a", when="payload.x +"),
        route("b", when="1 + 1", for_each="foo", map="m:f"),
        route(
            "c", schedule={"orchestration": "s", "instance_id": "{{ bar", "input": "baz", "tags": {"t": "{{ qux }}"}}
        ),
        route("d", cancel={"instance_id": "@{{ payload.id }}"}),
        route("e", cancel={"instance_id": "bridge:x"}),
        route("f", schedule={"orchestration": "s", "instance_id": "x", "delay": "soon"}),
        route("g", signal_entity={"entity": "a@b", "key": "{{ payload.id }}", "operation": "o", "at": "now"}),
        source={"ordering": "{{ payload. }}"},
    )
    assert [problem.path for problem in found] == [
        "routes.0.when",
        "routes.1.when",
        "routes.1.for_each",
        "routes.2.schedule.instance_id",
        "routes.2.schedule.input",
        "routes.2.schedule.tags.t",
        "routes.3.cancel.instance_id",
        "routes.4.cancel.instance_id",
        "routes.5.schedule.delay",
        "routes.6.signal_entity.entity",
        "routes.6.signal_entity.at",
        "sources.orders.ordering",
    ]


@pytest.mark.parametrize(
    ("ordering", "key"),
    [
        ("key", "k"),
        ("partition", "orders/3"),
        ("none", None),
        ("{{ payload.id }}", "o-1"),
        ("{{ event.type }}/{{ vars.v }}", "order.created/1"),
    ],
)
def test_ordering_keys(ordering: str, key: str | None) -> None:
    rules = router(source={"ordering": ordering}, vars={"v": 1})
    assert rules.ordering_key(envelope(key="k")) == key


def test_an_ordering_key_that_fails() -> None:
    with pytest.raises(ExpressionError, match="source orders, ordering"):
        router(source={"ordering": "{{ payload.nope }}"}).ordering_key(envelope())


def test_a_message_without_a_key_has_no_order() -> None:
    assert router().ordering_key(envelope()) is None


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ({"schedule": {"orchestration": "bridge.dead_letter", "instance_id": ID}}, "schedule.orchestration"),
        (
            {"start_or_raise": {"orchestration": "bridge.saga", "instance_id": ID, "event": "e"}},
            "start_or_raise.orchestration",
        ),
        (
            {"raise_event": {"instance_id": ID, "name": "e", "on_missing": {"start": "Bridge.cancel"}}},
            "raise_event.on_missing.start",
        ),
    ],
)
def test_no_rule_names_what_is_the_bridges_own(command: dict[str, Any], place: str) -> None:
    [problem] = problems(route(**command))
    assert problem.path == f"routes.0.{place}"
    assert "'bridge.', which is kept for the bridge's own" in problem.what
