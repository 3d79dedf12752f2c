"""TCP connections (https://docs.libuv.org/en/v1.x/tcp.html)."""

from ._libuv import lib
from .handle import check
from .loop import Loop
from .stream import Stream


class Tcp(Stream):
    """A stream on a connected socket."""

    __slots__ = ()

    def __init__(self, loop: Loop, fd: int) -> None:
        """Take over `fd`, a connected stream socket: from here on only `close()` closes it.

        Raises `OSError`; then `fd` is still the caller's.
        """
        super().__init__(loop, lib.ffloop_tcp_open, fd)

    def nodelay(self, enable: bool) -> None:
        """Switch Nagle's algorithm off (True) or on; raises `OSError`."""
        check(lib.ffloop_tcp_nodelay(self._pointer(), enable))
