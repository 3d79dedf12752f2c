"""The stream transport: `asyncio.Transport` on a stream of libuv's.

What lives here is one connection, from the moment that libuv owns its descriptor to `connection_lost()`. How
connections come about does not: see connections.py and servers.py.

Its two halves are stream_receiving.py and stream_sending.py: what they do differs from a selector transport inside, and
must not show outside. So does who owns the descriptor: libuv does, and `stream.close()` alone closes it. The socket
object that users see only borrows it.
"""

import asyncio
import contextvars
import socket
import warnings
import weakref
from asyncio import constants
from asyncio.trsock import TransportSocket
from typing import TYPE_CHECKING, Any

from . import uv
from .core import Core, is_elsewhere
from .flow import set_unless_done
from .speed import accelerator
from .stream_receiving import Receiving
from .stream_sending import FLUSH_AT, Sending
from .stream_state import FLAGS, HIGH_WATER, LOW_WATER, PER_PACKET, PYTHONS, RARE

if TYPE_CHECKING:
    from .servers import Server

NAMES = {"sockname", "peername"}


class BorrowedSocket(socket.socket):
    """A socket object for a descriptor that a transport owns: closing it only lets go of the descriptor.

    Whoever asks for the number, or shuts the connection down, is about to go past the transport: what was
    written to that goes first.
    """

    _transport: "weakref.ref[Any] | None" = None

    def _owner(self) -> Any:
        """Return the transport, None where there is none any more."""
        return self._transport() if self._transport is not None else None

    def _flush(self) -> None:
        transport = self._owner()
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


class StreamSocket(BorrowedSocket):
    """The socket object of a stream transport, which may read by it itself."""

    def detach(self) -> int:
        """Let go of the descriptor, and return it; the transport goes on without."""
        transport = self._owner()
        if transport is not None and transport._socket is self:
            transport._socket = None
        return super().detach()


class PureStreamTransport(Receiving, Sending, asyncio.Transport):
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
        self._socket = None
        self._held: list[tuple[int, bytes]] | None = None  # what came while nobody was to have it
        self._eof = False
        self._refusal: str | None = None  # why nothing may be written
        self._empty_waiter: asyncio.Future[None] | None = None  # of a sendfile() in progress
        self._conn_lost = 0  # counts writes after the connection was lost; the first is the loss itself
        self._closing = False
        self._paused = False
        self._ended = False  # connection_lost() was called
        # Before anything is scheduled, which would have to be undone.
        self._loop._transports[stream.fileno()] = weakref.ref(self)
        if server is not None:
            server._attach()
            self._server = server
        self.set_protocol(protocol)
        made = loop.call_soon(protocol.connection_made, self, context=self._own_context)
        try:
            # Only once connection_made() has returned may data_received() be called.
            loop.call_soon(self._start_reading)
            if waiter is not None:
                self._wake_soon(waiter)  # and only then may the creator go on
        except BaseException:
            # Whoever gets that has no connection.
            self._closing = True  # so that it does not read
            made.cancel()
            raise

    def _wake_soon(self, waiter: asyncio.Future[None]) -> None:
        self._loop.call_soon(set_unless_done, waiter)

    # The protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Deliver to `protocol` from now on."""
        self._protocol: Any = protocol
        self._protocol_connected = True
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)
        if self._context is not None:
            self._receive()

    # Closing

    def close(self) -> None:
        """Send what is queued, then close. The protocol's `connection_lost` is called with None."""
        if self._closing:
            return
        if is_elsewhere(self._loop):
            self._loop.call_soon_threadsafe(self.close)
            return
        self._closing = True
        self._flush()
        if not self._writing and not self._conn_lost:
            self._end_soon(None)
        self._stop_reading()
        if self._held:
            self._held.clear()

    def abort(self) -> None:
        """Close at once; what the kernel has not taken is lost. `connection_lost` is called with None."""
        self._force_close(None)

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        if isinstance(exc, BrokenPipeError):
            # The reset that broke it may be read already, and on its way.
            exc = self._stream.read_error() or exc
        super()._fatal_error(exc, message)

    def _force_close(self, exc: BaseException | None) -> None:
        if is_elsewhere(self._loop):
            self._loop.call_soon_threadsafe(self._force_close, exc)
            return
        # To whoever has written and now aborts, or raises, what the kernel takes is sent already.
        self._flush()
        if self._conn_lost:
            return
        self._first = b""
        self._more = None
        self._more_size = 0
        self._rest = b""
        self._closing = True
        self._end_soon(exc)
        self._stop_reading()
        if self._held:
            self._held.clear()

    def _end_soon(self, exc: BaseException | None) -> None:
        self._conn_lost += 1
        try:
            self._loop.call_soon(self._enter, self._call_connection_lost, exc)
        except MemoryError:
            self._conn_lost -= 1
            self._closing = False  # whoever is told of this can close it again
            raise

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
                borrowed = StreamSocket()
                socket.close(borrowed.detach())
            else:
                borrowed = StreamSocket(fileno=self._stream.fileno())
                borrowed.settimeout(0)
                borrowed._transport = weakref.ref(self)
                self._stream.on_close = borrowed.detach
            self._socket = borrowed
        return borrowed

    def __repr__(self) -> str:
        facts = [type(self).__name__]
        if is_elsewhere(self._loop):
            facts.append("of a loop in another thread")  # which may be about to free what the rest is read from
        elif self._stream.closed:
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
            # In a cycle others may still have it, and close it: the server is told once.
            server, self._server = self._server, None
            if is_elsewhere(self._loop):
                self._loop.call_soon_threadsafe(self._let_go, self._stream, server)
            else:
                self._let_go(self._stream, server)

    @staticmethod
    def _let_go(stream: uv.Stream, server: "Server | None") -> None:
        stream.close()
        if server is not None:
            server._detach()


if TYPE_CHECKING:
    StreamTransport = PureStreamTransport
    Tcp = uv.Tcp

elif accelerator is not None and hasattr(accelerator, "Stream"):

    class StreamTransport(accelerator.Stream, PureStreamTransport):
        """`PureStreamTransport`, with what runs per packet, and for every connection, in C."""

        __slots__ = PYTHONS

    Tcp = accelerator.Tcp

else:
    Tcp = uv.Tcp

    class StreamTransport(PureStreamTransport):
        """`PureStreamTransport`, with its attributes."""

        __slots__ = PER_PACKET + FLAGS + RARE + PYTHONS
