"""Sending datagrams: the half of `DatagramTransport` from `sendto()` to the kernel.

`sendto()` only queues; what a turn has queued leaves together at its end (but see `_alone`). Whatever could notice, or
overtake, queued datagrams sends them first. Only what libuv can send together is queued at all: a host that must be
looked up, a Unix path, a datagram larger than any can be goes to the socket at once, where what is wrong shows. What a
full kernel does not take waits until it does.
"""

import collections
import contextvars
import os
import sys
from itertools import islice, takewhile
from typing import Any

from . import uv
from .datagram_state import ACCELERATED, State
from .flow import as_bytes
from .speed import accelerator

FLUSH_AT = 64 * 1024
"""Queued bytes, headers included, at which a transport does not wait for the end of the turn."""

LARGEST = 64 * 1024
"""A datagram of more bytes, its header included, is none of UDP's. The socket is given it, to say so."""

HEADER = 8
"""What a queued datagram counts more than its bytes: empty ones fill the queue too."""

TOGETHER = 128
"""Datagrams that are sent in one call at most."""

# Elsewhere libuv takes a descriptor once.
_WATCHED_TWICE = sys.platform in ("linux", "win32")

_NOBODY = object()

# The accelerator's queue is a deque to all that is done with it here.
Buffer: Any = accelerator.Ready if ACCELERATED else collections.deque  # type: ignore[union-attr]


