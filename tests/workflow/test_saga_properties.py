"""Random sagas with random failures, timeouts, cancels and crashes: the invariants hold."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.examples import examples
from tests.workflow.invariants import check, decision, received
from tests.workflow.simulation import Simulation
from tests.workflow.trees import RESULTS, No, Plan, Wood, siblings, woods

crashes = st.lists(st.sampled_from([None, None, 0.0, 0.6, 2.0, 9.0]), max_size=20)


def simulate(wood: Wood, together: float, lost_turns: list[float | None], lost_runs: list[float | None]) -> Simulation:
    plans = wood.plans
    calls: dict[tuple[str, str], int] = defaultdict(int)

    def undo(plan: Plan) -> tuple[float, Any]:
        calls["undo", plan.name] += 1
        return 0.3, (OSError("no") if calls["undo", plan.name] <= plan.undo_failures else "undone")

    def answers(name: str, given: Any) -> tuple[float, Any]:
        if name != "bridge.publish":
            plan = plans[given["input"]["name"]]
            if name.startswith("undo"):
                return undo(plan)
            calls["do", plan.name] += 1
            if plan.refused:
                return plan.takes, No("no")
            failed = calls["do", plan.name] <= plan.failures
            return plan.takes, (OSError("away") if failed else f"result of {plan.name}")
        if given["target"] == RESULTS:
            return 0.1, given["id"]
        if given["type"] == "undo":
            return undo(plans[given["data"]["input"]["name"]])
        plan = plans[given["data"]["name"]]
        calls["do", plan.name] += 1
        if calls["do", plan.name] <= plan.failures:
            return 0.2, ConnectionError("away")
        simulation.event(simulation.now + plan.answered, f"reply:{given['headers']['correlation-id']}", "yes")
        return 0.2, given["id"]

    def obey(name: str, given: Any) -> tuple[float, Any] | None:
        return (0.2, OSError("cancelled")) if plans[given["input"]["name"]].obeys else None

    simulation = Simulation(
        wood.orchestrator(1.0),
        answers,
        together=together,
        received=obey,
        lost_turns=iter(lost_turns),
        lost_runs=iter(lost_runs),
    )
    for at in wood.cancels:
        simulation.event(at, "cancel", {"reason": "asked"})
    return simulation.run()


@settings(max_examples=examples(300), deadline=None)
@given(wood=woods, together=st.sampled_from([0.0, 0.0, 0.5]), lost_turns=crashes, lost_runs=crashes)
def test_every_step_is_kept_or_undone_once_and_in_reverse(
    wood: Wood, together: float, lost_turns: list[float | None], lost_runs: list[float | None]
) -> None:
    simulation = simulate(wood, together, lost_turns, lost_runs)

    assert simulation.status == "COMPLETED", simulation.failure
    outcome, last = simulation.output, simulation.statuses[-1]
    assert last["status"] == outcome["status"]
    decided = [
        decision(one.name, one.input, one.turn, one.at, one.over, not isinstance(one.answer, Exception))
        for one in simulation.scheduled
    ]
    decisions = [one for one in decided if one is not None]
    check(wood, outcome, last["steps"], decisions)
    received([one.input for one in simulation.scheduled if one.name == "bridge.publish"], outcome)
    assert simulation.scheduled[-1].input.get("target") == RESULTS

    # No step starts after the status shows that the saga gives up
    given_up = [turn for turn, shown in simulation.shown if shown["status"] in ("cancelling", "compensating")]
    assert all(one.undo or one.turn <= given_up[0] for one in decisions if given_up)

    # No step starts in the other branches after the status shows the failed step, either
    others = dict(siblings(wood.whole))
    for turn, shown in simulation.shown:
        for name, state in shown["steps"].items():
            if state in ("refused", "unknown") and not wood.plans[name].optional:
                assert not any(one.step in others[name] and one.turn > turn for one in decisions if not one.undo)

    # A child receives `cancel` from a saga that stops waiting for it, at most once for each reason
    assert len({(instance, data["reason"]) for instance, _, data in simulation.sent}) == len(simulation.sent)
    undoing = min((one.begun for one in decisions if one.undo), default=simulation.now)
    left = {one.instance_id for one in simulation.scheduled if one.name == "do-child" and one.over > undoing}
    assert left <= {instance for instance, _, _ in simulation.sent}

    simulation.replay()
