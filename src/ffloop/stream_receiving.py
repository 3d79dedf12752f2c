"""Receiving on a stream: the half of `StreamTransport` from a record of the batch to the protocol.

Received bytes come as records. When a callback pauses or closes the transport, records that are already in the batch
still come: they are held until reading goes on, or dropped. What libuv only tells of is read by the socket object that
users see, too: its recv_into() takes less time than os.readv().
"""

import sys
import weakref
from asyncio.log import logger
from collections.abc import Callable
from functools import partial
from time import monotonic  # the real one, as in turns.py
from typing import TYPE_CHECKING, Any

from . import uv
from .core import CHEAP, is_entered
from .stream_state import State

READ_SIZE = CHEAP
"""Bytes read at a time, of what does not go through the region.

More than the 64 KiB in which the kernel keeps what arrives at once, so that a peer that never stops is not stopped
after each of them.
"""

LARGE = 32 * 1024
"""A read of more bytes than this switches a transport to reading them where they are to stay; of half of it, back."""

MUCH, MOST_READS, LONGEST_READING = 48 * 1024, 16, 500e-6
"""A connection that has brought more bytes than the first and has the loop to itself is read so often in a turn, while
no more seconds than the third have passed: what it brings next is often there by then, and who waits falls asleep.
"""

NEXT_SIZE = 64 * 1024
"""Bytes that are read at a time then: in small pieces both sides are at work at once (measured: a fifth faster)."""


