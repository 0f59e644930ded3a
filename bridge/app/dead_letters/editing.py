"""Editing of the payload of a dead letter: paths, merge patches and patches of JSON."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import uuid4

from jsonpath import JSONPatch
from jsonpath.exceptions import JSONPatchError

from bridge.app.dead_letters.reading import FoundDeadLetter
from bridge.config.source import Loaded
from bridge.core.errors import InvalidCommand

_PAYLOAD = "payload"
_INDEX = re.compile(r"\[(\d{1,9})\]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NAME = re.compile(r"[^.\[\]]+")


def is_cloud_event(loaded: Loaded, found: FoundDeadLetter) -> bool:
    """True for a dead letter whose payload is the member `data` of a CloudEvent."""
    codec = loaded.config.sources[found.place.owner(found.dead_letter.source)].codec
    return codec == "cloudevents" and b'"specversion"' in (found.message.body or b"")


@dataclass(frozen=True, slots=True)
class JsonBody:
    """JSON body of a message, and the member of it that rules call `payload`.

    data: member of a CloudEvent with the payload; None when the whole body is the payload.
    marker: prefix of texts that stand for numbers which a float would change.
    """

    value: Any
    data: str | None
    marker: str

    @classmethod
    def of(cls, body: bytes | None, is_cloud_event: bool) -> JsonBody:
        """Document of a body. Raises: InvalidCommand when it is no JSON."""
        marker = f"\ue000{uuid4().hex}:"

        def number(text: str) -> Any:
            value = float(text)
            return value if math.isfinite(value) and Decimal(repr(value)) == Decimal(text) else marker + text

        try:
            value = json.loads(b"" if body is None else body, parse_float=number, parse_constant=_refuse)
        except (ValueError, RecursionError):
            raise InvalidCommand(
                "the body of this dead letter is not JSON: export it (`bridge dlq export`), correct it, publish it "
                "(`bridge publish`), and drop this one (`bridge dlq drop`)"
            ) from None
        data = "data" if is_cloud_event and isinstance(value, dict) else None
        return cls(value, data, marker)

    @property
    def body(self) -> bytes:
        """Body of the message."""
        return self._text(self.value, None).encode()

    @property
    def payload(self) -> Any:
        return self.value if self.data is None else self.value.get(self.data)

    def payload_text(self) -> str:
        """JSON text of the payload for an editor."""
        return self._text(self.payload, 2) + "\n"

    def with_payload(self, payload: Any) -> JsonBody:
        """Document with another payload."""
        value = payload if self.data is None else self.value | {self.data: payload}
        return JsonBody(value, self.data, self.marker)

    def with_payload_text(self, text: str) -> JsonBody:
        """Document with an edited payload. Raises: InvalidCommand when the text is no JSON."""
        try:
            return self.with_payload(JsonBody.of(text.encode(), False)._moved(self.marker))
        except InvalidCommand:
            raise InvalidCommand("the edited text is not JSON; nothing was replayed") from None

    def set(self, assignment: str) -> JsonBody:
        """Document with one member set: `payload.total=12.5`. A value that is no JSON is a text.

        Raises: InvalidCommand for a path that does not exist but for its last name.
        """
        path, equals, text = assignment.partition("=")
        parts = _path(path)
        if not equals or parts is None:
            raise InvalidCommand(f"expected payload.NAME=VALUE, not {assignment!r}")
        try:
            value = JsonBody.of(text.encode(), False)._moved(self.marker)
        except InvalidCommand:
            value = text
        if not parts:
            return self.with_payload(value)
        copy = json.loads(json.dumps(self.payload))
        at: Any = copy
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            if isinstance(part, int) and isinstance(at, list) and part < len(at):
                if last:
                    at[part] = value
            elif not (isinstance(part, str) and isinstance(at, dict) and (last or part in at)):
                raise InvalidCommand(f"{path}: the payload has no such place")
            elif last:
                at[part] = value
            at = at[part]
        return self.with_payload(copy)

    def patched(self, patch: bytes) -> JsonBody:
        """Document after a patch of its payload: RFC 6902 (a list) or RFC 7396 (an object). Raises: InvalidCommand."""
        try:
            value = JsonBody.of(patch, False)._moved(self.marker)
        except InvalidCommand:
            raise InvalidCommand("the patch is not JSON") from None
        if isinstance(value, dict):
            return self.with_payload(_merged(self.payload, value))
        if not isinstance(value, list):
            raise InvalidCommand("a patch is a list of operations (RFC 6902) or an object (RFC 7396)")
        copy = json.loads(json.dumps(self.payload))
        try:
            return self.with_payload(JSONPatch(value).apply(copy))
        except (JSONPatchError, TypeError, KeyError, ValueError) as error:
            # A library error may quote a value of the payload
            kind = "a test of the patch failed" if "test failed" in str(error) else "the patch does not fit the payload"
            raise InvalidCommand(f"{kind}; nothing was replayed") from None

    def _moved(self, marker: str) -> Any:
        """Value with another marker."""
        return json.loads(json.dumps(self.value).replace(json.dumps(self.marker)[1:-1], json.dumps(marker)[1:-1]))

    def _text(self, value: Any, indent: int | None) -> str:
        separators = (",", ":") if indent is None else None
        text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
        text = re.sub(f'"{re.escape(self.marker)}([^"]*)"', r"\1", text)
        # Half of a surrogate pair has an escaped form only
        return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _refuse(name: str) -> Any:
    raise ValueError(name)


def _path(text: str) -> list[str | int] | None:
    """Parts of `payload.lines[0].price`; None of another text."""
    if not text.startswith(_PAYLOAD):
        return None
    at, parts = len(_PAYLOAD), list[str | int]()
    while at < len(text):
        if (index := _INDEX.match(text, at)) is not None:
            parts.append(int(index[1]))
            at = index.end()
        elif text[at] == "." and (name := _NAME.match(text, at + 1)) is not None:
            parts.append(name[0])
            at = name.end()
        else:
            return None
    return parts


def _merged(target: Any, patch: dict[str, Any]) -> dict[str, Any]:
    """Result of a merge patch (RFC 7396)."""
    found: dict[str, Any] = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = _merged(found.get(name), value) if isinstance(value, dict) else value
    return found
