"""Datagrams: `create_datagram_endpoint` and `asyncio.DatagramTransport` on a datagram socket of libuv's.

What lives here is how an endpoint comes and goes; its two halves are datagram_receiving.py and datagram_sending.py.

libuv owns the descriptor. The socket object that sends, and that users see, only borrows it. A socket that was given
stays usable: libuv gets a descriptor of its own for it, and both are closed together.
"""

import asyncio
import socket
import warnings
import weakref
from asyncio.log import logger
from asyncio.trsock import TransportSocket
from typing import TYPE_CHECKING, Any

from . import uv
from .core import is_elsewhere
from .datagram_receiving import Receiving
from .datagram_sending import Sending
from .datagram_state import ACCELERATED, SLOTS
from .flow import set_unless_done
from .readers import Readers
from .sockets import name_of
from .speed import accelerator
from .transports import BorrowedSocket


class DatagramSocket(BorrowedSocket):
    """A socket object for a descriptor that a datagram transport owns.

    A datagram leaves with the options that were set when it was sent, and gives an unbound socket its name.
    """

    def setsockopt(self, *args: Any) -> None:
        """Set an option for what is sent from now on; raises `OSError`."""
        self._flush()
        super().setsockopt(*args)

    def getsockopt(self, *args: Any) -> Any:
        """Return an option; raises `OSError`."""
        self._flush()
        return super().getsockopt(*args)

    def getsockname(self) -> Any:
        """Return the socket's own address; raises `OSError`."""
        self._flush()
        return super().getsockname()


class PureDatagramTransport(Receiving, Sending, asyncio.DatagramTransport):
    """A datagram endpoint: https://docs.python.org/3/library/asyncio-protocol.html#datagram-transports."""

    def __init__(
        self,
        loop: Readers,
        udp: uv.Udp,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
        given: socket.socket | None = None,
    ) -> None:
        """Take over `udp`; the protocol's `connection_made` is called soon, then receiving starts.

        address: the only one that `sendto` is to accept; None for no such limit. given: is closed with the transport.
        """
        super().__init__(extra, loop)
        self._udp = udp
        self._given = given
        self._socket = borrowed = DatagramSocket(fileno=udp.fileno())
        borrowed.settimeout(0)
        borrowed._transport = weakref.ref(self)
        udp.on_close = borrowed.detach
        self._peers = uv.Peers(borrowed.family)
        self._begin_receiving()
        self._begin_sending(address)
        self._extra["socket"] = TransportSocket(borrowed)
        self._extra["sockname"] = name_of(borrowed.getsockname)
        if "peername" not in self._extra:
            self._extra["peername"] = name_of(borrowed.getpeername)
        self._connected = bool(self._extra["peername"])
        self.set_protocol(protocol)
        self._ended = False  # connection_lost() was called
        loop.call_soon(protocol.connection_made, self)
        # Only once connection_made() has returned may datagram_received() be called.
        loop.call_soon(self._start_reading)
        if waiter is not None:
            # And only then may the creator go on.
            loop.call_soon(set_unless_done, waiter)

    def close(self) -> None:
        """Send what is queued, then close. The protocol's `connection_lost` is called with None."""
        if self._closing:
            return
        self._closing = True
        try:
            self._stop_reading()
            self._held.clear()
            self._flush()
            if not self._blocked and not self._conn_lost:
                self._lose(None)
        except MemoryError:
            self._closing = bool(self._conn_lost)  # else whoever is told of this can close it again
            raise

    def abort(self) -> None:
        """Close at once; what is queued is lost. The protocol's `connection_lost` is called with None."""
        self._force_close(None)

    def _force_close(self, exc: BaseException | None) -> None:
        if self._conn_lost:
            return
        self._drop()
        self._stop_waiting()
        self._closing = True
        self._lose(exc)
        self._stop_reading()
        self._held.clear()

    def _lose(self, exc: BaseException | None) -> None:
        self._conn_lost += 1
        try:
            self._loop.call_soon(self._call_connection_lost, exc)
        except MemoryError:
            self._conn_lost -= 1  # it is not lost before that can be told
            raise
        self._end_sending()

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            if self._protocol_connected:
                self._protocol.connection_lost(exc)
        finally:
            self._stop_waiting()
            self._udp.close()
            if self._given is not None:
                self._given.close()
            self._ended = True
            self._protocol = None

    def __repr__(self) -> str:
        facts = [type(self).__name__]
        if is_elsewhere(self._loop):
            facts.append("of a loop in another thread")  # which may be about to free what the rest is read from
        elif self._udp.closed:
            facts.append("closed")
        else:
            if self._closing:
                facts.append("closing")
            facts.append(f"fd={self._udp.fileno()}")
            facts.append("read=idle" if self._context is None else "read=polling")
            facts.append(f"write=<{'polling' if self._blocked else 'idle'}, bufsize={self._size}>")
        return f"<{' '.join(facts)}>"

    def __del__(self) -> None:
        if getattr(self, "_ended", True):
            return  # there is nothing left, or nothing was ever there
        warnings.warn(f"unclosed transport {self!r}", ResourceWarning, stacklevel=2, source=self)
        if self._given is not None:
            self._given.close()
        if is_elsewhere(self._loop):
            self._loop.call_soon_threadsafe(self._udp.close)
        else:
            self._udp.close()


