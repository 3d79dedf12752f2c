"""`sock_recv` and its like: socket calls on the program's own non-blocking sockets.

Each tries the call first and waits only when it would block.
"""

import contextlib
import errno
import os
import socket
import types
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from .readers import Readers
from .speed import accelerator
from .uv import READABLE, WRITABLE, Address

try:
    import ssl
except ImportError:  # a Python built without OpenSSL
    ssl = None  # type: ignore[assignment]

T = TypeVar("T")

receive: Callable[[int, int], bytes | None] | None = getattr(accelerator, "receive", None)
"""`socket.recv` for a descriptor, with None for what is a `BlockingIOError` there."""

INTERNET = (socket.AF_INET, socket.AF_INET6)

BARE = (*INTERNET, getattr(socket, "AF_UNIX", None))
"""The families whose connections need no socket object to be made."""

NONBLOCK: int = getattr(socket, "SOCK_NONBLOCK", 0)
"""What makes a socket that does not block, where that needs no second call."""

UNDER_WAY = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EINPROGRESS, errno.EALREADY, errno.EINTR}
"""The errors of connect() that are a `BlockingIOError` or an `InterruptedError`: it goes on by itself."""


class Sockets(Readers):
    """The part of the loop that works on sockets."""

    async def sock_recv(self, sock: socket.socket, nbytes: int) -> bytes:
        """Receive up to `nbytes` bytes; b"" at the end. Raises `OSError`, as `socket.recv` does.

        This and the following are
        https://docs.python.org/3/library/asyncio-eventloop.html#working-with-socket-objects-directly.
        """
        if receive is None or type(sock) is not socket.socket or sock.gettimeout() != 0:
            return await self._when_readable(sock, sock.recv, nbytes)
        while (data := receive(sock.fileno(), nbytes)) is None:
            await self._until_ready(sock, READABLE)
        return data

    async def sock_recv_into(self, sock: socket.socket, buf: Any) -> int:
        """Receive into `buf` and return the number of bytes; 0 at the end."""
        return await self._when_readable(sock, sock.recv_into, buf)

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        """Receive a datagram of up to `bufsize` bytes and return it with the sender's address."""
        return await self._when_readable(sock, sock.recvfrom, bufsize)

    async def sock_recvfrom_into(self, sock: socket.socket, buf: Any, nbytes: int = 0) -> tuple[int, Any]:
        """Receive a datagram into `buf`, up to `nbytes` bytes (0: all of it); return its length and sender."""
        if not nbytes:
            nbytes = len(buf)
        return await self._when_readable(sock, sock.recvfrom_into, buf, nbytes)

    async def sock_sendall(self, sock: socket.socket, data: Any) -> None:
        """Send all of `data`, bytes-like. When an `OSError` is raised, how much was sent is not known."""
        if type(sock) is not socket.socket or self._debug:
            self._check_socket(sock)
        try:
            sent = sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        if type(data) is bytes and sent == len(data):
            return
        view = memoryview(data).cast("B")
        while sent < len(view):
            await self._until_ready(sock, WRITABLE)
            try:
                sent += sock.send(view[sent:])
            except (BlockingIOError, InterruptedError):
                continue

    async def sock_sendto(self, sock: socket.socket, data: Any, address: Any) -> int:
        """Send `data` to `address` as one datagram and return the number of bytes sent."""
        self._check_socket(sock)
        while True:
            try:
                return sock.sendto(data, address)
            except (BlockingIOError, InterruptedError):
                await self._until_ready(sock, WRITABLE)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect to `address`; a host name in it is resolved first. Raises `OSError`."""
        self._check_socket(sock)
        if sock.family == socket.AF_INET or (socket.has_ipv6 and sock.family == socket.AF_INET6):
            infos = await self._ensure_resolved(  # type: ignore[attr-defined]
                address, family=sock.family, type=sock.type, proto=sock.proto, loop=self
            )
            address = infos[0][4]
        await self._connect(sock, address)

    async def _connect(self, sock: socket.socket, address: Any) -> None:
        """Connect to `address`, in which there is no name to resolve."""
        if type(sock).connect is socket.SocketType.connect:
            under_way = _begin(sock, address)
        else:
            under_way = True
            with contextlib.suppress(BlockingIOError, InterruptedError):
                sock.connect(address)  # a program's own
                under_way = False
        if not under_way:
            return
        if name_of(sock.getpeername) is not None:
            # On this machine a peer has answered by now, whatever connect() says.
            self._uv.may_skip = 0
            await two_turns()
        else:
            await self._until_connected(sock, address)

    async def _until_connected(self, sock: socket.SocketType, address: Any) -> None:
        """Wait for a connect() that is under way, and raise what it has failed with."""
        await self._until_ready(sock, WRITABLE)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, f"Connect call failed {address}")

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection and return its socket, non-blocking, and the peer's address."""
        connection, address = await self._when_readable(sock, sock.accept)
        connection.setblocking(False)
        return connection, address

    def _check_socket(self, sock: socket.socket) -> None:
        if type(sock) is not socket.socket:
            check_ssl_socket(sock)
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    async def _when_readable(self, sock: socket.socket, call: Callable[..., T], *args: Any) -> T:
        if type(sock) is not socket.socket or self._debug:
            self._check_socket(sock)
        while True:
            try:
                return call(*args)
            except (BlockingIOError, InterruptedError):
                pass
            await self._until_ready(sock, READABLE)

    async def _until_ready(self, sock: socket.SocketType, events: int) -> None:
        """Wait until `sock` can be read or, with WRITABLE, written to."""
        fd = sock.fileno()
        future = self._when_ready(fd, events)
        try:
            await future
        except BaseException:
            self._stop_waiting(fd, future)
            raise


