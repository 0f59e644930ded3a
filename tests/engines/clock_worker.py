"""SDK worker in a process with a wrong wall clock: arguments ADDRESS SECONDS.

SECONDS: deviation of the clock. From the first turn on, the sign of the deviation changes every half second, as for a
clock that is set repeatedly. Before it the clock is fast: a slow one ends each attempt to connect at once.
"""

from __future__ import annotations

import datetime
import sys
import time
from typing import Any

ADDRESS, AHEAD = sys.argv[1], float(sys.argv[2])
_time, _datetime = time.time, datetime.datetime
turns: list[str] = []


def shifted() -> float:
    return _time() + (AHEAD if not turns or time.monotonic() % 1 < 0.5 else -AHEAD)


class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]  # the test needs no more
        return _datetime.fromtimestamp(shifted(), tz)

    @classmethod
    def utcnow(cls) -> datetime.datetime:  # type: ignore[override]  # the test needs no more
        return _datetime.fromtimestamp(shifted(), datetime.UTC).replace(tzinfo=None)


time.time = shifted
time.time_ns = lambda: int(shifted() * 1e9)
datetime.datetime = Shifted  # type: ignore[misc]  # before the SDK is imported, so that all of it has the wrong clock

import durabletask.worker  # noqa: E402 -- see above
from durabletask import entities, task  # noqa: E402 -- see above
from durabletask.worker import TaskHubGrpcWorker  # noqa: E402 -- see above

assert durabletask.worker.datetime is Shifted  # type: ignore[attr-defined]  # the test replaces what the module uses

seen: set[str] = set()


def flaky(ctx: task.ActivityContext, name: str) -> str:
    """Fail at the first call."""
    if name not in seen:
        seen.add(name)
        raise ValueError("the first call fails")
    return name


def counter(ctx: entities.EntityContext, value: int) -> int:
    total = ctx.get_state(int, 0) + value
    ctx.set_state(total)
    return total


def flow(ctx: task.OrchestrationContext, value: str) -> Any:
    turns.append(ctx.instance_id)
    begun = ctx.current_utc_datetime
    yield ctx.create_timer(datetime.timedelta(seconds=0.4))
    waited = (ctx.current_utc_datetime - begun).total_seconds()
    policy = task.RetryPolicy(first_retry_interval=datetime.timedelta(seconds=0.2), max_number_of_attempts=3)
    done = yield ctx.call_activity(flaky, input=ctx.instance_id, retry_policy=policy)
    event = ctx.wait_for_external_event("go")
    first = yield task.when_any([event, ctx.create_timer(datetime.timedelta(seconds=30))])
    total = yield ctx.call_entity(entities.EntityInstanceId("counter", ctx.instance_id), "add", 1)
    return [waited, done, first is event, total]


if __name__ == "__main__":
    with TaskHubGrpcWorker(host_address=ADDRESS) as worker:
        worker.add_orchestrator(flow)
        worker.add_activity(flaky)
        worker.add_entity(counter)
        worker.start()
        print("ready", flush=True)
        sys.stdin.read()
