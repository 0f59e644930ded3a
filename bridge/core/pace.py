"""Pace at which a source may write dead letters once a route has exceeded its limit. Pure: the clock is passed in.

A bad rule must not turn a whole topic into dead letters, and a sender of bad messages must not stop a source. Beyond
the limit a route gets one dead letter per pause. Each doubles the pause; messages that succeed halve it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

SHORTEST = 1.0
"""First pause in seconds. A pause that is halved below it ends the limit of the route."""
LONGEST = 300.0
"""Longest pause in seconds: a bad rule costs at most 20 messages in its first hour."""
SUCCESSES = 20
"""Messages of the route that must succeed, without a dead letter among them, before the pause is halved."""
CLAIM_SECONDS = 60.0
"""Seconds after which a daemon loses its claim on the next dead letter of a route."""

MOST_RESUMES = 1000
"""Most routes whose ended limits are counted, the last ones."""

NO_ROUTE = ""
"""Route name of messages that cannot be decoded, or that match no route."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Pace of one route. Times are seconds since 1970.

    pause: seconds between two dead letters.
    due: time of the next dead letter.
    claimed_by: daemon that may write it, until `claimed_until`.
    """

    pause: float
    due: float
    claimed_by: str | None = None
    claimed_until: float = 0.0


class Paces:
    """Paces of the limited routes of one source. Other routes have none.

    Several daemons share one value through an entity: operations are idempotent where a daemon may repeat them.
    """

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        """Restore the paces. state: result of `to_json`."""
        self._routes = {
            route: Pace(each["pause"], each["due"], each.get("by"), each.get("until", 0.0))
            for route, each in (state or {}).get("routes", {}).items()
        }
        self._resumes: dict[str, int] = dict((state or {}).get("resumes", {}))

    def __len__(self) -> int:
        return len(self._routes)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._routes))

    def __contains__(self, route: str) -> bool:
        return route in self._routes

    def __getitem__(self, route: str) -> Pace:
        return self._routes[route]

    @property
    def resumes(self) -> Mapping[str, int]:
        """Number of ended limits by route. A daemon detects by it that it has missed a person's resume."""
        return self._resumes

    def to_json(self) -> dict[str, Any] | None:
        """State to keep; None when no route ever was limited."""
        if not self._routes and not self._resumes:
            return None
        return {
            "v": 1,
            **({"resumes": self._resumes} if self._resumes else {}),
            "routes": {
                route: {
                    "pause": pace.pause,
                    "due": pace.due,
                    **({"by": pace.claimed_by, "until": pace.claimed_until} if pace.claimed_by else {}),
                }
                for route, pace in self._routes.items()
            },
        }

    def limit(self, route: str, now: float, resumes: int | None = None) -> None:
        """Limit a route that has exceeded its limit.

        resumes: the reporting daemon's count of ended limits. A lower count than the current one is from before a
        person ended the limit, and the report is ignored.
        """
        if resumes is not None and resumes < self._resumes.get(route, 0):
            return
        self._routes.setdefault(route, Pace(SHORTEST, now + SHORTEST))

    def claim(self, route: str, by: str, now: float) -> bool:
        """Reserve the next dead letter of the route for one daemon. False when not due or claimed by another."""
        pace = self._routes.get(route)
        if pace is None or now < pace.due or (pace.claimed_by not in (None, by) and now < pace.claimed_until):
            return False
        self._routes[route] = replace(pace, claimed_by=by, claimed_until=now + CLAIM_SECONDS)
        return True

    def wrote(self, route: str, now: float) -> None:
        """Double the pause: a dead letter of the route was written."""
        pace = self._routes.get(route)
        if pace is not None:
            pause = min(pace.pause * 2, LONGEST)
            self._routes[route] = Pace(pause, now + pause)

    def ease(self, route: str, now: float) -> None:
        """Halve the pause: enough messages of the route have succeeded."""
        pace = self._routes.get(route)
        if pace is None:
            return
        pause = pace.pause / 2
        if pause < SHORTEST:
            del self._routes[route]
        else:
            self._routes[route] = replace(pace, pause=pause, due=min(pace.due, now + pause))

    def resume(self, route: str | None) -> None:
        """End the limit of this route, or of all with None, on request of a person."""
        for ended in tuple(self._routes) if route is None else (route,):
            if self._routes.pop(ended, None) is not None:
                self._resumes[ended] = self._resumes.pop(ended, 0) + 1
        while len(self._resumes) > MOST_RESUMES:
            del self._resumes[next(iter(self._resumes))]
