"""Connections: how a socket becomes a transport, with TLS or without, and how clients connect.

TLS is `asyncio.sslproto`'s: a protocol between the stream transport and the program's protocol.
"""

import asyncio
import contextvars
import itertools
import socket
import sys
from asyncio import BaseEventLoop
from asyncio.log import logger
from asyncio.streams import StreamReaderProtocol
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from . import uv
from .resolver import GETADDRINFO, known_address
from .servers import Connection, ProtocolFactory, Server, Servers, check_ssl_timeouts
from .sockets import INTERNET, NONBLOCK, Sockets, check_ssl_socket, connect, name_of, two_turns
from .speed import accelerator
from .tls import protocol_class
from .transports import StreamTransport, Tcp
from .turns import if_from

if TYPE_CHECKING:
    import ssl as ssl_module


CONTEXT_FIRST = sys.version_info >= (3, 15)
"""Whether a protocol is made when its context is there, which what its factory sets does not reach then."""

_functions_of = attrgetter(
    "getaddrinfo.__func__",
    "_ensure_resolved.__func__",
    "sock_connect.__func__",
    "_connect_any.__func__",
    "_create_connection_transport.__func__",
    "_make_socket_transport.__func__",
)

Connecting: Any = getattr(accelerator, "Connecting", None)
"""`_connect_bare` for a single address, in C; None where there is none."""

family_of: Any = socket.SocketType.family.__get__
"""The family as a number: `socket.socket.family` looks its name up each time."""


