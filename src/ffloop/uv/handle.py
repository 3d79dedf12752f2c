"""What all handles share: a token, a pointer, and how they are closed."""

from typing import Any, ClassVar

from ._libuv import ffi, lib
from .errors import os_error
from .loop import Loop


class Handle:
    """A libuv handle (https://docs.libuv.org/en/v1.x/handle.html).

    The token names it in the records of the completion queue for its whole life. Its memory is C's, and
    goes when libuv has closed it. Nothing closes a handle but `close()`, its own or the loop's: the loop
    keeps every open handle alive.
    """

    __slots__ = ("_c", "_loop", "_token")

    KINDS: ClassVar[tuple[int, ...]] = ()
    """The kinds of records that come for it."""

    def __init__(self, loop: Loop, create: Any, *arguments: Any) -> None:
        """Create the handle with the C function `create`; raises the `OSError` that it reports."""
        error = loop.error
        self._c: Any = None
        self._loop = loop
        self._token = token = loop.new_token()
        c = loop.pointer()
        # First the loop gets to know it, which may fail for want of memory; then it owns what it is on.
        loop.handles[token] = self
        try:
            c = create(c, token, *arguments, error)
            if c == ffi.NULL:
                raise os_error(error[0])
        except BaseException:
            # When a signal's handler has raised as soon as it was made, it is there, and owns its descriptor.
            self._c = lib.ffloop_handle_find(loop.pointer(), token) or None
            if self._c is None:
                del loop.handles[token]
            raise
        self._c = c

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._c is None

    def close(self) -> None:
        """Close the handle and what it owns, at once; records that it still has coming are dropped.

        Closing twice is harmless. Safe at any moment, from within the handling of any record too.
        """
        c = self._c
        if c is not None:
            self._c = None
            self._loop.forget(self._token, self.KINDS)
            self._close(c)

    def _close(self, c: Any) -> None:
        lib.ffloop_handle_close(c)

    def _after_fork(self) -> None:
        """Do what `Loop._after_fork` leaves to the handle."""

    def _pointer(self) -> Any:
        if self._c is None:
            raise ValueError(f"the {type(self).__name__} is closed")
        return self._c

    def _listen(self, kind: int, callback: Any) -> None:
        self._loop.callbacks[self._token << lib.FFLOOP_KIND_BITS | kind] = callback
        self._loop.may_skip = 0  # what is there already is told in the next turn, however much else is to do

    def _ignore(self, kind: int) -> None:
        self._loop.callbacks.pop(self._token << lib.FFLOOP_KIND_BITS | kind, None)


def pointer_to(address: int) -> Any:
    """Return the C handle at `address`, as the functions of `lib` want it."""
    return ffi.cast("uv_handle_t *", address)


def check(status: int) -> None:
    """Raise the `OSError` for a negative `status`."""
    if status < 0:
        raise os_error(status)
