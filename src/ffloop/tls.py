"""TLS: `asyncio.sslproto` with fewer steps per record.

What lives here is the protocol between a stream transport and the program's protocol, and the program's transport, as
far as they differ from asyncio's; all of the states, timeouts and errors are asyncio's. Shorter is what runs while
nothing but records pass: the handshake is over, nobody shuts down, nobody is paused, nothing waits to be sent. Whatever
else there is goes asyncio's way. What costs there what it need not:

* Each read offers OpenSSL 256 KiB, which the allocator maps and unmaps, though no record holds more than 16 KiB.
* The end of what has come is found by reading once more, which raises. It can be asked for beforehand.
* Reads and writes pass through methods of `ssl.SSLObject`, which only pass them on.
* After each read and each write both sides' flow control looks at sizes that cannot have changed.
* Each connection has 256 KiB to receive into, for as long as it lasts, though what comes goes to OpenSSL at once.
* What was written leaves OpenSSL as a whole, in new memory as large, and not in pieces.
"""

from asyncio import sslproto
from collections.abc import Callable
from operator import attrgetter
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .core import CHEAP, is_elsewhere

RECORD_SIZE = 16 * 1024
"""Bytes that a TLS record holds at most (RFC 8446, section 5.1); a read never gives more."""

ENCRYPTED_SIZE = 5 + RECORD_SIZE + 2048
"""Bytes that such a record takes at most, with its header (RFC 5246, section 6.2.3): of as many, one is whole."""

BUFFER_SIZE = CHEAP
"""Bytes of the buffer that all sessions of a loop receive into, and of the pieces in which what they send leaves."""

WRAPPED = sslproto.SSLProtocolState.WRAPPED

PROTOCOLS_METHODS = attrgetter(
    "__init__",
    "_do_handshake",
    "get_buffer",
    "buffer_updated",
    "_get_app_transport",
    "_do_read",
    "_do_read__copied",
    "_do_read__buffered",
    "_write_appdata",
    "_do_write",
    "_process_outgoing",
    "_control_app_writing",
    "_control_ssl_reading",
    "_get_read_buffer_size",
    "_get_write_buffer_size",
)
TRANSPORTS_METHODS = attrgetter("write", "close")
SESSIONS_METHODS = attrgetter("read", "write", "pending")
"""Methods of asyncio's classes, and of `ssl.SSLObject`, that ours replace or do not always call."""


