"""`add_reader`, `add_writer` and their like: watching descriptors that belong to the program.

One watch per descriptor, with a reader and a writer each. Transports' own descriptors are refused here.
"""

import asyncio
import contextvars
import selectors
import weakref
from collections.abc import Callable
from typing import Any

from . import uv
from .core import Core


class Once(asyncio.Handle):
    """A handle that waits for its descriptor to be ready a single time."""

    __slots__ = ()


class Watch:
    """Who waits for one descriptor.

    While nobody does, it is kept for the next one who will: setting it up costs more than all the rest. What it is
    kept for is a number, which may stand for another file by then.
    """

    __slots__ = ("_loop", "_once", "fd", "fileobj", "poll", "reader", "silent", "writer")

    def __init__(self, loop: "Readers", fileobj: Any, fd: int) -> None:
        self._loop = loop
        self._once = False  # all who wait do so for a single time
        self.silent = True  # no record of the batch under way can be for it
        self.fileobj = fileobj
        self.fd = fd
        self.poll = uv.Poll(loop._uv, fd)
        self.reader: asyncio.Handle | None = None
        self.writer: asyncio.Handle | None = None

    def __repr__(self) -> str:
        return " ".join(repr(handle) for handle in (self.reader, self.writer) if handle is not None)

    def renew(self) -> None:
        """Drop what was found ready and not told yet."""
        self.poll.close()
        self.poll = uv.Poll(self._loop._uv, self.fd)

    def update(self) -> None:
        """Watch for what is wanted now. Raises `OSError` for a descriptor that cannot be watched."""
        reader, writer = self.reader, self.writer
        self.silent = False
        if reader is None and writer is None:
            self.fileobj = None
            self.poll.stop()
            return
        self._once = (reader is None or type(reader) is Once) and (writer is None or type(writer) is Once)
        events = (uv.READABLE if reader is not None else 0) | (uv.WRITABLE if writer is not None else 0)
        self.poll.start(events | uv.ONCE if self._once else events, self._on_ready)

    def _on_ready(self, status: int, events: int) -> None:
        reader = self.reader if events & uv.READABLE else None
        writer = self.writer if events & uv.WRITABLE else None
        if self._once:
            self.silent = True
            self._on_ready_once(reader, writer)
            return
        if reader is not None:
            if reader.cancelled():
                self._loop._remove_reader(self.fd)
            else:
                reader._run()
                if type(reader) is Once and self.reader is reader:
                    self._loop._remove_reader(self.fd)
        # Unless the reader has removed it meanwhile, as it can where both wait in the ready queue.
        if writer is not None and not writer.cancelled() and not self.poll.closed:
            writer._run()
            if type(writer) is Once and self.writer is writer:
                self._loop._remove_writer(self.fd)
        elif writer is not None and self.writer is writer:
            self._loop._remove_writer(self.fd)

    def _on_ready_once(self, reader: asyncio.Handle | None, writer: asyncio.Handle | None) -> None:
        """The kernel watches no more: whoever has not been served yet needs a new start."""
        if reader is not None:
            self.reader = None
        if writer is not None:
            self.writer = None
        if self.reader is not None or self.writer is not None:
            self._loop._start(self)
        else:
            self.fileobj = None
        for handle in reader, writer:
            if handle is not None and not handle.cancelled():
                handle._run()
                handle.cancel()  # whoever made it need not remove it