class Receiving(State):
    """What a stream transport does with what arrives."""

    if not TYPE_CHECKING:
        __slots__ = ()

    def _start_reading(self) -> None:
        """Begin to deliver."""
        if not self.is_reading() or self._context is not None:
            return
        self._context = self._own_context
        if self._held:
            self._loop.call_soon(self._release)
        self._receive()

    def _receive(self) -> None:
        """Have libuv tell of what arrives in the way that suits the protocol."""
        try:
            if self._held:
                self._stream.read_start(self._hold_record)
            elif self._buffered and uv.CAN_WATCH:
                self._stream.watch(self._receiver(True))
            else:
                self._stream.read_start(self._receiver(self._buffered))
        except OSError as exc:
            self._fatal_error(exc, "Fatal read error on socket transport")

    def _stop_reading(self) -> None:
        if self._context is None:
            return
        self._context = None
        if self._stream.closed:
            return  # with the loop
        self._stream.read_stop()
        # Records of this batch may still come. Weakly: the loop keeps a transport alive that reads, no other.
        self._stream.on_read(None if self._closing else partial(_hold_if_alive, weakref.ref(self)))

    # The receivers of read records, of which one is in force: `nread` bytes at `offset` of the region, or a status.

    def _receiver(self, fill: bool) -> Callable[[int, int], object]:
        """Return the one that has the protocol's buffer filled, or the one that delivers bytes."""
        return self._fill_record if fill else self._deliver_record

    def _deliver_record(self, nread: int, offset: int) -> None:
        try:
            if nread > 0:
                if nread > LARGE:
                    self._expect_large()
                self._context.run(self._protocol.data_received, self._loop._uv.region[offset : offset + nread])  # type: ignore[union-attr]
            elif nread:
                self._context.run(self._on_read_end, nread)  # type: ignore[union-attr]
            else:
                self._read_record(0, 0)  # it came for an earlier protocol, which has a buffer
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            if self._context is not None and is_entered(self._context):
                self._set_aside(nread, self._loop._uv.received(nread, offset) if nread > 0 else b"")
            else:
                self._on_failed_delivery(exc)

    def _expect_large(self) -> None:
        """Read what comes next where it is to stay."""
        if uv.CAN_WATCH:
            self._stream.watch(self._large_receiver())

    def _large_receiver(self) -> Callable[[int, int], object]:
        return self._read_record

    def _on_failed_delivery(self, exc: BaseException) -> None:
        self._enter(self._fatal_error, exc, "Fatal error: protocol.data_received() call failed.")

    def _on_failed_read(self, exc: BaseException) -> None:
        self._enter(self._fatal_error, exc, "Fatal read error on socket transport")

    def _read_record(self, nread: int, offset: int) -> None:
        """Read what is there into bytes of its own, where a second copy would cost more than the detour."""
        if nread:
            self._deliver_record(nread, offset)
            return
        until = 0.0
        size = READ_SIZE
        for _ in range(MOST_READS):
            try:
                data = (self._socket or self._borrow()).recv(size)
            except (BlockingIOError, InterruptedError):
                return
            except (OSError, MemoryError) as exc:  # after the latter, what was read may be nowhere
                self._on_failed_read(exc)
                return
            again = len(data) > MUCH and self._loop._uv.found <= 1
            if again:
                is_all = len(data) < size
                until = until or monotonic() + LONGEST_READING
            elif data and len(data) < LARGE // 2:
                self._receive()
            try:
                if data:
                    self._context.run(self._protocol.data_received, data)  # type: ignore[union-attr]
                else:
                    self._context.run(self._on_read_end, uv.EOF)  # type: ignore[union-attr]
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                if self._context is not None and is_entered(self._context):
                    self._set_aside(len(data) or uv.EOF, data)
                else:
                    self._on_failed_delivery(exc)
            if not again or self._buffered or not self._may_read_on(until, is_all):
                return
            data = b""  # its memory is still in the cache: for what comes next
            size = NEXT_SIZE

    def _may_read_on(self, until: float, is_all: bool) -> bool:
        """Return whether to read once more in this turn: there is nothing else to do by then, and somebody wants it.

        is_all: whether there was no more than what was read last. Who has answered that is not sent more so soon.
        """
        loop = self._loop
        queue = loop._uv
        if is_all and (queue.sender == id(self) or (queue.dirty and queue.dirty[-1] is self)):
            return False
        if monotonic() > until:
            return False
        queue.flush()  # what was written meanwhile, by whomever, does not wait for this
        if self._context is None or self._held or loop._stopping or loop._ready:
            return False
        scheduled = loop._scheduled
        return not scheduled or scheduled[0]._when >= loop.time() + loop._clock_resolution

    def _fill_record(self, nread: int, offset: int) -> None:
        try:
            if nread == 0:
                self._context.run(self._fill_from_kernel)  # type: ignore[union-attr]
            elif nread > 0:
                try:
                    self._context.run(self._fill, memoryview(self._loop._uv.region)[offset : offset + nread])  # type: ignore[union-attr]
                finally:
                    if self._held:
                        self._loop.call_soon(self._release)
            else:
                self._context.run(self._fill_end, nread)  # type: ignore[union-attr]
        except RuntimeError:
            if self._context is None or not is_entered(self._context):
                raise
            if nread:
                self._set_aside(nread, self._loop._uv.received(nread, offset) if nread > 0 else b"")

    def _hold_record(self, nread: int, offset: int) -> None:
        if nread and not self._closing:
            self._keep(nread, self._loop._uv.received(nread, offset) if nread > 0 else b"")

    def _keep(self, nread: int, data: bytes, index: int = sys.maxsize) -> None:
        if self._held is None:
            self._held = []
        self._held.insert(index, (nread, data))

    def _set_aside(self, nread: int, data: bytes) -> None:
        """Keep what came for a protocol that runs the loop from `data_received`, until that has returned."""
        self._stream.read_stop()
        self._stream.on_read(self._hold_record)
        self._keep(nread, data)
        self._loop.call_soon(self._release)

    def _release(self) -> None:
        """Deliver the first of what was held, the next one a turn later, for as long as the protocol wants it."""
        held = self._held
        if not held or self._context is None:
            return
        nread, data = held.pop(0)
        try:
            if nread <= 0:
                self._context.run(self._fill_end if self._buffered else self._on_read_end, nread)
            elif self._buffered:
                self._context.run(self._fill, memoryview(data))
            else:
                self._context.run(self._protocol.data_received, data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            if self._context is not None and is_entered(self._context):
                held.insert(0, (nread, data))
            else:
                self._on_failed_delivery(exc)
        finally:
            if held:
                self._loop.call_soon(self._release)
            elif self._context is not None:
                self._receive()

    def _get_buffer(self) -> Any:
        """Return the protocol's buffer, None when that has failed."""
        try:
            buffer = self._protocol.get_buffer(-1)
            if not len(buffer):
                raise RuntimeError("get_buffer() returned an empty buffer")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.get_buffer() call failed.")
            return None
        return buffer

    def _fill_end(self, status: int) -> None:
        # The end was read for an earlier protocol. One with a buffer is asked for it before it learns of the end.
        if self._get_buffer() is not None:
            self._on_read_end(status)

    def _fill(self, data: memoryview) -> None:
        """Put `data` into the protocol's buffer; hold what there is no room for."""
        protocol = self._protocol
        try:
            buffer = self._get_buffer()
        except BaseException:  # an interrupt: nobody has the bytes, and the kernel has them no more
            self._hold_rest(data)
            raise
        if buffer is None:
            return
        try:
            view = memoryview(buffer).cast("B")
            size = min(len(view), len(data))
            view[:size] = data[:size]
            view.release()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._on_failed_fill(exc, buffer)
            return
        if size < len(data):
            # Held before the protocol runs: what a poll from inside of it receives comes after this.
            self._hold_rest(data[size:])
        self._update(protocol, size)

    def _hold_rest(self, data: memoryview) -> None:
        self._keep(len(data), bytes(data), 0)
        self._stream.on_read(self._hold_record)

    def _fill_from_kernel(self) -> None:
        """Have the kernel put what it has into the protocol's buffer."""
        # _get_buffer() and _update() without their frames: this runs for every request.
        protocol = self._protocol
        reads = 0
        until = 0.0
        while True:
            try:
                buffer = protocol.get_buffer(-1)
                if not len(buffer):
                    raise RuntimeError("get_buffer() returned an empty buffer")
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fatal_error(exc, "Fatal error: protocol.get_buffer() call failed.")
                return
            try:
                if not reads:
                    size = (self._socket or self._borrow()).recv_into(buffer)
                else:
                    with memoryview(buffer) as view, view.cast("B") as octets, octets[:NEXT_SIZE] as first:
                        size = self._borrow().recv_into(first)
            except (BlockingIOError, InterruptedError):
                return
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._on_failed_fill(exc, buffer)
                return
            if not size:
                self._on_read_end(uv.EOF)
                return
            again = size > MUCH and self._loop._uv.found <= 1
            if again:
                is_all = size < (NEXT_SIZE if reads else len(buffer))
                until = until or monotonic() + LONGEST_READING
            buffer = None  # a view that is left would keep get_buffer() from resizing what it is of
            try:
                protocol.buffer_updated(size)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fatal_error(exc, "Fatal error: protocol.buffer_updated() call failed.")
                return
            if not again or protocol is not self._protocol:
                return
            reads += 1
            if reads == MOST_READS or not self._may_read_on(until, is_all):
                return

    def _on_failed_fill(self, exc: BaseException, buffer: Any) -> None:
        if isinstance(exc, BufferError | TypeError):
            # For what cannot be written to, system calls and views have several; asyncio has one.
            exc = TypeError(f"get_buffer() must return a read-write bytes-like object, not {type(buffer).__name__}")
        self._fatal_error(exc, "Fatal read error on socket transport")

    def _update(self, protocol: Any, size: int) -> None:
        try:
            protocol.buffer_updated(size)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.buffer_updated() call failed.")

    def _on_read_end(self, status: int) -> None:
        error = uv.os_error(status) if status != uv.EOF else None
        if error is None and self._writing:
            # A reset looks like the end to whoever reads after libuv has written. A broken pipe comes after an end.
            error = self._stream.write_error()
            if isinstance(error, BrokenPipeError):
                error = None
        if error is not None:
            self._fatal_error(error, "Fatal read error on socket transport")
            return
        if self._loop.get_debug():
            logger.debug("%r received EOF", self)
        try:
            keep_open = self._protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            # Nobody has dealt with it: let it come again in the next run.
            if self._context is not None:
                self._receive()
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.eof_received() call failed.")
            return
        if keep_open:
            # The protocol may go on writing; there is nothing left to read, for the next protocol neither.
            self._stop_reading()
        else:
            self.close()


def _hold_if_alive(transport: "weakref.ref[Receiving]", nread: int, offset: int) -> None:
    alive = transport()
    if alive is not None:
        alive._hold_record(nread, offset)
