"""The bridge of docker-compose.yml writes only to its volume and its tmpfs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.shop import rename_topics
from tests.brokers.kafka.harness import unique
from tests.kit.processes import DaemonProcess, bridge

ROOT = Path(__file__).parents[2]

READ_ONLY = """
mount --make-rprivate /
mount --bind "$STATE" "$STATE" && mount --bind "$TMPDIR" "$TMPDIR" || exit 9
while read -r _ _ _ _ place _; do
    case "$place" in "$STATE"*|"$TMPDIR"*|/dev*|/proc*|/sys*) ;; *) mount -o remount,bind,ro "$place" 2>/dev/null;; esac
done < /proc/self/mountinfo
touch "$PROJECT/written" 2>/dev/null && exit 9
exec "$@"
"""
"""Shell script that makes every mount except two read-only, and then runs the given command."""


def _namespace() -> list[str]:
    """Return a command prefix for a read-only root; empty where this machine forbids it. The audit runs everywhere."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "true"], capture_output=True, check=False).returncode:
        return []
    return [unshare, "-m", "sh", "-c", READ_ONLY, "sh"]


class _Contained(DaemonProcess):
    def __init__(self, project: Path, state: Path, temporary: Path, written: Path) -> None:
        self._written = written.open("wb")
        descriptor = self._written.fileno()
        environ = os.environ | {
            "BRIDGE_AUDIT": str(descriptor), "STATE": str(state), "TMPDIR": str(temporary), "PROJECT": str(project),
            "PYTHONPATH": f"{Path(__file__).parent}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        config, overlay = f"{project}/config/bridge.yaml", f"{project}/config/overlays/compose.yaml"
        super().__init__(
            state, "--config", config, "--overlay", overlay, env=environ, pass_fds=(descriptor,), wrapper=_namespace()
        )


def test_it_runs_on_a_read_only_root(tmp_path: Path, bootstrap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", bootstrap)
    project, state, temporary = tmp_path / "app", tmp_path / "state", tmp_path / "tmp"
    state.mkdir()
    temporary.mkdir()
    shutil.copytree(ROOT / "config", project / "config", ignore=shutil.ignore_patterns(".bridge"))
    shutil.copytree(ROOT / "workflows", project / "workflows", ignore=shutil.ignore_patterns("__pycache__"))
    rename_topics(project / "config", unique("shop"))
    overlay = project / "config" / "overlays" / "compose.yaml"
    text = overlay.read_text().replace("/var/lib/bridge", str(state))
    overlay.write_text(text.replace("{host: 0.0.0.0}", "{host: 0.0.0.0, port: 0}"))
    written = tmp_path / "written"
    with _Contained(project, state, temporary, written) as serve:
        order = '{"id": "o-1", "customer": "c-1", "total": 5.0, "items": [{"sku": "s", "quantity": 1}]}'
        bridge(
            "publish", "orders", "--type", "order.created", "--key", "o-1", "--data", order,
            "-c", project / "config/bridge.yaml", "--overlay", project / "config/overlays/compose.yaml", cwd=tmp_path,
        )  # fmt: skip
        serve.wait(lambda: serve.settled() >= 1, "a message")
        serve.process.terminate()
        assert serve.ended() == 0, serve.log.read_text()[-2000:]
    places = {Path(os.fsdecode(line)) for line in written.read_bytes().splitlines()}
    assert any(place.is_relative_to(state) for place in places), "the audit hears nothing"
    allowed = (state, temporary, Path("/dev"), Path("/proc"))
    assert not [str(place) for place in places if not any(place.is_relative_to(each) for each in allowed)]
