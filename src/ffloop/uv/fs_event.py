"""Watching files and folders (https://docs.libuv.org/en/v1.x/fs_event.html)."""

import os
from collections.abc import Callable

from ._libuv import ffi, lib
from .handle import Handle, check
from .loop import Loop

RENAMED: int = lib.FFLOOP_RENAMED
CHANGED: int = lib.FFLOOP_CHANGED


class FsEvent(Handle):
    """Tells what changes at a path, or directly in a folder."""

    KINDS = (lib.FFLOOP_FS_EVENT,)
    __slots__ = ("_callback",)

    def __init__(self, loop: Loop, path: str | bytes | os.PathLike[str], callback: Callable[..., object]) -> None:
        """Call `callback(status, name)` for each change.

        status: RENAMED and CHANGED, or'ed, or a negative status after which nothing more comes. name: of what has
        changed, as `bytes`; None when the system does not say. Raises the `OSError` of a path that is not there or
        cannot be watched.
        """
        super().__init__(loop, lib.ffloop_fs_event_new)
        self._callback = callback
        try:
            check(lib.ffloop_fs_event_start(self._c, os.fsencode(path)))
        except BaseException:
            self.close()
            raise
        self._listen(lib.FFLOOP_FS_EVENT, self._on_fs_event)

    def _on_fs_event(self, status: int, payload: int) -> None:
        name = lib.ffloop_fs_event_name(self._loop.pointer(), payload)
        self._callback(status, None if name == ffi.NULL else ffi.string(name))