class Sending(State):
    """What a datagram transport does with what is to leave."""

    def _begin_sending(self, address: Any) -> None:
        """Set up the half. address: the only one that `sendto` is to accept; None for no such limit."""
        self._buffer = Buffer()
        self._size = 0
        # Looking a method of a socket up costs a tenth of the call.
        self._socket_send = self._socket.send
        self._socket_sendto = self._socket.sendto
        # Whether the kernel is waited for; else the buffer is what this turn has queued.
        self._blocked = False
        self._writable = None  # while blocked
        self._write_context = None
        self._address = address
        self._packed = self._peers.packed  # for the accelerator, which looks there before it asks
        self._aim = _NOBODY  # the last address that was sent to,
        self._peer = None  # and what it is to libuv: b"" when connected, None when nothing
        # Who answers one datagram with one needs no queue: after a turn that has sent one alone, the first that is sent
        # from within a batch of received records does not wait. A second one ends that.
        self._alone = False
        self._turns = self._loop._uv
        self._dirty = self._turns.dirty
        self._last_batch = None

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None:
        """Queue `data` to be sent to `addr` at the end of this turn of the loop.

        addr: None or the peer's own on a connected endpoint. A copy is taken of what is not `bytes`. Raises
        `TypeError` for what is not bytes-like, `ValueError` for somebody else's address. What the system has to
        object goes to the protocol's `error_received`. A memoryview with gaps ends the endpoint, as none is sent.
        """
        if type(data) is not bytes:
            self._sendto_copy(data, addr)
            return
        if addr is not self._aim and not self._take_aim(addr):
            return
        buffer = self._buffer
        size = len(data) + HEADER
        if not buffer:
            if self._alone:
                batch = self._turns._batch
                if batch is not None:
                    if batch is not self._last_batch:
                        self._last_batch = batch
                        try:  # as _send_now() does: this is the way of most datagrams
                            if self._connected:
                                self._socket_send(data)
                            else:
                                self._socket_sendto(data, self._address or addr)
                        except BaseException as exc:
                            self._on_send_error(exc, data, addr, soon=False)
                        return
                    self._alone = False
            if self._peer is None or size > self._flush_at or self._loop._thread_id is None:
                self._send_now(data, addr)
                return
            self._dirty.append(self)
            buffer.append((data, addr, self._peer))
            self._size = size
            return
        if (self._peer is None or size > LARGEST) and not self._blocked:
            self._flush()
            if not self._blocked:
                self._send_now(data, addr)
                return
        buffer.append((data, addr, self._peer))
        self._size += size
        if self._blocked:
            self._maybe_pause_protocol()
        elif self._size > self._flush_at:
            self._flush()

    def _sendto_copy(self, data: Any, addr: Any) -> None:
        copy = as_bytes(data, "bytes-like")
        if not isinstance(data, memoryview) or data.c_contiguous or self._blocked:
            self.sendto(copy, addr)
        elif addr is self._aim or self._take_aim(addr):
            self._flush()
            error = BufferError("memoryview: underlying buffer is not C-contiguous")
            self._fatal_error(error, "Fatal write error on datagram transport")

    def _take_aim(self, addr: Any) -> bool:
        """Find out who `addr` is, and remember it where the next datagram may go there too.

        Returns False for a datagram that is dropped. Raises `ValueError` for somebody else's address.
        """
        self._aim = _NOBODY
        if self._address and addr not in (None, self._address):
            raise ValueError(f"Invalid address: must be None or {self._address}")
        if self._conn_lost and (self._address or self._udp.closed):
            self._count_lost_write()
            return False
        self._peer = b"" if self._connected else self._peers.pack(self._address or addr)
        if not self._conn_lost:
            self._aim = addr
        return True

    def _flush(self) -> None:
        """Hand what is queued to the kernel; what it does not take goes when it has room again."""
        buffer = self._buffer
        try:
            while buffer and not self._blocked:
                if len(buffer) == 1:
                    # The way of most datagrams.
                    data, addr, _ = buffer.popleft()
                    self._size = 0
                    self._alone = True
                    self._send_now(data, addr, True)
                elif _can_go_together(buffer[0]):
                    self._send_together()
                else:
                    data, addr, _ = self._pop()
                    self._send_now(data, addr, soon=True)
        except MemoryError:
            if buffer:
                self._dirty.append(self)  # what is left is not to be forgotten
            raise

    def _send_together(self) -> None:
        if self._udp.closed:
            self._drop()  # with the loop
            return
        self._alone = False
        together = list(takewhile(_can_go_together, islice(self._buffer, TOGETHER)))
        datagrams, _, peers = zip(*together, strict=True)
        sent, status = self._udp.try_send(datagrams, None if self._connected else peers)
        if sent == len(self._buffer):
            self._drop()
            return
        for _ in range(sent):
            self._pop()
        if status < 0:
            self._on_refusal(status)

    def _on_refusal(self, status: int) -> None:
        """Deal with the first of what is queued, which did not leave together with others."""
        data, addr, _ = self._pop()
        if status == uv.EAGAIN:
            # Either the kernel is full, or the network card is: the socket tells them apart.
            self._send_now(data, addr, soon=True)
        else:
            self._loop.call_soon(self._tell_error, uv.os_error(status), context=self._context)

    def _send_now(self, data: bytes, addr: Any, soon: bool = False) -> None:
        try:
            if self._connected:
                self._socket_send(data)
            else:
                self._socket_sendto(data, self._address or addr)
        except BaseException as exc:
            self._on_send_error(exc, data, addr, soon)

    def _on_send_error(self, exc: BaseException, data: bytes, addr: Any, soon: bool) -> None:
        """Deal with what sending has raised: a full kernel is waited for, the protocol is told, or all is over.

        soon: the protocol is told a little later; whoever flushes is not to get what it raises.
        """
        if isinstance(exc, BlockingIOError | InterruptedError):
            self._buffer.appendleft((data, addr, b"" if self._connected else self._peers.pack(self._address or addr)))
            self._size += len(data) + HEADER
            self._wait()
        elif isinstance(exc, OSError):
            if self._udp.closed:
                return  # with the loop
            if soon:
                self._loop.call_soon(self._tell_error, exc, context=self._context)
            else:
                self._protocol.error_received(exc)
        elif isinstance(exc, SystemExit | KeyboardInterrupt):
            raise exc
        else:
            self._fatal_error(exc, "Fatal write error on datagram transport")

    def _tell_error(self, exc: OSError) -> None:
        if self._protocol is not None:
            self._protocol.error_received(exc)

    def _wait(self) -> None:
        """Go on when the kernel has room again."""
        if self._conn_lost:
            self._drop()
            return
        self._blocked = True
        if self._writable is None:
            self._write_context = contextvars.copy_context()
            try:
                self._writable = _Writable(self._loop._uv, self._udp.fileno(), self._on_writable)
            except OSError as exc:
                self._fatal_error(exc, "Fatal write error on datagram transport")
                return
        self._maybe_pause_protocol()

    def _on_writable(self, status: int, events: int) -> None:
        """Send on, in the context of the call that filled the buffer."""
        context = self._write_context
        if context is not None and not self._conn_lost:
            context.run(self._sendto_ready)

    def _sendto_ready(self) -> None:
        self._blocked = False
        try:
            self._flush()
            if not self._conn_lost:
                self._maybe_resume_protocol()
        finally:
            # resume_writing() may have sent more, which goes before the end.
            self._flush()
            if not self._blocked and not self._conn_lost:
                self._stop_waiting()
                if self._closing:
                    self._lose(None)

    def _stop_waiting(self) -> None:
        self._blocked = False
        self._write_context = None
        writable, self._writable = self._writable, None
        if writable is not None:
            writable.close()

    def _end_sending(self) -> None:
        """Queue no more: from here on every datagram is looked at, and sent at once where it is sent at all."""
        self._aim = _NOBODY
        self._flush_at = -1

    def _pop(self) -> tuple[bytes, Any, bytes | None]:
        first = self._buffer.popleft()
        self._size -= len(first[0]) + HEADER
        return first

    def _drop(self) -> None:
        self._buffer.clear()
        self._size = 0

    def _set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        super()._set_write_buffer_limits(high=high, low=low)  # type: ignore[misc]
        self._flush_at = -1 if self._conn_lost else int(min(FLUSH_AT, self._high_water))  # limits may be fractions

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the kernel has not taken yet; each datagram counts 8 more than it has."""
        self._flush()
        return self._size

    def _unsent(self) -> int:
        return self._size


class _Writable:
    """Says again and again that a descriptor can be written to, until it is closed."""

    def __init__(self, loop: uv.Loop, fd: int, callback: Any) -> None:
        self._fd = -1 if _WATCHED_TWICE else os.dup(fd)
        try:
            self._poll = uv.Poll(loop, fd if _WATCHED_TWICE else self._fd)
            try:
                self._poll.start(uv.WRITABLE, callback)
            except BaseException:
                self._poll.close()
                raise
        except BaseException:
            self._close_fd()
            raise

    def close(self) -> None:
        self._poll.close()
        self._close_fd()

    def _close_fd(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _can_go_together(queued: tuple[bytes, Any, bytes | None]) -> bool:
    return queued[2] is not None and len(queued[0]) < LARGEST
