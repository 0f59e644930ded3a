"""Workflow of a release: the job that may publish runs nothing of the checkout, and every action is a commit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / ".github" / "workflows" / "release.yml").read_text()
WORKFLOW: dict[Any, Any] = yaml.safe_load(TEXT)
BUILD, PUBLISH = WORKFLOW["jobs"]["build"], WORKFLOW["jobs"]["publish"]


def test_only_a_tag_of_a_version_starts_it() -> None:
    # YAML 1.1 reads the key `on` as true
    assert WORKFLOW[True] == {"push": {"tags": ["v*"]}}
    [check] = [step["run"] for step in BUILD["steps"] if "GITHUB_REF_NAME" in step.get("run", "")]
    assert '"v$(python' in check


def test_only_the_last_job_may_publish_and_it_runs_no_code_of_the_checkout() -> None:
    assert WORKFLOW["permissions"] == {}
    assert BUILD["permissions"] == {"contents": "read"}
    assert PUBLISH["permissions"] == {"id-token": "write"}
    assert (PUBLISH["environment"], PUBLISH["needs"]) == ("pypi", "build")
    assert [step["uses"].partition("@")[0] for step in PUBLISH["steps"]] == [
        "actions/download-artifact",
        "pypa/gh-action-pypi-publish",
    ]
    assert not any("run" in step for step in PUBLISH["steps"])
    assert "secrets." not in TEXT


def test_every_action_is_pinned_by_its_commit() -> None:
    used = re.findall(r"uses: (.+)", TEXT)
    assert len(used) == 5
    for each in used:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each), each


def test_what_it_runs_exists() -> None:
    commands = [step["run"] for step in BUILD["steps"] if step.get("run", "").startswith("make ")]
    makefile = (ROOT / "Makefile").read_text()
    assert commands == ["make check", "make matrix DIST=dist"]
    for command in commands:
        assert re.search(rf"^{command.split()[1]}: ", makefile, re.MULTILINE)
    [artifact] = [step["with"]["path"] for step in BUILD["steps"] if "upload-artifact" in step.get("uses", "")]
    assert artifact == "dist/"
