"""Problems of declarative sagas in `bridge check`, each with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.app.check.configuration import check

SOUND = """\
engine: {type: embedded}
vars: {currency: EUR}
brokers: {local: {type: local}}
targets:
  stock: {broker: local, topic: stock}
  results: {broker: local, topic: results}
sources:
  orders: {broker: local, topics: [orders], no_match: dead_letter}
  answers: {broker: local, topics: [answers], no_match: dead_letter}
sagas:
  order:
    replies: answers
    publish_outcome: results
    steps:
      - parallel:
          - name: goods
            command: {target: stock, type: reserve, data: "{'of': input.id, 'in': vars.currency}"}
            refused: reply.status == 'no'
            timeout: 1m
            compensation: {target: stock, type: release, data: "{'known': known}"}
          - steps:
              - name: payment
                command: {target: stock, type: pay, subject: "{{ saga.id }}"}
                timeout: 1m
              - name: receipt
                command: {target: stock, type: print, data: steps.payment, reply: false}
      - point_of_no_return: true
      - name: parcel
        command: {target: stock, type: ship, data: "[steps.goods, steps.receipt]"}
        timeout: 1m
    result: steps.parcel
routes:
  - {name: start, from: orders, schedule: {saga: order, instance_id: "order-{{ payload.id }}"}}
  - {name: answers, from: answers, reply: {}}
