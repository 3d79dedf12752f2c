"""Servers: listening sockets, accepting, and what is served.

The listening sockets stay Python's: they are watched, never handed to libuv, so that closing a server
cannot pull a descriptor from under anybody.
"""

import asyncio
import collections.abc
import contextvars
import errno
import itertools
import os
import socket
import sys
from asyncio import constants
from asyncio.log import logger
from asyncio.trsock import TransportSocket
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from .resolver import Resolver
from .sockets import BARE, Sockets, check_ssl_socket, name_of
from .speed import accelerator

if TYPE_CHECKING:
    import ssl as ssl_module

    from .connections import Connections

MOST_ACCEPTED = 256
"""Connections accepted in one turn, at most: until the next one each keeps memory that it needs only to begin."""

OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

ProtocolFactory = Callable[[], asyncio.BaseProtocol]

Connection = socket.SocketType
"""What `socket.socket` derives from: a descriptor and its calls."""

Acceptor = Callable[[], tuple[Connection, Any]]
"""Returns a connection with its peer's name; it may be blocking yet. Raises what `socket.accept` raises."""


class PureServer(asyncio.Server):
    """What `create_server` returns: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.Server.

    It behaves as that of the newest Python does, whichever version runs it. What it does for each connection without
    TLS the accelerator has a version of its own of.
    """

    def __init__(
        self,
        loop: "Connections",
        sockets: list[socket.socket],
        protocol_factory: ProtocolFactory,
        ssl_context: "ssl_module.SSLContext | None",
        backlog: int,
        ssl_handshake_timeout: float | None,
        ssl_shutdown_timeout: float | None,
    ) -> None:
        """Take over `sockets`, which are bound; nothing listens yet."""
        self._loop = loop
        self._sockets: list[socket.socket] | None = sockets
        self._protocol_factory = protocol_factory
        self._ssl_context = ssl_context
        self._backlog = backlog
        self._context = contextvars.copy_context()  # each connection gets a copy, and shares it with no other
        self._ssl_timeouts: dict[str, Any] = {
            "ssl_handshake_timeout": ssl_handshake_timeout,
            "ssl_shutdown_timeout": ssl_shutdown_timeout,
        }
        self._serving = False
        self._serving_forever: asyncio.Future[None] | None = None
        self._active_count = 0  # open connections; which they are, the loop knows
        self._in_vain = 0  # how often in a row a second connection was looked for in vain, up to 4
        self._last_host: Any = None  # of the last connection
        self._skip = 0  # in so many turns one is accepted, and no second one looked for
        self._waiters: list[asyncio.Future[None]] | None = []  # None: closed, and nobody is connected

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sockets={self.sockets!r}>"

    @property
    def sockets(self) -> tuple[Any, ...]:
        """The listening sockets; none when the server is closed."""
        return tuple(TransportSocket(sock) for sock in self._sockets or ())

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop that serves."""
        return self._loop

    def is_serving(self) -> bool:
        """Return whether connections are accepted."""
        return self._serving

    async def start_serving(self) -> None:
        """Begin to accept connections. Harmless when the server serves already."""
        self._start_serving()
        # The loop has polled the listening sockets once when this returns.
        await asyncio.sleep(0)

    async def serve_forever(self) -> None:
        """Serve until cancelled, then close, connections too. Raises `RuntimeError` when closed, or called twice."""
        if self._serving_forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if self._sockets is None:
            raise RuntimeError(f"server {self!r} is closed")
        self._start_serving()
        self._serving_forever = self._loop.create_future()
        try:
            await self._serving_forever
        except asyncio.CancelledError:
            try:
                self.close()
                self.close_clients()  # whoever ends the server waits for no client that says nothing
                await self.wait_closed()
            finally:
                raise
        finally:
            self._serving_forever = None

    def close(self) -> None:
        """Stop listening. Connections that are open stay open; `wait_closed` waits for them."""
        sockets, self._sockets = self._sockets, None
        if sockets is None:
            return
        for sock in sockets:
            self._loop._stop_serving(sock)
        self._serving = False
        if self._serving_forever is not None and not self._serving_forever.done():
            self._serving_forever.cancel()
            self._serving_forever = None
        if not self._active_count:
            self._wake_up()

    def close_clients(self) -> None:
        """Close every connection that is open, after what was written to it was sent."""
        for transport in self._connected():
            transport.close()

    def abort_clients(self) -> None:
        """Close every connection that is open, at once."""
        for transport in self._connected():
            transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the server is closed and the last of its connections has ended."""
        if self._waiters is None:
            return
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    def _start_serving(self) -> None:
        if self._serving:
            return
        sockets = iter(self._sockets)  # type: ignore[arg-type]  # None when it is closed: asyncio's TypeError
        self._serving = True
        for sock in sockets:
            sock.listen(self._backlog)
            self._watch(sock)

    def _watch(self, sock: socket.socket) -> None:
        if self._sockets is not None and sock in self._sockets:
            self._loop._add_reader(sock, self._accept, sock, self._taker(sock))

    def _taker(self, sock: socket.socket) -> Callable[[], None]:
        """Return what accepts a connection on `sock`, and serves it. It raises what `socket.accept` raises."""
        return partial(self._take, _acceptor(sock), sock.getsockname())

    def _accept(self, sock: socket.socket, take: Callable[[], None]) -> None:
        """Accept what waits, but no more than fits the queue: others want their turn."""
        most = min(self._backlog, MOST_ACCEPTED) + 1
        if self._skip:
            self._skip -= 1
            most = 1
        for count in range(most):
            if sock.fileno() == -1:
                return  # a protocol's factory has closed the server
            try:
                take()
            except ConnectionAbortedError:
                continue  # that one has gone; others may wait
            except (BlockingIOError, InterruptedError):
                # Where connections come one by one, looking for a second one finds nothing: then it is looked for after
                # 1, 3, 7 and at last 15 turns with one each.
                self._in_vain = min(self._in_vain + 1, 4) if count < 2 else 0
                self._skip = (1 << self._in_vain) - 1
                return
            except OSError as exc:
                if exc.errno not in OUT_OF_RESOURCES:
                    raise
                # It would be ready again at once, and again: look again when others may have closed some.
                self._loop.call_exception_handler(
                    {
                        "message": "socket.accept() out of system resource",
                        "exception": exc,
                        "socket": TransportSocket(sock),
                    }
                )
                self._loop._remove_reader(sock)
                self._loop.call_later(constants.ACCEPT_RETRY_DELAY, self._watch, sock)
                return

    def _take(self, accept: Acceptor, name: Any) -> None:
        connection, address = accept()
        context = self._context.copy()
        # Most connections have the listener's name: they share the object. Behind a proxy, peers have one host.
        own = name_of(connection.getsockname)
        if own == name:
            own = name
        if isinstance(address, tuple):
            if address[0] == self._last_host:
                address = (self._last_host, *address[1:])
            else:
                self._last_host = address[0]
        context.run(self._connect, connection, {"sockname": own, "peername": address}, context)

    def _connect(self, connection: Connection, extra: dict[str, Any], context: contextvars.Context) -> None:
        loop = self._loop
        protocol: Any = None
        transport: Any = None
        waiter: asyncio.Future[None] | None = None
        try:
            protocol = self._protocol_factory()
            if self._ssl_context is None:
                loop._make_socket_transport(connection, protocol, extra=extra, server=self, context=context)
            else:
                waiter = loop.create_future()
                transport = loop._make_ssl_transport(
                    connection,
                    protocol,
                    self._ssl_context,
                    waiter,
                    server_side=True,
                    extra=extra,
                    server=self,
                    context=context,
                    **self._ssl_timeouts,
                )
        except (SystemExit, KeyboardInterrupt):
            connection.close()  # unless a transport has taken it over: then it is detached
            raise
        except BaseException as exc:
            connection.close()
            self._refused(exc, protocol, transport)
        if waiter is not None:

            def handshake_done(waiter: asyncio.Future[None]) -> None:
                exc = None if waiter.cancelled() else waiter.exception()
                if exc is not None:
                    transport.close()
                    self._refused(exc, protocol, transport)

            waiter.add_done_callback(handshake_done)

    def _refused(self, exc: BaseException, protocol: Any, transport: Any) -> None:
        if not self._loop.get_debug():
            return
        facts = {"message": "Error on transport creation for incoming connection", "exception": exc}
        if protocol is not None:
            facts["protocol"] = protocol
        if transport is not None:
            facts["transport"] = transport
        self._loop.call_exception_handler(facts)

    def _connected(self) -> list[Any]:
        known: list[Any] = [transport() for transport in list(self._loop._transports.values())]
        return [transport for transport in known if getattr(transport, "_server", None) is self]

    def _attach(self) -> None:
        self._active_count += 1

    def _detach(self) -> None:
        self._active_count -= 1
        if not self._active_count and self._sockets is None:
            self._wake_up()

    def _wake_up(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)


