"""Checks across the parts of declarative sagas: names that refer to each other, and parts without effect. Pure.

The checks work on the plain document, like `checks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from bridge.config.model.sagas import KINDS, wrong_kinds
from bridge.core.errors import Locate, Problem

REPLY_PREFIX = "reply:"
"""Prefix of the names of events that carry answers."""

Path = tuple[str | int, ...]


@dataclass
class SagaChecks:
    """Checks of all declarative sagas. The attributes are the sections that sagas refer to, as written."""

    sagas: dict[str, Any]
    targets: dict[str, Any]
    sources: dict[str, Any]
    routes: list[Any]
    unknown: Any
    locate: Locate

    def check(self) -> Iterator[Problem]:
        """Problems of all sagas, and of the routes that start them."""
        started = set()
        for index, route in enumerate(self.routes):
            saga = _mapping(_mapping(route).get("schedule")).get("saga")
            if isinstance(saga, str):
                started.add(saga)
                if saga not in self.sagas:
                    yield self.locate(
                        ("routes", index, "schedule", "saga"), self.unknown("saga", saga, list(self.sagas))
                    )
        for name, saga in self.sagas.items():
            if name not in started:
                yield self._warning(("sagas", name), "no route starts this saga: `schedule: {saga: " + name + ", ...}`")
            if isinstance(saga, dict):
                yield from self._saga(name, saga)

    def _saga(self, name: str, saga: dict[str, Any]) -> Iterator[Problem]:
        path: Path = ("sagas", name)
        outcome = saga.get("publish_outcome")
        if isinstance(outcome, str) and outcome not in self.targets:
            yield self.locate((*path, "publish_outcome"), self.unknown("target", outcome, list(self.targets)))
        walk = _Walk(self, name)
        yield from walk.steps(saga.get("steps"), (*path, "steps"))
        if isinstance(saga.get("steps"), list) and not walk.names and not walk.broken:
            yield self.locate((*path, "steps"), "this saga has no command")
        yield from self._replies(path, saga.get("replies"), walk.awaits)

    def _replies(self, path: Path, replies: Any, awaits: Path | None) -> Iterator[Problem]:
        if not isinstance(replies, str):
            if awaits is not None and replies is None:
                yield self.locate(
                    awaits,
                    "waits for an answer, but the saga has no source of answers; set `replies:` of the saga, or write "
                    "`reply: false`",
                )
            return
        where = (*path, "replies")
        if replies not in self.sources:
            yield self.locate(where, self.unknown("source", replies, list(self.sources)))
            return
        if awaits is None:
            yield self._warning(where, "has no effect: no command of this saga waits for an answer")
            return
        topics = _mapping(self.sources[replies]).get("topics")
        if isinstance(topics, list) and len(topics) != 1:
            yield self.locate(where, f"the source `{replies}` must have exactly one topic for answers")
        if not any(_brings_replies(_mapping(route), replies) for route in self.routes):
            yield self.locate(
                where,
                f"no route from `{replies}` delivers the answers; add one: `- {{name: answers, from: {replies}, "
                "reply: {}}`",
            )

    def _warning(self, path: Path, what: str) -> Problem:
        return replace(self.locate(path, what), severity="warning")


def _brings_replies(route: dict[str, Any], source: str) -> bool:
    given = route.get("from")
    if source not in (given if isinstance(given, list) else [given]):
        return False
    event = _mapping(route.get("raise_event")).get("name")
    return route.get("reply") is not None or (isinstance(event, str) and event.startswith(REPLY_PREFIX))


@dataclass
class _Walk:
    """Steps of one saga.

    names: places of the steps, by name.
    awaits: the first command that waits for an answer.
    """

    checks: SagaChecks
    saga: str
    names: dict[str, Path] = field(default_factory=dict)
    awaits: Path | None = None
    broken: bool = False
    _pivot: bool = False

    def steps(self, entries: Any, path: Path, inside: str | None = None) -> Iterator[Problem]:
        """Problems of a list of steps. inside: `parallel` for members of a group, `steps` for members of a branch."""
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            if not isinstance(entry, dict):
                self.broken = True
                continue
            yield from self._entry(entry, (*path, index), inside, last=index == len(entries) - 1)

    def _entry(self, entry: dict[str, Any], path: Path, inside: str | None, *, last: bool) -> Iterator[Problem]:
        checks = self.checks
        kinds = [kind for kind in KINDS if entry.get(kind) is not None]
        wrong = wrong_kinds(kinds, frozenset(entry), entry.get("name") is not None)
        if wrong is not None:
            self.broken = True
            yield checks.locate(path, wrong)
            return
        match kinds[0]:
            case "command":
                yield from self._step(entry, path)
            case "parallel":
                yield from self.steps(entry["parallel"], (*path, "parallel"), "parallel")
            case "steps":
                if inside != "parallel":
                    yield checks.locate((*path, "steps"), "a branch of steps must be directly below `parallel`")
                yield from self.steps(entry["steps"], (*path, "steps"), "steps")
            case _:
                yield from self._point(path, inside, last)

    def _point(self, path: Path, inside: str | None, last: bool) -> Iterator[Problem]:
        where = (*path, "point_of_no_return")
        if inside is not None:
            yield self.checks.locate(where, "the point of no return cannot be inside a parallel group")
        elif self._pivot:
            yield self.checks.locate(where, "the saga already has a point of no return")
        elif last:
            yield self.checks._warning(where, "no step follows the point of no return; it has no effect")
        self._pivot = True

    def _step(self, entry: dict[str, Any], path: Path) -> Iterator[Problem]:
        checks, name = self.checks, entry["name"]
        if isinstance(name, str):
            if name in self.names:
                at = checks.locate((*self.names[name], "name"), "")
                yield checks.locate((*path, "name"), f"the name `{name}` is taken by the step at {at.file}:{at.line}")
            self.names.setdefault(name, path)
        command = _mapping(entry["command"])
        awaits = command.get("reply") in (True, None)
        yield from self._message(command, (*path, "command"), awaits)
        if not awaits:
            for key in ("refused", "failed", "detail"):
                if key in entry:
                    yield checks.locate((*path, key), "has no effect: the command waits for no answer")
        elif "detail" in entry and "refused" not in entry and "failed" not in entry:
            yield checks.locate((*path, "detail"), "has no effect without `refused` or `failed`")
        if awaits and entry.get("timeout") is None:
            what = "waits for its answer without limit; give the step a `timeout`"
            yield checks._warning((*path, "command"), what)
        yield from self._undo(entry, path)

    def _undo(self, entry: dict[str, Any], path: Path) -> Iterator[Problem]:
        checks = self.checks
        compensation = _mapping(entry.get("compensation"))
        if not compensation:
            for key in ("compensation_timeout", "compensation_retry"):
                if key in entry:
                    yield checks.locate((*path, key), "has no effect: the step has no `compensation`")
            return
        if self._pivot:
            what = "never runs: nothing is undone after the point of no return"
            yield checks._warning((*path, "compensation"), what)
        awaits = compensation.get("reply") is True
        yield from self._message(compensation, (*path, "compensation"), awaits)
        if awaits and entry.get("compensation_timeout") is None:
            what = "waits for its answer without limit; give the step a `compensation_timeout`"
            yield checks._warning((*path, "compensation"), what)

    def _message(self, command: dict[str, Any], path: Path, awaits: bool) -> Iterator[Problem]:
        target = command.get("target")
        if isinstance(target, str) and target not in self.checks.targets:
            yield self.checks.locate(
                (*path, "target"), self.checks.unknown("target", target, list(self.checks.targets))
            )
        if awaits and self.awaits is None:
            self.awaits = path


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
