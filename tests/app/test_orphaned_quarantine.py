"""Orphaned quarantines: keys that no source handles since the configuration changed are reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bridge.app.composition import load_config
from bridge.ops.health import Check
from bridge.quarantine.orphaned import QuarantineOrphaned, refuse_release
from tests.app.test_quarantine import CONFIG, QuarantineFixture, received, setup
from tests.kit.waiting import eventually

QUARANTINE = "    quarantine: {poll: 50ms, max_messages: 5}\n"
WITHOUT = CONFIG.replace(QUARANTINE, "")
RENAMED = WITHOUT.replace("  orders:\n", "  others:\n").replace("from: orders", "from: others")
ENGINES = """
engines:
  default: {type: embedded, path: engine}
  other: {type: embedded, path: other}
"""
ELSEWHERE = CONFIG.replace("engine: {type: embedded, path: engine}", ENGINES).replace("poll:", "engine: other, poll:")


async def quarantine(it: QuarantineFixture, *, there: bool) -> list[Check]:
    """Wait until readiness has quarantine checks, or has none, as `there` says; return the checks."""

    def found() -> list[Check]:
        return [check for check in it.daemon.watch.health().checks if check.kind == "quarantine"]

    await eventually(lambda: bool(found()) is there)
    return found()


async def held(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        await it.publish(received("a", 0), received("b", 0))
        await it.settled(quarantined=2)
        await it.waiting(2)
        await it.daemon.orphaned.check()
        assert await quarantine(it, there=False) == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (WITHOUT, "the source `orders` has no `quarantine`; add one"),
        (ELSEWHERE, "keeps its keys on the engine other, not on default"),
    ],
)
async def test_keys_of_a_source_that_keeps_none_there_any_more(tmp_path: Path, config: str, said: str) -> None:
    await held(tmp_path)
    async with setup(tmp_path, config) as it:
        [check] = await quarantine(it, there=True)
        assert (check.name, check.state, check.ready) == ("default", "orphaned", False)
        assert check.detail.startswith("no source resumes 2 quarantined keys: ")
        assert said in check.detail
        for key in ("a", "b"):
            await it.quarantine.drop("orders", key, [], forget=False)
        await it.daemon.orphaned.check()
        assert await quarantine(it, there=False) == []
    with pytest.raises(QuarantineOrphaned, match=said):
        refuse_release(load_config([tmp_path / "bridge.yaml"]), "orders", "default")


async def test_keys_of_a_source_that_this_configuration_does_not_name(tmp_path: Path) -> None:
    """Another configuration may share the engine: the keys are reported once, and the daemon is ready."""
    await held(tmp_path)
    with capture_logs() as logs:
        async with setup(tmp_path, RENAMED) as it:
            for _ in range(2):
                await it.daemon.orphaned.check()
            assert await quarantine(it, there=False) == []
    [line] = [line["event"] for line in logs if "keys in quarantine" in line["event"]]
    assert "2 quarantined keys" in line
    assert "this configuration has no source `orders`" in line
