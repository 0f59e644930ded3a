"""Each bound on what a sender may cost has a default, a setting, a metric and a reason, and the documents say which."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from bridge.config.model.bridge import OpsConfig
from bridge.config.model.brokers import KafkaBrokerConfig
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.config.model.sources import LimitsConfig, SourceConfig
from bridge.core import errors
from bridge.early_messages import state_machine as early
from bridge.quarantine import state_machine as quarantine
from tests.docs.document import table

DOCUMENT = "docs/security.md"
_PLACES: dict[str, type[BaseModel]] = {
    "of the broker": KafkaBrokerConfig,
    "of the engine": EmbeddedEngineConfig,
    "of the source": SourceConfig,
    "of ops": OpsConfig,
    "": SourceConfig,
}
_UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "ms": 0.001, "d": 86_400}


def rows() -> list[list[str]]:
    return [[cell.replace("`", "") for cell in row] for row in table(DOCUMENT, "Cost of one sender")]


def default_of(setting: str) -> object:
    name, _, place = setting.partition(" ")
    model = _PLACES[place]
    *parents, last = name.split(".")
    for parent, inner in zip(parents, [*parents, last][1:], strict=True):
        field = model.model_fields[parent]
        model = next(each for each in _models(field.annotation) if inner in each.model_fields)
    return model.model_fields[last].get_default(call_default_factory=True)


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[2])
def test_a_setting_has_the_default_that_is_written(row: list[str]) -> None:
    found = re.fullmatch(r"([\d,]+) ?(\w*)", row[1])
    assert found is not None
    assert default_of(row[2]) == float(found[1].replace(",", "")) * _UNITS[found[2]]


def test_every_limit_of_a_message_is_written() -> None:
    of_the_source = {"concurrency", "dead_letter_limit", "per"}
    of_the_source |= {"max_in_flight", "max_in_flight_bytes", "max_key_backlog", "max_gap"}
    of_the_source |= {"max_replays", "max_queued_replays", "max_queued_replay_bytes"}
    written = {row[2].removeprefix("limits.") for row in rows() if row[2].startswith("limits.")}
    assert written == set(LimitsConfig.model_fields) - of_the_source


def test_every_metric_is_one() -> None:
    known = {row[0] for row in table("docs/metrics.md", "Metric")}  # compared with what is exposed elsewhere
    assert [row[3] for row in rows() if row[3].split(",")[0] not in known] == []


def test_each_limit_of_a_message_has_a_reason_of_its_own() -> None:
    reasons = [row[4] for row in rows() if row[2].startswith("limits.")]
    assert len(set(reasons)) == len(reasons)


def test_every_reason_is_one() -> None:
    known = {error.reason for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "reason")}
    known |= {early.EXPIRED, early.FULL, early.DROPPED, quarantine.FULL, quarantine.DROPPED}
    assert [row[4] for row in rows() if row[4] not in known and not row[4].startswith("none: ")] == []
