"""The reading end of a pipe (https://docs.libuv.org/en/v1.x/pipe.html)."""

from collections.abc import Callable

from ._libuv import lib
from .handle import Handle, check
from .loop import Loop


class PipeWatch(Handle):
    """Says when a pipe can be read, as `Poll` does, with one system call less for each time.

    It has a copy of the descriptor, so that a pipe is closed only when the watch is closed too.
    """

    KINDS = (lib.FFLOOP_READ,)
    __slots__ = ()

    def __init__(self, loop: Loop, fd: int) -> None:
        """Raises `OSError` when descriptors or memory are out. The pipe becomes non-blocking."""
        super().__init__(loop, lib.ffloop_pipe_open, fd)

    def start(self, events: int, callback: Callable[[int, int], object]) -> None:
        """Call `callback(0, READABLE)` in each turn in which there is something to be read, the end included.

        events: READABLE alone can be watched. Raises the `OSError` of the system.
        """
        check(lib.ffloop_read_start(self._pointer(), True))
        self._listen(lib.FFLOOP_READ, callback)

    def stop(self) -> None:
        """Watch no more; what was already found ready is dropped."""
        check(lib.ffloop_read_stop(self._pointer()))
        self._ignore(lib.FFLOOP_READ)