if TYPE_CHECKING:
    Server = PureServer

elif accelerator is not None and hasattr(accelerator, "Server"):

    class Server(accelerator.Server, PureServer):
        """`PureServer`, with what it does for each connection without TLS in C."""

        def _taker(self, sock):
            plain = self._ssl_context is None and sock.family in BARE and _is_plain(sock)
            if plain and self._loop._makes_own_transports():
                return partial(self._take_descriptor, sock.fileno())
            return super()._taker(sock)

else:

    class Server(PureServer):
        """`PureServer`, under the name that `repr()` shows at either speed."""


def _is_plain(sock: socket.socket) -> bool:
    """Return whether `sock` accepts as sockets do: a program may have a version of its own of that."""
    return type(sock).accept is socket.socket.accept


def _acceptor(sock: socket.socket) -> Acceptor:
    """Return what accepts a connection on `sock`.

    `socket.accept()` looks the family up by name each time, and makes an object that is only to be taken apart.
    """
    if not _is_plain(sock):
        return sock.accept
    family, kind, protocol = int(sock.family), int(sock.type), sock.proto
    accept, connection_on = sock._accept, socket.SocketType  # type: ignore[attr-defined]

    def accept_bare() -> tuple[Connection, Any]:
        fd, address = accept()
        try:
            return connection_on(family, kind, protocol, fd), address
        except BaseException:
            socket.close(fd)
            raise

    return accept_bare


