"""Reading and writing streams (https://docs.libuv.org/en/v1.x/stream.html)."""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ._libuv import ffi, lib
from .errors import EOF, os_error
from .handle import Handle, check
from .loop import Loop

_write = lib.ffloop_write  # CFFI makes it when it is first looked up, which may fail for want of memory

Buffer = bytes | bytearray | memoryview

CAN_WATCH = os.name == "posix"
"""Whether a descriptor can be read beside libuv (`Stream.watch`, `Stream.try_read`)."""


MOST_PIECES = 64
"""Buffers that one system call may take: less than any system's limit."""


class Stream(Handle):
    """A connected stream. It owns its descriptor: `close()` closes it."""

    KINDS = (lib.FFLOOP_READ, lib.FFLOOP_WRITE)
    __slots__ = ("_fd", "_on_written", "on_close")

    _on_written: Callable[[int], object] | None

    def __init__(self, loop: Loop, create: Any, fd: int, *arguments: Any) -> None:
        """Take over `fd` with the C function `create`; raises the `OSError` that it reports, and leaves `fd` alone."""
        # All this before the loop gets to know it, and may close it: a signal's handler can raise at any moment.
        self._fd = fd
        self.on_close: Callable[[], object] | None = None
        """Called before the descriptor is closed: for whoever has borrowed it."""
        super().__init__(loop, create, fd, *arguments)

    def read_start(self, callback: Callable[[int, int], object]) -> None:
        """Call `callback(nread, offset)` for what arrives.

        nread is the number of bytes (`Loop.received` gives them), or a negative status: `EOF` at the end, the
        error otherwise; after either nothing more comes. Raises `OSError` (ENOTCONN) on an unconnected
        stream.
        """
        check(lib.ffloop_read_start(self._pointer(), False))
        self.on_read(callback)

    def watch(self, callback: Callable[[int, int], object]) -> None:
        """Call `callback(0, 0)` in every turn in which there is something for `try_read`, the end included.

        In the place of `read_start`: large amounts need not go through the region. Raises `OSError` (ENOTCONN) on an
        unconnected stream. Only where `CAN_WATCH` is true.
        """
        check(lib.ffloop_read_start(self._pointer(), True))
        self.on_read(callback)

    def try_read(self, size: int) -> bytes:
        """Return what the kernel has, `size` bytes at most; b"" is the end.

        Raises `BlockingIOError` when there is nothing yet, and the `OSError` of a broken connection.
        """
        return os.read(self._fd, size)

    if sys.version_info >= (3, 14):

        def try_read_into(self, buffer: bytearray | memoryview) -> int:
            """Read into `buffer`; return how many bytes that was, 0 at the end. Raises what `try_read` raises."""
            return os.readinto(self._fd, buffer)

    else:

        def try_read_into(self, buffer: bytearray | memoryview) -> int:
            """Read into `buffer`; return how many bytes that was, 0 at the end. Raises what `try_read` raises."""
            return os.readv(self._fd, (buffer,))

    def try_write(self, data: Buffer) -> int:
        """Write what the kernel takes at once; return how many bytes that is. Not while a `write` is in flight.

        Raises `BlockingIOError` when the kernel takes none, the `OSError` of a broken connection, and that of a bad
        descriptor (EBADF) on a closed stream.
        """
        if CAN_WATCH:
            # While libuv has nothing queued, its uv_try_write is a write(2). The shorter way there counts: this runs
            # for every answer (measured with 1 KiB: 450 ns less than through CFFI).
            return os.write(self._fd, data)
        if self._c is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        sent: int = lib.ffloop_try_write(self._c, ffi.from_buffer("char[]", data), len(data))
        check(sent)
        if sent == 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return sent

    def try_writev(self, pieces: Sequence[Buffer]) -> int:
        """Write what the kernel takes at once of all of these, `MOST_PIECES` at most. Otherwise as `try_write`."""
        return os.writev(self._fd, pieces) if CAN_WATCH else self.try_write(b"".join(pieces))

    def on_read(self, callback: Callable[[int, int], object] | None) -> None:
        """Let `callback` have what arrives from now on, in place of the one before; None drops it."""
        if callback is None:
            self._ignore(lib.FFLOOP_READ)
        else:
            self._listen(lib.FFLOOP_READ, callback)

    def read_stop(self) -> None:
        """Read no more. A record that was already collected still comes: its bytes are nowhere else."""
        check(lib.ffloop_read_stop(self._pointer()))

    def write(self, data: Buffer, callback: Callable[[int], object]) -> None:
        """Write all of `data`, then call `callback` with 0 or an error's status.

        One write at a time: `RuntimeError` is raised for a second. `data` is kept alive and must not be changed
        until then. Raises the `OSError` of a write that could not be queued.
        """
        c = self._pointer()
        in_flight = self._loop.in_flight
        if self._token in in_flight:
            raise RuntimeError("a write is in flight")
        # All this before the call: a signal's handler can raise as soon as libuv has the memory. Last what is undone
        # when the write has ended.
        memory = ffi.from_buffer("char[]", data)
        size = len(memory)
        self._on_written = callback
        self._listen(lib.FFLOOP_WRITE, self._on_write)
        in_flight[self._token] = memory
        status = _write(c, memory, 0, size)
        if status < 0:
            del in_flight[self._token]
            raise os_error(status)

    @property
    def writing(self) -> bool:
        """Whether a `write` is in flight."""
        return self._token in self._loop.in_flight

    def read_error(self) -> OSError | None:
        """Return the error that reading has met in the last poll, None if it has met none.

        The system tells of it once: whoever writes before its record comes learns only that the pipe is broken.
        """
        return self._error_of(lib.FFLOOP_READ)

    def write_error(self) -> OSError | None:
        """Return the error with which the write in flight has ended in the last poll, None if with none.

        The system tells of it once: whoever reads before its record comes, and after libuv, finds only the end.
        """
        return self._error_of(lib.FFLOOP_WRITE)

    def _error_of(self, kind: int) -> OSError | None:
        c = self._loop.pointer()
        key = self._token << lib.FFLOOP_KIND_BITS | kind
        records = lib.ffloop_records(c)
        for record in records[0 : lib.ffloop_count(c)]:
            if record.key == key and record.status < 0 and record.status != EOF:
                return os_error(record.status)
        return None

    def write_queue_size(self) -> int:
        """Return how many bytes of the write in flight the kernel has not taken yet."""
        return lib.ffloop_write_queue_size(self._pointer())

    def shutdown(self) -> None:
        """Close the sending side at once; raises `OSError`. Call it when all writes are done."""
        check(lib.ffloop_shutdown(self._pointer()))

    def fileno(self) -> int:
        """Return the descriptor, which stays the stream's. Raises `ValueError` when it is closed."""
        fd = self._fd
        if fd < 0:
            raise ValueError("the stream is closed")
        return fd

    def _close(self, c: Any) -> None:
        if self.on_close is not None:
            self.on_close()
        self._fd = -1  # somebody else's from here on
        super()._close(c)

    def _on_write(self, status: int, payload: int) -> None:
        self._loop.in_flight.pop(self._token, None)
        callback = self._on_written
        self._on_written = None
        if callback is not None:
            callback(status)