def check_ssl_socket(sock: Any) -> None:
    """Raise `TypeError` for an `ssl.SSLSocket`, whose calls would block."""
    if ssl is not None and isinstance(sock, ssl.SSLSocket):
        raise TypeError("Socket cannot be of type SSLSocket")


@types.coroutine
def two_turns() -> Generator[None, None, None]:
    """Wait as long as for a future that a callback of the next turn sets, without either.

    Who connects comes back no sooner, even if there is nothing to wait for: after a poll, if none may be skipped, a
    server in this loop has accepted the connection by then.
    """
    yield
    yield


def connect_bare(owned: list[int], info: Address) -> tuple[Any, Any]:
    """Connect a new socket to `info`, of one of the families in BARE; return its own name, and its peer's.

    Its descriptor is put into `owned`. Both names are None for as long as nobody has answered. Raises `OSError`.
    """
    family, kind, proto, _, address = info
    sock = socket.SocketType(family, kind | NONBLOCK, proto)
    try:
        if not NONBLOCK:
            sock.setblocking(False)
        _begin(sock, address)
        peername = name_of(sock.getpeername)
        sockname = None if peername is None else name_of(sock.getsockname)
        owned.append(sock.fileno())
    except BaseException:
        owned.clear()
        sock.close()
        raise
    sock.detach()
    return sockname, peername


connect: Callable[[list[int], Address], tuple[Any, Any]] = getattr(accelerator, "connect", connect_bare)


def _begin(sock: socket.SocketType, address: Any) -> bool:
    """Call connect() and return whether it is under way; the usual answer is no failure, and would be an exception."""
    try:
        failure = sock.connect_ex(address)
    except OverflowError:  # it names the function
        sock.connect(address)
        raise
    if failure and failure not in UNDER_WAY:
        raise OSError(failure, os.strerror(failure))
    return failure != 0


def name_of(ask: Callable[[], Any]) -> Any:
    """Return what `getsockname` or `getpeername` says, None for a connection that has gone."""
    try:
        return ask()
    except OSError:
        return None