if TYPE_CHECKING:
    DatagramTransport = PureDatagramTransport

elif ACCELERATED:

    class DatagramTransport(accelerator.Datagram, PureDatagramTransport):
        """`PureDatagramTransport`, with what runs per datagram in C."""

        __slots__ = SLOTS

else:

    class DatagramTransport(PureDatagramTransport):
        """`PureDatagramTransport`, as it is."""


class Datagrams(Readers):
    """The part of the loop that makes datagram endpoints."""

    async def create_datagram_endpoint(  # type: ignore[override]
        self,
        protocol_factory: Any,
        local_addr: Any = None,
        remote_addr: Any = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: socket.socket | None = None,
    ) -> tuple[Any, Any]:
        """Bind to `local_addr`, connect to `remote_addr`, or take `sock`; return the transport and the protocol.

        Raises `OSError`, and `TypeError` and `ValueError` for arguments that do not go together. See
        https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.create_datagram_endpoint.
        """
        modifiers = {
            "local_addr": local_addr,
            "remote_addr": remote_addr,
            "family": family,
            "proto": proto,
            "flags": flags,
            "reuse_port": reuse_port,
            "allow_broadcast": allow_broadcast,
        }
        if sock is None:
            return await super().create_datagram_endpoint(protocol_factory, **modifiers)
        # Here because older versions refuse every other type than one, and newer ones only streams.
        if sock.type == socket.SOCK_STREAM:
            raise ValueError(f"A datagram socket was expected, got {sock!r}")
        given = ", ".join(f"{name}={value}" for name, value in modifiers.items() if value)
        if given:
            raise ValueError(f"socket modifier keyword arguments can not be used when sock is specified. ({given})")
        sock.setblocking(False)
        protocol = protocol_factory()
        waiter = self.create_future()
        transport = self._make_datagram_transport(sock, protocol, None, waiter, keep=True)
        if self._debug:
            logger.debug("Datagram endpoint created: (%r, %r)", transport, protocol)
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
        *,
        keep: bool = False,
    ) -> DatagramTransport:
        """Return a transport that owns the descriptor of `sock`, which is detached.

        keep: `sock` stays open until the transport is closed; the transport then has a descriptor of its own.
        Raises `OSError`; then `sock` is as it was.
        """
        fd = socket.dup(sock.fileno()) if keep else sock.fileno()
        try:
            udp = uv.Udp(self._uv, fd)
        except BaseException:
            if keep:
                socket.close(fd)
            raise
        if not keep:
            sock.detach()
        try:
            transport = DatagramTransport(self, udp, protocol, address, waiter, extra, sock if keep else None)
        except BaseException:
            udp.close()
            raise
        self._transports[udp.fileno()] = weakref.ref(transport)
        if keep:
            self._transports[sock.fileno()] = weakref.ref(transport)
        return transport
