"""`bridge demo`: the shop stays open, with its page, until Ctrl-C."""

from __future__ import annotations

import re
import signal
import tomllib
import urllib.request

import pytest

from bridge.config.source import load
from demo import shop
from tests.kit.forkserver import ROOT
from tests.kit.processes import ModuleProcess
from tests.kit.waiting import TIMEOUT

pytestmark = pytest.mark.long


def test_the_shop_stays_open_until_it_is_closed() -> None:
    with ModuleProcess("tests.demo.short_day") as running:
        text, line = "", running.read()
        while "Ctrl-C closes" not in line:
            assert line or running.runs, text
            text, line = f"{text}{line}\n", running.read()
        url, token = re.findall(r"(?:open: |token )(\S+)", text)[:2]
        asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, timeout=TIMEOUT) as answer:
            assert "visitor · admin + payloads" in answer.read().decode()
        running.signal(signal.SIGINT)
        while running.read():
            pass
        assert running.process.wait() == 0


def test_the_wheel_has_what_the_shop_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    inside = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert inside == {name: f"bridge/_shop/{name}" for name in ("config", "demo", "workflows")}
    loaded = load([shop.CONFIG], environ={})
    assert {name.partition(".")[0] for name in loaded.config.workflows.modules} == {"workflows"}
    assert shop.CONFIG.relative_to(ROOT).parts[0] == "config"
