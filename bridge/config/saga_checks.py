"""Checks across the parts of declarative sagas: names that refer to each other, and parts without effect. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from bridge.config.checks import Checks
from bridge.config.model.sagas import CommandConfig, SagaConfig, SagaStepConfig
from bridge.core.answers import REPLY_PREFIX
from bridge.core.errors import ConfigPath, Problem
from bridge.core.problems.codes import coded


def check_sagas(checks: Checks) -> Iterator[Problem]:
    """Problems of all sagas, and of the routes that start them."""
    config = checks.partial.config
    started = set()
    for index, route in enumerate(config.routes):
        if route.schedule is not None:
            started.add(route.schedule.saga)
            yield from checks.reference(("routes", index, "schedule", "saga"), "saga", route.schedule.saga)
    for name in checks.partial.names["sagas"]:
        if name not in started:
            yield checks.warning(("sagas", name), "no route starts this saga: `schedule: {saga: " + name + ", ...}`")
    for name, saga in config.sagas.items():
        yield from _saga(checks, ("sagas", name), saga)


def _saga(checks: Checks, path: ConfigPath, saga: SagaConfig) -> Iterator[Problem]:
    yield from checks.reference((*path, "publish_outcome"), "target", saga.publish_outcome)
    walk = _Walk(checks)
    yield from walk.steps(saga.steps, (*path, "steps"))
    if not walk.names and not walk.broken:
        yield _misfit(checks, (*path, "steps"), "this saga has no command")
    yield from _replies(checks, path, saga, walk)


def _replies(checks: Checks, path: ConfigPath, saga: SagaConfig, walk: _Walk) -> Iterator[Problem]:
    where = (*path, "replies")
    config, replies, awaits = checks.partial.config, saga.replies, walk.awaits
    if replies is None:
        if awaits is not None and checks.partial.is_given(where):
            yield _misfit(
                checks,
                awaits,
                "waits for an answer, but the saga has no source of answers; set `replies:` of the saga, or write "
                "`reply: false`",
            )
        return
    yield from checks.reference(where, "source", replies)
    if replies not in checks.partial.names["sources"]:
        return
    if awaits is None:
        if not walk.broken:
            yield checks.warning(where, "has no effect: no command of this saga waits for an answer")
        return
    source, at = config.sources.get(replies), ("sources", replies, "topics")
    is_read = source is not None and "topics" in source.model_fields_set and checks.partial.is_given(at)
    if source is not None and is_read and len(source.topics) != 1:
        yield _misfit(checks, where, f"the source `{replies}` must have exactly one topic for answers")
    if not any(_brings_replies(checks, index, replies) for index in range(len(config.routes))):
        yield _misfit(
            checks,
            where,
            f"no route from `{replies}` delivers the answers; add one: `- {{name: answers, from: {replies}, "
            "reply: {}}`",
        )


def _brings_replies(checks: Checks, index: int, source: str) -> bool:
    route = checks.partial.config.routes[index]
    if source not in route.from_:
        return False
    event = "" if route.raise_event is None else route.raise_event.name
    return event.startswith(REPLY_PREFIX) or checks.partial.has(route, ("routes", index), "reply")


def _misfit(checks: Checks, path: ConfigPath, what: str) -> Problem:
    return coded("C022", checks.locate(path, what))


@dataclass
class _Walk:
    """Steps of one saga.

    names: places of the steps, by name.
    awaits: the first command that waits for an answer.
    broken: True if a part that decides about names and answers is invalid.
    """

    checks: Checks
    names: dict[str, ConfigPath] = field(default_factory=dict)
    awaits: ConfigPath | None = None
    broken: bool = False
    _pivot: bool = False

    def steps(
        self, entries: tuple[SagaStepConfig, ...], path: ConfigPath, inside: str | None = None
    ) -> Iterator[Problem]:
        """Problems of a list of steps. inside: `parallel` for members of a group, `steps` for members of a branch."""
        for index, entry in enumerate(entries):
            where = (*path, index)
            if not self.checks.partial.is_given(where):
                self.broken = True
            elif entry.command is not None:
                yield from self._step(entry, entry.command, where)
            elif entry.parallel is not None:
                yield from self.steps(entry.parallel, (*where, "parallel"), "parallel")
            elif entry.steps is not None:
                if inside != "parallel":
                    yield _misfit(self.checks, (*where, "steps"), "a branch of steps must be directly below `parallel`")
                yield from self.steps(entry.steps, (*where, "steps"), "steps")
            else:
                yield from self._point((*where, "point_of_no_return"), inside, index == len(entries) - 1)

    def _point(self, where: ConfigPath, inside: str | None, last: bool) -> Iterator[Problem]:
        if inside is not None:
            yield _misfit(self.checks, where, "the point of no return cannot be inside a parallel group")
        elif self._pivot:
            yield _misfit(self.checks, where, "the saga already has a point of no return")
        elif last:
            yield self.checks.warning(where, "no step follows the point of no return; it has no effect")
        self._pivot = True

    def _step(self, step: SagaStepConfig, command: CommandConfig, path: ConfigPath) -> Iterator[Problem]:
        checks, name = self.checks, (*path, "name")
        first = self.names.setdefault(step.name or "", name)
        if first != name and checks.partial.is_given(name):
            at = checks.locate(first, "")
            what = f"the name `{step.name}` is taken by the step at {at.file}:{at.line}"
            yield coded("C010", checks.locate(name, what))
        refused, failed, detail = (checks.partial.has(step, path, key) for key in ("refused", "failed", "detail"))
        awaits = command.reply is not False
        is_known = checks.partial.is_given((*path, "command", "reply"))
        self.broken = self.broken or not is_known
        yield from self._message(command, (*path, "command"), awaits and is_known)
        if not awaits:
            for key in ("refused", "failed", "detail"):
                if checks.partial.has(step, path, key):
                    yield _misfit(checks, (*path, key), "has no effect: the command waits for no answer")
        elif detail and not refused and not failed:
            yield _misfit(checks, (*path, "detail"), "has no effect without `refused` or `failed`")
        yield from self._without_limit(step, path, "command", "timeout", awaits and is_known)
        yield from self._undo(step, path)

    def _undo(self, step: SagaStepConfig, path: ConfigPath) -> Iterator[Problem]:
        checks, where = self.checks, (*path, "compensation")
        if step.compensation is None:
            for key in ("compensation_timeout", "compensation_retry"):
                if checks.partial.has(step, path, key) and checks.partial.is_given(where):
                    yield _misfit(checks, (*path, key), "has no effect: the step has no `compensation`")
            return
        if self._pivot:
            yield checks.warning(where, "never runs: nothing is undone after the point of no return")
        awaits = step.compensation.reply is True
        yield from self._message(step.compensation, where, awaits)
        yield from self._without_limit(step, path, "compensation", "compensation_timeout", awaits)

    def _without_limit(
        self, step: SagaStepConfig, path: ConfigPath, key: str, limit: str, awaits: bool
    ) -> Iterator[Problem]:
        if awaits and not self.checks.partial.has(step, path, limit):
            what = f"waits for its answer without limit; give the step a `{limit}`"
            yield self.checks.warning((*path, key), what, "C023")

    def _message(self, command: CommandConfig, path: ConfigPath, awaits: bool) -> Iterator[Problem]:
        yield from self.checks.reference((*path, "target"), "target", command.target)
        if awaits and self.awaits is None:
            self.awaits = path