class Connections(Servers):
    """The part of the loop that makes connections."""

    _tls_buffer: memoryview | None = None
    """Where TLS receives: see tls.py."""

    def _has_own_parts(self) -> bool:
        """Return whether the class makes connections with what is here, and asyncio's own."""
        return bool(_parts_of(type(self)) == _PARTS)

    if accelerator is None:

        @property
        def _overridden(self) -> bool:
            """Whether the loop itself has something in the place of a method that makes connections.

            Asked of the methods: its dictionary is made by whoever looks into it, and slower than none.
            """
            try:
                return bool(_functions_of(self) != _PARTS)
            except AttributeError:  # it is no method
                return True

    def _makes_own_transports(self) -> bool:
        """Return whether no program has put something of its own in the place of `_make_socket_transport`."""
        return self.__class__._make_socket_transport is _MAKE_TRANSPORT and not self._overridden

    def _make_socket_transport(
        self,
        sock: Connection,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        server: Server | None = None,
        context: contextvars.Context | None = None,
    ) -> StreamTransport:
        """Return a transport that owns the descriptor of `sock`, which is detached.

        context: what the protocol runs in; None for a copy of the current one, as Pythons before 3.15 have it.
        Raises `OSError`; then `sock` is as it was.
        """
        facts = {} if extra is None else extra.copy()
        if "sockname" not in facts:
            facts["sockname"] = name_of(sock.getsockname)
        if "peername" not in facts:
            facts["peername"] = name_of(sock.getpeername)
        fd = sock.fileno()
        # Whatever sock.proto says: one that listens may have been made with 0, which is TCP as well.
        stream = self._take_over(fd, family_of(sock) in INTERNET, sock.detach)
        return self._make_stream_transport(stream, protocol, waiter, facts, server, context)

    def _take_over(self, fd: int, nodelay: bool, let_go: Callable[[], object]) -> uv.Stream:
        """Return a stream that owns `fd`. Whoever had it lets go once it is libuv's, whatever is raised after that.

        Raises `OSError`; then nobody has let go.
        """
        try:
            stream = Tcp(self._uv, fd, nodelay)
            let_go()
        except BaseException:
            # libuv may have it, when a signal's handler has raised in the moment in which it took it.
            for handle in list(self._uv.handles.values()):
                if isinstance(handle, uv.Tcp) and handle.fileno() == fd:
                    let_go()
                    handle.close()
            raise
        return stream

    def _make_stream_transport(
        self,
        stream: uv.Stream,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None,
        facts: dict[str, Any],
        server: Server | None,
        context: contextvars.Context | None,
    ) -> StreamTransport:
        """Return a transport on `stream`, which is closed if there is none."""
        try:
            return StreamTransport(self, stream, protocol, waiter, facts, server, context)
        except BaseException:
            stream.close()  # there may be no transport that would
            raise

    def _make_ssl_transport(
        self,
        rawsock: Connection,
        protocol: asyncio.BaseProtocol,
        sslcontext: "ssl_module.SSLContext | None",
        waiter: asyncio.Future[None] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: Server | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Transport:
        """Return the transport of a TLS session on the descriptor of `rawsock`, which is detached."""
        ssl_protocol: Any = protocol_class()(
            self,
            protocol,
            sslcontext,  # type: ignore[arg-type]
            waiter,  # type: ignore[arg-type]
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,  # type: ignore[arg-type]
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        self._make_socket_transport(rawsock, ssl_protocol, extra=extra, server=server, context=context)
        transport: asyncio.Transport = ssl_protocol._app_transport
        return transport

    async def create_connection(
        self,
        protocol_factory: ProtocolFactory,
        host: str | None = None,
        port: int | str | None = None,
        *,
        ssl: "ssl_module.SSLContext | bool | None" = None,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        sock: socket.socket | None = None,
        local_addr: tuple[str, int] | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        happy_eyeballs_delay: float | None = None,
        interleave: int | None = None,
        all_errors: bool = False,
    ) -> tuple[Any, Any]:
        """Connect to `host` and `port`, or on `sock`; return the transport and the protocol.

        Timeouts and the delay are in seconds. Raises `OSError` when no address can be reached (an
        `ExceptionGroup` of them with `all_errors`), `ssl.SSLError` when the handshake fails, `TypeError` and
        `ValueError` for arguments that do not go together. See
        https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.create_connection.
        """
        made: tuple[Any, Any]
        if (
            # The usual case, in which nobody needs a socket object.
            type(host) is str
            and type(port) is int
            and 0 <= port <= 0xFFFF
            and not ssl
            and sock is None
            and local_addr is None
            and server_hostname is None
            and ssl_handshake_timeout is None
            and ssl_shutdown_timeout is None
            and happy_eyeballs_delay is None
            and is_all_own(self)
        ):
            known = known_address(host, port, family, socket.SOCK_STREAM, proto)
            if known is not None and Connecting is not None and not all_errors:
                made = await Connecting(self, known, protocol_factory)
            else:
                if known is not None:
                    infos = [known]
                else:
                    infos = await self.getaddrinfo(
                        host, port, family=family, type=socket.SOCK_STREAM, proto=proto, flags=flags
                    )
                    if interleave:
                        infos = interleave_families(infos, interleave)
                made = await self._connect_bare(infos, protocol_factory, all_errors)
        else:
            if server_hostname is not None and not ssl:
                raise ValueError("server_hostname is only meaningful with ssl")
            if server_hostname is None and ssl:
                # Nothing else says whose certificate it should be; "" says that it may be anybody's.
                if not host:
                    raise ValueError("You must set server_hostname when using ssl without a host")
                server_hostname = host
            check_ssl_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
            if sock is not None:
                check_ssl_socket(sock)
            ours = sock is None
            if host is not None or port is not None:
                if sock is not None:
                    raise ValueError("host/port and sock can not be specified at the same time")
                if happy_eyeballs_delay is not None and interleave is None:
                    interleave = 1
                sock = await self._connect_any(
                    (host, port), family, proto, flags, local_addr, happy_eyeballs_delay, interleave, all_errors
                )
            elif sock is None:
                raise ValueError("host and port was not specified and no sock specified")
            elif sock.type != socket.SOCK_STREAM:
                raise ValueError(f"A Stream Socket was expected, got {sock!r}")
            made = await self._connect_protocol(
                sock,
                ours,
                protocol_factory,
                ssl,
                server_hostname,
                ssl_handshake_timeout,
                ssl_shutdown_timeout,
            )
        if self._debug:
            logger.debug("%r connected to %s:%r: (%r, %r)", made[0].get_extra_info("socket"), host, port, *made)
        return made

    async def _connect_bare(
        self, infos: Sequence[uv.Address], protocol_factory: ProtocolFactory, all_errors: bool
    ) -> tuple[Any, Any]:
        """Connect to the first of the addresses that answers: the usual case, in which nobody needs a socket object."""
        owned: list[int] = []
        failures: tuple[OSError, ...] = ()
        try:
            for info in infos:
                try:
                    sockname, peername = connect(owned, info)
                    if peername is None:
                        sockname, peername = await self._until_named(owned[0], info)
                    elif info[0] in INTERNET:
                        self._uv.may_skip = 0
                        await two_turns()
                    break
                except OSError as exc:
                    failures += (exc,)
                    close_all(owned)
            else:
                raise failure_of(failures, all_errors)
            transport = self._adopt(owned, sockname, peername, protocol_factory)
            protocol = transport._protocol
        except BaseException:
            close_all(owned)
            raise
        finally:
            del failures  # an error's traceback leads here: it would keep itself alive
        try:
            await two_turns()  # connection_made() is called in the first
            return transport, protocol
        except BaseException:
            transport.close()
            raise

    if not hasattr(accelerator, "connect"):

        def _adopt(
            self, owned: list[int], sockname: Any, peername: Any, protocol_factory: ProtocolFactory
        ) -> StreamTransport:
            """Return a transport on the connected descriptor in `owned`.

            `owned` is emptied as soon as the descriptor is libuv's, whatever is raised after that.
            """
            context = contextvars.copy_context() if CONTEXT_FIRST else None
            protocol = protocol_factory()
            fd = owned[0]
            stream = self._take_over(fd, isinstance(sockname, tuple), owned.clear)  # a Unix socket's name is none
            facts = {"sockname": sockname, "peername": peername}
            return self._make_stream_transport(stream, protocol, None, facts, None, context)

    async def _until_named(self, fd: int, info: uv.Address) -> tuple[Any, Any]:
        """Wait until `fd` is connected to the address in `info`; return its own name, and its peer's."""
        family, kind, proto, _, address = info
        sock = socket.SocketType.__new__(socket.SocketType)
        try:
            # In here: when a signal's handler raises, the descriptor is to have one owner.
            socket.SocketType.__init__(sock, family, kind, proto, fd)
            await self._until_connected(sock, address)
            return name_of(sock.getsockname), name_of(sock.getpeername)
        finally:
            sock.detach()

    async def _connect_protocol(
        self,
        sock: socket.socket,
        ours: bool,
        protocol_factory: ProtocolFactory,
        ssl: "ssl_module.SSLContext | bool | None",
        server_hostname: str | None,
        ssl_handshake_timeout: float | None,
        ssl_shutdown_timeout: float | None,
    ) -> tuple[Any, Any]:
        """Return a transport on `sock`, which is connected, and its protocol; on failure close `sock` if it is ours."""
        try:
            connected: tuple[Any, Any] = await self._create_connection_transport(  # type: ignore[attr-defined]
                sock,
                protocol_factory,
                ssl,
                server_hostname,
                ssl_handshake_timeout=ssl_handshake_timeout,
                ssl_shutdown_timeout=ssl_shutdown_timeout,
            )
        except BaseException:
            if ours:
                sock.close()  # unless a transport has taken it over: then it is detached
            raise
        return connected

    async def start_tls(
        self,
        transport: Any,
        protocol: asyncio.BaseProtocol,
        sslcontext: "ssl_module.SSLContext",
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Any:
        """Put TLS between `transport` and `protocol`; return the transport that `protocol` is to use.

        What has arrived and was not delivered yet goes to TLS. Timeouts are in seconds. Raises `TypeError` for
        a transport that cannot be upgraded, `ssl.SSLError` when the handshake fails. See
        https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.start_tls.
        """
        import ssl

        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}")
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        waiter: asyncio.Future[None] = self.create_future()
        ssl_protocol: Any = protocol_class()(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,  # type: ignore[arg-type]
            ssl_shutdown_timeout=ssl_shutdown_timeout,
            call_connection_made=False,
        )
        # Until connection_made() has run, nothing may be delivered to the new protocol.
        transport.pause_reading()
        transport.set_protocol(ssl_protocol)
        if server_side and isinstance(protocol, StreamReaderProtocol):
            # A client may send its hello on the heels of a plain text prefix (the PROXY protocol): both come in
            # one piece, and the stream reader has the hello (gh-142352).
            received = protocol._stream_reader._buffer if protocol._stream_reader is not None else None  # type: ignore[attr-defined]
            if received:
                ssl_protocol._incoming.write(received)
                received.clear()
        connection_made = self.call_soon(ssl_protocol.connection_made, transport)
        resume = self.call_soon(transport.resume_reading)
        try:
            await waiter
        except BaseException:
            transport.close()
            connection_made.cancel()
            resume.cancel()
            del waiter  # the exception's traceback leads here, and the waiter has the exception
            raise
        return ssl_protocol._app_transport

    async def _connect_any(
        self,
        address: tuple[str | None, int | str | None],
        family: int,
        proto: int,
        flags: int,
        local_addr: tuple[str, int] | None,
        delay: float | None,
        interleave: int | None,
        all_errors: bool,
    ) -> socket.socket:
        """Return a socket that is connected to one of the addresses that `address` stands for."""
        found = await self._resolve_stream(address, family, proto, flags)
        local = None
        if local_addr is not None:
            local = await self._resolve_stream(local_addr, family, proto, flags)
        if interleave:
            found = interleave_families(found, interleave)
        errors: list[OSError] = []
        if delay is None:
            sock = None
            for info in found:
                sock = await self._try_address(info, local, errors)
                if sock is not None:
                    break
        else:
            sock = await self._race(found, local, errors, delay)
        if sock is not None:
            return sock
        try:
            raise failure_of(errors, all_errors)
        finally:
            del errors  # an error's traceback leads here: it would keep itself alive

    async def _resolve_stream(self, address: Any, family: int, proto: int, flags: int) -> list[Any]:
        infos: list[Any] = await self._ensure_resolved(  # type: ignore[attr-defined]
            address, family=family, type=socket.SOCK_STREAM, proto=proto, flags=flags, loop=self
        )
        if not infos:
            raise OSError("getaddrinfo() returned empty list")
        return infos

    async def _try_address(self, info: Any, local: list[Any] | None, errors: list[OSError]) -> socket.socket | None:
        """Return a socket connected to the address in `info`, or None with the reason added to `errors`."""
        family, kind, proto, _, address = info
        sock = None
        try:
            sock = socket.socket(family, kind | NONBLOCK, proto)
            if not NONBLOCK:
                sock.setblocking(False)
            if local is not None:
                _bind_local(sock, local)
            if is_all_own(self):
                await self._connect(sock, address)
            else:
                await self.sock_connect(sock, address)  # a program's own, or a name that it has put for an address
        except OSError as exc:
            if sock is not None:
                sock.close()
            errors.append(exc)
            return None
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        finally:
            del errors  # an error's traceback leads here: it would keep itself alive
        return sock

    async def _race(
        self, found: list[Any], local: list[Any] | None, errors: list[OSError], delay: float
    ) -> socket.socket | None:
        """Try the addresses one after the other, a next one whenever the last has failed or has had `delay` seconds.

        The first socket that connects is returned (RFC 8305); the others are closed.
        """
        waiting = iter(found)
        running: list[asyncio.Task[socket.socket | None]] = []
        by_address: list[list[OSError]] = []  # in the order of the attempts, not of the failures
        winner = None
        try:
            while winner is None:
                info = next(waiting, None)
                if info is not None:
                    by_address.append([])
                    running.append(self.create_task(self._try_address(info, local, by_address[-1])))
                elif not running:
                    break
                last = running[-1]
                until = self.time() + delay
                while running:
                    patience = None if info is None else max(0.0, until - self.time())
                    done, _ = await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                    running = [task for task in running if task not in done]
                    for task in done:
                        sock = task.result()
                        if sock is None:
                            continue
                        if winner is None:
                            winner = sock
                        else:
                            sock.close()
                    if winner is not None or not done or last in done:
                        break
        finally:
            for task in running:
                task.cancel()
            for late in await asyncio.gather(*running, return_exceptions=True):
                if isinstance(late, socket.socket):
                    late.close()
            errors.extend(itertools.chain.from_iterable(by_address))
        return winner


_SOCKET, _SOCKET_CONNECT = socket.socket, socket.SocketType.connect

_MAKE_TRANSPORT = Connections._make_socket_transport
_PARTS = (
    Connections.getaddrinfo,
    if_from(asyncio.base_events, BaseEventLoop._ensure_resolved),  # type: ignore[attr-defined]
    Sockets.sock_connect,
    Connections._connect_any,
    if_from(asyncio.base_events, BaseEventLoop._create_connection_transport),  # type: ignore[attr-defined]
    _MAKE_TRANSPORT,
)
_parts_of = attrgetter(
    "getaddrinfo",
    "_ensure_resolved",
    "sock_connect",
    "_connect_any",
    "_create_connection_transport",
    "_make_socket_transport",
)


def is_all_own(loop: Any) -> bool:
    """Return whether making a connection is all ours: a part of it that a program has replaced wants to be asked."""
    return (
        not loop._overridden
        and socket.socket is _SOCKET
        and _SOCKET.connect is _SOCKET_CONNECT
        and socket.getaddrinfo is GETADDRINFO  # which gives literals; a tool's own may give anything
    )


def close_all(owned: list[int]) -> None:
    """Close the descriptors in `owned`, which is emptied."""
    while owned:
        socket.close(owned.pop())


def failure_of(errors: Sequence[OSError], all_errors: bool) -> Exception:
    """Return what `create_connection` raises when each address has failed in its way."""
    if all_errors:
        return ExceptionGroup("create_connection failed", [*errors])
    if len({str(error) for error in errors}) == 1:
        return errors[0]
    return OSError(f"Multiple exceptions: {', '.join(str(error) for error in errors)}")


def interleave_families(infos: Sequence[Any], first: int) -> list[Any]:
    """Return `infos` reordered so that families alternate, after `first` of the family that came first."""
    families: dict[int, list[Any]] = {}
    for info in infos:
        families.setdefault(info[0], []).append(info)
    queues = list(families.values())
    head: list[Any] = []
    if first > 1:
        head, queues[0] = queues[0][: first - 1], queues[0][first - 1 :]
    rounds = itertools.zip_longest(*queues)
    return head + [info for info in itertools.chain.from_iterable(rounds) if info is not None]


def _bind_local(sock: socket.socket, local: list[Any]) -> None:
    """Bind `sock` to the first of the addresses that fits. Raises the last failure."""
    failure = None
    for family, _, _, _, address in local:
        if family != sock.family:
            continue
        try:
            sock.bind(address)
        except OSError as exc:
            failure = OSError(exc.errno, f"error while attempting to bind on address {address!r}: {str(exc).lower()}")
        else:
            return
    raise failure or OSError(f"no matching local address with family={sock.family!r} found")
