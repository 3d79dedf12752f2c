"""The stream transport: `asyncio.Transport` on a stream of libuv's.

What lives here is one connection, from the moment that libuv owns its descriptor to `connection_lost()`. How
connections come about does not: see connections.py and servers.py.

Three things differ from a selector transport inside, and must not show outside:

* `write()` only queues; the loop sends all that a turn has queued in one call (`uv.Loop.flush`). Whatever
  could notice, or overtake, queued bytes flushes first. Where nothing else is to run in this turn, and the
  transport has never written twice in one of late, there is nothing to wait for, and `write()` sends.
* Received bytes come as records of a batch. When a callback pauses or closes the transport, records that are
  already in the batch still come: they are held until reading goes on, or dropped.
* libuv owns the descriptor, and `stream.close()` alone closes it. The socket object that users see only
  borrows it.
"""

import asyncio
import contextvars
import socket
import sys
import threading
import warnings
import weakref
from asyncio import constants
from asyncio.log import logger
from asyncio.trsock import TransportSocket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from . import uv
from .core import Core, is_entered
from .flow import Flow
from .speed import accelerator

if TYPE_CHECKING:
    from .servers import Server

FLUSH_AT = 32 * 1024
"""Queued bytes at which a transport does not wait for the end of the turn."""

READ_SIZE = 256 * 1024
"""Bytes read at a time, of what does not go through the region: as many as asyncio's transports read.

More than the 64 KiB in which the kernel keeps what arrives at once, so that a peer that never stops is not stopped
after each of them. Reading 160 KiB at a time took a quarter more processor time for each byte.
"""

LARGE = 32 * 1024
"""A read of more bytes than this switches a transport to reading them where they are to stay; of half of it, back."""

CALM = 8
"""A transport that has written so often, and never twice in a turn, is expected to go on like that."""

NAMES = {"sockname", "peername"}

HIGH_WATER, LOW_WATER = 64 * 1024, 16 * 1024
"""Bytes: asyncio's own limits, which every transport begins with. Numbers of its own would be 64 bytes for each."""

PORTION = 256 * 1024
"""Bytes that libuv gets to write at a time, of what the kernel does not take at once."""


class BorrowedSocket(socket.socket):
    """A socket object for a descriptor that a transport owns: closing it only lets go of the descriptor.

    Whoever asks for the number, or shuts the connection down, is about to go past the transport: what was
    written to that goes first.
    """

    _transport: "weakref.ref[Any] | None" = None

    def _flush(self) -> None:
        transport = self._transport() if self._transport is not None else None
        if transport is not None:
            transport._flush()

    def fileno(self) -> int:
        """Return the descriptor, -1 when it was let go of."""
        self._flush()
        return super().fileno()

    def shutdown(self, how: int) -> None:
        """Shut down one half of the connection, or both; raises `OSError`."""
        self._flush()
        super().shutdown(how)

    def dup(self) -> socket.socket:  # type: ignore[override]
        """Return a socket of its own on the same connection; raises `OSError`."""
        return socket.socket(self.family, self.type, self.proto, fileno=socket.dup(super().fileno()))

    def close(self) -> None:
        """Let go of the descriptor."""
        self.detach()

    def __del__(self) -> None:
        # Instead of the finalizer of socket.socket, which would close what is not ours.
        self.detach()


