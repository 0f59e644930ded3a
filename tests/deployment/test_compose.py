"""docker-compose.yml follows the Compose specification and the project's promises."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import jsonschema_rs
import pytest
import yaml
from click.testing import CliRunner

from bridge.app.composition import load_config
from bridge.cli import root
from bridge.config.model.brokers import KafkaBrokerConfig
from bridge.config.model.types import parse_duration

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
BRIDGE = SERVICES["bridge"]
ENVIRONMENT: dict[str, str] = BRIDGE["environment"]
# Images whose digest is not known here; a tag can be moved, a digest cannot.
BY_TAG = {"durable-bridge", "durabletask-server", "mcr.microsoft.com/dts/dts-emulator", "postgres"}
BUILT = {"durable-bridge", "durabletask-server"}
SPECIFICATION = jsonschema_rs.validator_for(json.loads((Path(__file__).parent / "compose-spec.json").read_text()))


def test_it_keeps_the_specification() -> None:
    SPECIFICATION.validate(COMPOSE)


@pytest.mark.parametrize("change", [{"cap_drop": "ALL"}, {"stop_grace": "30s"}, {"ports": 8099}, {"profiles": "x"}])
def test_the_specification_would_find_mistakes(change: dict[str, Any]) -> None:
    assert not SPECIFICATION.is_valid({"services": {"bridge": BRIDGE | change}})


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_to_this_machine_only(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port


@pytest.mark.parametrize("name", [name for name in SERVICES if SERVICES[name].get("profiles") == ["observability"]])
def test_what_only_watches_is_bounded_and_may_do_as_little_as_possible(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "user", "network_mode", "pid"} & service.keys()
    assert {"mem_limit", "cpus", "pids_limit"} <= service.keys()
    assert service["healthcheck"]["test"][0] == "CMD"


def test_no_two_services_have_one_port() -> None:
    ports = [port.split(":")[1] for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(ports) == len(set(ports))


def _with_defaults(text: str) -> str:
    """Return a text of the file with unset variables: `${NAME:-DEFAULT}` is DEFAULT."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def _source(volume: str) -> str:
    """Return the source of a short volume ("SOURCE:TARGET[:MODE]") with unset variables."""
    return _with_defaults(volume).split(":")[0]


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_says_which_version(name: str) -> None:
    service = SERVICES[name]
    named, _, digest = service["image"].partition("@")
    image, tag = named.rsplit(":", 1)
    assert ("build" in service) == (image in BUILT)
    assert tag == "local" if "build" in service else re.search(r"\d+\.\d+|CU\d", tag)
    assert "latest" not in tag
    assert image in BY_TAG if not digest else re.fullmatch("sha256:[0-9a-f]{64}", digest)


def test_what_goes_by_its_tag_is_still_used() -> None:
    assert {service["image"].partition("@")[0].rsplit(":", 1)[0] for service in SERVICES.values()} >= BY_TAG


@pytest.mark.parametrize("name", SERVICES)
def test_volumes_exist_and_the_checkout_is_not_written_to(name: str) -> None:
    for volume in SERVICES[name].get("volumes", ()):
        source = _source(volume)
        if source.startswith("."):
            # Docker creates a directory for a missing path, also in place of a file
            assert (ROOT / source).exists(), volume
            assert (ROOT / source).is_file() == bool(Path(volume.removesuffix(":ro")).suffix), volume
            assert volume.endswith(":ro"), volume
        else:
            assert source in COMPOSE["volumes"], volume


@pytest.mark.parametrize(
    ("volume", "source"),
    [
        ("./config:/app/config:ro", "./config"),
        ("data:/var/lib/data", "data"),
        ("${FILE:-./a/b.json}:/etc/b.json:ro", "./a/b.json"),
        ("${ROOT:-.}/${FILE:-b.json}:/etc/b.json", "./b.json"),
    ],
)
def test_the_source_of_a_volume_is_read_with_its_defaults(volume: str, source: str) -> None:
    assert _source(volume) == source


@pytest.mark.parametrize("name", SERVICES)
def test_whom_one_waits_for_has_a_health_check_and_starts_whenever_one_does(name: str) -> None:
    profiles = set(SERVICES[name].get("profiles", ()))
    waited_for: dict[str, dict[str, str]] = SERVICES[name].get("depends_on", {})
    assert isinstance(waited_for, dict), "a list waits for a start, not for health"
    for other, wanted in waited_for.items():
        assert wanted["condition"] == "service_healthy"
        assert SERVICES[other]["healthcheck"]["test"][0] == "CMD"
        # A service without a profile always starts; one with profiles, in those of the other
        others = set(SERVICES[other].get("profiles", ()))
        assert not others or (profiles and profiles <= others)


def test_the_emulator_s_database_has_one_password() -> None:
    emulator, database = (SERVICES[name]["environment"] for name in ("servicebus", "servicebus-sql"))
    assert emulator["SQL_SERVER"] == "servicebus-sql"
    assert emulator["MSSQL_SA_PASSWORD"] == database["MSSQL_SA_PASSWORD"] == database["SQLCMDPASSWORD"]


