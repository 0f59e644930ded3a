"""Questions between the daemons of one engine, on their ops ports.

Question and answer are sealed with the keys that the daemons share (`ops.http.access.sessions.keys`). No credential of
a caller leaves the daemon that it has asked, and only a daemon with a key can ask, answer, or read an answer.

A question is for one daemon, by its id, for a short time, and answered once. Its answer holds for this question alone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from bridge.encryption import Keyring, Unsealable

PEER = "/peer"
"""Path of questions."""
LARGEST_QUESTION = 64 * 1024
"""Bytes of the largest question."""
QUESTION_SECONDS = 60.0
"""Seconds for which a question holds: the clocks of two daemons may differ by this time."""
_BODY_SECONDS = 5.0
"""Seconds for the body of a question. It is read before its sender is known."""

_MOST_KNOWN = 10_000
"""Most ids of answered questions that are kept. Only a daemon with a key adds one."""
_QUESTION = b"bridge.peer.question"
_ANSWER = b"bridge.peer.answer "
_log = logging.getLogger("bridge.peers")

AnswerQuestion = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Callback that returns the answer to a question, as JSON types. The argument is its parameters."""


class PeerRefusal(ValueError):
    """A daemon does not answer a question. The text is a sentence."""


@dataclass(frozen=True, slots=True)
class Question:
    """Question to another daemon.

    to: id of the daemon. name: of the question. given: its parameters.
    """

    to: str
    name: str
    given: Mapping[str, Any]
    id: str = field(default_factory=lambda: secrets.token_hex(16))

    def seal(self, keyring: Keyring) -> bytes:
        """Body of the request."""
        content = {
            "to": self.to, "until": time.time() + QUESTION_SECONDS, "name": self.name, "given": self.given,
            "id": self.id,
        }  # fmt: skip
        return keyring.seal(json.dumps(content).encode(), _QUESTION)

    def read(self, keyring: Keyring, sealed: bytes) -> Any:
        """Answer to this question. Raises: PeerRefusal."""
        try:
            content = json.loads(keyring.open(sealed, _ANSWER + self.id.encode()))
        except (Unsealable, ValueError, RecursionError):
            raise PeerRefusal("its answer is not sealed with `ops.http.access.sessions.keys` of this daemon") from None
        if "refused" in content:
            raise PeerRefusal(str(content["refused"]))
        return content["answer"]


class PeerPort:
    """Port that answers the questions of other daemons."""

    def __init__(self, keyring: Keyring, own: str, answers: Mapping[str, AnswerQuestion]) -> None:
        """Create the port. own: id of this daemon. answers: by the name of the question."""
        self._keyring = keyring
        self._own = own
        self._answers = answers
        self._known: OrderedDict[str, float] = OrderedDict()
        """Ids of questions that were answered, with the ends of their time."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request, to a question of a daemon with the same keys."""
        if request.content_length is None or request.content_length > LARGEST_QUESTION:
            raise web.HTTPRequestEntityTooLarge(LARGEST_QUESTION, request.content_length or 0)
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        try:
            question = json.loads(self._keyring.open(body, _QUESTION))
        except (Unsealable, ValueError, RecursionError):
            raise web.HTTPForbidden from None
        content = await self._content(question)
        sealed = self._keyring.seal(json.dumps(content).encode(), _ANSWER + str(question["id"]).encode())
        return web.Response(body=sealed, content_type="application/octet-stream")

    def _is_new(self, id_: str, until: float) -> bool:
        """False for a repeated question: whoever has seen one on the network cannot make this daemon work."""
        while self._known and (len(self._known) > _MOST_KNOWN or next(iter(self._known.values())) < time.time()):
            self._known.popitem(last=False)
        is_new = id_ not in self._known
        self._known[id_] = until
        return is_new

    async def _content(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        if question["to"] != self._own:
            return {"refused": f"daemon {self._own} answers at this address now"}
        if not time.time() < question["until"] < time.time() + 2 * QUESTION_SECONDS:
            return {"refused": f"the clocks of the daemons differ by more than {QUESTION_SECONDS:g} s; set them"}
        if not self._is_new(str(question["id"]), question["until"]):
            return {"refused": "the question has been answered already"}
        answer = self._answers.get(question["name"])
        if answer is None:
            return {"refused": "it is of a version without this question"}
        try:
            return {"answer": await answer(question["given"])}
        except Exception:
            _log.exception("a question of another daemon failed", extra={"action": "bug"})
            return {"refused": "it could not answer; see its log"}
