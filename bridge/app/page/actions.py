"""Forms of the page: a request of the same site becomes an operation, and its answer a text for the next page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from bridge.app.operations.operation import FREE, jobs_of
from bridge.core.errors import InvalidCommand
from bridge.ops.api import BODY_SECONDS, KEY
from bridge.ops.sessions import local_path

BACK = "back"
"""Field with the address of the page to which the answer returns."""
KEY_FIELD = "idempotency-key"
"""Field with the key of the form. A form that is sent twice has one effect."""
_OWN = frozenset({BACK, KEY_FIELD})


def back_of(fields: Mapping[str, Any]) -> str:
    """Address on this site to which a form returns."""
    return local_path(str(fields.get(BACK, "/")))


async def fields_of(request: web.Request) -> dict[str, Any]:
    """Fields of a form that are not empty. A field that is there more than once, or ends with `[]`, is a list.

    Raises: InvalidCommand; HTTPException for another content type or a body that does not arrive.
    """
    if request.content_type != "application/x-www-form-urlencoded":
        raise web.HTTPUnsupportedMediaType(text="the body must be a form")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            sent = await request.post()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"the body did not arrive within {BODY_SECONDS:g} s") from None
    except ValueError:
        raise web.HTTPBadRequest(text="the form is not valid") from None
    found: dict[str, Any] = {}
    for name in sent:
        values = [value for value in sent.getall(name) if isinstance(value, str) and value != ""]
        if name.endswith("[]"):
            found[name.removesuffix("[]")] = values
        elif values:
            found[name] = _json(name, values[0]) if name in FREE else values if len(values) > 1 else values[0]
    return found


def parameters(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of the operation of a form. Browsers end the lines of a text with CR LF; here they end with LF."""
    return {name: _text(value) if name == "text" else value for name, value in fields.items() if name not in _OWN}


def _text(value: Any) -> Any:
    return value.replace("\r\n", "\n") if isinstance(value, str) else value


def key_of(fields: Mapping[str, Any]) -> str | None:
    """Idempotency key of a form."""
    key = fields.get(KEY_FIELD)
    return key if isinstance(key, str) and KEY.fullmatch(key) else None


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidCommand(f"`{name}` is not JSON; texts need quotation marks") from None


_DONE: Mapping[str, Callable[[Any], str]] = {
    "instances.restart": lambda result: f"Restarted as {result['instance_id']}.",
    "instances.purge": lambda result: f"Purged {result['purged']:,} instances.",
    "instances.raise": lambda result: f"Event {result['event']} raised to {result['instance_id']}.",
    "sources.pause": lambda result: f"Source {result['source']} is paused.",
    "sources.resume": lambda result: f"Source {result['source']} goes on.",
}
"""Text after an operation, where more than its name is worth saying."""


def done(operation: str, result: Any) -> str:
    """Text for the page after an operation."""
    if (said := _DONE.get(operation)) is not None:
        return said(result)
    if jobs := jobs_of(result):
        return f"Job {', '.join(jobs)} is submitted."
    subject, _, action = operation.partition(".")
    what = f"{action or subject} {subject if action else ''}".strip().replace("_", " ")
    return f"Done: {what}."
