"""TCP connections (https://docs.libuv.org/en/v1.x/tcp.html)."""

from ._libuv import lib
from .loop import Loop
from .stream import Stream


class Tcp(Stream):
    """A stream on a connected socket."""

    __slots__ = ()

    def __init__(self, loop: Loop, fd: int, nodelay: bool = False) -> None:
        """Take over `fd`, a connected stream socket: from here on only `close()` closes it.

        nodelay: whether to switch Nagle's algorithm off, if the socket knows one. Raises `OSError`; then `fd` is still
        the caller's.
        """
        super().__init__(loop, lib.ffloop_tcp_open, fd, nodelay)