class Readers(Core):
    """The part of the loop that watches descriptors."""

    def __init__(self) -> None:
        """Raises `OSError` when the system has no descriptors or no memory left."""
        super().__init__()
        self._watches: dict[int, Watch] = {}
        self._transports: dict[int, weakref.ref[asyncio.BaseTransport]] = {}
        """By descriptor. One that has gone stays until the number has another: there are no more than descriptors."""

    def add_reader(self, fd: Any, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """Call `callback(*args)` whenever `fd` (a number, or an object with `fileno()`) can be read.

        Raises `ValueError` for something that is no descriptor, `RuntimeError` when a transport uses it, and
        the `OSError` of a descriptor that cannot be watched. See `asyncio.loop.add_reader
        <https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.add_reader>`_.
        """
        self._ensure_fd_no_transport(fd)
        self._add_reader(fd, callback, *args)

    def remove_reader(self, fd: Any) -> bool:
        """Stop what `add_reader` began. Returns whether there was a reader."""
        self._ensure_fd_no_transport(fd)
        return self._remove_reader(fd)

    def add_writer(self, fd: Any, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """Like `add_reader`, for writing."""
        self._ensure_fd_no_transport(fd)
        self._add_writer(fd, callback, *args)

    def remove_writer(self, fd: Any) -> bool:
        """Stop what `add_writer` began. Returns whether there was a writer."""
        self._ensure_fd_no_transport(fd)
        return self._remove_writer(fd)

    def close(self) -> None:
        """Close the loop and every descriptor that it owns. Raises `RuntimeError` while it runs."""
        super().close()
        self._watches.clear()

    def _ensure_fd_no_transport(self, fd: Any) -> None:
        known = self._transports.get(_fileno(fd))
        transport = known() if known is not None else None
        if transport is not None and not transport.is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")

    def _add_reader(
        self, fd: Any, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        return self._set_reader(fd, asyncio.Handle(callback, args, self, context))

    def _add_writer(
        self, fd: Any, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        return self._set_writer(fd, asyncio.Handle(callback, args, self, context))

    def _set_reader(self, fd: Any, handle: asyncio.Handle) -> asyncio.Handle:
        self._check_closed()
        watch = self._watch(fd)
        replaced, watch.reader = watch.reader, handle
        self._start(watch)
        if replaced is not None:
            replaced.cancel()
        return handle

    def _set_writer(self, fd: Any, handle: asyncio.Handle) -> asyncio.Handle:
        self._check_closed()
        watch = self._watch(fd)
        replaced, watch.writer = watch.writer, handle
        self._start(watch)
        if replaced is not None:
            replaced.cancel()
        return handle

    def _remove_reader(self, fd: Any) -> bool:
        watch = self._find(fd)
        if watch is None:
            return False
        removed, watch.reader = watch.reader, None
        return self._removed(watch, removed)

    def _remove_writer(self, fd: Any) -> bool:
        watch = self._find(fd)
        if watch is None:
            return False
        removed, watch.writer = watch.writer, None
        return self._removed(watch, removed)

    def _selector_key(self, fd: int) -> selectors.SelectorKey:
        watch = self._watches[fd]
        if watch.reader is None and watch.writer is None:
            raise KeyError(fd)
        events = (selectors.EVENT_READ if watch.reader else 0) | (selectors.EVENT_WRITE if watch.writer else 0)
        return selectors.SelectorKey(watch.fileobj, fd, events, (watch.reader, watch.writer))

    def _watch(self, fileobj: Any) -> Watch:
        fd = _fileno(fileobj)
        if fd < 0:
            raise ValueError(f"Invalid file descriptor: {fd}")
        watch = self._watches.get(fd)
        if watch is None:
            watch = self._watches[fd] = Watch(self, fileobj, fd)
        else:
            watch.fileobj = fileobj
            if not watch.silent and self._uv.dispatching:
                # What the batch under way still has to say was meant for those who waited before.
                watch.renew()
        return watch

    def _find(self, fileobj: Any) -> Watch | None:
        if self.is_closed():
            return None
        fd = _fileno(fileobj)
        if fd < 0:
            # A socket that was closed before its reader was removed has no number any more.
            for watch in self._watches.values():
                if watch.fileobj is fileobj:
                    return watch
            raise ValueError(f"Invalid file descriptor: {fd}")
        return self._watches.get(fd)

    def _start(self, watch: Watch) -> None:
        try:
            watch.update()
        except OSError:
            # Nothing that was waiting before can be told apart from the newcomer: the descriptor is bad.
            self._forget(watch)
            raise

    def _removed(self, watch: Watch, handle: asyncio.Handle | None) -> bool:
        if handle is None:
            return False
        handle.cancel()
        try:
            watch.update()
        except OSError:
            self._forget(watch)
        return True

    def _forget(self, watch: Watch) -> None:
        watch.poll.close()
        if self._watches.get(watch.fd) is watch:
            del self._watches[watch.fd]


def _fileno(fileobj: Any) -> int:
    if isinstance(fileobj, int):
        return fileobj
    try:
        return int(fileobj.fileno())
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"Invalid file object: {fileobj!r}") from None
