"""Pipe transports: asyncio's own, on ffloop's readers and writers, with the descriptor left as it was found.

A pipe's descriptor belongs to the file object that the program has passed, and may stand for something that others
use too: the terminal of the shell that has started the program. So libuv does not get it, and its blocking mode is
put back when the last transport on it is closed.
"""

import asyncio
import fcntl
import os
import threading
from asyncio import unix_events
from collections.abc import Callable
from typing import Any

from .core import CHEAP
from .readers import Readers

Key = tuple[int, int, int]

ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR
"""What of a descriptor's flags says whether it reads, writes or both: `os.O_ACCMODE`, which PyPy does not have."""


USUAL_SIZE = 64 * 1024
"""Bytes that a pipe holds if nobody has set its size (`pipesize` of `subprocess.Popen`)."""

_GET_PIPE_SIZE: int | None = getattr(fcntl, "F_GETPIPE_SZ", None)  # Linux


class Modes:
    """Which open files were blocking before transports came to use them.

    Descriptors that are duplicates share one mode. Two transports on a terminal, one on each of two descriptors, are
    such a case: the mode may change back only after both are closed.
    """

    def __init__(self) -> None:
        self._found: dict[Key, list[bool]] = {}
        self._lock = threading.RLock()  # loops in several threads may have one terminal; and a finalizer comes any time

    def enter(self, fd: int) -> Key:
        """Note the mode of `fd`, which is about to change; return what `leave` needs."""
        status = os.fstat(fd)
        # The two ends of a pipe have one inode, but a mode each.
        key = (status.st_dev, status.st_ino, fcntl.fcntl(fd, fcntl.F_GETFL) & ACCESS)
        with self._lock:
            self._found.setdefault(key, []).append(os.get_blocking(fd))
        return key

    def leave(self, key: Key, fd: int) -> None:
        """Put the mode of `fd` back, unless another transport still needs it changed."""
        with self._lock:
            found = self._found[key]
            if len(found) > 1:
                found.pop()  # the first one knows how it was before all of them
                return
            del self._found[key]
        if found[0]:
            try:
                os.set_blocking(fd, True)
            except OSError:
                pass  # somebody has closed it already


MODES = Modes()


class _Polite:
    """Puts the descriptor's blocking mode back before the pipe is closed."""

    _key: Key | None = None
    _pipe: Any = None  # nothing to close where asyncio's constructor was not reached

    def __init__(self, loop: asyncio.AbstractEventLoop, pipe: Any, *args: Any) -> None:
        fd = pipe.fileno()
        self._key = MODES.enter(fd)
        try:
            super().__init__(loop, pipe, *args)  # type: ignore[call-arg]
        except BaseException:
            self._restore(fd)
            raise

    def _restore(self, fd: int) -> None:
        key, self._key = self._key, None
        if key is not None:
            MODES.leave(key, fd)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            self._restore(self._fileno)  # type: ignore[attr-defined]
        finally:
            super()._call_connection_lost(exc)  # type: ignore[misc]

    def __del__(self) -> None:
        if self._key is not None:
            self._restore(self._fileno)  # type: ignore[attr-defined]
        super().__del__()  # type: ignore[misc]


def _read_size(fd: int) -> int:
    """Return how many bytes to read from `fd` at a time: what a pipe holds, which may have been set.

    No more than that, nor than `CHEAP`. Asyncio's 256 KiB at a time are a fourth slower where a pipe holds as much.
    """
    try:
        held = 0 if _GET_PIPE_SIZE is None else fcntl.fcntl(fd, _GET_PIPE_SIZE)
    except OSError:
        held = 0  # it is no pipe
    return max(USUAL_SIZE, min(held, CHEAP))


class ReadPipeTransport(_Polite, unix_events._UnixReadPipeTransport):  # type: ignore[misc,name-defined]
    """The reading end of a pipe, a FIFO, a terminal or another character device, or a socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pipe: Any, *args: Any) -> None:
        self.max_size = _read_size(pipe.fileno())
        super().__init__(loop, pipe, *args)


class WritePipeTransport(_Polite, unix_events._UnixWritePipeTransport):  # type: ignore[misc,name-defined]
    """The writing end of one of them."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write `data`, bytes-like: at once what the kernel takes, the rest when it can."""
        # The usual case, in few steps. What the system refuses or does not take at once is asyncio's affair.
        if type(data) is bytes and data and not self._buffer and not self._closing and not self._conn_lost:
            try:
                written = os.write(self._fileno, data)
            except OSError:
                written = 0
            if written == len(data):
                return
            data = memoryview(data)[written:]
        super().write(data)


def _maker(kind: Callable[..., Any]) -> Callable[..., Any]:
    def make(
        loop: asyncio.AbstractEventLoop,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> Any:
        return kind(loop, pipe, protocol, waiter, extra)

    return make


class Pipes(Readers):
    """The part of the loop that makes transports for pipes."""

    _make_read_pipe_transport = _maker(ReadPipeTransport)
    _make_write_pipe_transport = _maker(WritePipeTransport)