"""


def found(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "bridge.yaml"
    path.write_text(text)
    return [f"{one.severity} {one.line} {one.what.splitlines()[0]}" for one in check([path]).problems]


def line(text: str, part: str) -> int:
    return next(number for number, one in enumerate(text.splitlines(), 1) if part in one)


def test_a_sound_saga(tmp_path: Path) -> None:
    assert found(tmp_path, SOUND) == []
    assert check([tmp_path / "bridge.yaml"]).counts["saga"] == 1


WRONG = {
    "target": ("{target: stock, type: reserve", "{target: stok, type: reserve", "there is no target `stok`; did"),
    "compensation's target": (
        "{target: stock, type: release",
        "{target: x, type: release",
        "there is no target `x` (known: stock, r",
    ),
    "outcome's target": ("publish_outcome: results", "publish_outcome: result", "there is no target `result`"),
    "source": ("replies: answers", "replies: answer", "there is no source `answer`; did you mean `answers`?"),
    "saga": ("{saga: order,", "{saga: ordr,", "there is no saga `ordr`; did you mean `order`?"),
    "name taken": ("name: payment", "name: goods", "the name `goods` is taken by the step at "),
    "syntax": ("reply.status == 'no'", "reply.status = 'no'", "write `==` instead of `=`"),
    "type": ("reply.status == 'no'", "size(reply.status)", "must give true or false, and gives an integer"),
    "variable": ("input.id, 'in'", "payload.id, 'in'", "there is no variable `payload.id`"),
    "var": ("vars.currency", "vars.curency", "vars has no curency; it has currency"),
    "saga's member": ("{{ saga.id }}", "{{ saga.number }}", "saga has no number; it has name, id"),
    "step to come": ("steps.payment, reply", "steps.parcel, reply", "steps has no parcel; it has payment"),
    "step beside": ("steps.payment, reply", "steps.goods, reply", "steps has no goods; it has payment"),
    "result": ("result: steps.parcel", "result: steps.parcl", "steps has no parcl; it has goods, payment, "),
    "known too early": ('subject: "{{ saga.id }}"', 'subject: "{{ known }}"', "there is no variable `known`"),
    "two kinds": (
        "- point_of_no_return: true",
        "- {point_of_no_return: true, parallel: []}",
        "an entry of a saga needs exactly",
    ),
    "no kind": ("- point_of_no_return: true", "- {}", "an entry of a saga needs exactly"),
    "foreign key": ("- point_of_no_return: true", "- {parallel: [], timeout: 1m}", "timeout belong to a step"),
    "point inside": (
        "- steps:",
        "- point_of_no_return: true\n          - steps:",
        "the point of no return cannot be inside",
    ),
    "point twice": (
        "- point_of_no_return: true",
        "- point_of_no_return: true\n      - point_of_no_return: true",
        "the saga already has a point of no return",
    ),
    "branch": ("- point_of_no_return: true", "- steps: []", "a branch of steps must be directly below `parallel`"),
    "version": ("{saga: order,", "{saga: order, version: '2',", "a saga has no version"),
    "saga and orchestration": (
        "{saga: order,",
        "{saga: order, orchestration: x,",
        "write either `orchestration` or `saga`",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_found_where_it_stands(tmp_path: Path, case: str) -> None:
    old, new, what = WRONG[case]
    assert SOUND.count(old) == 1
    text = SOUND.replace(old, new)
    problems = found(tmp_path, text)
    first = SOUND[: SOUND.index(old)].count("\n") + 1
    places = tuple(f"error {first + number} " for number in range(new.count("\n") + 1))
    assert any(one.startswith(places) and what in one for one in problems), problems


def test_no_route_for_the_answers(tmp_path: Path) -> None:
    text = SOUND.replace("reply: {}}", "ignore: {}}")
    (problem,) = found(tmp_path, text)
    assert problem.startswith(
        f"error {line(text, 'replies: answers')} no route from `answers` delivers the answers; add"
    )


def test_a_route_that_raises_the_answer_itself_is_enough(tmp_path: Path) -> None:
    raised = (
        """raise_event: {instance_id: "order-{{ event.key }}", name: "reply:{{ event.headers['correlation-id'] }}"}}"""
    )
    assert found(tmp_path, SOUND.replace("reply: {}}", raised)) == []


def test_nowhere_to_answer(tmp_path: Path) -> None:
    text = SOUND.replace("    replies: answers\n", "")
    (problem,) = found(tmp_path, text)
    assert problem.startswith(
        f"error {line(text, 'type: reserve')} waits for an answer, but the saga has no source of answers"
    )


def test_answers_from_several_topics(tmp_path: Path) -> None:
    text = SOUND.replace("topics: [answers]", "topics: [answers, more]")
    (problem,) = found(tmp_path, text)
    assert "must have exactly one topic" in problem


def test_what_is_never_looked_at(tmp_path: Path) -> None:
    text = SOUND.replace("reply: false}", "reply: false}\n                refused: 'true'")
    assert found(tmp_path, text) == [
        f"error {line(text, 'refused: ' + chr(39))} has no effect: the command waits for no answer"
    ]
    text = SOUND.replace(
        "    timeout: 1m\n    result", "    timeout: 1m\n        detail: '{{ reply.why }}'\n    result"
    )
    assert found(tmp_path, text) == [f"error {line(text, 'detail:')} has no effect without `refused` or `failed`"]
    text = SOUND.replace("    timeout: 1m\n    result", "    timeout: 1m\n        compensation_timeout: 1m\n    result")
    assert found(tmp_path, text) == [
        f"error {line(text, 'compensation_timeout:')} has no effect: the step has no `compensation`"
    ]


def test_what_is_hardly_meant(tmp_path: Path) -> None:
    behind = "    timeout: 1m\n        compensation: {target: stock, type: unship}\n    result"
    text = SOUND.replace("    timeout: 1m\n    result", behind)
    assert found(tmp_path, text) == [
        f"warning {line(text, 'type: unship')} never runs: nothing is undone after the point of no return"
    ]
    text = SOUND.replace("            timeout: 1m\n            comp", "            comp")
    assert found(tmp_path, text) == [
        f"warning {line(text, 'type: reserve')} waits for its answer without limit; give the step a `timeout`"
    ]
    text = SOUND.replace("type: release,", "type: release, reply: true,")
    limit = "waits for its answer without limit; give the step a `compensation_timeout`"
    assert found(tmp_path, text) == [f"warning {line(text, 'type: release')} {limit}"]
    text = SOUND.replace('schedule: {saga: order, instance_id: "order-{{ payload.id }}"}', "ignore: {}")
    assert found(tmp_path, text) == [
        f"warning {line(text, '  order:')} no route starts this saga: `schedule: {{saga: order, ...}}`"
    ]


def test_a_saga_without_commands(tmp_path: Path) -> None:
    text = SOUND[: SOUND.index("      - parallel:")] + "      - parallel: []\n" + SOUND[SOUND.index("routes:") :]
    assert any("this saga has no command" in one for one in found(tmp_path, text))


def test_a_costly_expression(tmp_path: Path) -> None:
    text = SOUND.replace("data: steps.payment", "data: \"steps.payment.a.replace('x', steps.payment.b)\"")
    [one] = found(tmp_path, text)
    assert one.startswith(f"warning {line(text, 'steps.payment.a')} ")
    assert "limits.expression_cost" in one
