"""A daemon's API against its own description: schemathesis sends what it says, and what it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.processes import DaemonProcess

pytestmark = pytest.mark.long

FLOWS = """
def waits(ctx, _):
    data = yield ctx.wait_for_external_event("go")
    return data
"""
CONFIG = """
engine: {type: embedded}
workflows: [schema_flows]
brokers: {local: {type: local}}
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}}
routes:
  - {name: start, from: orders, schedule: {orchestration: waits, instance_id: "order-{{ payload.id }}"}}
ops: {http: {port: 0, access: {tokens: tokens, rate: 10000, burst: 100000}}}
"""
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,ignored_auth"
)
SEED = () if os.environ.get("HYPOTHESIS_PROFILE") == "search" else ("--seed", "1")
"""Same requests each time, as the property tests of `make test` have them."""


@pytest.mark.timeout(300)
def test_a_daemon_answers_as_described(tmp_path: Path) -> None:
    (tmp_path / "schema_flows.py").write_text(FLOWS)
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    made = subprocess.run(
        [sys.executable, "-m", "bridge", "tokens", "new", "ada", "--role", "admin", "--payloads"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (tmp_path / "tokens").write_text(made.stdout)
    token = made.stderr.strip()
    with DaemonProcess(tmp_path) as daemon:
        command = [
            str(Path(sys.executable).with_name("st")), "run", f"{daemon.url}/api/v1/openapi.json",
            "-H", f"Authorization: Bearer {token}", "--continue-on-failure",
            "--checks", CHECKS, "--max-examples", "5", "--phases", "examples,coverage,fuzzing",
            "--exclude-operation-id", "erase",
            # They do not end
            "--exclude-operation-id", "tap", "--exclude-operation-id", "live", "--request-timeout", "60", "--no-color",
            *SEED,
        ]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        assert daemon.get("/readyz")[0] in (200, 503)
        assert "Traceback" not in daemon.log.read_text()
