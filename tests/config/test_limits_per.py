"""Short form of `limits.per`: a template alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.app.composition import load_config
from bridge.core.errors import ConfigError

TEXT = """
engine: {type: embedded}
brokers: {local: {type: local}}
sources:
  orders: {broker: local, topics: [orders], no_match: dead_letter, limits: {SOURCE}}
routes:
  - name: start
    from: orders
    limits: {ROUTE}
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}
workflows: {external: [order]}
"""


def written(directory: Path, source: str, route: str) -> Path:
    path = directory / "bridge.yaml"
    path.write_text(TEXT.replace("SOURCE", source).replace("ROUTE", route))
    return path


def test_a_template_is_short_for_its_value(tmp_path: Path) -> None:
    short = written(tmp_path, 'per: "{{ payload.tenant }}"', 'per: "{{ payload.tenant }}", running: 20, rate: 5/s')
    found = load_config([short]).config
    source = 'per: {value: "{{ payload.tenant }}"}'
    route = 'per: {value: "{{ payload.tenant }}", running: 20, rate: 5/s}'
    assert load_config([written(tmp_path, source, route)]).config == found


@pytest.mark.parametrize(
    ("source", "route", "problem"),
    [
        ('per: "tenant"', "rate: 5/s", "sources.orders.limits.per"),
        ("max_gap: 1", 'per: "{{ payload.tenant }}"', "write `running`, `rate` or both"),
        ("max_gap: 1", 'per: "{{ payload.tenant }}", burst: 5', "write `running`, `rate` or both"),
        ("max_gap: 1", 'per: "{{ payload.tenant }}", running: 0', "must be at least 1"),
    ],
)
def test_what_is_wrong_with_it(tmp_path: Path, source: str, route: str, problem: str) -> None:
    with pytest.raises(ConfigError) as found:
        load_config([written(tmp_path, source, route)])
    assert problem in str(found.value)
