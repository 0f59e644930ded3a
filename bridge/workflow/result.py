"""What an activity of a saga returns, as its annotation says.

The SDK makes typed results outside the orchestrator: one that does not fit would end the orchestration where no saga
could see it, and nothing would be undone. So sagas call activities by name, and fit what comes back themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from durabletask import task
from durabletask.internal import type_discovery

from bridge.workflow.converter import DataConverter
from bridge.workflow.outcome import StepFailed

_CONVERTER = DataConverter()


@lru_cache(maxsize=2048)
def name_of(activity: Callable[..., Any] | str) -> str:
    """The name that an activity is registered under."""
    return activity if isinstance(activity, str) else task.get_name(activity)


@lru_cache(maxsize=2048)
def _wanted(activity: Callable[..., Any] | str) -> Any:
    return None if isinstance(activity, str) else type_discovery.activity_output_type(activity, _CONVERTER)


def fitted(step: str, activity: Callable[..., Any] | str, result: Any) -> Any:
    """The result in the type that the activity returns. Raises: StepFailed when it does not fit; it has run, though."""
    wanted = _wanted(activity)
    if wanted is None:
        return result
    try:
        return _CONVERTER.coerce(result, wanted)
    except Exception as error:
        raise StepFailed(step, "failed", f"its result does not fit: {type(error).__name__}: {error}"[:300]) from error
