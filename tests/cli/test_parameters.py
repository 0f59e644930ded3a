"""Values on the command line: interpretation and refusal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest

from bridge.cli.shared.parameters import AT, DURATION, ENTITY, HEADER, JSON, SINCE, STATUS


def convert(kind: click.ParamType[Any], text: str) -> Any:
    return kind.convert(text, None, None)


def test_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"é": 1}')
    assert convert(JSON, '{"a": [1, 1180591620717411303424]}') == {"a": [1, 2**70]}
    assert convert(JSON, f"@{tmp_path}/a.json") == {"é": 1}
    assert convert(JSON, "null") is None


@pytest.mark.parametrize("text", ["", "text", "{", "NaN", "[" * 100_000])
def test_what_is_not_json(text: str) -> None:
    with pytest.raises(click.BadParameter, match="not JSON"):
        convert(JSON, text)


@pytest.mark.parametrize(
    ("inside", "said"),
    [('"v": 2', "version 2"), ('"v": 1, "id": 5, "route": 1', "not text"), ('"v": 1, "id": "a"', "not text")],
)
def test_an_envelope_that_no_worker_reads(inside: str, said: str) -> None:
    with pytest.raises(click.BadParameter, match=said):
        convert(JSON, f'{{"bridge:message": {{{inside}, "data": 3}}}}')
    whole = '{"bridge:message": {"v": 1, "id": "a", "route": "b", "data": 3}}'
    assert convert(JSON, whole)["bridge:message"]["data"] == 3


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes(b'"\xe9"')
    for name in ("missing.json", "latin.json"):
        with pytest.raises(click.BadParameter, match=name):
            convert(JSON, f"@{tmp_path}/{name}")


def test_times() -> None:
    assert convert(SINCE, "2030-01-31T09:00:00+01:00") == datetime(2030, 1, 31, 8, tzinfo=UTC)
    assert abs(datetime.now(UTC) - timedelta(hours=2) - convert(SINCE, "2h")) < timedelta(minutes=1)
    for kind, text in ((AT, "2h"), (SINCE, "2030-01-31"), (SINCE, "2030-01-31T09:00:00"), (SINCE, "tomorrow")):
        with pytest.raises(click.BadParameter, match="RFC 3339"):
            convert(kind, text)


def test_the_rest() -> None:
    assert convert(DURATION, "1m30s") == 90
    assert convert(HEADER, "a=b=c") == ("a", "b=c")
    assert convert(HEADER, "a=") == ("a", "")
    assert convert(STATUS, "continued-as-new") == "CONTINUED_AS_NEW"
    assert convert(ENTITY, "@account@c@17") == ("account", "c@17")