class PureStreamTransport(Flow, asyncio.Transport):
    """A connection. Follows https://docs.python.org/3/library/asyncio-protocol.html#transports.

    What runs per packet (`write`, `_flush`, the receivers of records), and for every connection once (the constructor,
    the first read, the end), the accelerator has a version of its own of. It works on the same attributes, and calls
    the methods here for whatever is rare.
    """

    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE
    _start_tls_compatible = True

    if not TYPE_CHECKING:
        # StreamTransport below says where the attributes are: some in the accelerator's part, where there is one.
        __slots__ = ()

    _loop: Any
    _facts: dict[str, Any] | None
    _sockname: Any
    _peername: Any
    _protocol_paused: bool
    _high_water: int
    _low_water: int

    def __init__(
        self,
        loop: Core,
        stream: uv.Stream,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
        server: "Server | None" = None,
        context: contextvars.Context | None = None,
    ) -> None:
        """Take over `stream`; the protocol's `connection_made` is called soon, then reading starts.

        context: what the protocol's methods run in, all of them; None for a copy of the one of this moment.
        """
        self._first = b""  # what was written since the last flush: most turns write once, and need no list
        self._more: list[bytes] | None = None
        self._more_size = 0
        self._calm = 0  # turns in which it has written once, since it last wrote twice; CALM at most
        self._writing = False  # a write is in flight: what the kernel would not take at once
        self._resuming = False  # resume_writing() is running
        self._rest: bytes | memoryview = b""  # what is to go after it
        # What asyncio's constructors and their check of the limits do, without their three calls.
        self._loop = loop
        self._protocol_paused = False
        self._high_water, self._low_water, self._flush_at = HIGH_WATER, LOW_WATER, FLUSH_AT
        self._extra = {} if extra is None else extra
        self._stream = stream
        self._server: Server | None = None
        self._own_context = contextvars.copy_context() if context is None else context
        self._context: contextvars.Context | None = None  # the same, but None while nothing is to be received
        self._socket: BorrowedSocket | None = None
        self._held: list[tuple[int, bytes]] | None = None  # what came while nobody was to have it
        self._eof = False
        self._refusal: str | None = None  # why nothing may be written
        self._empty_waiter: asyncio.Future[None] | None = None  # of a sendfile() in progress
        self._conn_lost = 0  # counts writes after the connection was lost; the first is the loss itself
        self._closing = False
        self._paused = False
        self._ended = False  # connection_lost() was called
        if server is not None:
            server._attach()
            self._server = server
        self.set_protocol(protocol)
        loop.call_soon(protocol.connection_made, self, context=self._own_context)
        # Only once connection_made() has returned may data_received() be called.
        loop.call_soon(self._start_reading)
        if waiter is not None:
            self._wake_soon(waiter)  # and only then may the creator go on

    def _wake_soon(self, waiter: asyncio.Future[None]) -> None:
        self._loop.call_soon(_set_unless_done, waiter)

    # The protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Deliver to `protocol` from now on."""
        self._protocol: Any = protocol
        self._protocol_connected = True
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)
        if self._context is not None:
            self._receive()

    # Reading

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
            self._stream.watch(self._read_record)

    def _on_failed_delivery(self, exc: BaseException) -> None:
        self._enter(self._fatal_error, exc, "Fatal error: protocol.data_received() call failed.")

    def _read_record(self, nread: int, offset: int) -> None:
        """Read what is there into bytes of its own, where a second copy would cost more than the detour."""
        if nread:
            self._deliver_record(nread, offset)
            return
        try:
            data = self._stream.try_read(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._enter(self._fatal_error, exc, "Fatal read error on socket transport")
            return
        if data and len(data) < LARGE // 2:
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

    def _fill_record(self, nread: int, offset: int) -> None:
        try:
            if nread == 0:
                self._context.run(self._fill_from_kernel)  # type: ignore[union-attr]
            elif nread > 0:
                self._context.run(self._fill, memoryview(self._loop._uv.region)[offset : offset + nread])  # type: ignore[union-attr]
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
        buffer = self._get_buffer()
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
            self._keep(len(data) - size, bytes(data[size:]), 0)
            self._stream.on_read(self._hold_record)
        self._update(protocol, size)

    def _fill_from_kernel(self) -> None:
        """Have the kernel put what it has into the protocol's buffer."""
        protocol = self._protocol
        buffer = self._get_buffer()
        if buffer is None:
            return
        try:
            size = self._stream.try_read_into(buffer)
        except (BlockingIOError, InterruptedError):
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._on_failed_fill(exc, buffer)
            return
        if size:
            self._update(protocol, size)
        else:
            self._on_read_end(uv.EOF)

    def _on_failed_fill(self, exc: BaseException, buffer: Any) -> None:
        if isinstance(exc, BufferError):
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
        if status != uv.EOF:
            self._fatal_error(uv.os_error(status), "Fatal read error on socket transport")
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

    # Writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue `data` to be sent at the end of this turn of the loop.

        A copy is taken of what is not `bytes`. Raises `TypeError` for what is not bytes-like, `RuntimeError`
        after `write_eof` and while a file is sent. After the connection was lost or closed, data is dropped, with a
        warning when that goes on.
        """
        if data.__class__ is not bytes:
            data = _as_bytes(data)
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
            self._more.append(data)
            self._more_size += size
            size = len(self._first) + self._more_size
        elif self._writing:
            self._first = data
        else:
            queue = self._loop._uv
            sender = queue.sender
            me = id(self)  # a reference would keep it alive until the next poll
            if sender == me:
                self._calm = 0  # it has sent at once, and this is the turn's second write
            elif self._calm < CALM:
                self._calm += 1
            elif not sender and queue.found <= 1 and not self._loop._ready:
                queue.sender = me
                self._send(data)  # the peer can work while whoever writes goes on
                if self._writing:
                    self._maybe_pause_protocol()
                return
            self._first = data
            queue.dirty.append(self)
            if self._loop._thread_id is None:
                self._flush()  # there is no turn whose end would do it
        if size > self._flush_at or self._writing:
            self._flush()
            self._maybe_pause_protocol()

    def _as_bytes(self, data: Any) -> bytes:
        return _as_bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the sizes in bytes above which the protocol is paused, and up to which it is resumed.

        Raises `ValueError` unless high >= low >= 0.
        """
        self._set_write_buffer_limits(high=high, low=low)
        self._flush()
        self._maybe_pause_protocol()

    def _set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None and low is None:
            self._high_water, self._low_water = HIGH_WATER, LOW_WATER
        else:
            super()._set_write_buffer_limits(high=high, low=low)  # type: ignore[misc]
        self._flush_at = min(FLUSH_AT, self._high_water)

    def writelines(self, list_of_data: Any) -> None:
        """Queue the pieces of `list_of_data`, as one `write` of all of them would."""
        if self._refusal is not None:
            raise RuntimeError(self._refusal.replace("write", "writelines", 1))
        self.write(b"".join(list_of_data))

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
            self._stream.shutdown()

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
        in_flight = self._stream.write_queue_size() if self._writing else 0
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
        handle = self._loop._add_writer(fd, _set_unless_done, waiter)
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
        if data and not self._writing:
            self._first = b""
            if self._more:
                data += b"".join(self._more)
                self._more.clear()
                self._more_size = 0
            self._send(data)

    def _send(self, data: bytes | memoryview) -> None:
        try:
            sent = self._stream.try_write(data)
            if sent == len(data):
                return
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as exc:
            self._fatal_error(exc, "Fatal write error on socket transport")
            return
        self._send_later(memoryview(data)[sent:])

    def _send_later(self, rest: memoryview) -> None:
        """Have libuv send what the kernel has not taken."""
        # libuv says only when the whole of a write is done. It gets a portion that ends at the low-water mark or
        # before, so that the protocol is resumed as soon as no more than that is left.
        above = len(rest) - self._low_water
        portion = min(PORTION, above) if above > 0 else len(rest)
        self._rest = rest[portion:]
        self._writing = True
        try:
            self._stream.write(rest[:portion], self._on_written)
        except OSError as exc:
            self._writing = False
            self._fatal_error(exc, "Fatal write error on socket transport")

    def _on_written(self, status: int) -> None:
        """Go on after the portion in flight has ended."""
        if self._conn_lost:
            return
        if self._resuming:
            # From inside of resume_writing(), which runs the loop: the next portion waits for its return.
            self._loop.call_soon(self._on_written, status)
        else:
            self._enter(self._write_more, status)

    def _enter(self, callback: Callable[..., object], *args: Any) -> None:
        """Call `callback` in the connection's context; in a copy when the protocol runs the loop from inside of it."""
        context = self._own_context
        (context.copy() if is_entered(context) else context).run(callback, *args)

    def _write_more(self, status: int) -> None:
        if status < 0:
            self._writing = False
            self._fatal_error(uv.os_error(status), "Fatal write error on socket transport")
            return
        rest, self._rest = self._rest, b""
        self._writing = False
        if rest:
            self._send(rest)
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
                    _set_unless_done(self._empty_waiter)
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

    # Closing

    def close(self) -> None:
        """Send what is queued, then close. The protocol's `connection_lost` is called with None."""
        if self._closing:
            return
        self._closing = True
        self._stop_reading()
        if self._held:
            self._held.clear()
        self._flush()
        if not self._writing and not self._conn_lost:
            self._conn_lost += 1
            self._loop.call_soon(self._enter, self._call_connection_lost, None)

    def abort(self) -> None:
        """Close at once; what the kernel has not taken is lost. `connection_lost` is called with None."""
        self._force_close(None)

    def _force_close(self, exc: BaseException | None) -> None:
        # To whoever has written and now aborts, or raises, what the kernel takes is sent already.
        self._flush()
        if self._conn_lost:
            return
        self._first = b""
        self._more = None
        self._more_size = 0
        self._rest = b""
        self._closing = True
        self._stop_reading()
        if self._held:
            self._held.clear()
        self._conn_lost += 1
        self._loop.call_soon(self._enter, self._call_connection_lost, exc)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            if self._protocol_connected:
                self._protocol.connection_lost(exc)
        finally:
            if self._empty_waiter is not None:
                self._fail_empty_waiter()
            self._close_stream()
            self._ended = True
            self._protocol = None
            server, self._server = self._server, None
            if server is not None:
                server._detach()

    def _fail_empty_waiter(self) -> None:
        if self._empty_waiter is not None and not self._empty_waiter.done():
            self._empty_waiter.set_exception(ConnectionError("Connection is closed by peer"))

    def _close_stream(self) -> None:
        if self._stream.closed:
            return
        self._writing = False
        self._stream.close()

    # Facts

    @property
    def _extra(self) -> dict[str, Any]:
        """The facts, as asyncio's transports have them.

        Most connections have two, and are never asked for another: a dictionary for these is as large as half of all
        the rest, and is made when it is wanted.
        """
        if self._facts is None:
            self._facts = {"sockname": self._sockname, "peername": self._peername}
        return self._facts

    @_extra.setter
    def _extra(self, facts: dict[str, Any]) -> None:
        if facts.keys() == NAMES:
            self._facts, self._sockname, self._peername = None, facts["sockname"], facts["peername"]
        else:
            self._facts, self._sockname, self._peername = facts, None, None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return a fact about the connection: "socket", "sockname", "peername", and what its creator set."""
        if self._facts is None and name != "socket":
            if name in NAMES:
                return self._peername if name == "peername" else self._sockname
            return default
        if name == "socket" and name not in self._extra:
            self._extra[name] = TransportSocket(self._borrow())
        return self._extra.get(name, default)

    def _borrow(self) -> socket.socket:
        """Return the socket object on the stream's descriptor, made when it is first asked for."""
        borrowed = self._socket
        if borrowed is None:
            if self._stream.closed:
                borrowed = BorrowedSocket()
                socket.close(borrowed.detach())
            else:
                borrowed = BorrowedSocket(fileno=self._stream.fileno())
                borrowed.settimeout(0)
                borrowed._transport = weakref.ref(self)
                self._stream.on_close = borrowed.detach
            self._socket = borrowed
        return borrowed

    def __repr__(self) -> str:
        facts = [type(self).__name__]
        if self._stream.closed:
            facts.append("closed")
        else:
            if self._closing:
                facts.append("closing")
            facts.append(f"fd={self._stream.fileno()}")
            facts.append("read=idle" if self._context is None else "read=polling")
            facts.append(f"write=<{'polling' if self._writing else 'idle'}, bufsize={self._unsent()}>")
        return f"<{' '.join(facts)}>"

    def __del__(self) -> None:
        if getattr(self, "_ended", True):
            return  # there is nothing left, or nothing was ever there
        try:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, stacklevel=2, source=self)
        finally:  # warnings may be errors
            thread = self._loop._thread_id
            if thread is None or thread == threading.get_ident():
                self._let_go(self._stream, self._server)
            else:
                # Garbage is collected in any thread, and libuv may be running in the loop's.
                self._loop.call_soon_threadsafe(self._let_go, self._stream, self._server)

    @staticmethod
    def _let_go(stream: uv.Stream, server: "Server | None") -> None:
        stream.close()
        if server is not None:
            server._detach()


