"""`sendfile` and `sock_sendfile` by the kernel: file to socket, past Python's memory.

Only the native way lives here. What asyncio does where it is not available, reading and writing piece by piece, is
`BaseEventLoop`'s.
"""

import errno
import io
import os
import socket
from asyncio.exceptions import SendfileNotAvailableError
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from .sockets import Sockets
from .transports import StreamTransport
from .uv import WRITABLE

LARGEST = 1 << 30
"""Bytes asked of one system call at most: on some systems the count must fit an int."""


class Sendfile(Sockets):
    """The part of the loop that sends files."""

    async def _sendfile_native(self, transp: StreamTransport, file: Any, offset: int, count: int | None) -> int:
        self._check_sendfile_params(transp._borrow(), file, offset, count)  # type: ignore[attr-defined]
        all_written = transp._make_empty_waiter()
        # asyncio reads nothing meanwhile, so neither do we: a protocol could answer in the middle of the file.
        was_reading = transp.is_reading()
        transp.pause_reading()
        try:
            await all_written
            return await self._send_file(transp._borrow(), file, offset, count, transp._until_writable)
        finally:
            transp._reset_empty_waiter()
            if was_reading:
                transp.resume_reading()

    async def _sock_sendfile_native(self, sock: socket.socket, file: Any, offset: int, count: int | None) -> int:
        return await self._send_file(sock, file, offset, count, partial(self._until_ready, sock, WRITABLE))

    async def _send_file(
        self, sock: socket.socket, file: Any, offset: int, count: int | None, writable: Callable[[], Awaitable[None]]
    ) -> int:
        """Send `count` bytes of `file`, None for all, from `offset` on; leave its position behind the last one sent."""
        if not hasattr(os, "sendfile"):
            raise SendfileNotAvailableError("os.sendfile() is not available")
        try:
            source = file.fileno()
            size = os.fstat(source).st_size
        except (AttributeError, io.UnsupportedOperation, OSError):
            raise SendfileNotAvailableError("not a regular file") from None
        if not count and not size:
            return 0
        sent = 0
        ended = False
        try:
            while not count or sent < count:
                try:
                    done = os.sendfile(sock.fileno(), source, offset + sent, count - sent if count else LARGEST)
                    if done == 0:
                        ended = True
                        break
                    sent += done
                except (BlockingIOError, InterruptedError):
                    pass
                except OSError as exc:
                    if sent == 0:
                        # A file that the kernel cannot send from, most likely. If it is the connection that is broken,
                        # the other way will find out.
                        raise SendfileNotAvailableError("os.sendfile call failed") from exc
                    if exc.errno == errno.ENOTCONN and not isinstance(exc, ConnectionError):
                        raise ConnectionError("socket is not connected", errno.ENOTCONN) from exc
                    raise
                if sent != count:
                    await writable()
        finally:
            # As from 3.14.10 on, where there was nothing to send as well; not where the kernel would not try.
            if sent or ended:
                os.lseek(source, offset + sent, os.SEEK_SET)
        return sent
