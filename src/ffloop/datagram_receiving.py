"""Receiving datagrams: the half of `DatagramTransport` from a record of the batch to the protocol.

A batch holds many datagrams, and each is told what the one before has changed: what comes after a pause is held, what
comes after the end is dropped. What libuv does not receive whole is received here, from a socket that is watched.
"""

import collections
import contextvars
import socket
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from . import uv
from .core import is_entered
from .datagram_state import State

READ_SIZE = 256 * 1024
"""Bytes of a datagram that are received where libuv does not receive it: as many as asyncio's transports receive."""

ROUNDS = 32
"""Datagrams that are received from one watched socket in a turn at most."""

# Looked up for every datagram.
_PEER_SHIFT = uv.PEER_SHIFT
_OFFSET_MASK = (1 << _PEER_SHIFT) - 1


class Receiving(State):
    """What a datagram transport does with what arrives."""

    def _begin_receiving(self) -> None:
        """Set up the half; `_start_reading` follows when the protocol knows the transport."""
        family = self._socket.family
        datagrams = self._socket.type == socket.SOCK_DGRAM
        self._unix = datagrams and family == getattr(socket, "AF_UNIX", None)
        # What is neither is received by the socket: it alone knows those addresses.
        self._watched = not self._unix and not (datagrams and family in (socket.AF_INET, socket.AF_INET6))
        self._names = self._peers.names
        self._region = self._loop._uv.region
        self._context = None  # of what is received; None while nothing is to be
        self._held = collections.deque()  # what came while paused

    def _start_reading(self) -> None:
        """Begin to deliver, in a copy of the context of this moment."""
        if not self.is_reading() or self._context is not None:
            return
        self._context = contextvars.copy_context()
        if self._held:
            # After what the caller is going to schedule in this turn, as if it came with the next poll.
            self._loop.call_soon(self._loop.call_soon, self._release)
        else:
            self._receive()

    def _receive(self) -> None:
        try:
            if self._watched:
                self._udp.watch(self._receive_ready)
            elif self._unix:
                self._udp.recv_unix_start(self._receiver())
            else:
                self._udp.recv_start(self._receiver())
            self._peer_size = self._udp.peer_size
        except OSError as exc:
            self._fatal_error(exc, "Fatal read error on datagram transport")

    def _stop_reading(self) -> None:
        if self._context is None:
            return
        self._context = None
        if self._udp.closed:
            return  # with the loop
        self._udp.recv_stop()
        # Records of this batch may still come. Weakly: the loop keeps a transport alive that reads, no other.
        self._udp.on_recv(partial(_hold_if_alive, weakref.ref(self)))

    def _receiver(self) -> Callable[[int, int], object]:
        """Return what gets the records; the accelerator returns the transport itself, and knows what to do with it."""
        return self._deliver

    def _deliver(self, nread: int, payload: int) -> None:
        """Give the protocol a record: a datagram's size, and where it and its sender stand; or an error's status."""
        if nread >= 0:
            region = self._region
            place = payload >> _PEER_SHIFT
            peer = region[place : place + self._peer_size]
            try:
                name = self._names[peer]
            except KeyError:
                name = self._peers.name(peer)
            place = payload & _OFFSET_MASK
            data = region[place : place + nread]
            try:
                self._context.run(self._protocol.datagram_received, data, name)  # type: ignore[union-attr]
            except RuntimeError:
                self._set_aside(data, name)
        elif payload:
            self._receive_ready(0, 0)
        else:
            try:
                self._context.run(self._protocol.error_received, uv.os_error(nread))  # type: ignore[union-attr]
            except RuntimeError:
                self._set_aside(None, uv.os_error(nread))

    def _set_aside(self, data: bytes | None, name: Any) -> None:
        """Keep what came for a protocol that runs the loop from its own callback, until that has returned.

        Raises the exception under way when that is not the reason for it.
        """
        if self._context is None or not is_entered(self._context):
            raise
        self._held.append((data, name))
        self._udp.recv_stop()
        self._udp.on_recv(self._hold)
        self._loop.call_soon(self._release)

    def _receive_ready(self, nread: int, payload: int) -> None:
        """Receive what a watched socket has, or one that there was no room for."""
        for _ in range(ROUNDS):
            try:
                data, name = self._socket.recvfrom(READ_SIZE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                self._context.run(self._protocol.error_received, exc)  # type: ignore[union-attr]
                return
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fatal_error(exc, "Fatal read error on datagram transport")
                return
            try:
                self._context.run(self._protocol.datagram_received, data, name)  # type: ignore[union-attr]
            except RuntimeError:
                self._set_aside(data, name)
                return
            if self._context is None or self._held:
                return  # what is held comes first

    def _hold(self, nread: int, payload: int) -> None:
        if self._closing or self._watched:
            return  # what a watched socket has is still in the kernel
        if nread >= 0:
            data, peer = self._udp.received(nread, payload)
            self._held.append((data, self._peers.name(peer)))
        elif not payload:
            self._held.append((None, uv.os_error(nread)))

    def _release(self) -> None:
        """Deliver the first of what was held, the next one a turn later, for as long as the protocol wants it."""
        held = self._held
        if not held or self._context is None:
            return
        data, name = held.popleft()
        try:
            if data is None:
                self._context.run(self._protocol.error_received, name)
            else:
                self._context.run(self._protocol.datagram_received, data, name)
        except RuntimeError:
            if self._context is None or not is_entered(self._context):
                raise
            held.appendleft((data, name))
        finally:
            if held:
                self._loop.call_soon(self._release)
            elif self._context is not None:
                self._receive()


def _hold_if_alive(transport: "weakref.ref[Receiving]", nread: int, payload: int) -> None:
    alive = transport()
    if alive is not None:
        alive._hold(nread, payload)
