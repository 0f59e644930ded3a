"""Stability of the wire and the disk: the inventory is compared byte for byte."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator

import pytest
from durabletask.internal.helpers import new_failure_details

from bridge.core import errors
from tests.wire.inventory import FILE, Sections, inventory, rendered
from tests.wire.names import modules, subclasses

_RENEW = "`python -m tests.wire.inventory > tests/wire/inventory.json`"
ADVICE = {
    "fixed": (
        "A name on the wire or on disk changed: state of earlier builds, daemons beside this one and workers in other "
        "languages break. Give the old name back as a literal, whatever Python calls the thing; an exception class "
        f"keeps its name with `@wire_name`. Only what is new is added, by {_RENEW}."
    ),
    "users": (
        "Users type, scrape or read this. Say in CHANGELOG.md what is new, and let the old name work or lead to an "
        f"error that names the new one: {_RENEW}."
    ),
    "texts": (
        "A text that may be on the wire came or went. Look where it is read and written; when it is on no wire, or "
        f"new: {_RENEW}."
    ),
}


def differences(old: Sections, new: Sections) -> Iterator[str]:
    """Return a readable line for each section that differs, with added and removed items, and the required action."""
    for group in [*old, *(each for each in new if each not in old)]:
        before, after = old.get(group, {}), new.get(group, {})
        changed = False
        for section in sorted({*before, *after}):
            gone = sorted({*before.get(section, ())} - {*after.get(section, ())})
            came = sorted({*after.get(section, ())} - {*before.get(section, ())})
            if gone or came:
                changed = True
                yield f"{group}, {section}:"
                yield from (f"  - {each}" for each in gone)
                yield from (f"  + {each}" for each in came)
        if changed:
            yield ADVICE.get(group, "")


def test_names_on_the_wire_are_as_they_were() -> None:
    """The message of a failure names the required action."""
    found, text = inventory(), FILE.read_text()
    received = "\n".join(differences(json.loads(text), found))
    assert not received, f"\n{received}"
    assert rendered(found) == text, f"the inventory is not as it is written: {_RENEW}"


def test_a_difference_is_named_with_what_to_do() -> None:
    old = {"fixed": {"a": ["x", "y"], "b": ["z"]}, "users": {"c": ["u"]}}
    new = {"fixed": {"a": ["y", "x2"], "b": ["z"]}, "users": {"c": ["u"]}}
    assert list(differences(old, old)) == []
    assert list(differences(old, new)) == ["fixed, a:", "  - x", "  + x2", ADVICE["fixed"]]


def test_every_error_of_the_bridge_has_a_name_of_its_own_on_the_wire() -> None:
    """Dead letters and failures contain the class name: without `@wire_name` a rename would change them."""
    modules()
    named = set(errors.WIRE_NAMES.values())
    workflow = importlib.import_module("bridge.workflow")
    public = [getattr(workflow, name) for name in workflow.__all__]
    raised = {each for each in public if isinstance(each, type) and issubclass(each, BaseException)}
    nameless = [each for each in (*subclasses(errors.BridgeError), *raised) if each not in named]
    assert nameless == []


def test_a_class_travels_under_its_name_on_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "WIRE_NAMES", {})

    @errors.wire_name("bridge.before.OldName")
    class NewName(Exception):
        """Class that was renamed and moved."""

    assert type(NewName("x")).__name__ == "OldName"
    assert new_failure_details(NewName("x")).errorType == "bridge.before.OldName"
    with pytest.raises(AssertionError):
        errors.wire_name("bridge.before.OldName")(ValueError)
