"""`add_reader`, `add_writer` and their like: watching descriptors that belong to the program.

One watch per descriptor, with a reader and a writer each. Transports' own descriptors are refused here.
"""

import asyncio
import contextvars
import selectors
import weakref
from asyncio import Handle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from . import uv
from .core import Core
from .speed import accelerator
from .uv import ONCE, READABLE, WRITABLE

Waiting = Handle | asyncio.Future[None]
WaitingT = TypeVar("WaitingT", bound=Waiting)


class PureWatch:
    """Who waits for one descriptor: a handle for as long as it is there, a future for a single time.

    While nobody does, it is kept for the next one who will: setting it up costs more than all the rest. What it is
    kept for is a number, which may stand for another file by then.
    """

    if not TYPE_CHECKING:
        __slots__ = ()  # Watch below says where the attributes are

    def __init__(self, loop: "Readers", fileobj: Any, fd: int) -> None:
        self._loop = loop
        self._once = 0  # all who wait do so for a single time: ONCE, else 0
        self._started = False  # the poll knows who is to be told
        self.silent = True  # no record of the batch under way can be for it
        self.waited = False  # the last who waited did so for a single time, and were served: nobody waits
        self.fileobj = fileobj
        self.fd = fd
        self.poll = uv.Poll(loop._uv, fd)
        self.reader: Waiting | None = None
        self.writer: Waiting | None = None
        self.removed: Waiting | None = None  # the last who was, in debug mode, where a slow callback is named

    def __repr__(self) -> str:
        waiting = [repr(waiting) for waiting in (self.reader, self.writer) if waiting is not None]
        return " ".join(waiting) or repr(self.removed)

    def renew(self) -> None:
        """Drop what was found ready and not told yet."""
        self.poll.close()
        self.poll = uv.Poll(self._loop._uv, self.fd)
        self._started = self.waited = False

    def update(self) -> None:
        """Watch for what is wanted now. Raises `OSError` for a descriptor that cannot be watched."""
        events = 0
        once = ONCE
        self.silent = self.waited = False
        if self.reader is not None:
            events = READABLE
            if isinstance(self.reader, Handle):
                once = 0
        if self.writer is not None:
            events |= WRITABLE
            if isinstance(self.writer, Handle):
                once = 0
        if not events:
            self.fileobj = None
            self._started = False
            self.poll.stop()
            return
        if self._started and once == self._once:
            self.poll.restart(events | once)
        else:
            self.poll.start(events | once, self._on_ready_once if once else self._on_ready)
            self._once = once
            self._started = True

    def _serve(self, status: int, events: int) -> None:
        """Serve those who wait, among whom there is a handle."""
        reader, writer = self.reader, self.writer
        if reader is not None and events & READABLE:
            if isinstance(reader, Handle) and not reader._cancelled:
                reader._run()
            else:
                self._end(reader, self._loop._remove_reader)
        # Unless the reader has removed it meanwhile, as it can where both wait in the ready queue.
        if writer is not None and events & WRITABLE and self.writer is writer and not self.poll.closed:
            if isinstance(writer, Handle) and not writer._cancelled:
                writer._run()
            else:
                self._end(writer, self._loop._remove_writer)

    def _serve_once(self, status: int, events: int) -> None:
        """Serve those who wait, futures alone."""
        # The kernel watches no more: whoever has not been served yet needs a new start.
        self.silent = True
        if events & READABLE and self.reader is not None:
            reader, self.reader = self.reader, None
            if not reader.done():  # type: ignore[union-attr]
                reader.set_result(None)  # type: ignore[union-attr]
        if events & WRITABLE and self.writer is not None:
            writer, self.writer = self.writer, None
            if not writer.done():  # type: ignore[union-attr]
                writer.set_result(None)  # type: ignore[union-attr]
        left = self.reader or self.writer
        if left is None:
            self.fileobj = None
            self.waited = True
            return
        try:
            self._loop._start(self)
        except OSError:
            # Closed meanwhile. Who is left learns of it from the call that he tries next.
            if not left.done():  # type: ignore[union-attr]
                left.set_result(None)  # type: ignore[union-attr]

    def _end(self, waiting: Waiting, remove: Callable[[int], bool]) -> None:
        remove(self.fd)
        if not isinstance(waiting, Handle) and not waiting.done():
            waiting.set_result(None)

    # The accelerator has versions of these two, which leave to the above what is not the usual case.
    _on_ready = _serve
    _on_ready_once = _serve_once


