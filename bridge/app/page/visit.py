"""Pages and their requests: what a page reads, who asks, and addresses that keep the filters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from bridge.app.operations.table import BY_NAME
from bridge.config.source import Loaded
from bridge.core.errors import BridgeError
from bridge.ops.access import Caller
from bridge.ops.api import ApiRoute
from bridge.ops.status import StatusDocument

AllDaemons = Callable[[Loaded, StatusDocument], Awaitable[StatusDocument]]
"""Callback that returns the status of all daemons of a configuration. Its second argument is that of this daemon."""


async def this_daemon(loaded: Loaded, own: StatusDocument) -> StatusDocument:
    """Status of one daemon alone, see `AllDaemons`."""
    return own


@dataclass(frozen=True, slots=True)
class Visit:
    """One request for a page.

    routes: of the API, by method and path.
    parts: named parts of the path. query: parameters; of those that are there more than once, the first.
    """

    loaded: Loaded
    caller: Caller
    routes: Mapping[tuple[str, str], ApiRoute]
    path: str
    parts: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    all_daemons: AllDaemons = this_daemon

    async def read(self, name: str, /, **given: Any) -> Any:
        """Perform an operation that reads, as the API does. Parameters that are None or empty are left out.

        Raises: Denied, InvalidCommand, BridgeError.
        """
        operation = BY_NAME[name]
        assert not operation.changes, f"{name} changes something: it needs a form"
        sent = {each: value for each, value in given.items() if value not in (None, "", ())}
        return await self.routes[operation.method, operation.path].answer(sent, self.caller, None)

    async def try_read(self, name: str, /, **given: Any) -> Mapping[str, Any]:
        """Answer of an operation as of `read`, or `failure` with the text of its error."""
        try:
            found: Mapping[str, Any] = await self.read(name, **given)
        except BridgeError as error:
            return {"failure": str(error)}
        return found

    async def status(self) -> StatusDocument:
        """Status of all daemons that this one knows."""
        return await self.all_daemons(self.loaded, await self.routes["GET", "status"].answer({}, self.caller, None))

    def can(self, name: str) -> bool:
        """True if the role of the caller allows an operation."""
        return self.caller.has(BY_NAME[name].role)

    def get(self, name: str) -> str | None:
        """Parameter of the address; None where it is missing or empty."""
        return self.query.get(name) or None

    def link(self, **changes: Any) -> str:
        """Address of this page with other parameters. None removes one."""
        query = {**self.query, **changes}
        return address(self.path, **query)

    @property
    def own_address(self) -> str:
        """Address of this page with its parameters."""
        return self.link()


def address(path: str, /, **query: Any) -> str:
    """Address with parameters; those that are None or empty are left out."""
    kept = {name: str(value) for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(kept, errors='replace')}" if kept else path


def place(*parts: object) -> str:
    """Path of encoded parts: `place("instances", id)`. Parts may have any character."""
    return "/" + "/".join(quote(str(part), safe="", errors="replace") for part in parts)


@dataclass(frozen=True, slots=True)
class Picture:
    """SVG file as the answer of a page. name: of the file, without its ending."""

    svg: str
    name: str


@dataclass(frozen=True, slots=True)
class Page:
    """Page of the site.

    path: as of aiohttp; a `{name}` holds one part, which is decoded.
    template: file in templates/.
    read: members for the template. Operations that it performs decide what the caller may see.
    menu: name in the navigation; empty: the page is not in it.
    needs: operation whose role shows the page in the navigation; None: all see it.
    """

    path: str
    template: str
    read: Callable[[Visit], Awaitable[Mapping[str, Any] | Picture]]
    menu: str = ""
    needs: str | None = None
