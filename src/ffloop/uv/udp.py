"""Datagram sockets (https://docs.libuv.org/en/v1.x/udp.html), and the addresses that go with datagrams."""

import array
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

from ._libuv import ffi, lib
from .handle import Handle, check
from .loop import Loop

PEER = struct.Struct("=HHII16s")
"""A `ffloop_peer`: family, port, flow information, scope, host."""

UNIX_PEER = struct.Struct(f"=H{lib.FFLOOP_UNIX_PEER - 2}s")
"""The same for Unix datagrams: the length of the path, and the path."""

PEER_SHIFT: int = lib.FFLOOP_PEER_SHIFT
"""Where in a datagram's payload the offset of its sender begins; below it is the offset of its bytes."""

_OFFSET_MASK = (1 << PEER_SHIFT) - 1
_LOW = (1 << 32) - 1


class Udp(Handle):
    """A datagram socket. It owns its descriptor: `close()` closes it."""

    KINDS = (lib.FFLOOP_DATAGRAM,)
    __slots__ = ("_fd", "on_close", "peer_size")

    def __init__(self, loop: Loop, fd: int) -> None:
        """Take over `fd`, a datagram socket of any family: from here on only `close()` closes it.

        A standard descriptor (0 to 2) gets another number. Raises `OSError`; then `fd` is still the caller's.
        """
        self._fd = fd
        self.on_close: Callable[[], object] | None = None
        """Called before the descriptor is closed: for whoever has borrowed it."""
        self.peer_size = PEER.size
        """Bytes that tell who has sent a datagram."""
        super().__init__(loop, lib.ffloop_udp_open, fd)
        if int(fd) <= 2:
            self._fd = self.fileno()

    def recv_start(self, callback: Callable[[int, int], object]) -> None:
        """Call `callback(nread, payload)` for each datagram that arrives. For IPv4 and IPv6 only.

        nread is the number of bytes (0 for an empty datagram; `received` gives them, and the sender), or the
        negative status of an error, after which receiving goes on. Raises `OSError`.
        """
        check(lib.ffloop_udp_recv_start(self._pointer(), lib.FFLOOP_RECV_INTERNET))
        self.peer_size = PEER.size
        self.on_recv(callback)

    def recv_unix_start(self, callback: Callable[[int, int], object]) -> None:
        """The same for Unix datagrams, of 256 KiB at most; longer ones are cut.

        A negative status with a payload other than 0 says that there was no room: receive from the socket instead.
        """
        check(lib.ffloop_udp_recv_start(self._pointer(), lib.FFLOOP_RECV_UNIX))
        self.peer_size = UNIX_PEER.size
        self.on_recv(callback)

    def watch(self, callback: Callable[[int, int], object]) -> None:
        """Call `callback(0, 0)` in every turn in which the socket has something to tell.

        In the place of `recv_start`, for what libuv does not receive whole: addresses of other families have a
        length that it does not pass on. Raises `OSError`.
        """
        check(lib.ffloop_udp_recv_start(self._pointer(), lib.FFLOOP_RECV_NOTHING))
        self.on_recv(callback)

    def on_recv(self, callback: Callable[[int, int], object]) -> None:
        """Let `callback` have what arrives from now on, in place of the one before."""
        self._listen(lib.FFLOOP_DATAGRAM, callback)

    def recv_stop(self) -> None:
        """Receive no more. What was already collected still comes: it is nowhere else."""
        check(lib.ffloop_udp_recv_stop(self._pointer()))

    def received(self, nread: int, payload: int) -> tuple[bytes, bytes]:
        """Return a record's datagram, and its sender as `Peers` reads it. Valid until the next poll."""
        region = self._loop.region
        offset, peer = payload & _OFFSET_MASK, payload >> PEER_SHIFT
        return region[offset : offset + nread], region[peer : peer + self.peer_size]

    def try_send(self, datagrams: Sequence[bytes], peers: Sequence[bytes] | None) -> tuple[int, int]:
        """Send `datagrams`, of 64 KiB at most, in as few system calls as the system allows.

        peers: for each who is to get it, as `Peers.pack` gives it; None on a connected socket. Returns how many
        the kernel has taken, and where that is not all of them the negative status of the next one.
        """
        lengths = array.array("I", map(len, datagrams)).tobytes()
        to = ffi.NULL if peers is None else b"".join(peers)
        result: int = lib.ffloop_udp_try_send(self._pointer(), b"".join(datagrams), lengths, to, len(datagrams))
        return result & _LOW, -(result >> 32)

    def fileno(self) -> int:
        """Return the descriptor, which stays the handle's."""
        fd = lib.ffloop_fileno(self._pointer())
        check(fd)
        return fd

    def _close(self, c: Any) -> None:
        if self.on_close is not None:
            self.on_close()
        self._fd = -1  # somebody else's from here on
        super()._close(c)


