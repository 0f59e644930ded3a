"""Commands on an engine with encrypted payloads."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from bridge.app.composition import load_config
from bridge.app.operations.engine_file import keyring
from bridge.cli import root
from bridge.core.errors import EngineMisconfigured
from tests.app import own_keys
from tests.app.project import EngineThread, write_project
from tests.kit.waiting import TIMEOUT_OPTION

MARKER = "PLAINTEXT-OF-A-PAYLOAD"
Run = Callable[..., Result]

PROVIDER = """
from bridge.encryption import Key


def keys():
    return [Key("own", bytes(range(32)))]


def broken():
    raise RuntimeError("it quotes a secret")


def nothing():
    return []


def strings():
    return ["secret"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = write_project(tmp_path / "project").parent
    (directory / "vault_of_ours.py").write_text(PROVIDER)
    for number, name in enumerate(("old", "new"), 1):
        (directory / name).write_text(base64.b64encode(bytes([number]) * 32).decode() + "\n")
    return directory


def configure(project: Path, encryption: str | None) -> None:
    config = project / "bridge.yaml"
    lines = config.read_text().splitlines()
    more = "" if encryption is None else f", encryption: {encryption}"
    lines = [
        f"engine: {{type: embedded, path: .bridge/engine{more}}}" if line.startswith("engine:") else line
        for line in lines
        if not line.startswith("ops:")
    ]
    lines.append("ops: {http: {port: 0}}")
    config.write_text("\n".join(lines))


def keys(*names: str, active: bool = True) -> str:
    listed = ", ".join(f"{{id: {name}, file: {name}}}" for name in names)
    return f"{{keys: [{listed}], active: {str(active).lower()}}}"


@pytest.fixture
def run(project: Path) -> Run:
    """Run a command on the project, or without its configuration."""

    def run(*arguments: str, config: bool = True) -> Result:
        given = ["-c", str(project / "bridge.yaml")] if config else []
        result = CliRunner().invoke(root, [*arguments, *given], prog_name="bridge")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def hosted(project: Path) -> Iterator[Callable[[], EngineThread]]:
    """Start the project's engine with its present configuration."""
    running: list[EngineThread] = []

    def start() -> EngineThread:
        loaded = load_config([project / "bridge.yaml"])
        host = EngineThread(project, lambda: keyring(loaded))
        host.start()
        running.append(host)
        return host

    yield start
    for each in running:
        if each.runs:
            each.stop()


def fill(run: Run, suffix: str = "") -> None:
    for name, flow, given in (("g", "greet", MARKER), ("w", "waits", MARKER)):
        assert run("instances", "start", flow, "--id", name + suffix, "--input", json.dumps(given)).exit_code == 0
    assert run("instances", "wait", "g" + suffix, "--timeout", TIMEOUT_OPTION).exit_code == 0
    assert run("entities", "signal", "counter@c", "add", "--input", "3").exit_code == 0


def on_disk(directory: Path) -> bytes:
    return b"".join(each.read_bytes() for each in sorted(directory.rglob("*")) if each.is_file())


def test_commands_show_what_the_file_holds_encrypted(
    project: Path, run: Run, hosted: Callable[[], EngineThread], tmp_path: Path
) -> None:
    configure(project, keys("old"))
    host = hosted()
    fill(run)
    assert MARKER in run("instances", "show", "g").output
    assert MARKER in run("instances", "export", "g").output
    assert MARKER in run("engine", "export").output
    assert run("entities", "show", "counter@c").exit_code == 0
    assert run("engine", "check").output.endswith(": ok\n")
    assert run("engine", "backup", str(tmp_path / "copy")).exit_code == 0
    assert MARKER.encode() not in on_disk(project / ".bridge") + (tmp_path / "copy").read_bytes()
    assert json.loads(run("engine", "reencrypt", "--dry-run", "--json").output)["plain"] == 0
    erased = run("erase", "--where", f"payload == '{MARKER}' || payload == 'hello {MARKER}'", "--yes")
    assert erased.exit_code == 1  # an instance of the same payload runs
    assert run("instances", "show", "g").exit_code == 1
    assert run("engine", "reencrypt").exit_code == 3
    host.stop()
    assert run("engine", "restore", str(tmp_path / "copy")).exit_code == 0
    hosted()
    assert MARKER in run("instances", "show", "g").output


def test_a_command_without_the_key_says_which_one(project: Path, run: Run, hosted: Callable[[], EngineThread]) -> None:
    configure(project, keys("old"))
    host = hosted()
    fill(run)
    host.stop()
    file = project / ".bridge/engine/engine.db"
    for arguments in (("engine", "check"), ("engine", "export")):
        received = run(*arguments, "--path", str(file), config=False)
        assert (received.exit_code, MARKER in received.output) == (3, False)
        assert "payloads are encrypted with key 'old'" in received.output
        assert run(*arguments, "--path", str(file)).exit_code == 0
    for arguments in (("engine", "compact"), ("engine", "backup", str(project / "copy"))):  # type: ignore[assignment]  # wider than its annotation, on purpose
        assert run(*arguments, "--path", str(file), config=False).exit_code == 0
    assert run("engine", "restore", str(project / "copy"), "--path", str(file), config=False).exit_code == 0
    configure(project, keys("new"))
    received = run("engine", "restore", str(project / "copy"))
    assert (received.exit_code, "encrypted with key 'old'" in received.output) == (3, True)
    assert run("engine", "check").exit_code == 3
    content = file.read_bytes()
    received = run("serve")
    assert (received.exit_code, "encrypted with key 'old', which is not there" in received.output) == (3, True)
    received = run("engine", "--path", str(file.parent), config=False)
    assert (received.exit_code, "encrypted with key 'old', which is not there" in received.output) == (3, True)
    assert file.read_bytes() == content


def test_a_key_is_withdrawn(project: Path, run: Run, hosted: Callable[[], EngineThread]) -> None:
    for number, given in enumerate((None, keys("old"), keys("new", "old"))):
        configure(project, given)
        host = hosted()
        fill(run, str(number))
        host.stop()
    counted = json.loads(run("engine", "reencrypt", "--dry-run", "--json").output)
    assert counted["plain"] > 0
    assert set(counted["keys"]) == {"old", "new"}
    received = run("engine", "reencrypt", "--reason", "a test")
    assert received.exit_code == 0
    assert received.output.splitlines()[-1].endswith("payloads under key new")
    configure(project, keys("new"))
    hosted().stop()
    configure(project, keys("new", active=False))
    assert run("engine", "reencrypt").output.splitlines()[-1].endswith("payloads unencrypted")
    configure(project, None)
    hosted()
    assert MARKER in run("instances", "show", "g0").output
    assert MARKER.encode() in on_disk(project / ".bridge")


def test_a_provider_of_keys(project: Path, run: Run, hosted: Callable[[], EngineThread]) -> None:
    shutil.copy(own_keys.__file__, project / "keys_of_ours.py")
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (project / "private.pem").write_bytes(private.private_bytes(*form))
    for name in ("2026-05", "2026-11"):
        (project / f"{name}.wrapped").write_bytes(private.public_key().encrypt(os.urandom(32), own_keys.OAEP))
    configure(project, "{provider: 'keys_of_ours:keys'}")
    hosted()
    fill(run)
    assert MARKER.encode() not in on_disk(project / ".bridge")
    assert json.loads(run("engine", "reencrypt", "--dry-run", "--json").output)["keys"].keys() == {"2026-11"}
    assert run("check").exit_code == 0


@pytest.mark.parametrize(
    ("encryption", "what"),
    [
        ("{keys: [{id: a, file: missing}]}", r"key 'a': .*missing: No such file"),
        ("{keys: [{id: a, file: .}]}", r"key 'a': .*: (not a plain file|Is a directory)"),
        ("{keys: [{id: a, file: bridge.yaml}]}", r"key 'a': .*bridge.yaml: is not base64"),
        ("{keys: [{id: a, file: short}]}", "key 'a': has 3 bytes, not 32"),
        ("{keys: [{id: a, file: old}, {id: b, file: old}]}", "'a' and 'b' are the same key"),
        ("{provider: 'nowhere:keys'}", "cannot import 'nowhere'"),
        ("{provider: 'vault_of_ours:none'}", "none"),
        ("{provider: 'vault_of_ours:broken'}", r"vault_of_ours:broken: RuntimeError \(.*vault_of_ours.py:10\)"),
        ("{provider: 'vault_of_ours:nothing'}", "there is no key"),
        ("{provider: 'vault_of_ours:strings'}", "returned a str, not bridge.encryption.Key"),
    ],
)
def test_keys_that_cannot_be_used(project: Path, encryption: str, what: str) -> None:
    (project / "short").write_text(base64.b64encode(b"abc").decode())
    (project / "bridge.yaml").write_text((project / "bridge.yaml").read_text() + "\n# not base64: !\n")
    configure(project, encryption)
    with pytest.raises(EngineMisconfigured, match=what) as error:
        keyring(load_config([project / "bridge.yaml"]))
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("encryption", "what"),
    [
        ("{}", "name `keys` or a `provider`"),
        ("{keys: []}", "name `keys` or a `provider`"),
        ("{keys: [{id: a, file: a}], provider: 'a:b'}", "name `keys` or a `provider`"),
        ("{keys: [{id: a, file: a}, {id: a, file: b}]}", "two keys have the id 'a'"),
        ("{keys: [{id: 'a b', file: a}]}", "id"),
        ("{keys: [{id: a}]}", "file"),
        ("{provider: keys}", "provider"),
        ("{keys: [{id: a, file: a}], active: false, accept_plain: false}", "could not read"),
    ],
)
def test_a_configuration_that_is_refused(project: Path, run: Run, encryption: str, what: str) -> None:
    configure(project, encryption)
    received = run("check")
    assert received.exit_code != 0
    assert what in received.output


def test_check_reads_no_key(project: Path, run: Run) -> None:
    configure(project, "{keys: [{id: a, file: missing}]}")
    assert run("check").exit_code == 0
