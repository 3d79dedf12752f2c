"""Sending on a stream: the half of `StreamTransport` from `write()` to the kernel.

`write()` only queues; the loop sends all that a turn has queued in one call (`uv.Loop.flush`). Whatever could notice,
or overtake, queued bytes flushes first. Where nothing else is to run in this turn, and the transport has never written
twice in one of late, there is nothing to wait for, and `write()` sends.
"""

import asyncio
from typing import TYPE_CHECKING, Any

from . import uv
from .flow import as_bytes, set_unless_done
from .stream_state import HIGH_WATER, LOW_WATER, State

FLUSH_AT = 32 * 1024
"""Queued bytes at which a transport does not wait for the end of the turn."""

SENT_AS_THEY_ARE = (bytearray, memoryview)
"""What is large and of one of these types is not copied first; of a subclass `__buffer__` might write, or close."""

CALM = 8
"""A transport that has written so often, and never twice in a turn, is expected to go on like that."""


def _copy(data: Any) -> bytes:
    """Return what is bytes-like as `bytes`; raises `TypeError` for anything else."""
    with memoryview(data) as view:
        return bytes(view)


class Sending(State):
    """What a stream transport does with what is to leave."""

    if not TYPE_CHECKING:
        __slots__ = ()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue `data` to be sent at the end of this turn of the loop.

        Of what is not `bytes`, a copy is queued. Raises `TypeError` for what is not bytes-like, `RuntimeError`
        after `write_eof` and while a file is sent. After the connection was lost or closed, data is dropped, with a
        warning when that goes on.
        """
        if type(data) is not bytes:
            if self._send_much(data):
                return
            data = as_bytes(data)
        if self._refusal is not None:
            raise RuntimeError(self._refusal)
        if not data:
            return
        if self._conn_lost:
            self._count_lost_write()
            return
        size = len(data)
        if self._first:
            if self._more is None:
                self._more = []
            self._calm = 0
            more_size = self._more_size + size
            size = len(self._first) + more_size
            self._more.append(data)  # the last that needs memory
            self._more_size = more_size
        elif self._writing:
            self._first = data
        else:
            loop = self._loop
            queue = loop._uv
            at_once = size > self._flush_at or loop._thread_id is None  # then there is no turn whose end would do it
            if not at_once:
                if self._calm < CALM:
                    self._calm += 1
                elif not queue.sender:
                    at_once = queue.found <= 1 and not loop._ready  # the peer can work while whoever writes goes on
                elif queue.sender == id(self):
                    self._calm = 0  # it has sent at once, and this is the turn's second write
            if not at_once:
                queue.dirty.append(self)
                self._first = data
                return
            queue.sender = id(self)  # a reference would keep it alive until the next poll
            self._first = data
            try:
                self._flush()
            finally:
                if self._first:  # interrupted before it was sent: for the end of the turn
                    queue.dirty.append(self)
            if self._writing:
                self._maybe_pause_protocol()
            return
        if size > self._flush_at or self._writing:
            self._flush()
            if self._writing:
                self._maybe_pause_protocol()

    def _as_bytes(self, data: Any) -> bytes:
        return as_bytes(data)

    def _send_much(self, data: Any) -> bool:
        """Send `data` without a copy, if it is a buffer with much in it that nothing is queued before.

        Return whether it was: what the kernel has not taken was copied.
        """
        if (
            type(data) not in SENT_AS_THEY_ARE
            or self._first
            or self._writing
            or self._conn_lost
            or self._refusal is not None
        ):
            return False
        # Let go of before this returns, whenever garbage is collected: whoever has written a bytearray may resize it.
        with memoryview(data) as view:
            if view.nbytes <= self._flush_at or not view.c_contiguous:
                return False
            with view.cast("B") as octets:
                self._first = octets
                try:
                    self._flush()
                finally:
                    if self._first is octets:  # interrupted before any was sent
                        self._first = b""
        if self._writing:
            self._maybe_pause_protocol()
        return True

    def _set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None and low is None:
            self._high_water, self._low_water = HIGH_WATER, LOW_WATER
        else:
            super()._set_write_buffer_limits(high=high, low=low)  # type: ignore[misc]
        self._flush_at = int(min(FLUSH_AT, self._high_water))  # limits may be fractions

    def writelines(self, list_of_data: Any) -> None:
        """Queue the pieces of `list_of_data`, as one `write` of all of them would. Raises what `write` raises."""
        if self._refusal is not None:
            raise RuntimeError(self._refusal.replace("write", "writelines", 1))
        pieces = [data if type(data) is bytes else _copy(data) for data in list_of_data]
        size = sum(map(len, pieces))
        if size <= self._flush_at or self._conn_lost or self._refusal is not None:  # an iterator may have closed it
            self.write(b"".join(pieces))
            return
        # Joined, each byte would be copied once more than the kernel does.
        more = list(filter(None, pieces))
        first = self._first
        if not first:
            if not self._writing:
                self._loop._uv.dirty.append(self)  # as in write()
            first = more.pop(0)
            size -= len(first)
        size += self._more_size
        # If there is no memory for this, nothing is queued; what comes after it needs none.
        if self._more is None:
            self._more = more
        else:
            self._more += more
        self._first, self._more_size = first, size
        self._flush()
        if self._writing:
            self._maybe_pause_protocol()

    _writelines = writelines  # for what the accelerator's own leaves to this one

    def write_eof(self) -> None:
        """Close the sending side when all that is queued was sent. Reading goes on.

        Raises the `OSError` of a connection that is broken already.
        """
        if self._closing or self._eof:
            return
        self._eof = True
        self._refusal = "Cannot call write() after write_eof()"
        self._flush()
        if not self._writing and not self._conn_lost and not self._stream.closed:
            try:
                self._stream.shutdown()
            except MemoryError:
                self._eof = False  # whoever is told of this can call it again
                self._refusal = None
                raise

    def can_write_eof(self) -> bool:
        """Return True."""
        return True

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the kernel has not taken yet."""
        self._flush()
        return self._unsent()

    def _unsent(self) -> int:
        if self._conn_lost:
            return 0  # libuv still has what was in flight, and nobody waits for it
        in_flight = self._stream.write_queue_size() if self._writing and not self._stream.closed else 0
        return len(self._first) + self._more_size + len(self._rest) + in_flight

    # What sendfile() needs

    def _make_empty_waiter(self) -> "asyncio.Future[None]":
        """Refuse writes from now on; return a future that is done when all that was written has gone."""
        if self._empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        self._flush()
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._empty_waiter = waiter
        self._refusal = self._refusal or "unable to write; sendfile is in progress"
        if not self._writing:
            waiter.set_result(None)
        return waiter

    def _reset_empty_waiter(self) -> None:
        self._empty_waiter = None
        self._refusal = "Cannot call write() after write_eof()" if self._eof else None

    async def _until_writable(self) -> None:
        """Wait until the kernel takes more; raise `ConnectionError` when the connection is lost meanwhile."""
        fd = self._stream.fileno()
        waiter = self._empty_waiter = self._loop.create_future()
        handle = self._loop._add_writer(fd, set_unless_done, waiter)
        try:
            await waiter
        finally:
            # Cancelled: the descriptor is somebody else's by now.
            if not handle.cancelled():
                self._loop._remove_writer(fd)
        if self._conn_lost:
            raise ConnectionError("Connection is closed by peer")

    def _flush(self) -> None:
        """Hand what is queued to the kernel; what it does not take goes when it has room again."""
        data = self._first
        if not data or self._writing:
            return
        self._first = b""
        try:
            if self._more:
                data, sent = self._send_pieces(data, self._more)
            else:
                try:
                    sent = self._stream.try_write(data)
                except (BlockingIOError, InterruptedError):
                    sent = 0
            if sent != len(data):
                self._writing = True  # what a finalizer writes from here on comes after the rest
                if isinstance(data, memoryview):
                    with data[sent:] as unsent:  # its owner may change it from here on
                        data, sent = bytes(unsent), 0
                self._send_later(memoryview(data)[sent:])
        except (OSError, MemoryError) as exc:
            self._fail_write(exc)
        except BaseException:
            self._on_interrupt()
            raise

    def _send_pieces(self, first: bytes | memoryview, more: list[bytes]) -> tuple[bytes, int]:
        """Hand the whole queue to the kernel; return what is left of it, and how many bytes of that are sent."""
        pieces = [first, *more]
        size = len(first) + self._more_size
        more.clear()
        self._more_size = 0
        stream = self._stream
        try:
            # To join a few small pieces costs less than to have the kernel collect them.
            if size > FLUSH_AT and len(pieces) <= uv.MOST_PIECES:
                sent = stream.try_writev(pieces)
            else:
                pieces = [b"".join(pieces)]
                sent = stream.try_write(pieces[0])
            if sent == size:
                return b"", 0
        except (BlockingIOError, InterruptedError):
            sent = 0
        self._writing = True  # as in _flush()
        gone = 0
        while gone < len(pieces) and sent >= len(pieces[gone]):
            sent -= len(pieces[gone])
            gone += 1
        return b"".join(pieces[gone:]), sent

    def _send_later(self, rest: bytes | memoryview) -> None:
        """Have libuv send what the kernel has not taken.

        `_writing` is set by then. If this is interrupted, the caller calls `_on_interrupt`.
        """
        # libuv says only when the whole of a write is done. It gets a portion that ends at the low-water mark, so that
        # the protocol is resumed as soon as no more than that is left.
        try:
            above = len(rest) - int(self._low_water)
            portion = above if above > 0 else len(rest)
            self._rest = rest[portion:]
            self._stream.write(rest[:portion], self._on_written)
        except (OSError, MemoryError) as exc:
            self._fail_write(exc)

    def _fail_write(self, exc: BaseException) -> None:
        """End the connection: the peer has not got all that was written, and gets nothing of what comes after that."""
        self._writing = True  # so that nothing that is written from here on leaves
        try:
            self._fatal_error(exc, "Fatal write error on socket transport")
        finally:  # whatever becomes of those who are told
            self._force_close(exc)

    def _on_interrupt(self) -> None:
        """End the connection unless libuv has the rest: nobody knows how much has left, and a gap must not be."""
        if not self._stream.writing:
            self._writing = True
            self._force_close(None)

    def _on_written(self, status: int) -> None:
        """Go on after the portion in flight has ended."""
        if self._conn_lost:
            return
        try:
            if self._resuming:
                # From inside of resume_writing(), which runs the loop: the next portion waits for its return.
                self._loop.call_soon(self._on_written, status)
            else:
                self._enter(self._write_more, status)
        except MemoryError as exc:
            if self._conn_lost:
                raise
            self._fail_write(exc)  # this is not said again
        except BaseException:
            if self._writing:
                self._on_interrupt()
            raise

    def _write_more(self, status: int) -> None:
        if status < 0:
            self._fail_write(uv.os_error(status))
            return
        if self._rest:
            self._send_later(self._rest)
        else:
            self._writing = False
            self._flush()
        self._resuming = True
        try:
            self._maybe_resume_protocol()
        finally:
            self._resuming = False
            # resume_writing() may have written more, which goes before the end.
            self._flush()
            if not self._writing and not self._conn_lost:
                if self._empty_waiter is not None:
                    set_unless_done(self._empty_waiter)
                if self._closing:
                    self._conn_lost += 1
                    self._call_connection_lost(None)
                elif self._eof:
                    self._shutdown()

    def _shutdown(self) -> None:
        try:
            self._stream.shutdown()
        except OSError as exc:
            self._fatal_error(exc, "Fatal error on shutdown of socket transport")
