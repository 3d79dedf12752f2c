"""libuv's status codes as the exceptions that the standard library raises for the same failure."""

import errno
import os
import socket
from functools import cache

from ._libuv import ffi, lib

EOF: int = lib.FFLOOP_EOF
"""The status of the read that meets the end of a stream."""

EAGAIN: int = lib.FFLOOP_EAGAIN
"""The status of a call that would have to wait."""


def os_error(status: int, filename: str | None = None) -> OSError:
    """Return the exception for a negative `status` of libuv's.

    Its type is the subclass of `OSError` that fits, with the errno and the text of the standard library;
    out of memory is `OSError(ENOMEM)`, a failed name look-up `socket.gaierror`. See libuv's
    `errors page <https://docs.libuv.org/en/v1.x/errors.html>`_.
    """
    code, text = _meaning(status)
    if code is None:
        return gai_error(status)
    if filename is None:
        return OSError(code, text)
    return OSError(code, text, filename)


@cache
def _meaning(status: int) -> tuple[int | None, str]:
    """Return the errno and the text for `status`; no errno for one of the resolver's."""
    if lib.ffloop_gai_code(status):
        return None, ""
    # By name, because libuv's own numbers are the system's on Unix only.
    code = getattr(errno, ffi.string(lib.uv_err_name(status)).decode("ascii"), None)
    if code is None:
        return status, ffi.string(lib.uv_strerror(status)).decode("utf-8", "replace")
    return code, os.strerror(code)


def gai_error(status: int) -> socket.gaierror:
    """Return the exception of `socket.getaddrinfo` for a resolver's `status` of libuv's."""
    code = lib.ffloop_gai_code(status)
    return socket.gaierror(code, ffi.string(lib.ffloop_gai_text(code)).decode("utf-8", "replace"))