class _SSLProtocolTransport(sslproto._SSLProtocolTransport):
    """`asyncio.sslproto._SSLProtocolTransport`, whose `write` takes no detours."""

    _loop: Any
    _ssl_protocol: Any

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt `data` and send it. See `asyncio.Transport.write`."""
        protocol = self._ssl_protocol
        if (
            type(data) is not bytes
            or not data
            or protocol is None
            or protocol._state is not WRAPPED
            or protocol._ssl_writing_paused
            or protocol._write_backlog
        ):
            super().write(data)
            return
        try:
            count = protocol._encrypt(data)
        except sslproto.SSLAgainErrors:
            count = 0
        except Exception as exc:
            protocol._write_backlog.append(data)  # it counts as not sent until the connection is lost
            protocol._write_buffer_size += len(data)
            protocol._fatal_error(exc, "Fatal error on SSL protocol")
            return
        if count < len(data):
            super().write(data[count:])
            return
        try:
            protocol._send_outgoing()
            if protocol._app_writing_paused or not protocol._outgoing_high_water:
                protocol._control_app_writing()
        except Exception as exc:
            protocol._fatal_error(exc, "Fatal error on SSL protocol")

    def close(self) -> None:
        """Close the session, then the connection. See `asyncio.BaseTransport.close`."""
        if is_elsewhere(self._loop):
            self._loop.call_soon_threadsafe(self.close)
        else:
            super().close()


class SSLProtocol(sslproto.SSLProtocol):
    """`asyncio.sslproto.SSLProtocol`, shorter where records pass."""

    if not TYPE_CHECKING:
        # CPython looks up attributes quickly in a dictionary of 30 at most. There would be more.
        __slots__ = (
            "_app_protocol",
            "_app_protocol_is_buffer",
            "_app_reading_paused",
            "_app_writing_paused",
            "_decrypt",
            "_decrypted",
            "_encrypt",
            "_incoming",
            "_incoming_high_water",
            "_outgoing",
            "_outgoing_high_water",
            "_ssl_buffer_view",
            "_ssl_object",
            "_ssl_reading_paused",
            "_ssl_writing_paused",
            "_state",
            "_transport",
            "_write_backlog",
        )

    _loop: Any
    _state: Any
    _transport: Any
    _incoming: Any
    _outgoing: Any
    _incoming_high_water: int
    _outgoing_high_water: int
    _app_protocol: Any
    _app_protocol_get_buffer: Callable[[int], Any]
    _app_protocol_buffer_updated: Callable[[int], None]
    _app_protocol_is_buffer: bool
    _app_reading_paused: bool
    _app_writing_paused: bool
    _ssl_reading_paused: bool
    _ssl_writing_paused: bool
    _ssl_buffer_view: memoryview
    _call_eof_received: Callable[[], None]
    _start_shutdown: Callable[[], None]
    _do_write: Callable[[], None]
    _control_ssl_reading: Callable[[], None]

    max_size = 0  # what asyncio's would make its buffer of

    def __init__(self, loop: Any, *args: Any, **kwargs: Any) -> None:
        """See `asyncio.sslproto.SSLProtocol`."""
        super().__init__(loop, *args, **kwargs)
        if loop._tls_buffer is None:
            loop._tls_buffer = memoryview(bytearray(BUFFER_SIZE))
        # What is read into it goes to OpenSSL before anything else can be.
        self._ssl_buffer_view = loop._tls_buffer

    # Whoever replaces it, as tests do, replaces what is called.
    @property
    def _sslobj(self) -> Any:
        return self._ssl_object

    @_sslobj.setter
    def _sslobj(self, sslobj: Any) -> None:
        self._ssl_object = sslobj
        # A class of the program's own (`SSLContext.sslobject_class`) has its say in everything.
        plain = type(sslobj) is sslproto.ssl.SSLObject  # type: ignore[attr-defined]
        direct = sslobj._sslobj if plain else sslobj
        self._decrypt: Callable[..., Any] = direct.read
        self._decrypted: Callable[[], int] = direct.pending
        self._encrypt: Callable[[Any], int] = direct.write

    def _get_app_transport(self) -> Any:
        if self._app_transport is None:
            if self._app_transport_created:
                raise RuntimeError("Creating _SSLProtocolTransport twice")
            self._app_transport = _SSLProtocolTransport(self._loop, self)
            self._app_transport_created = True
        return self._app_transport

    def _do_handshake(self) -> None:
        super()._do_handshake()  # type: ignore[misc]
        # Its steps take a millisecond each: the peer can be at the next one, while other connections have theirs here.
        flush = getattr(self._transport, "_flush", None)  # of TLS within TLS there is none
        if flush is not None:
            flush()

    def get_buffer(self, n: int) -> memoryview:
        """Return what the stream transport is to fill."""
        return self._ssl_buffer_view

    def buffer_updated(self, nbytes: int) -> None:
        """Deal with `nbytes` that have come."""
        if self._state is not WRAPPED:
            super().buffer_updated(nbytes)
            return
        self._incoming.write(self._ssl_buffer_view[:nbytes])
        self._do_read()

    def _do_read(self) -> None:
        if self._state is not WRAPPED or self._app_reading_paused:
            super()._do_read()  # type: ignore[misc]
            return
        try:
            if self._app_protocol_is_buffer:
                self._do_read__buffered()
            else:
                self._do_read__copied()
            if self._write_backlog:
                self._do_write()
            elif self._outgoing.pending or self._app_writing_paused or not self._outgoing_high_water:
                self._process_outgoing()
            if self._ssl_reading_paused or self._incoming.pending >= self._incoming_high_water:
                self._control_ssl_reading()
        except Exception as exc:
            self._fatal_error(exc, "Fatal error on SSL protocol")

    def _process_outgoing(self) -> None:
        if self._ssl_writing_paused or self._write_backlog or self._app_writing_paused or not self._outgoing_high_water:
            super()._process_outgoing()  # type: ignore[misc]
        else:
            self._send_outgoing()

    def _send_outgoing(self) -> None:
        outgoing, transport = self._outgoing, self._transport
        if data := outgoing.read(BUFFER_SIZE):
            transport.write(data)
        while outgoing.pending:
            if getattr(transport, "_conn_lost", 0):
                outgoing.read()  # nobody has it any more, and what is dropped counts as one write
                return
            transport.write(outgoing.read(BUFFER_SIZE))

    def _do_read__copied(self) -> None:
        read = self._decrypt
        incoming, pending = self._incoming, self._decrypted
        chunk = b""
        chunks = None
        try:
            first = chunk = read(RECORD_SIZE)
            # Less than it was offered: then OpenSSL has nothing left.
            if chunk and (incoming.pending or (len(chunk) == RECORD_SIZE and pending())):
                chunks = [first]
                for _ in range(incoming.pending // ENCRYPTED_SIZE):  # so many are whole: nobody need ask
                    chunk = read(RECORD_SIZE)
                    chunks.append(chunk)
                    if not chunk:
                        break
                while chunk and (incoming.pending or pending()):
                    chunk = read(RECORD_SIZE)
                    chunks.append(chunk)
        except sslproto.SSLAgainErrors:
            if not chunk:
                return  # not even one whole record
        if chunks is not None:
            first = b"".join(chunks)
        if first:
            self._app_protocol.data_received(first)
        if not chunk:
            # The other side has said that this is all.
            self._call_eof_received()
            self._start_shutdown()

    def _do_read__buffered(self) -> None:
        read = self._decrypt
        incoming, pending = self._incoming, self._decrypted
        buffer = self._app_protocol_get_buffer(incoming.pending)
        wants = len(buffer)
        offset = 0
        count = 1
        try:
            count = offset = read(wants, buffer)
            if count and offset < wants and (incoming.pending or pending()):
                view = memoryview(buffer)  # a slice of anything else would be a copy
                while count and offset < wants and (incoming.pending or pending()):
                    count = read(wants - offset, view[offset:])
                    offset += count
        except sslproto.SSLAgainErrors:
            pass
        if offset == wants and count:
            self._loop.call_soon(self._do_read)
        if offset:
            self._app_protocol_buffer_updated(offset)
        if not count:
            # The other side has said that this is all.
            self._call_eof_received()
            self._start_shutdown()


def protocol_class() -> type[sslproto.SSLProtocol]:
    """Return the class for a new connection: asyncio's, when a tool has replaced anything that ours would pass by."""
    global _passed_by, _class
    passed_by = _what_is_passed_by()
    if passed_by != _passed_by:
        _class = SSLProtocol if _are_asyncios(*passed_by) else sslproto.SSLProtocol
        _passed_by = passed_by
    return _class


_passed_by: tuple[Any, ...] | None = None  # what was found when a connection last asked
_class: type[sslproto.SSLProtocol]  # what followed from it


def _what_is_passed_by() -> tuple[Any, ...]:
    ssl = sslproto.ssl  # type: ignore[attr-defined]
    return (
        (sslproto.SSLProtocol, PROTOCOLS_METHODS(sslproto.SSLProtocol)),
        (sslproto._SSLProtocolTransport, TRANSPORTS_METHODS(sslproto._SSLProtocolTransport)),
        (ssl, ssl and SESSIONS_METHODS(ssl.SSLObject)),
    )


def _are_asyncios(protocol: Any, transport: Any, session: Any) -> bool:
    return (
        protocol[0] is SSLProtocol.__base__
        and transport[0] is _SSLProtocolTransport.__base__
        and session[0] is not None
        and _are_from(sslproto, *protocol[1], *transport[1])
        and _are_from(session[0], *session[1])
    )


def _are_from(module: ModuleType, *functions: Any) -> bool:
    return all(getattr(function, "__globals__", None) is vars(module) for function in functions)
