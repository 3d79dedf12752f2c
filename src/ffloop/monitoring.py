"""What libuv offers beyond asyncio: the loop's own figures, and watching files.

None of it is a method of the loop, so that no name can clash with one that asyncio may get.
"""

import asyncio
import os
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from . import uv
from .core import Core


@dataclass(frozen=True, slots=True)
class Metrics:
    """The figures of a loop at one moment."""

    iterations: int
    """How often the loop has polled."""
    events: int
    """How many events the system has reported to it."""
    idle_seconds: float
    """How long it has waited for events, since `metrics()` was first called for it."""
    handles: int
    """How many handles are open: connections, children, descriptors that are watched or were and may be again."""
    ready: int
    """How many callbacks are to run in this turn or the next."""
    scheduled: int
    """How many timers are set, cancelled ones that were not removed yet included."""


def metrics(loop: asyncio.AbstractEventLoop | None = None) -> Metrics:
    """Return the figures of `loop`, None for the running one.

    Raises `TypeError` for a loop that is not ffloop's, `ValueError` for a closed one, `RuntimeError` when no loop runs,
    and `OSError` with a libuv before 1.45.
    """
    core = _core(loop)
    counted = core._uv.metrics()
    return Metrics(
        counted.iterations,
        counted.events,
        counted.idle_seconds,
        counted.handles,
        len(core._ready),
        len(core._scheduled),
    )


@dataclass(frozen=True, slots=True)
class Change:
    """Something has changed at a watched path."""

    path: str
    """What has changed: a name in the watched folder, or the watched file; the watched path when the system does not
    say more."""
    renamed: bool
    """It has appeared, has gone, or has another name."""


class watch_path:
    """Tell what changes at `path`, a file, or a folder and what lies directly in it.

        with ffloop.watch_path("settings") as changes:
            async for change in changes:
                ...

    Linux reports through inotify, others through what they have: how many changes one write makes, and whether names
    come with them, is the system's affair. Raises `OSError` for a path that is not there or cannot be watched, and what
    `metrics` raises for a loop that is not suitable.
    """

    def __init__(self, path: str | bytes | os.PathLike[str], *, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = _core(loop)
        self._path = os.fsdecode(path)
        self._folder = self._path if os.path.isdir(path) else os.path.dirname(self._path)
        self._changes: deque[Change | BaseException] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._handle = uv.FsEvent(self._loop._uv, path, self._on_change)

    def close(self) -> None:
        """Watch no more; whoever waits for the next change finds that there is none."""
        self._handle.close()
        self._wake()

    def __enter__(self) -> "watch_path":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> "watch_path":
        return self

    async def __anext__(self) -> Change:
        while not self._changes:
            if self._handle.closed:
                raise StopAsyncIteration
            if self._waiter is not None:
                raise RuntimeError("another task waits for the next change already")
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        change = self._changes.popleft()
        if isinstance(change, BaseException):
            raise change
        return change

    def _on_change(self, status: int, name: bytes | None) -> None:
        if status < 0:
            self._changes.append(uv.os_error(status))
            self._handle.close()
        else:
            path = self._path if name is None else os.path.join(self._folder, os.fsdecode(name))
            self._changes.append(Change(path, bool(status & uv.RENAMED)))
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __repr__(self) -> str:
        return f"<ffloop.watch_path {self._path!r}{' closed' if self._handle.closed else ''}>"


def _core(loop: Any) -> Core:
    if loop is None:
        loop = asyncio.get_running_loop()
    if not isinstance(loop, Core):
        raise TypeError(f"a loop of ffloop's was expected, got {loop!r}")
    return loop