def test_the_self_hosted_engine_is_built_from_files_that_exist_and_reaches_its_database() -> None:
    server, database = SERVICES["durabletask"], SERVICES["postgres"]
    directory = ROOT / server["build"]
    dockerfile = (directory / "Dockerfile").read_text()
    [copied] = re.findall(r"^COPY (.+) \./$", dockerfile, re.MULTILINE)
    assert {path.name for path in directory.iterdir()} == {*copied.split(), "Dockerfile"}
    flags = {word for word in server["command"] if word.startswith("-")}
    main = (directory / "main.go").read_text()
    assert {f"-{name}" for name in re.findall(r'flag\.\w+\("([\w-]+)"', main)} >= flags
    command = dict(zip(server["command"][::2], server["command"][1::2], strict=True))
    assert command["-postgres"] in server["depends_on"]
    assert server["environment"] == database["environment"]
    config = load_config(_arguments("--config"), [ROOT / "config/overlays/self-hosted.yaml"]).config
    engine = config.engines["default"]
    assert engine.type == "scheduler"
    port = command["-listen"].rpartition(":")[2]
    assert server["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert engine.endpoint == f"http://localhost:{port}"


def test_what_is_not_needed_for_the_shop_has_a_profile() -> None:
    assert {name for name, service in SERVICES.items() if not service.get("profiles")} == {"bridge", "kafka"}


def test_the_bridge_may_do_as_little_as_possible() -> None:
    assert BRIDGE["read_only"] is True
    assert BRIDGE["cap_drop"] == ["ALL"]
    assert BRIDGE["security_opt"] == ["no-new-privileges:true"]
    assert [mount.split(":")[0] for mount in BRIDGE["tmpfs"]] == ["/tmp"]
    assert not {"privileged", "cap_add", "user", "network_mode", "pid"} & BRIDGE.keys()


def _arguments(option: str) -> list[Path]:
    command: list[str] = BRIDGE["command"]
    return [ROOT / value for name, value in pairwise(command) if name == option]


def test_the_bridge_s_command_exists_and_its_configuration_loads() -> None:
    command, *arguments = BRIDGE["command"]
    known = {option for parameter in root.get_command(click.Context(root), command).params for option in parameter.opts}
    assert {argument for argument in arguments if argument.startswith("-")} <= known
    mounted = [volume.split(":")[0].removeprefix("./") for volume in BRIDGE["volumes"] if volume.startswith(".")]
    files = [*_arguments("--config"), *_arguments("--overlay")]
    assert files
    assert all(file.relative_to(ROOT).parts[0] in mounted for file in files)
    given = [argument for file in _arguments("--config") for argument in ("-c", str(file))]
    given += [argument for file in _arguments("--overlay") for argument in ("--overlay", str(file))]
    checked = CliRunner().invoke(
        root, ["check", *given], env={name: _with_defaults(value) for name, value in ENVIRONMENT.items()}
    )
    assert checked.exit_code == 0, checked.output


def test_the_configuration_fits_the_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, _with_defaults(value))
    config = load_config(_arguments("--config"), _arguments("--overlay")).config
    # The stop grace period is longer than the drain
    assert parse_duration(BRIDGE["stop_grace_period"]) >= config.ops.drain + 5
    # State is in the volume, which belongs to the user of the image
    volumes = [volume.split(":")[1] for volume in BRIDGE["volumes"] if not volume.startswith(".")]
    engine = config.engines["default"]
    assert engine.type == "embedded"
    assert any(engine.path.startswith(f"{volume}/") for volume in volumes)
    assert f"install -d -o bridge -g bridge -m 0700 {volumes[0]}" in (ROOT / "Dockerfile").read_text()
    # The published port is the served port, on all addresses of the container
    assert BRIDGE["ports"] == [f"127.0.0.1:{config.ops.http.port}:{config.ops.http.port}"]
    assert config.ops.http.host == "0.0.0.0"
    # The broker is the listener that Kafka advertises inside
    [broker] = config.brokers.values()
    assert isinstance(broker, KafkaBrokerConfig)
    kafka = SERVICES["kafka"]["environment"]
    assert f"INSIDE://{broker.hosts[0]}" in kafka["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert kafka["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert broker.create_topics


def test_kafka_keeps_what_it_was_given() -> None:
    kafka = SERVICES["kafka"]
    assert f"kafka-data:{kafka['environment']['KAFKA_LOG_DIRS']}" in kafka["volumes"]
    ports = {port.split(":")[1] for port in kafka["ports"]}
    advertised = dict(each.split("://") for each in kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(","))
    assert advertised["HOST"] == f"localhost:{ports.pop()}"
    listeners = {each.split("://")[0] for each in kafka["environment"]["KAFKA_LISTENERS"].split(",")}
    protocols = {each.split(":")[0] for each in kafka["environment"]["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")}
    assert listeners == protocols == {*advertised, kafka["environment"]["KAFKA_CONTROLLER_LISTENER_NAMES"]}
