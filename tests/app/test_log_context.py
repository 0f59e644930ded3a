"""Log lines carry the message, instance and span in whose processing they are made."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from bridge.ops import logging
from tests.app.test_tracing import CONFIG, PARENT, TRACE
from tests.kit.daemon import running
from tests.kit.otlp import OtlpReceiver
from tests.kit.waiting import eventually

FLOWS = """
import logging

from durabletask import task

log = logging.getLogger(__name__)


def note(ctx: task.ActivityContext, _):
    log.warning("in the activity")


def order(ctx: task.OrchestrationContext, order):
    log.warning("in the orchestrator")
    yield ctx.call_activity(note)
"""


@pytest.mark.parametrize("traced", [True, False])
async def test_lines_name_what_they_belong_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traced: bool) -> None:
    stream = io.StringIO()
    with OtlpReceiver() as receiver:
        if traced:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        async with running(tmp_path, CONFIG, FLOWS) as it:
            logging.configure("info", "json", stream)
            await it.publish("orders", {"id": 1}, traceparent=PARENT)
            await it.publish("orders", {"no": "id"}, traceparent=PARENT)
            await it.settled(2)
            await eventually(lambda: "in the activity" in stream.getvalue())
    lines = {line["event"]: line for line in map(json.loads, stream.getvalue().splitlines())}
    dead, activity, turn = (lines[each] for each in ("dead-lettered", "in the activity", "in the orchestrator"))
    assert dead["message_id"].startswith("local-")
    assert (activity["instance_id"], turn["instance_id"]) == ("order-1", "order-1")
    # Without traces, the activity still runs in the trace of its message
    assert activity["trace_id"] == TRACE
    assert ("trace_id" in dead) is traced
    if traced:
        assert dead["trace_id"] == TRACE
        assert len(dead["span_id"]) == len(activity["span_id"]) == 16
    assert "instance_id" not in lines.get("stopped", {})