class Peers:
    """Turns addresses of the socket module into those of C, and back, and remembers the last ones."""

    __slots__ = ("_family", "names", "packed")

    LIMIT = 1024
    """Addresses that are remembered, each way."""

    def __init__(self, family: int) -> None:
        """Make a memory for sockets of `family`."""
        self._family = family
        self.names: dict[bytes, Any] = {}
        """What `name` has given, for those who look themselves first."""
        self.packed: dict[tuple[Any, ...], bytes] = {}
        """The same of `pack`."""

    def name(self, peer: bytes) -> Any:
        """Return the address that `socket.recvfrom` gives for `peer`."""
        if len(peer) == UNIX_PEER.size:
            return self._unix_name(peer)
        family, port, flowinfo, scope_id, host = PEER.unpack(peer)
        name: tuple[Any, ...]
        if family == socket.AF_INET:
            name = (socket.inet_ntop(socket.AF_INET, host[:4]), port)
        elif family == socket.AF_INET6:
            name = (socket.inet_ntop(socket.AF_INET6, host), port, flowinfo, scope_id)
        else:
            return None
        if len(self.names) >= self.LIMIT:
            self.names.clear()
        self.names[peer] = name
        self._remember(name, peer)  # it is going to be answered
        return name

    def _unix_name(self, peer: bytes) -> str | bytes | None:
        length, path = UNIX_PEER.unpack(peer)
        name: str | bytes | None = None
        if length != lib.FFLOOP_UNNAMED:
            # One that begins with a zero is no path of a file: such names are bytes, and have as many as they have.
            name = path[:length] if length and not path[0] else os.fsdecode(path.partition(b"\0")[0])
        if len(self.names) >= self.LIMIT:
            self.names.clear()
        self.names[peer] = name
        return name

    def pack(self, name: Any) -> bytes | None:
        """Return what `Udp.try_send` takes for an address with a literal host.

        Returns None for any other: a host that must be looked up, another family, no address at all.
        """
        try:
            packed = self.packed[name]
        except (KeyError, TypeError):
            return self._pack(name)
        # 80.0 is found where 80 was put, and a socket would not take it.
        if type(name[1]) is int and (len(name) == 2 or _are_ints(name)):
            return packed
        return self._pack(name)

    def _pack(self, name: Any) -> bytes | None:
        if type(name) is not tuple:
            return None
        family = self._family
        if len(name) != 2 and (len(name) != 4 or family != socket.AF_INET6):
            return None
        if family not in (socket.AF_INET, socket.AF_INET6) or type(name[0]) is not str or not _are_ints(name):
            return None
        if "\0" in name[0]:
            return None  # PyPy's inet_pton reads no further
        host, port, flowinfo, scope_id = name if len(name) == 4 else (*name, 0, 0)
        if not (0 <= port <= 0xFFFF and 0 <= flowinfo <= 0xFFFFF and 0 <= scope_id <= 0xFFFFFFFF):
            return None
        try:
            packed = PEER.pack(family, port, flowinfo, scope_id, socket.inet_pton(family, host))
        except (OSError, ValueError):
            return None
        self._remember(name, packed)
        return packed

    def _remember(self, name: tuple[Any, ...], packed: bytes) -> None:
        if len(self.packed) >= self.LIMIT:
            self.packed.clear()
        self.packed[name] = packed


def _are_ints(name: tuple[Any, ...]) -> bool:
    return all(type(part) is int for part in name[1:])
