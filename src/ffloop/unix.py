"""Unix sockets: `create_unix_connection` and `create_unix_server`. Only where the system has them.

The transports are those of every stream; what is special are paths: stale ones, ones to remove.
"""

import errno
import os
import socket
import stat
from asyncio.log import logger
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .connections import Connecting, Connections, is_all_own
from .servers import ProtocolFactory, Server, check_ssl_timeouts
from .sockets import check_ssl_socket

if TYPE_CHECKING:
    import ssl as ssl_module

Path = str | bytes | os.PathLike[str]


class UnixSockets(Connections):
    """The part of the loop that makes connections and servers on Unix sockets."""

    _unix_inodes: Mapping[socket.socket, int] = {}
    """The listening sockets whose file goes when they are closed, and that file's inode."""

    async def create_unix_connection(
        self,
        protocol_factory: ProtocolFactory,
        path: Path | None = None,
        *,
        ssl: "ssl_module.SSLContext | bool | None" = None,
        sock: socket.socket | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[Any, Any]:
        """Connect to the Unix socket at `path`, or on `sock`; return the transport and the protocol.

        Timeouts are in seconds. Raises `OSError`, `ssl.SSLError`, and `ValueError` for arguments that do not go
        together. See https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.create_unix_connection.
        """
        if ssl and server_hostname is None:
            raise ValueError("you have to pass server_hostname when using ssl")
        if not ssl and server_hostname is not None:
            raise ValueError("server_hostname is only meaningful with ssl")
        check_ssl_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        ours = sock is None
        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            path = os.fspath(path)
            if not ssl and is_all_own(self):
                info: Any = (socket.AF_UNIX, socket.SOCK_STREAM, 0, "", path)
                if Connecting is not None:
                    return await Connecting(self, info, protocol_factory)  # type: ignore[no-any-return]
                return await self._connect_bare((info,), protocol_factory, False)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                await self.sock_connect(sock, path)
            except BaseException:
                sock.close()
                raise
        elif sock is None:
            raise ValueError("no path and sock were specified")
        else:
            check_unix_socket(sock)
        return await self._connect_protocol(
            sock, ours, protocol_factory, ssl, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout
        )

    async def create_unix_server(  # type: ignore[override]
        self,
        protocol_factory: ProtocolFactory,
        path: Path | None = None,
        *,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: "ssl_module.SSLContext | None" = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
        cleanup_socket: bool = True,
    ) -> Server:
        """Serve `protocol_factory()` to every connection on the Unix socket at `path`, or on `sock`.

        Timeouts are in seconds. Raises `OSError`, `TypeError`, and `ValueError` for arguments that do not go
        together. See https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.create_unix_server.
        """
        if isinstance(ssl, bool):
            raise TypeError("ssl argument must be an SSLContext or None")
        check_ssl_timeouts(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            sock = _bind(os.fspath(path))
        elif sock is None:
            raise ValueError("path was not specified, and no sock specified")
        else:
            check_unix_socket(sock)
        if cleanup_socket:
            name = sock.getsockname()
            if name and name[0] not in (0, "\0"):
                try:
                    self._unix_inodes = {**self._unix_inodes, sock: os.stat(name).st_ino}
                except FileNotFoundError:
                    pass
        return await self._serve_sockets(
            [sock], protocol_factory, ssl, backlog, ssl_handshake_timeout, ssl_shutdown_timeout, start_serving
        )

    def _stop_serving(self, sock: socket.socket) -> None:
        inode = self._unix_inodes.get(sock)
        if inode is None:
            super()._stop_serving(sock)
            return
        self._unix_inodes = {other: known for other, known in self._unix_inodes.items() if other is not sock}
        path = sock.getsockname()
        super()._stop_serving(sock)
        try:
            # Another server may have put its own in the place meanwhile.
            if os.stat(path).st_ino == inode:
                os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as exc:
            logger.error("Unable to clean up listening UNIX socket %r: %r", path, exc)


def check_unix_socket(sock: socket.socket) -> None:
    """Raise `ValueError` for what is no Unix stream socket, `TypeError` for a TLS one."""
    check_ssl_socket(sock)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")


def _bind(path: str | bytes) -> socket.socket:
    """Return a socket bound to `path`, where a socket that an earlier program has left is removed."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path[0] not in (0, "\0"):
            try:
                if stat.S_ISSOCK(os.stat(path).st_mode):
                    os.remove(path)
            except FileNotFoundError:
                pass
            except OSError as exc:
                logger.error("Unable to check or remove stale UNIX socket %r: %r", path, exc)
        try:
            sock.bind(path)
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                raise OSError(errno.EADDRINUSE, f"Address {path!r} is already in use") from None
            raise
    except BaseException:
        sock.close()
        raise
    return sock