# Slots take half the memory of a dictionary, and CPython specialises looking them up, which it does not in a dictionary
# beside slots: asyncio's classes have some. There is one all the same, made when a program keeps something in it.
_PER_PACKET = (
    "_first",
    "_more",
    "_more_size",
    "_calm",
    "_writing",
    "_refusal",
    "_conn_lost",
    "_flush_at",
    "_protocol",
    "_context",
    "_own_context",
    "_stream",
)
_FLAGS = ("_resuming", "_eof", "_closing", "_paused", "_ended", "_protocol_connected", "_buffered")
_RARE = ("_facts", "_sockname", "_peername", "_rest", "_server", "_socket", "_held", "_empty_waiter")
_PYTHONS = ("__dict__", "__weakref__")

if TYPE_CHECKING:
    StreamTransport = PureStreamTransport
    Tcp = uv.Tcp

elif accelerator is not None and hasattr(accelerator, "Stream"):

    class StreamTransport(accelerator.Stream, PureStreamTransport):
        """`PureStreamTransport`, with what runs per packet, and for every connection, in C."""

        __slots__ = _PYTHONS

    Tcp = accelerator.Tcp

else:
    Tcp = uv.Tcp

    class StreamTransport(PureStreamTransport):
        """`PureStreamTransport`, with its attributes."""

        __slots__ = _PER_PACKET + _FLAGS + _RARE + _PYTHONS


def _hold_if_alive(transport: "weakref.ref[StreamTransport]", nread: int, offset: int) -> None:
    alive = transport()
    if alive is not None:
        alive._hold_record(nread, offset)


def _as_bytes(data: Any, wanted: str = "bytes, bytearray, or memoryview") -> bytes:
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"data argument must be a {wanted} object, not {type(data).__name__!r}")
    return bytes(data)


def _set_unless_done(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