_OWN = ("_loop", "_once", "_started", "fd", "poll", "removed")

if TYPE_CHECKING:
    Watch = PureWatch

elif accelerator is not None:

    class Watch(accelerator.Watch, PureWatch):
        """`PureWatch`, with what runs per event in C."""

        __slots__ = _OWN

else:

    class Watch(PureWatch):
        """`PureWatch`, with its attributes."""

        __slots__ = (*_OWN, "fileobj", "reader", "silent", "waited", "writer")


class Readers(Core):
    """The part of the loop that watches descriptors."""

    def __init__(self) -> None:
        """Raises `OSError` when the system has no descriptors or no memory left."""
        super().__init__()
        self._watches: dict[int, Watch] = {}
        self._transports: dict[int, weakref.ref[asyncio.BaseTransport]] = getattr(accelerator, "Transports", dict)()
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
        known = self._transports.get(fd if type(fd) is int else _fileno(fd))
        transport = known() if known is not None else None
        if transport is not None and not transport.is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")

    def _add_reader(
        self, fd: Any, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        return self._set_reader(fd, Handle(callback, args, self, context))

    def _add_writer(
        self, fd: Any, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        return self._set_writer(fd, Handle(callback, args, self, context))

    def _set_reader(self, fd: Any, reader: WaitingT) -> WaitingT:
        """Let `reader` wait until `fd` can be read, in the place of whoever did."""
        if self._closed:
            self._check_closed()
        watch = self._watch(fd)
        replaced, watch.reader = watch.reader, reader
        self._start(watch)
        if isinstance(replaced, Handle):
            replaced.cancel()
        return reader

    def _set_writer(self, fd: Any, writer: WaitingT) -> WaitingT:
        """Let `writer` wait until `fd` can be written to, in the place of whoever did."""
        if self._closed:
            self._check_closed()
        watch = self._watch(fd)
        replaced, watch.writer = watch.writer, writer
        self._start(watch)
        if isinstance(replaced, Handle):
            replaced.cancel()
        return writer

    def _when_ready(self, fd: int, events: int) -> "asyncio.Future[None]":
        """Return a future that is done when `fd` is ready for `events`, one of READABLE and WRITABLE.

        Who does not wait for it any more calls `_stop_waiting`.
        """
        if fd in self._transports:
            self._ensure_fd_no_transport(fd)
        future: asyncio.Future[None] = self.create_future()
        watch = self._watches.get(fd)
        if watch is None or not watch.waited or (not watch.silent and self._uv.dispatching):
            return self._set_reader(fd, future) if events == READABLE else self._set_writer(fd, future)
        # The usual case, in few steps: the last who waited did so for a single time, and nobody does now.
        if events == READABLE:
            watch.reader = future
        else:
            watch.writer = future
        watch.fileobj = fd
        watch.waited = watch.silent = False
        try:
            watch.poll.restart(events | ONCE)
        except OSError:
            self._forget(watch)
            raise
        return future

    def _stop_waiting(self, fd: int, future: "asyncio.Future[None]") -> None:
        """Let `future` wait no more, unless somebody else has taken its place."""
        watch = self._watches.get(fd)
        if watch is None:
            return
        if watch.reader is future:
            self._remove_reader(fd)
        elif watch.writer is future:
            self._remove_writer(fd)

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
        fd = fileobj if type(fileobj) is int else _fileno(fileobj)
        if fd < 0:
            raise ValueError(f"Invalid file descriptor: {fd}")
        watch = self._watches.get(fd)
        if watch is None:
            watch = self._watches[fd] = Watch(self, fileobj, fd)
        else:
            if watch.fileobj is None or type(fileobj) is not int:
                # A number does not take the place of an object: that is known by nothing else once it is closed.
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

    def _removed(self, watch: Watch, removed: Waiting | None) -> bool:
        if removed is None:
            return False
        if self._debug:
            watch.removed = removed
        if isinstance(removed, Handle):
            removed.cancel()
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
