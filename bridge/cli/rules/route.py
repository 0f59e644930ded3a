"""`bridge route`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.shared import exit_codes
from bridge.cli.shared.command import command as make
from bridge.cli.shared.options import config_options, json_option, message_options
from bridge.cli.shared.output import clean, compact, print_fields, print_json, print_table, say
from bridge.cli.shared.parameters import BODY, read_file_or_input

if TYPE_CHECKING:
    from bridge.app.explain import DecisionResult
    from bridge.app.messages.reading import MessageOptions
    from bridge.core.message import Message
    from bridge.routing import Considered, Equality


@make(
    "route",
    effect="reads",
    examples="""
        bridge route orders --file order.json
        bridge route orders --type order.created --data '{"id": "1001", "total": 25}'
        bridge route orders --file order.json --expect start-order      # in tests of your rules
        bridge route orders --file broken.json --expect-dead-letter
        generate | bridge route orders --json
        bridge topic read orders --limit 1 --json | bridge route orders
    """,
    exits={
        0: "a route matches the message, the expected one if one is given",
        1: "another route than the expected one matches, or the message would be dead-lettered",
    },
)
@click.argument("source")
@click.option("--file", metavar="FILE", help="File with one message.  [default: standard input, as a whole]")
@click.option("--data", type=BODY, metavar="TEXT|@FILE", help="Text of the message; @@ begins a text with @.")
@message_options
@click.option("--expect", metavar="ROUTE", help="Fail unless this route matches.")
@click.option("--expect-dead-letter", is_flag=True, help="Fail unless the message would be dead-lettered.")
@json_option
@config_options
def command(
    source: str,
    file: str | None,
    data: bytes | None,
    type_: str | None,
    key: str | None,
    headers: tuple[tuple[str, str], ...],
    id_: str | None,
    expect: str | None,
    expect_dead_letter: bool,
    as_json: bool,
    config: tuple[Path, ...],
    overlay: tuple[Path, ...],
) -> int:
    """Show the decision about one message, without a network: the matching rule, each condition, the commands.

    The options build the message as those of `bridge publish`. The input may also be one line of `bridge topic read
    --json` or `bridge dlq export`, which has its own key and headers.
    """
    if file is not None and data is not None:
        raise click.UsageError("use either --file or --data", click.get_current_context())
    if id_ and not type_:
        raise click.UsageError("--id needs --type, which makes a CloudEvent", click.get_current_context())
    if expect is not None and expect_dead_letter:
        raise click.UsageError("use either --expect or --expect-dead-letter", click.get_current_context())
    from bridge.app.composition import load_config, require
    from bridge.app.explain import explain
    from bridge.app.messages.reading import MessageOptions

    loaded = load_config(config, overlay)
    require("source", source, loaded.config.sources)
    if expect is not None:
        require("route", expect, [route.name for route in loaded.config.routes if source in route.from_])
    options = MessageOptions(type_, id_, key, headers)
    answer = explain(loaded, source, _message(loaded.config.sources[source].codec, file, data, options))
    if as_json:
        print_json(answer.to_dict())
    else:
        _print(answer)
    return _verdict(answer, expect, expect_dead_letter)


def _message(codec: str, file: str | None, data: bytes | None, options: MessageOptions) -> Message:
    from bridge.app.messages.reading import JSON_CODECS, build, is_published_line, read_back, several
    from bridge.core.errors import DecodeError

    body = data if data is not None else _read(file or "-")
    label = "--data" if data is not None else file or "standard input"
    try:
        read = read_back(body, label)
    except DecodeError as error:
        raise click.UsageError(str(error), click.get_current_context()) from None
    if read is not None:
        if options.type is not None or options.id is not None:
            what = f"{label} is a message that was read from a topic: remove --type and --id"
            raise click.UsageError(what, click.get_current_context())
        return read
    if codec in JSON_CODECS:
        if count := several(body):
            what = f"{label}:2: another message begins; give one of the {count:,} lines, with `head -n 1`"
            raise click.UsageError(what, click.get_current_context())
        if is_published_line(body):
            what = "all of it is the body here; use --data and --key for its members"
            say(f"note: {label} looks like a line of `bridge publish --jsonl`; {what}", err=True)
    try:
        return build(body, codec, options, "--data" if data is not None else file or "stdin")
    except DecodeError:
        if options.type is not None:
            raise
        # A message that `publish` would refuse is a valid question: the answer is the source's reaction to it
        return options.message(body)


def _read(name: str) -> bytes:
    if name == "-" and sys.stdin.isatty():
        click.echo("the message, then Ctrl-D:", err=True)
    try:
        return read_file_or_input(name)
    except OSError as error:
        raise click.FileError(name, error.strerror or "") from None


def _print(answer: DecisionResult) -> None:
    from bridge.cli.shared.saga_progress import input_of, outline

    if answer.envelope is not None:
        event = answer.envelope
        print_fields(
            (
                ("source", answer.source),
                ("type", event.type),
                ("id", event.id),
                ("from", event.source),
                ("subject", event.subject or ""),
                ("key", event.key or ""),
            )
        )
        click.echo()
    if answer.explanation is not None:
        print_table(("RULE", "VERDICT", "WHY"), [verdict_row(rule) for rule in answer.explanation.rules])
        click.echo()
    for step in answer.to_dict()["steps"]:
        command = dict(step["command"])
        engine = step["engine"] + "".join(f", or {name} if the instance is there" for name in step.get("others", ()))
        say(f"{command.pop('type')} by {step['route']} on engine {engine}")
        start = command.get("input")
        command["input"] = input_of(start)
        fields = [(f"  {name}", compact(value)) for name, value in command.items() if value not in (None, {})]
        print_fields([*fields, ("  saga", outline(start))])
        click.echo()
    by = f" by {', '.join(answer.routes)}" if answer.routes else ""
    why = f" ({answer.reason}): {clean(answer.detail or '')}" if answer.reason else ""
    say(f"outcome: {answer.outcome.value.replace('_', '-')}{by}{why}")


def verdict_row(rule: Considered) -> tuple[str, str, str]:
    """Name of a rule, its verdict, and the cause of the verdict."""
    if rule.failed:
        return rule.route, "no", "; ".join(_inequality(each) for each in rule.failed)
    condition = f"when: {rule.condition}" if rule.condition else ""
    if rule.error is not None:
        return rule.route, "failed", rule.error
    if rule.when is not None:
        condition += f" is {str(rule.when).lower()}"
    return rule.route, {"matched": "MATCHED", "when false": "no"}.get(rule.verdict, rule.verdict), condition


def _inequality(equality: Equality) -> str:
    expected = " or ".join(compact(value) for value in equality.expected)
    actual = "missing" if equality.actual is None else equality.actual or '""'
    return f"{equality.key} is {actual}, not {expected}"


def _verdict(answer: DecisionResult, expect: str | None, expect_dead_letter: bool) -> int:
    dead = answer.reason is not None
    if expect_dead_letter:
        if not dead:
            click.echo("error: expected a dead letter", err=True)
        return exit_codes.OK if dead else exit_codes.FAILED
    if expect is not None and (dead or expect not in answer.routes):
        found = ", ".join(answer.routes) or (f"a dead letter ({answer.reason})" if dead else "no route")
        click.echo(f"error: expected {expect}, found {found}", err=True)
        return exit_codes.FAILED
    return exit_codes.FAILED if dead else exit_codes.OK
