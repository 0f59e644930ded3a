"""Image without a distribution: its root file system suffices for a daemon and its health check."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.deployment.test_image import ROOT, STAGES
from tests.kit.processes import DaemonProcess

pytestmark = [pytest.mark.chart, pytest.mark.timeout(600)]

INSIDE = """
mount --make-rprivate /
for place in $PLACES; do
    mkdir -p "$NEW_ROOT$place" && mount --bind "$place" "$NEW_ROOT$place" || exit 9
done
mount --bind /dev "$NEW_ROOT/dev" && mount -t proc proc "$NEW_ROOT/proc" || exit 9
exec chroot --userspec=10001:10001 "$NEW_ROOT" "$@"
"""
"""Shell script that runs a command in the root file system, with some places of this machine, as the image's user."""

CONFIG = """
workflows: [orders_in_the_image]
engine: {type: embedded, path: engine, worker: {processes: 1}}
brokers: {local: {type: local, path: broker}}
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}}
routes: [{name: stop, from: orders, terminate: {instance_id: "order-{{ payload.id }}"}}]
ops: {state_dir: state, http: {port: 0}}
"""


def binaries() -> list[str]:
    """Options for the programs and libraries of Python, and of the libraries that the image has."""
    base = Path(sys.base_prefix)
    python = Path(sys.executable).resolve()
    found = [
        python,
        *base.glob("lib/libpython*.so*"),
        base / "lib" / f"python3.{sys.version_info.minor}" / "lib-dynload",
    ]
    for name in re.findall(r"^([a-z0-9][\w.-]*)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE):
        try:
            files = distribution(name).files or []
        except ModuleNotFoundError:  # for other systems
            continue
        found += [Path(str(each.locate())) for each in files if re.search(r"\.so(\.|$)", each.name)]
    return [word for path in found for word in ("--for", str(path))]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root file system with what Python and the libraries of this environment need of the system."""
    target = tmp_path_factory.mktemp("image") / "root"
    target.mkdir(mode=0o755)
    script = str(ROOT / "deploy" / "image" / "rootfs.py")
    subprocess.run([sys.executable, script, str(target), *binaries()], check=True, timeout=500)
    for name in ("dev", "proc"):
        (target / name).mkdir()
    return target


def test_it_has_no_shell_and_no_package_manager(root: Path) -> None:
    names = {path.name for path in root.rglob("*")}
    assert not names & {"sh", "bash", "dash", "busybox", "apt", "dpkg", "pip", "curl", "perl"}
    assert (root / "etc" / "ssl" / "certs" / "ca-certificates.crt").stat().st_size > 1000
    assert (root / "usr" / "share" / "zoneinfo" / "Europe" / "Oslo").exists()
    assert any(path.name.startswith("ld-linux") for path in root.rglob("ld-linux*"))


def test_trees_are_copied_without_what_no_daemon_uses(tmp_path: Path) -> None:
    tree, target = tmp_path / "usr" / "local", tmp_path / "target"
    library = tree / "lib" / "python3.13"
    for place in ("test/a.py", "json/a.py", "site-packages/pip/a.py", "site-packages/lib/test/a.py"):
        (library / place).parent.mkdir(parents=True, exist_ok=True)
        (library / place).write_text("")
    (library / "link").symlink_to("json")
    script = str(ROOT / "deploy" / "image" / "rootfs.py")
    subprocess.run([sys.executable, script, str(target), "--tree", str(tree)], check=True)
    copied = target / library.relative_to("/")
    found = {str(path.relative_to(copied)) for path in copied.rglob("*.py")}
    assert found == {"json/a.py", "site-packages/lib/test/a.py"}
    assert (copied / "link").readlink() == Path("json")
    assert "bridge:x:10001:10001" in (target / "etc" / "passwd").read_text()


def test_a_daemon_and_its_health_check_run_in_it(root: Path, tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine forbids mount namespaces")
    project = tmp_path / "project"
    project.mkdir()
    (project / "bridge.yaml").write_text(CONFIG)
    # As docs/deployment.md copies workflows into the image: the configuration is mounted elsewhere
    [words] = [rest.split() for name, rest in STAGES["distroless"] if name == "ENV"]
    variables = dict(word.split("=", 1) for word in words)
    [app] = [rest for name, rest in STAGES["distroless"] if name == "WORKDIR"]
    (root / app.lstrip("/") / "orders_in_the_image.py").write_text("def order(ctx, given):\n    yield\n")
    for path in (tmp_path, project, project / "bridge.yaml"):
        os.chown(path, 10001, 10001)
    places = [sys.base_prefix, str(Path(sys.prefix)), str(ROOT / "bridge"), str(project)]
    wrapper = [unshare, "-m", "sh", "-c", INSIDE, "sh"]
    environ = {
        "NEW_ROOT": str(root), "PLACES": " ".join(places), "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": f"{ROOT}:{variables.get('PYTHONPATH', '')}",
        "PATH": os.environ["PATH"], "HOME": "/var/lib/bridge",
    }  # fmt: skip
    arguments = ("--config", str(project / "bridge.yaml"))
    with DaemonProcess(project, *arguments, env=environ, wrapper=wrapper) as daemon:
        [check] = [rest for name, rest in STAGES["distroless"] if name == "HEALTHCHECK"]
        _, *command = json.loads(check.partition("CMD ")[2])
        command[1] = command[1].replace("8099", daemon.url.rpartition(":")[2])
        checked = [*wrapper, sys.executable, *command]
        assert subprocess.run(checked, env=environ, check=False).returncode == 0
        assert "1 orchestration" in daemon.log.read_text()
        daemon.process.terminate()
        assert daemon.ended() == 0, daemon.log.read_text()[-2000:]
        assert subprocess.run(checked, env=environ, capture_output=True, check=False).returncode != 0
