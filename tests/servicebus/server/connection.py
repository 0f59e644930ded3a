"""Client connection: protocol headers, SASL, open and close, sessions, keep-alive, and the points where faults
strike."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
import uuid
from typing import cast

from tests.servicebus.server.access.claims import Claims
from tests.servicebus.server.amqp import encoder, frames, performatives
from tests.servicebus.server.amqp.encoder import NULL
from tests.servicebus.server.amqp.frames import AMQP_HEADER, SASL, SASL_HEADER, FrameReader, frame
from tests.servicebus.server.amqp.performatives import Begin, Open, error
from tests.servicebus.server.amqp.values import Malformed
from tests.servicebus.server.delay import DelayLine
from tests.servicebus.server.entities.queue import Queue
from tests.servicebus.server.errors import Refusal
from tests.servicebus.server.faults import Action, Step
from tests.servicebus.server.link import Link
from tests.servicebus.server.session import Session
from tests.servicebus.server.state import State

MAX_FRAME_SIZE = 65_536
CHANNEL_MAX = 4_999
MECHANISMS = ("ANONYMOUS", "EXTERNAL", "MSSBCBS")
"""Accepted SASL mechanisms. None of them authenticates the client; claims do."""

_log = logging.getLogger(__name__)


class Connection(asyncio.Protocol):
    """Connection of one client. max_frame_size: of the client, in bytes. register: set of open connections."""

    def __init__(self, state: State, register: set[Connection]) -> None:
        self.state, self._register = state, register
        self.claims = Claims(state, self._claims_ended)
        self.sessions: dict[int, Session] = {}
        self.locks: dict[uuid.UUID, Queue] = {}
        """Locks of messages delivered on this connection, recorded when locks end with the connection."""
        self._ended: set[int] = set()
        self.max_frame_size = 512
        self.closed = False
        self._stage = "header"  # sasl, second header, amqp, opened
        self._reader = FrameReader(MAX_FRAME_SIZE)
        self._incoming = DelayLine(self._arrived)
        self._outgoing = DelayLine(self._leave)
        self._output: list[bytes] = []
        self._flush_is_due = False
        self._frozen = False
        self._thaw: asyncio.TimerHandle | None = None
        self._keep_alive: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._heard = 0.0

    # Socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._register.add(self)
        self.state.counters.connections += 1
        frozen = self.state.faults.frozen_for()
        if frozen:
            self.freeze(None if frozen == float("inf") else frozen)
        self._guarded(lambda: self.strikes(Step.CONNECT))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._register.discard(self)
        self._incoming.stop()
        self._outgoing.stop()
        self.claims.stop()
        for timer in (self._thaw, self._keep_alive, self._watch):
            if timer is not None:
                timer.cancel()
        for session in self.sessions.values():
            session.end()
        self.sessions.clear()
        for token, queue in self.locks.items():
            queue.end_lock(token)

    def data_received(self, data: bytes) -> None:
        self._incoming.put(data, self.state.faults.round_trip / 2)

    def _arrived(self, data: bytes) -> None:
        self._heard = self._loop.time()
        self._reader.feed(data)
        self._guarded(self._read)

    def write(self, data: bytes) -> None:
        """Write soon, together with other data of this turn of the event loop."""
        if self.closed:
            return
        self._output.append(data)
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        if self._frozen or not self._output:
            return
        data = b"".join(self._output)
        self._output.clear()
        faults = self.state.faults
        self._outgoing.put(data, faults.round_trip / 2, faults.bytes_per_second)

    def _leave(self, data: bytes) -> None:
        self._transport.write(data)

    def has_link_to(self, key: str) -> bool:
        """Return whether the connection has a link to the entity. key: a path in lower case."""
        return any(link.key == key for session in self.sessions.values() for link in session.links.values())

    # End of the connection

    def drop(self) -> None:
        """Reset the connection after the pending output, as a network failure would."""
        self._flush()
        self._outgoing.send_now()
        self.closed = True
        self._transport.abort()

    def cut(self) -> None:
        """Reset the connection in the middle of the last written frame."""
        if self._output:
            last = self._output[-1]
            self._output[-1] = last[: len(last) // 2]
        self._flush()
        self._outgoing.send_now()
        self.closed = True
        self._transport.close()

    def close(self, condition: str | None = None, description: str | None = None) -> None:
        """Send a close performative, then close the socket."""
        if self.closed:
            return
        if self._stage == "opened":
            self.write(frame(0, performatives.CLOSE, [error(condition, description)]))
        self._flush()
        self._outgoing.send_now()
        self.closed = True
        if not self._frozen:
            self._transport.close()

    def freeze(self, seconds: float | None) -> None:
        """Stop reading and writing for `seconds`; None: until `thaw`."""
        self._frozen = True
        if self._thaw is not None:
            self._thaw.cancel()
        self._thaw = None if seconds is None else self._loop.call_later(seconds, self.thaw)

    def thaw(self) -> None:
        self._frozen = False
        self._flush()
        if self.closed:
            self._transport.close()
        else:
            self._guarded(self._read)

    def strikes(self, step: Step, path: str = "", link: Link | None = None, operation: str | None = None) -> bool:
        """Return whether a fault ends this step here. Raises: Refusal when the fault refuses the step."""
        fault = self.state.faults.take(step, path, operation) if self.state.faults.waiting else None
        if fault is None:
            return False
        if fault.action is Action.DROP:
            self.drop()
        elif fault.action is Action.CUT:
            self.cut()
        elif fault.action is Action.CLOSE:
            self.close(fault.condition, fault.description)
        elif fault.action is Action.DETACH and link is not None:
            link.detach(fault.refusal() if fault.condition else None)
        elif fault.action is Action.REJECT:
            raise fault.refusal()
        elif fault.action is Action.FREEZE:
            self.freeze(fault.seconds or None)
            return False
        elif fault.action is Action.LOSE:
            self.state.faults.lose_locks(path)
            return False
        return True

    def _claims_ended(self) -> None:
        for session in list(self.sessions.values()):
            for link in list(session.links.values()):
                link.check_claim()

    # Received data

    def _guarded(self, act: object) -> None:
        """Run a handler: for any bytes the connection ends cleanly and the server continues."""
        try:
            act()  # type: ignore[operator]
        except Malformed as problem:
            self.state.counters.malformed.append(str(problem))
            self.close("amqp:decode-error", str(problem))
        except Refusal as no:
            self.close(no.condition, no.description)
        except Exception as problem:
            self.state.counters.crashes.append("".join(traceback.format_exception(problem)))
            _log.exception("error in the server")
            self.close("amqp:internal-error", type(problem).__name__)

    def _read(self) -> None:
        while not self.closed and not self._frozen:
            if self._stage in ("header", "second header"):
                header = self._reader.header()
                if header is None:
                    return
                self._on_header(header)
            else:
                arrived = self._reader.frame()
                if arrived is None:
                    return
                if not arrived.body:
                    self.state.counters.idle_frames += 1
                elif (arrived.kind == SASL) is not (self._stage == "sasl"):
                    raise Malformed("a frame of the wrong type")
                elif arrived.kind == SASL:
                    self._on_sasl(arrived.body)
                else:
                    self._on_frame(arrived.channel, arrived.body)

    def _on_header(self, header: bytes) -> None:
        if header == SASL_HEADER and self._stage == "header":
            self._stage = "sasl"
            mechanisms = frame(0, performatives.SASL_MECHANISMS, [encoder.symbol_array(MECHANISMS)], kind=SASL)
            self.write(SASL_HEADER + mechanisms)
        elif header == AMQP_HEADER:
            self._stage = "amqp"
            self.write(AMQP_HEADER)
        else:
            # The supported protocol header answers a wrong version, then the connection closes (part 2.2)
            self.write(SASL_HEADER if self._stage == "header" else AMQP_HEADER)
            self.close()

    def _on_sasl(self, body: bytes) -> None:
        code, fields, _ = performatives.split(body)
        if code != performatives.SASL_INIT or not fields:
            raise Malformed(f"SASL frame 0x{code:02x}")
        if self.strikes(Step.SASL):
            return
        known = fields[0] in MECHANISMS
        self.write(frame(0, performatives.SASL_OUTCOME, [encoder.ubyte(0 if known else 1), NULL], kind=SASL))
        if known:
            self._stage = "second header"
        else:
            self.close()

    def _on_frame(self, channel: int, body: bytes) -> None:
        code, fields, payload = performatives.split(body)
        if self._stage != "opened":
            if code != performatives.OPEN:
                raise Malformed(f"performative 0x{code:02x} before open")
            self._on_open(performatives.read(Open, fields))
        elif code == performatives.BEGIN:
            self._on_begin(channel, performatives.read(Begin, fields))
        elif code == performatives.CLOSE:
            if not self.strikes(Step.CLOSE):
                self.close()
        elif code == performatives.END:
            self._session(channel).end()
            del self.sessions[channel]
            self._ended.add(channel)
            self.write(frame(channel, performatives.END, [NULL]))
        elif channel not in self._ended:  # pyamqp detaches its links after the end of their session
            self._session(channel).on_frame(code, fields, payload, body)

    def _session(self, channel: int) -> Session:
        session = self.sessions.get(channel)
        if session is None:
            raise Malformed(f"no session on channel {channel}")
        return session

    def _on_open(self, wish: Open) -> None:
        if self.strikes(Step.OPEN):
            return
        self._stage = "opened"
        self.max_frame_size = min(max(wish.max_frame_size or MAX_FRAME_SIZE, 512), MAX_FRAME_SIZE)
        timeout = self.state.config.idle_timeout
        nulls = [NULL] * 5
        fields = [
            encoder.string(f"test-server-{uuid.uuid4().hex[:8]}"),
            NULL,
            encoder.uint(MAX_FRAME_SIZE),
            encoder.ushort(CHANNEL_MAX),
            encoder.uint(int(timeout * 1000) if timeout else None),
        ]
        self.write(frame(0, performatives.OPEN, fields + nulls))
        if wish.idle_time_out:
            self._say_alive(wish.idle_time_out / 2000)
        if timeout:
            self._look_alive(timeout)

    def _on_begin(self, channel: int, wish: Begin) -> None:
        if channel in self.sessions or channel > CHANNEL_MAX:
            raise Malformed(f"begin on channel {channel}")
        if not self.strikes(Step.BEGIN):
            self._ended.discard(channel)
            self.sessions[channel] = Session(self, channel, wish)

    # Keep-alive

    def _say_alive(self, every: float) -> None:
        self.write(frames.EMPTY)
        self._keep_alive = self._loop.call_later(max(every, 0.05), self._say_alive, every)

    def _look_alive(self, timeout: float) -> None:
        silent = self._loop.time() - self._heard
        if silent >= timeout:
            text = f"The connection was inactive for more than the allowed {int(timeout * 1000)} milliseconds."
            with contextlib.suppress(ConnectionError):
                self.close("amqp:connection:forced", text)
        else:
            self._watch = self._loop.call_later(timeout - silent + 0.01, self._look_alive, timeout)