class Servers(Sockets, Resolver):
    """The part of the loop that makes servers."""

    def _stop_serving(self, sock: socket.socket) -> None:
        self._remove_reader(sock)
        sock.close()

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: ProtocolFactory,
        host: str | Iterable[str] | None = None,
        port: int | str | None = None,
        *,
        family: int = socket.AF_UNSPEC,
        flags: int = socket.AI_PASSIVE,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: "ssl_module.SSLContext | None" = None,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        keep_alive: bool | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
    ) -> Server:
        """Serve `protocol_factory()` to every connection on `host` and `port`, or on `sock`.

        Timeouts are in seconds. Raises `OSError` when no address can be bound, `TypeError` and `ValueError`
        for arguments that do not go together. See
        https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.create_server.
        """
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        check_ssl_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if sock is not None:
            check_ssl_socket(sock)
        if host is not None or port is not None:
            if sock is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            sockets = await self._bind_all(host, port, family, flags, reuse_address, reuse_port, keep_alive)
        elif sock is None:
            raise ValueError("Neither host/port nor sock were specified")
        elif sock.type != socket.SOCK_STREAM:
            raise ValueError(f"A Stream Socket was expected, got {sock!r}")
        else:
            sockets = [sock]
        return await self._serve_sockets(
            sockets, protocol_factory, ssl, backlog, ssl_handshake_timeout, ssl_shutdown_timeout, start_serving
        )

    async def _serve_sockets(
        self,
        sockets: list[socket.socket],
        protocol_factory: ProtocolFactory,
        ssl: "ssl_module.SSLContext | None",
        backlog: int,
        ssl_handshake_timeout: float | None,
        ssl_shutdown_timeout: float | None,
        start_serving: bool,
    ) -> Server:
        """Return a server on `sockets`, which are bound."""
        for listening in sockets:
            listening.setblocking(False)
        server = Server(
            self,  # type: ignore[arg-type]
            sockets,
            protocol_factory,
            ssl,
            backlog,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
        )
        if start_serving:
            try:
                await server.start_serving()
            except BaseException:
                server.close()
                raise
        if self._debug:
            logger.info("%r is serving", server)
        return server

    async def _bind_all(
        self,
        host: str | Iterable[str] | None,
        port: int | str | None,
        family: int,
        flags: int,
        reuse_address: bool | None,
        reuse_port: bool | None,
        keep_alive: bool | None,
    ) -> list[socket.socket]:
        """Return a bound socket for every address that the host names stand for."""
        if reuse_address is None:
            reuse_address = os.name == "posix" and sys.platform != "cygwin"
        hosts: Iterable[str | None]
        if host == "":
            hosts = [None]
        elif isinstance(host, str) or not isinstance(host, collections.abc.Iterable):
            hosts = [host]
        else:
            hosts = host
        lookups = [self._resolve_listening(name, port, family, flags) for name in hosts]
        found = dict.fromkeys(itertools.chain.from_iterable(await asyncio.gather(*lookups)))
        sockets: list[socket.socket] = []
        try:
            for address_family, kind, protocol, _, address in found:
                try:
                    sock = socket.socket(address_family, kind, protocol)
                except OSError:
                    # The system knows the family by name only (IPv6 switched off, say).
                    if self._debug:
                        logger.warning(
                            "create_server() failed to create socket.socket(%r, %r, %r)",
                            address_family,
                            kind,
                            protocol,
                            exc_info=True,
                        )
                    continue
                sockets.append(sock)
                internet = address_family in (socket.AF_INET, socket.AF_INET6)
                if reuse_address:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
                if reuse_port and internet:
                    _set_reuse_port(sock)
                if keep_alive:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)
                if address_family == socket.AF_INET6 and hasattr(socket, "IPPROTO_IPV6"):
                    # Else it would take the IPv4 address of the same port, which has a socket of its own.
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)
                try:
                    sock.bind(address)
                except OSError as exc:
                    message = f"error while attempting to bind on address {address!r}: {str(exc).lower()}"
                    if exc.errno == errno.EADDRNOTAVAIL:
                        # A name can stand for addresses that this machine does not have right now.
                        sockets.pop().close()
                        if self._debug:
                            logger.warning(message)
                        continue
                    raise OSError(exc.errno, message) from None
            if not sockets:
                raise OSError(f"could not bind on any address out of {[info[4] for info in found]!r}")
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        return sockets

    async def _resolve_listening(self, host: str | None, port: int | str | None, family: int, flags: int) -> list[Any]:
        infos: list[Any] = await self._ensure_resolved(  # type: ignore[attr-defined]
            (host, port), family=family, type=socket.SOCK_STREAM, flags=flags, loop=self
        )
        if not infos:
            raise OSError(f"getaddrinfo({host!r}) returned empty list")
        return infos


def _set_reuse_port(sock: socket.socket) -> None:
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ValueError("reuse_port not supported by socket module")
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
    except OSError:
        raise ValueError(
            "reuse_port not supported by socket module, SO_REUSEPORT defined but not implemented."
        ) from None


def check_ssl_timeouts(ssl: object, handshake: float | None, shutdown: float | None) -> None:
    """Raise `ValueError` for a timeout of TLS where there is no TLS."""
    if handshake is not None and not ssl:
        raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
    if shutdown is not None and not ssl:
        raise ValueError("ssl_shutdown_timeout is only meaningful with ssl")
