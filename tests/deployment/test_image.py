"""Dockerfile, checked without a container engine."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest

from bridge.cli import root
from tests.docs.document import DOCUMENTS, blocks

ROOT = Path(__file__).parents[2]


def instructions() -> Iterator[tuple[str, str]]:
    """Return name and arguments of each instruction, in order."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text()))
    for line in text.splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            yield name, rest


ALL = list(instructions())
STARTS = [at for at, (name, _) in enumerate(ALL) if name == "FROM"]
STAGES = {ALL[at][1].split(" AS ")[1]: ALL[at:end] for at, end in pairwise([*STARTS, len(ALL)])}
IMAGES = ("distroless", "slim")
FINAL = STAGES["slim"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def last(name: str) -> str:
    return [rest for each, rest in FINAL if each == name][-1]


def test_it_runs_as_nobody_special() -> None:
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", last("USER")), "numbers, so that a cluster can see it is not root"
    assert FINAL.index(("USER", last("USER"))) > max(at for at, (name, _) in enumerate(FINAL) if name == "RUN")


def test_it_is_slim_and_its_python_is_one_of_ours() -> None:
    assert list(STAGES) == ["build", "files", "distroless", "slim"], "the last one is the default"
    [base] = [rest for name, rest in ALL if name == "ARG"]
    found = re.fullmatch(r"PYTHON=python:(3\.\d+)-slim@sha256:[0-9a-f]{64}", base)
    assert found is not None, base
    assert f"Programming Language :: Python :: {found[1]}" in PROJECT["classifiers"]
    assert {ALL[at][1].split(" AS ")[0] for at in STARTS} == {"${PYTHON}", "build", "scratch"}
    assert not [rest for name, rest in FINAL if name == "RUN" and ("pip" in rest or "apt-get" in rest)]


def test_both_images_run_alike() -> None:
    variables = [re.findall(r"(\w+)=", rest) for image in IMAGES for name, rest in STAGES[image] if name == "ENV"]
    assert all({"PATH", "PYTHONPATH", "PYTHONUNBUFFERED"} <= set(each) for each in variables)
    alike = ("WORKDIR", "USER", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT", "CMD")
    one, other = ([each for each in STAGES[image] if each[0] in alike] for image in IMAGES)
    assert one == other
    # Without a distribution there is nothing to run in the image while it is built
    assert [name for name, _ in STAGES["distroless"] if name in ("RUN", "COPY")] == ["COPY"]


def _unquoted(value: Any) -> Any:
    """Value of the parser of HCL without the quotes of its texts."""
    if isinstance(value, dict):
        return {_unquoted(name): _unquoted(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_unquoted(each) for each in value]
    return value.strip('"') if isinstance(value, str) else value


def test_the_build_file_builds_both_for_two_architectures_with_sbom_and_provenance() -> None:
    python = Path(sys.executable).parents[1] / "tools" / "bin" / "python"
    if not python.exists():
        pytest.skip("the parser of HCL is installed by `make deploy-check`")
    parse = "import hcl2, json, sys; print(json.dumps(hcl2.load(sys.stdin)))"
    with (ROOT / "docker-bake.hcl").open() as source:
        done = subprocess.run([str(python), "-c", parse], stdin=source, capture_output=True, check=True)
    found = _unquoted(json.loads(done.stdout))
    targets = {name: each for one in found["target"] for name, each in one.items()}
    [group] = found["group"]
    assert set(group["default"]["targets"]) == set(targets) - {"image"} == set(IMAGES)
    common = targets["image"]
    assert common["platforms"] == ["linux/amd64", "linux/arm64"]
    assert common["attest"] == ["type=sbom", "type=provenance,mode=max"]
    assert (ROOT / common["context"] / common["dockerfile"]).exists()
    for image in IMAGES:
        assert targets[image]["inherits"] == ["image"]
        assert targets[image]["target"] in STAGES
    assert len({targets[image]["tags"][0] for image in IMAGES}) == 2
    variables = {name: each["default"] for one in found["variable"] for name, each in one.items()}
    assert variables["VERSION"] == PROJECT["version"]


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parents[1] / "tools" / "bin" / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint is installed by `make deploy-check`")
    shown = [block.text for document in DOCUMENTS for block in blocks(document, "dockerfile")]
    assert shown, "docs/deployment.md has one"
    own = [(ROOT / each / "Dockerfile").read_text() for each in ("", "deploy/durabletask-server")]
    for source in [*own, *shown]:
        done = subprocess.run([str(hadolint), "-"], input=source, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_it_starts_exists() -> None:
    [entry], command = json.loads(last("ENTRYPOINT")), json.loads(last("CMD"))
    assert entry in PROJECT["scripts"]
    assert root.get_command(click.Context(root), command[0])
    assert last("STOPSIGNAL") == "SIGTERM"


def test_libraries_are_the_locked_ones() -> None:
    installed = [rest for name, rest in ALL if name == "RUN" and "pip install" in rest]
    assert installed[0] == "pip install --require-hashes -r requirements.lock"
    assert installed[1].startswith("pip install --no-deps --no-build-isolation . ")


def _ignored(path: str) -> bool:
    """Apply .dockerignore as Docker does: the last pattern that matches the path or a directory above it wins."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keep = pattern.startswith("!")
        pattern = pattern.removeprefix("!")
        parts = path.split("/")
        above = ["/".join(parts[: at + 1]) for at in range(len(parts))]
        if pattern.startswith("**/"):
            matches = any(fnmatch.fnmatchcase(part, pattern[3:]) for part in parts)
        else:
            matches = any(fnmatch.fnmatchcase(each, pattern) for each in above)
        if matches:
            ignored = not keep
    return ignored


def test_what_is_copied_is_sent_and_nothing_else() -> None:
    copied = [
        source
        for name, rest in ALL
        if name == "COPY" and not rest.startswith("--from")
        for source in shlex.split(rest)[:-1]
    ]
    assert {"bridge", "requirements.lock"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert not _ignored(source), source
    assert not _ignored("bridge/app/scaffold/templates/bridge.yaml.tmpl")
    sent = {path.name for path in ROOT.iterdir() if not _ignored(path.name)}
    assert sent == {source for source in copied if "/" not in source}
    assert {source for source in copied if "/" in source} == {"deploy/image/rootfs.py"}
    assert _ignored("deploy/helm/durable-bridge/values.yaml")
    for secret in (".env", ".git/config", "secrets/password", "config/bridge.yaml", "bridge/__pycache__/a.pyc"):
        assert _ignored(secret), secret


def test_it_holds_no_secrets() -> None:
    assert [rest.partition("=")[0] for name, rest in ALL if name in ("ARG", "ADD")] == ["PYTHON"]
    for name, rest in ALL:
        if name == "ENV":
            assert not re.search(r"PASS|SECRET|TOKEN|KEY|CREDENTIAL", rest, re.IGNORECASE), rest


class _Answer(BaseHTTPRequestHandler):
    status = 200
    paths: list[str] = []  # noqa: RUF012 -- of the class, which the server makes one instance of for each request

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize("status", [200, 503, None])
def test_the_health_check_asks_whether_it_lives(status: int | None) -> None:
    _, _, command = last("HEALTHCHECK").partition("CMD ")
    python, *arguments = json.loads(command)
    assert python == "python"
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answer", (_Answer,), {"status": status or 200, "paths": []}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    port = server.server_address[1]
    if status is None:
        server.shutdown()
        server.server_close()
    assert "8099" in arguments[1]
    arguments[1] = arguments[1].replace("8099", str(port))
    done = subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
    assert (done.returncode == 0) is (status == 200)
    if status is not None:
        server.shutdown()
        server.server_close()
        assert server.RequestHandlerClass.paths == ["/healthz"]  # type: ignore[attr-defined]  # of our class
