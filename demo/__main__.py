"""Run the shop's day through the bridge: `python -m demo`. The exit code is 0 if all results are as expected.

With `--keep` the shop stays open until Ctrl-C, with its page to explore. `--picture FILE` also writes a picture of the
story of one order, in SVG.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from demo.generate import Line, load
from demo.observation import observe
from demo.oracle import expect, expect_work
from demo.progress import Progress
from demo.report import table
from demo.shop import Shop, ShopFailed
from demo.story import choose, picture, tell
from demo.tally import Tally, differences

START = 120.0
"""Seconds until the daemon must be ready."""
DEADLINE = 300.0
"""Seconds until all messages must be settled."""
PACE = 0.012
"""Seconds between two messages."""
NEXT = """
Now try, in this directory:
  make demo KEEP=1                               open the shop, with its page
  . .venv/bin/activate
  bridge init shop && cd shop && bridge serve    a project of your own
and read:
  docs/tutorials/ten-minutes.md                  run it, break it, repair it
  config/bridge.yaml, workflows/order.py         the rules and the workflow"""
"""Text at the end of a demo that succeeded."""
POLL = 0.5
"""Seconds between two reads of the metrics."""


VISIT = """
[bold]The shop is open:[/bold] {url}/
Log in with the token {token}
It has all rights, and ends with the shop.

[bold]On the page[/bold]
  Overview      what the shop does, and what needs a person
  Messages      type {order}, click Find, then the message of its start: the decision about it
  Instances     type {order} into "Id begins with", click Filter, then the order: its timeline
  Sagas         the orders by outcome and step; one refund failed, and the page says why
  Dead letters  click the example of "payload.total is not of type", then "Edit and replay…": write 12.5 for "twelve"
  Jobs          what became of that replay

[bold]In another terminal[/bold]
  export BRIDGE_URL={url} BRIDGE_TOKEN={token}
  bridge status
  bridge dlq groups
  bridge instances list --limit 5
  bridge instances list --outcome compensation_failed
  bridge sources pause orders --reason "a look at the page"

[bold]Ctrl-C closes the shop[/bold] and removes its files.
"""


def main(*, keep: bool = False, lines: list[Line] | None = None, file: Path | None = None) -> int:
    """Run the demo. Returns the exit code: 0 as expected, 1 not, 130 interrupted.

    keep: leave the shop open after its day, until Ctrl-C. lines: messages of another day than that of events.jsonl.
    file: place for a picture of one order's story.
    """
    signal.signal(signal.SIGTERM, _terminated)
    console = Console()
    directory = Path(tempfile.mkdtemp(prefix="bridge-demo-"))
    shop = Shop(directory)
    lines = lines or load()
    expected = expect(lines)
    try:
        with shop:
            observed = _run(shop, lines, expected, console)
            as_expected = not differences(expected, observed)
            instances = shop.instances() if as_expected else []
            if (order := choose(instances)) is not None:
                tell(order, console)
                if file is not None:
                    file.write_text(picture(order), encoding="utf-8")
            if keep and as_expected:
                shown = order or next(each for each in instances if each["name"] == "fulfil_order")
                _stay(shop, console, shown["instance_id"])
            elif as_expected:
                console.print("Dead letters: group them, check a fixed rule, restart with it, replay.")
                expected.work, observed.work = expect_work(expected), shop.work(START)
    except ShopFailed as error:
        console.print(shop.last_words(), markup=False, highlight=False)
        console.print(f"The demo failed: {error}", style="bold red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print(f"Interrupted. The daemon's log: {shop.log}", markup=False)
        return 130
    if keep and not differences(expected, observed):
        shutil.rmtree(directory, ignore_errors=True)
        return 0
    console.print(table(expected, observed))
    wrong = differences(expected, observed)
    if wrong:
        for sentence in wrong:
            console.print(sentence, style="bold red", markup=False)
        console.print(f"The daemon's log: {shop.log}", markup=False)
        return 1
    console.print("Everything ended as it should.", style="bold green")
    console.print(NEXT, highlight=False, markup=False)
    shutil.rmtree(directory, ignore_errors=True)
    return 0


def _stay(shop: Shop, console: Console, order: str) -> None:
    """Leave the shop open until Ctrl-C. order: instance to look at. Raises: ShopFailed when its daemon ends."""
    console.print(VISIT.format(url=shop.url, token=shop.token, order=order), highlight=False, soft_wrap=True)
    try:
        while True:
            shop.check()
            time.sleep(POLL)
    except KeyboardInterrupt:
        console.print("Closing the shop.")


def _run(shop: Shop, lines: list[Line], expected: Tally, console: Console) -> Tally:
    """Publish all lines and watch until all results are as expected, or the time is up. Raises: ShopFailed."""
    console.print("Starting bridge serve: local broker, embedded engine, a fresh directory.")
    shop.open(START)
    ends = time.monotonic() + DEADLINE
    with Progress(
        console, {"published": len(lines), "settled": expected.settled, "results": expected.published}
    ) as progress:
        polled_at = 0.0
        for number, line in enumerate(lines, 1):
            if line.get("wait"):
                _wait(shop, expect(lines[: number - 1]), progress, ends)
            if "act" in line:
                shop.act(line["act"])
            else:
                shop.publish(line)
            progress.show(published=number)
            time.sleep(PACE)
            if time.monotonic() - polled_at > POLL:
                polled_at = time.monotonic()
                _show(progress, observe(shop.metrics()))
        shop.published(within=ends - time.monotonic())
        observed = observe(shop.metrics())
        while time.monotonic() < ends:
            _show(progress, observed)
            if observed.settled >= expected.settled and observed.published >= expected.published:
                observed = observe(shop.metrics(), shop.instances(), len(shop.waiting()))
                if not differences(expected, observed):
                    return observed
            time.sleep(POLL)
            observed = observe(shop.metrics())
    return observe(shop.metrics(), shop.instances(), len(shop.waiting()))


def _wait(shop: Shop, expected: Tally, progress: Progress, ends: float) -> None:
    """Wait until all messages published so far are settled. Raises: ShopFailed."""
    while True:
        observed = observe(shop.metrics())
        _show(progress, observed)
        dead = observed.dead_letters.total() >= expected.dead_letters.total()
        if dead and observed.settled >= expected.settled and observed.published >= expected.published:
            return
        if time.monotonic() > ends:
            break
        time.sleep(POLL)
    missing = f"settled {observed.settled} of {expected.settled}, results {observed.published} of {expected.published}"
    raise ShopFailed(f"the messages of a day did not come to their end in time: {missing}; the log: {shop.log}")


def _show(progress: Progress, tally: Tally) -> None:
    progress.show(settled=tally.settled, results=tally.published)


def _terminated(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    options = argparse.ArgumentParser(prog="python -m demo")
    options.add_argument("--keep", action="store_true", help="leave the shop open until Ctrl-C")
    options.add_argument("--picture", type=Path, help="file for a picture of one order's story, in SVG")
    given = options.parse_args()
    sys.exit(main(keep=given.keep, file=given.picture))
