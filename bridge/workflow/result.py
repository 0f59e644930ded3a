"""Typed results of saga activities, according to their annotations.

The SDK converts typed results outside the orchestrator. A result that does not fit would end the orchestration where
no saga could see it, and nothing would be undone. Sagas therefore call activities by name and convert the results
themselves.
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
    """Name under which an activity is registered."""
    return activity if isinstance(activity, str) else task.get_name(activity)


@lru_cache(maxsize=2048)
def _wanted(activity: Callable[..., Any] | str) -> Any:
    return None if isinstance(activity, str) else type_discovery.activity_output_type(activity, _CONVERTER)


def fitted(step: str, activity: Callable[..., Any] | str, result: Any) -> Any:
    """Convert a result to the type that the activity returns.

    Raises: StepFailed if it does not fit, although the activity has run.
    """
    wanted = _wanted(activity)
    if wanted is None:
        return result
    try:
        return _CONVERTER.coerce(result, wanted)
    except Exception as error:
        raise StepFailed(step, "failed", f"its result does not fit: {type(error).__name__}: {error}"[:300]) from error
