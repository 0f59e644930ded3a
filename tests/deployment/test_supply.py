"""Dependencies of the bridge: lock files, and the tools that read them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-supply.lock", "requirements-docs.lock")


@pytest.mark.parametrize("lock", LOCKS)
def test_every_library_is_one_version_with_its_hashes(lock: str) -> None:
    text = (ROOT / lock).read_text()
    entries = re.findall(r"^(\S+)==(\S+) .*\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE)
    assert len(entries) == len(re.findall(r"^[A-Za-z0-9]\S*==", text, re.MULTILINE)) > 10


def test_the_tools_are_locked_apart() -> None:
    """The tools have dependencies of their own, which must not determine the versions of the bridge's."""
    supply = (ROOT / "requirements-supply.lock").read_text()
    for tool in ("cyclonedx-bom==", "pip-audit==", "twine=="):
        assert f"\n{tool}" in supply
        assert f"\n{tool}" not in (ROOT / "requirements.lock").read_text()
    assert re.search(r"^sbom: .*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert re.search(r"^audit-deps: .*##", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_a_library_that_cannot_be_looked_up_fails_the_audit() -> None:
    """Without `--strict`, pip-audit succeeds when an index knows none of the libraries."""
    [recipe] = re.findall(r"^audit-deps:.*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "--strict" in recipe.split()
