"""Time zone names from messages open no files and stay in no cache."""

import gc
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from bridge.core.errors import ExpressionError
from bridge.routing.cel.zones import checked
from tests.routing.test_expression import value

AT = "2030-07-01T12:30:45Z"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("timestamp(payload.t).getHours(payload.z)", 14),
        ("timestamp(payload.t).getHours( payload['z'] // its zone\n )", 14),
        ("timestamp(payload.t).getHours(payload.?y.orValue('+05:30'))", 18),
        ("timestamp(payload.t).getHours('Europe/Paris')", 14),
        ("timestamp(payload.t).getHours()", 12),
        ("timestamp(payload.t).getHours('UTC')", 12),
        ("timestamp(payload.t).getHours(payload.u)", 12),
        ("timestamp(payload.t).getDayOfWeek(payload.z) + timestamp(payload.t).getFullYear(payload.z)", 2031),
        ("payload.zs.map(z, timestamp(payload.t).getHours(z))", [14, 8, 11]),
        ("duration('3600s').getHours()", 1),
        ("timestamp(payload.t).getHours(payload.zs[int(timestamp(payload.t).getMonth(payload.z)) - 6])", 14),
        ("'.getHours(' + payload.z + ')'", ".getHours(Europe/Paris)"),
    ],
)
def test_zones_are_what_they_were(text: str, wanted: object) -> None:
    given = {"t": AT, "z": "Europe/Paris", "u": "UTC", "zs": ["Europe/Paris", "America/New_York", "-01:00"]}
    assert value(text, given) == wanted


@pytest.mark.parametrize(
    "text", ["payload.getHours", "getHours", "payload.t.getHours()", "a.getHours('x')", "a.getx(b)"]
)
def test_other_expressions_are_left_alone(text: str) -> None:
    assert checked(text) == text


METHODS = ("getDate", "getDayOfYear", "getFullYear", "getHours", "getMilliseconds")


def test_a_name_leads_to_no_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    program = f"""if True:
        from tests.routing.test_expression import value
        from bridge.core.errors import ExpressionError
        for method in {METHODS!r}:
            for name in ({str(pipe)!r}, "../../../..{pipe}", "/dev/stdin", "file:{pipe}", "localtime/../{pipe}"):
                try:
                    value(f"timestamp(payload.t).{{method}}(payload.z)", {{"t": {AT!r}, "z": name}})
                except ExpressionError:
                    print("refused")
    """
    run = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert [run.stdout.readline() for _ in range(25)] == ["refused\n"] * 25
    run.communicate()


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("text", ["timestamp(payload.t).getHours(payload.z)", "payload.m.map(k, k)"])
def test_messages_do_not_stay_in_memory(text: str) -> None:
    before = resident()
    for number in range(200):
        with suppress(ExpressionError):
            value(text, {"t": AT, "z": f"{number}" + "x" * 900_000, "m": {"a": f"{number}" + "x" * 900_000}})
    gc.collect()
    assert resident() - before < 64 << 20


def test_the_map_of_the_message_stays_as_it_is() -> None:
    given = {"m": {"a": {"b": 1}}}
    assert value("payload.m.map(k, k)", given) == ["a"]
    assert given == {"m": {"a": {"b": 1}}}
