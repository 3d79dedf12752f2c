"""Watching a descriptor that somebody else owns (https://docs.libuv.org/en/v1.x/poll.html)."""

from collections.abc import Callable
from typing import Any

from ._libuv import lib
from .errors import os_error
from .handle import Handle, check
from .loop import Loop

READABLE: int = lib.FFLOOP_READABLE
WRITABLE: int = lib.FFLOOP_WRITABLE
ONCE: int = lib.FFLOOP_ONCE

_start = lib.ffloop_poll_start  # runs for every wait of sock_recv() and its like


class Poll(Handle):
    """Says when a descriptor can be read or written. It neither closes it nor makes it non-blocking."""

    KINDS = (lib.FFLOOP_POLL,)
    __slots__ = ()

    def __init__(self, loop: Loop, fd: int) -> None:
        """Raises `OSError` when descriptors or memory are out."""
        super().__init__(loop, lib.ffloop_poll_new, fd)

    def start(self, events: int, callback: Callable[[int, int], object]) -> None:
        """Watch for `events` (READABLE and WRITABLE, or'ed), in place of those watched before.

        callback: called with 0 and what is ready, each turn for as long as it is ready; with ONCE among the events a
        single time. An error or a hang-up is reported as both. Raises the `OSError` of the system: a descriptor that is
        closed or cannot be watched (a regular file) is refused here.
        """
        self.restart(events)
        self._listen(lib.FFLOOP_POLL, callback)

    def restart(self, events: int) -> None:
        """Watch for `events` instead, or once more; the callback is that of the last `start`. Raises what it raises."""
        status = _start(self._c if self._c is not None else self._pointer(), events)
        if status < 0:
            raise os_error(status)
        self._loop.may_skip = 0  # as in _listen()

    def stop(self) -> None:
        """Watch no more; what was already found ready is dropped."""
        check(lib.ffloop_poll_stop(self._pointer()))
        self._ignore(lib.FFLOOP_POLL)

    def _after_fork(self) -> None:
        # A descriptor that is closed by now cannot be watched, and needs not be.
        lib.ffloop_poll_fork(self._c)

    def _close(self, c: Any) -> None:
        lib.ffloop_poll_close(c)
