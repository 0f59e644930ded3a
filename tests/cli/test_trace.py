"""`bridge trace` on a running engine: exit codes, JSON, and the output without a result."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from tests.cli.conftest import Bridge

pytestmark = pytest.mark.usefixtures("host")


def test_an_instance_that_no_message_started(bridge: Bridge) -> None:
    name = f"trace-{uuid4().hex[:8]}"
    bridge("instances", "start", "family", "--id", name)
    bridge("instances", "wait", name, "--timeout", "30s")
    result = bridge("trace", name)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"instance  {name}"
    assert "(not by a message)" in result.stdout
    assert f"instance  {name}-child" in lines, "children are shown below"
    assert f"child of  {name}" in lines
    received = json.loads(bridge("trace", name, "--json").stdout)
    assert (received["id"], received["found_by"], received["searched"]) == (name, "instance", 0)
    [one] = received["instances"]
    assert (one["status"], one["publications"], one["children"][0]["instance_id"]) == ("COMPLETED", [], f"{name}-child")


def test_nothing(bridge: Bridge) -> None:
    result = bridge("trace", "shop none", "--prefix", "nobody-", "--since", "2h")
    assert result.exit_code == 1
    assert (
        "'shop none' is not an instance, and no message with this id was found\n"
        "searched 0 instances without an index with the prefix 'nobody-' that changed since" in result.stderr
    )
    result = bridge("trace", "shop none", "--prefix", "nobody-", "--json")
    assert (result.exit_code, json.loads(result.stdout)["instances"]) == (1, [])


def test_several_ids_and_ids_from_standard_input(bridge: Bridge) -> None:
    names = [f"trace-{uuid4().hex[:8]}" for _ in range(2)]
    for name in names:
        bridge("instances", "start", "family", "--id", name, "--message-id", f"of {name}")
    both = json.loads(bridge("trace", f"of {names[0]}", names[1], "-o", "json").stdout)
    assert [one["found_by"] for one in both] == ["message", "instance"]
    [answer] = both[0]["answers"]
    assert (answer["outcome"], answer["instance_id"], answer["what"]) == ("executed", names[0], "start")
    for flag, text in (((), f"{names[0]}\r\n\n{names[1]}"), (("-0",), f"{names[0]}\0{names[1]}\0")):
        piped = bridge("trace", "-", *flag, "--json", input=text)
        assert [one["id"] for one in json.loads(piped.stdout)] == names
    table = bridge("trace", f"of {names[0]}", "nobody knows")
    assert table.exit_code == 1, "one of them has no answer"
    assert table.stdout.startswith(f"of {names[0]}: executed at 2")
    assert "'nobody knows' is not an instance, and no message with this id was found" in table.stderr
    assert bridge("trace", "-", input="\n").exit_code == 2
