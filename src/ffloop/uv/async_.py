"""Wake-ups from other threads (https://docs.libuv.org/en/v1.x/async.html)."""

from collections.abc import Callable

from ._libuv import lib
from .handle import Handle
from .loop import Loop


class Async(Handle):
    """Calls back on the loop's thread after `send()` was called on any thread."""

    KINDS = (lib.FFLOOP_ASYNC,)
    __slots__ = ("_callback",)

    def __init__(self, loop: Loop, callback: Callable[[], object]) -> None:
        """Raises `OSError` when descriptors or memory are out."""
        super().__init__(loop, lib.ffloop_async_new)
        self._callback = callback
        self._listen(lib.FFLOOP_ASYNC, self._on_async)

    def send(self) -> None:
        """Have the callback called; several sends before it runs are one.

        The caller sees to it that the handle is not closed meanwhile (`Loop.wake` needs no such care).
        """
        lib.ffloop_async_send(self._pointer())

    def _on_async(self, status: int, payload: int) -> None:
        self._callback()
