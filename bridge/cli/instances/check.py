"""`bridge instances check`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.command import command as make
from bridge.cli.shared.connection import local_engine_options
from bridge.cli.shared.options import json_option
from bridge.cli.shared.output import ProgressCount, print_json, say
from bridge.core.words import plural

if TYPE_CHECKING:
    from bridge.config.source import Loaded
    from bridge.testing.histories.check import Checked
    from bridge.testing.histories.child import WorkflowCode

_SAMPLE = 20


@make(
    "check",
    effect="reads",
    examples="""
        bridge instances check --workflows new/
        bridge instances check --workflows ../release-42 --orchestration order_saga --sample 200
        bridge instances check --workflows new/ --all-running --strict      # in CI, before a deployment
        bridge instances check --workflows new/ --json | jq '.orchestrations[] | select(.broken > 0)'
    """,
    exits={
        0: "the new code can continue every instance that was checked",
        1: "an instance would fail, or the new code cannot be imported; with --strict also: an instance was not "
        "checked, or its past would have been another one",
        3: "the configuration is not valid, or the engine does not answer (is the daemon running?)",
    },
)
@click.option(
    "--workflows",
    required=True,
    metavar="DIR|MODULE",
    help="Directory with the new modules of the configuration, or a module in place of them.",
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=None,
    metavar="N",
    help=f"Instances of each orchestration, spread over their age.  [default: {_SAMPLE}]",
)
@click.option("--all-running", is_flag=True, help="Every running instance.")
@click.option("--orchestration", "only", multiple=True, metavar="NAME", help="Only this orchestration; repeatable.")
@click.option("--strict", is_flag=True, help="Changed instances, and instances without a result, fail too.")
@json_option
@local_engine_options
def check(
    workflows: str,
    sample: int | None,
    all_running: bool,
    only: tuple[str, ...],
    strict: bool,
    as_json: bool,
    **engine: Any,
) -> int:
    """Replay histories of running instances through new workflow code, and name the instances that would break.

    A separate process imports the new modules and runs the orchestrators with the recorded events. It performs none of
    their work. An instance breaks if the new code makes another call than the history, ends where the instance
    continues, or fails. An instance is changed if a past call would have had another input or time; it continues with
    the recorded one.
    """
    from bridge.app.composition import load_config
    from bridge.app.connection import attached
    from bridge.app.operations.instances.instances import InstanceOperations
    from bridge.testing.histories.check import check_histories

    if all_running and sample is not None:
        raise click.UsageError("use either --sample or --all-running", click.get_current_context())
    loaded = load_config(engine["config"], engine["overlay"])
    code = _code(loaded, workflows)
    progress = ProgressCount("history", "replayed")

    async def run() -> list[Checked]:
        async with attached(loaded, engine["engine"]) as own:
            return await check_histories(
                InstanceOperations(own), own.client, code,
                sample=None if all_running else sample or _SAMPLE,
                only=only, external=frozenset(loaded.config.workflows.external),
                versions=loaded.config.engines[own.name].worker.versions, progress=progress,
            )  # fmt: skip

    try:
        results = asyncio.run(run())
    finally:
        progress.close()
    broken = sum(each.broken for each in results)
    doubts = sum(each.changed + each.unchecked.total() for each in results)
    failed = bool(broken or (strict and doubts))
    if as_json:
        print_json({"ok": not failed, "orchestrations": [each.as_json() for each in results]})
    else:
        _print(results, broken)
    return exit_codes.FAILED if failed else exit_codes.OK


def _code(loaded: Loaded, workflows: str) -> WorkflowCode:
    """Code that the option names."""
    from bridge.app.composition import module_base
    from bridge.testing.histories.child import WorkflowCode

    base, modules = module_base(loaded).absolute(), loaded.config.workflows.modules
    path = Path(workflows)
    tops = {module.partition(".")[0] for module in modules}
    if path.is_file() and path.suffix == ".py":
        return WorkflowCode(str(path.absolute().parent), str(base), (path.stem,))
    if not path.is_dir():
        if path.parts == (workflows,) and all(part.isidentifier() for part in workflows.split(".")):
            return WorkflowCode(str(base), str(base), (workflows,))
        raise click.BadParameter(
            f"{workflows} is neither a directory nor the name of a module", param_hint="--workflows"
        )
    if not any((path / top).is_dir() or (path / f"{top}.py").is_file() for top in tops):
        if path.absolute().name not in tops:
            named = ", ".join(sorted(tops)) or "no modules"
            what = f"{workflows} has none of the modules under `workflows` ({named})"
            raise click.BadParameter(what, param_hint="--workflows")
        path = path.absolute().parent
    return WorkflowCode(str(path.absolute()), str(base), modules)


def _print(results: list[Checked], broken: int) -> None:
    for each in results:
        counts = [f"{number:,} {word}" for word, number in _counts(each) if number]
        say(f"{each.orchestration}: {each.running:,} running, {each.selected:,} checked: {', '.join(counts)}")
        for found in each.found.values():
            difference = found.difference
            word = "breaks" if difference.breaks else "changed"
            others = f" and {found.count - 1:,} more" if found.count > 1 else ""
            place = f" ({_shown(difference.place)})" if difference.place else ""
            say(f"  {word}: {found.instances[0]}{others}, event {difference.event}: recorded {difference.recorded}; "
                f"now {difference.now}{place}")  # fmt: skip
        for reason, count in each.unchecked.items():
            say(f"  not checked: {plural(count, 'instance')}: {each.reasons[reason]}")
    total = sum(each.selected for each in results)
    if broken:
        click.echo(f"{broken:,} of {plural(total, 'checked instance')} would fail; deploy the code as a new version")
    elif not results:
        click.echo("ok: no instance is running")
    else:
        click.echo(f"ok: {plural(total, 'checked instance')}")


def _counts(each: Checked) -> list[tuple[str, int]]:
    return [
        ("compatible", each.compatible),
        ("changed", each.changed),
        ("broken", each.broken),
        ("of another version", each.other_versions),
        ("without result", each.unchecked.total()),
    ]


def _shown(place: str) -> str:
    """Place with a path relative to the current directory, if it is below it."""
    path = Path(place)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else place
