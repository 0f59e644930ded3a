import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.errors import MessageError
from bridge.routing import ConditionResult, Equality, condition_results, explain
from tests.kit.examples import examples
from tests.routing.config import envelope, route, router


def test_every_rule_tells_its_part() -> None:
    rules = router(
        route("type", match={"type": "other", "headers.h": ["1", "2"], "payload.n": 2}),
        route("false", when="payload.n > 5"),
        route("failed", when="payload.nope", on_error="no_match"),
        route("first", when="payload.n == 2", continue_=True),
        route("second"),
        route("rest"),
    )
    received = explain(rules, envelope({"id": "o-1", "n": 2}, headers={"h": "3" * 200}))
    assert [rule.verdict for rule in received.rules] == [
        "equality failed",
        "when false",
        "when failed",
        "matched",
        "matched",
        "not considered",
    ]
    assert received.rules[0].failed == (
        Equality("type", ("other",), "order.created"),
        Equality("headers.h", ("1", "2"), "3" * 79 + "…"),
    )
    assert [rule.when for rule in received.rules] == [None, False, None, True, None, None]
    assert 'no key "nope"' in str(received.rules[2].error)
    assert received.rules[1].condition == "payload.n > 5"
    assert received.decision is not None
    assert received.decision.routes == ("first", "second")
    plain = received.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["steps"][0]["command"]["type"] == "ScheduleOrchestration"
    assert plain["steps"][0]["command"]["instance_id"] == "order-o-1"


def test_errors_are_told() -> None:
    rules = router(route("a", when="payload.nope"), route("b"))
    received = explain(rules, envelope())
    assert (received.decision, received.reason) == (None, "expression_error")
    assert [rule.verdict for rule in received.rules] == ["when failed", "not considered"]
    assert explain(router(route(match={"key": "k"})), envelope()).reason == "no_route"


def test_times_and_missing_values_are_plain() -> None:
    rules = router(
        route("a", match={"payload.x.y": True, "extensions.e": "v", "key": "k"}),
        route("b", schedule={"orchestration": "s", "instance_id": "x", "start_at": "2030-01-31T08:00:00Z"}),
    )
    plain = explain(rules, envelope({"x": {"y": [1]}}, extensions={"e": True})).to_dict()
    assert [each["actual"] for each in plain["rules"][0]["failed"]] == ["a list", "true", None]
    assert plain["steps"][0]["command"]["start_at"] == "2030-01-31T08:00:00Z"
    json.dumps(plain)


conditions = st.sampled_from([None, "payload.n > 1", "payload.n == 1", "payload.nope", "event.key == 'k'"])
rules_of = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(["type", "key", "payload.n"]), st.sampled_from(["a", "k", 1, 2]), max_size=2),
        conditions,
        st.booleans(),
        st.sampled_from(["dead_letter", "no_match"]),
    ),
    max_size=5,
)


@settings(max_examples=examples(150), deadline=None)
@given(rules_of, st.sampled_from(["a", "b"]), st.sampled_from([None, "k"]), st.sampled_from([1, 2, "x"]))
def test_what_is_told_is_what_is_done(drawn: list[Any], kind: str, key: str | None, n: Any) -> None:
    rules = router(
        *(
            route(
                f"r{position}",
                match=match,
                **({"when": when} if when else {}),
                continue_=more,
                on_error=on_error,
                cancel={"instance_id": "x"},
            )
            for position, (match, when, more, on_error) in enumerate(drawn)
        )
    )
    message = envelope({"n": n}, type=kind, key=key)
    received = explain(rules, message)
    failure: MessageError | None = None
    try:
        decision = rules.route(message)
    except MessageError as error:
        failure = error
    else:
        assert received.decision == decision
        assert tuple(rule.route for rule in received.rules if rule.verdict == "matched") == decision.routes
    assert received.error == (None if failure is None else str(failure))
    assert received.reason == (None if failure is None else failure.reason)


def test_conditions_are_evaluated_one_by_one() -> None:
    rules = router(
        route(
            "a", match={"type": ["other", "x"], "payload.n": 2}, when="payload.n == 2 && payload.n > 5 && payload.gone"
        ),
        route("b", when="has(payload.gone) && payload.gone.deep > 1"),
        route("c", when="(payload.n == 1 || payload.n == 2) && !has(payload.gone)"),
        route("d", when="payload.n > 1"),
        route("e"),
    )
    message = envelope({"id": "o-1", "n": 2})
    a, b, c, d, e = (condition_results(rules, rule, message) for rule in rules.rules)
    assert a == (
        ConditionResult('type: "other" or "x"', False, "order.created"),
        ConditionResult("payload.n: 2", True, "2"),
        ConditionResult("payload.n == 2", True),
        ConditionResult("payload.n > 5", False),
        ConditionResult("payload.gone", None, None, a[4].error),
    )
    assert 'no key "gone"' in str(a[4].error)
    assert [each.holds for each in b] == [False, None]
    assert [(each.text, each.holds) for each in c] == [
        ("(payload.n == 1 || payload.n == 2)", True), ("!has(payload.gone)", True),
    ]  # fmt: skip
    assert d == (ConditionResult("payload.n > 1", True),)
    assert e == ()


def test_operands_that_are_no_conditions_alone_stay_together() -> None:
    rules = router(
        route("a", when="payload.n > 1 ? payload.n < 5 && true : false"), route("b", when="true && (1 == 1)")
    )
    message = envelope({"id": "o-1", "n": 2})
    assert [len(condition_results(rules, rule, message)) for rule in rules.rules] == [1, 2]
