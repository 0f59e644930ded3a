"""Versions in docs/versioning.md are those that the lock files, the test programs and the containers have."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable

import pytest

from bridge import __version__
from tests.deployment.keda import KEDA
from tests.deployment.test_chart import KUBERNETES, PROMETHEUS_OPERATOR
from tests.docs.document import ROOT, read, table
from tests.matrix import supported

PAGE = "docs/versioning.md"
FOREIGN = ROOT / "tests" / "engines" / "foreign"


def locked(name: str) -> str:
    return found(rf"^{re.escape(name)}==(\S+)", "requirements.lock")


def found(pattern: str, file: str) -> str:
    """Only match of a pattern with one group in a file."""
    [version] = set(re.findall(pattern, (ROOT / file).read_text(), re.MULTILINE))
    return str(version)


def javascript() -> str:
    package = json.loads((FOREIGN / "javascript" / "package.json").read_text())
    return str(package["dependencies"]["@microsoft/durabletask-js"])


def prometheus() -> str:
    """Version of the image, which is that of promtool: a module of Prometheus 3.N.P is v0.3NN.P."""
    image = found(r"image: prom/prometheus:v([\d.]+)@", "docker-compose.yml")
    module = found(r"github.com/prometheus/prometheus v([\d.]+) ", "tests/observability/promtool/go.mod")
    major, minor, patch = image.split(".")
    assert module == f"0.{major}{int(minor):02}.{patch}"
    return image


def kafka() -> str:
    broker = found(r"<artifactId>kafka_[\d.]+</artifactId><version>([\d.]+)<", "tests/kafka/pom.xml")
    assert broker == found(r"image: apache/kafka:([\d.]+)@", "docker-compose.yml")
    return broker


def service(emulator: str) -> str:
    """Version of a service in Azure, which has none, and of its emulator."""
    version = found(rf"{emulator}:([^@\s]+)", "docker-compose.yml")
    return f"service, emulator {version}"


def durabletask() -> str:
    assert locked("durabletask") == locked("durabletask-azuremanaged")
    return locked("durabletask")


VERSIONS: dict[str, Callable[[], str]] = {
    "CPython": lambda: ", ".join(supported()),
    "Durable Task SDK for Python": durabletask,
    "Durable Task SDK for JavaScript": javascript,
    "Durable Task SDK for Java": lambda: found(
        r"<artifactId>durabletask-client</artifactId><version>([\d.]+)<", "tests/engines/foreign/java/pom.xml"
    ),
    "Durable Task SDK for Go": lambda: found(r"durabletask-go v([\d.]+)", "tests/engines/foreign/go/go.mod"),
    "Durable Task Scheduler": lambda: service("dts-emulator"),
    "Apache Kafka": kafka,
    "aiokafka": lambda: locked("aiokafka"),
    "Azure Service Bus": lambda: service("servicebus-emulator"),
    "azure-servicebus": lambda: locked("azure-servicebus"),
    "Confluent Schema Registry, its client": lambda: locked("confluent-kafka"),
    "OpenTelemetry SDK": lambda: locked("opentelemetry-sdk"),
    "Prometheus (promtool)": prometheus,
    "Kubernetes": lambda: ", ".join(KUBERNETES),
    "Helm": lambda: found(r"helm.sh/helm/v3 v([\d.]+)", "tests/deployment/helm/go.mod"),
    "KEDA": lambda: KEDA[1].removeprefix("v"),
    "Prometheus operator": lambda: PROMETHEUS_OPERATOR[1].removeprefix("v"),
}


def test_each_row_has_its_version() -> None:
    rows = {what: version for what, version, _ in table(PAGE, "What")}
    assert rows == {what: version() for what, version in VERSIONS.items()}


@pytest.mark.parametrize("name", ["durabletask", "durabletask.azuremanaged", "aiokafka", "azure-servicebus"])
def test_a_library_with_an_upper_bound_is_locked_within_it(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    [upper] = {re.search(r"<([\d.]+)", one)[1] for one in wanted if re.match(rf"{re.escape(name)}[\[><=]", one)}
    version = locked(name.replace(".", "-"))
    assert version.split(".")[:2] == [upper.split(".")[0], str(int(upper.split(".")[1]) - 1)]


def test_the_surfaces_that_are_compared_are_those_of_the_inventory() -> None:
    """The page says that the inventory has the names of its first rows."""
    inventory = json.loads((ROOT / "tests" / "wire" / "inventory.json").read_text())
    sections = {name for group in inventory.values() for name in group}
    assert sections >= {
        "configuration",
        "command line",
        "metrics",
        "public python",
        "paths",
        "headers",
        "files",
        "gRPC",
    }


def test_every_version_is_one() -> None:
    chart = (ROOT / "deploy/helm/durable-bridge/Chart.yaml").read_text()
    assert f'appVersion: "{__version__}"' in chart
    assert f"version: {__version__}\n" in chart
    assert found(r"^## \[([\d.]+)\]", "CHANGELOG.md") == __version__
    assert "Semantic Versioning" in read(PAGE)
