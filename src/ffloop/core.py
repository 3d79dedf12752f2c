"""The turn: `BaseEventLoop` runs on the completion queue, and leaves it tidy.

What lives here is what every part of the adapter leans on: the libuv loop, the flush of what was written,
the poll, the batch's place in the ready queue, start and stop. Nothing about sockets or names.
"""

import asyncio
import contextvars
import os
import selectors
import threading
import weakref
from asyncio import Handle
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from . import uv
from .speed import accelerator
from .turns import HANDLE_RUN, PureTurns

if TYPE_CHECKING:
    from collections import deque

    class Queue(uv.Loop):
        """The completion queue of either speed."""

    class Turns(PureTurns):
        """The turns of either speed."""

        def _accelerate(self, *parts: object) -> None: ...

elif accelerator is not None:

    class Queue(accelerator.Queue, uv.Loop):
        """`uv.Loop`, with the poll and the dispatch in C."""

        def _open_queue(self):
            self._open(self.address())

        def _close_queue(self):
            self._open(None)
            super()._close_queue()

    class Turns(accelerator.EventLoop, asyncio.BaseEventLoop):
        """`BaseEventLoop`, with call_soon() and its kin and the turn in C."""

        def run_forever(self):
            """Run until `stop()` is called. Meanwhile, and only then, turns follow each other in C."""
            many, self._many = self._many, True
            try:
                super().run_forever()
            finally:
                self._many = many

else:
    Queue = uv.Loop
    Turns = PureTurns


CHEAP = 120 * 1024
"""Bytes: streams, pipes and TLS ask for no more memory at a time, if it is not certain to be filled.

From 128 KiB on an allocator may have the system map new memory each time, and clear it page by page: messages of 64 KiB
that are received into 256 KiB take four times as long. musl's always does, glibc's unless a program lets it be (see
`warm_allocator` in native/queue.c); and the first 120 KiB of a larger piece are less often in a cache.
"""


class Record(Handle):
    """One record of a poll, as an entry of the ready queue of its own; it runs as any handle does."""

    __slots__ = ("_queue",)

    def __init__(self, loop: asyncio.AbstractEventLoop, dispatch: Callable[[], None], queue: uv.Loop) -> None:
        super().__init__(dispatch, (), loop, contextvars.Context())
        self._queue = queue

    def __repr__(self) -> str:
        last = self._queue.last
        return f"<Handle {getattr(last, '__self__', last)!r}>"


class Batch(Record):
    """The records of one poll, as one entry of the ready queue.

    It stands for the handles that a selector loop would have queued. Each record's callback enters a context
    of its own, so running this handle enters none: it is a call of `uv.Loop.dispatch` and nothing more.

    The loop keeps it, so it must not keep the loop: a closed one is to go with its last reference, as asyncio's does.
    """

    __slots__ = ("_run",)

    def __init__(self, loop: asyncio.AbstractEventLoop, dispatch: Callable[[], None], queue: uv.Loop) -> None:
        super().__init__(weakref.proxy(loop), dispatch, queue)
        self._run = dispatch  # type: ignore[method-assign]


class Selector:
    """What `BaseEventLoop._run_once` polls with, and what asyncio's own transports ask whether they are watched.

    `process_events` is the function that takes what it finds, unless somebody has put his own in its place.
    """

    __slots__ = ("_loop", "process_events", "select")

    def __init__(self, loop: "Core", poll: Callable[[float | None], int], process_events: Callable[..., None]) -> None:
        self._loop = weakref.ref(loop)  # weakly, as in a batch
        self.select = poll
        self.process_events = process_events

    def get_key(self, fd: int) -> selectors.SelectorKey:
        """Return who waits for `fd`, and for what; raises `KeyError` when nobody does."""
        loop = self._loop()
        if loop is None:
            raise KeyError(fd)
        return loop._selector_key(fd)


class Core(Turns):
    """`asyncio.BaseEventLoop` with libuv for a selector.

    CPython keeps up to 30 attributes inside of an object, asyncio's included, and reads them faster than those of a
    dictionary. So what few programs need is a class's until it is set.
    """

    _ready: "deque[Handle]"
    _scheduled: list[asyncio.TimerHandle]
    _thread_id: int | None
    _debug: bool
    _check_closed: Callable[[], None]
    _check_running: Callable[[], None]

    def __init__(self) -> None:
        """Raises `OSError` when the system has no descriptors or no memory left."""
        super().__init__()
        try:
            self._uv = Queue()
        except BaseException:
            self._closed = True  # there is nothing that would have to be closed
            raise
        self._uv.backlog = self._ready
        self._uv.on_error = self._on_callback_error
        self._selector: Selector | None = Selector(self, self._uv.poll, Core._process_events)
        # Not where somebody has put something of his own between the loop and its poll, and counts the looks.
        self._uv.skippable = self._selector.select
        self._batch = Batch(self, self._uv.dispatch, self._uv)
        # In debug mode each record is an entry of its own, so that a slow callback is named.
        self._single = Batch(self, partial(self._uv.dispatch, 1), self._uv)
        if accelerator is not None:
            self._accelerate(self._uv, self._selector, self._batch, Core._process_events, Core._write_to_self)

    def _process_events(self, event_list: int) -> None:
        """Queue the batch that the poll has left: last, as I/O is, or first when it is the rest of an older one."""
        if not event_list:  # of a selector that is somebody else's it may be a list
            return
        if event_list < 0:
            if self._batch not in self._ready and self._single not in self._ready:
                self._ready.appendleft(self._batch)
        elif Handle._run is not HANDLE_RUN:
            # A tool times each callback, or looks at it: it gets to see those of I/O too.
            self._ready.extend(Record(self, self._single._run, self._uv) for _ in range(event_list + 1))
        elif self._debug:
            # What an interrupted batch has left would hand out the first of these before its turn.
            while self._single in self._ready:
                self._ready.remove(self._single)
            # One more than there are records: it finds nothing, and marks the batch as done.
            self._ready.extend([self._single] * (event_list + 1))
        else:
            self._ready.append(self._batch)

    def _selector_key(self, fd: int) -> selectors.SelectorKey:
        raise KeyError(fd)

    def _write_to_self(self) -> None:
        self._uv.wake()

    def _on_callback_error(self, exc: BaseException) -> None:
        queue = self._uv
        # Not its representation, which may fail: the handle has that.
        message = f"Exception in callback {type(getattr(queue.last, '__self__', queue.last)).__name__}"
        try:
            self.call_exception_handler({"message": message, "exception": exc, "handle": self._batch})
        finally:
            queue.last = None  # whose callback it was need not live for that

    def run_forever(self) -> None:
        """Run until `stop()` is called. What was written by then has been handed to the kernel on return."""
        self._uv.may_skip = 0  # a run begins with a poll, however short it is
        try:
            super().run_forever()
        finally:
            self._uv.flush()

    def close(self) -> None:
        """Close the loop and every descriptor that it owns. Raises `RuntimeError` while it runs."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        self._uv.flush()
        super().close()
        self._uv.close()
        self._uv.on_error = self._uv.last = None  # both know this loop
        self._selector = None


def is_entered(context: contextvars.Context) -> bool:
    """Return whether the caller is inside of `context` already: a callback in it runs the loop, as nest_asyncio does.

    What comes then must wait, because a context is entered by one at a time, and neither is the protocol one to be
    entered twice. Asked only when something went wrong: to know beforehand would cost every record.
    """
    try:
        context.run(int)
    except RuntimeError:
        return True
    return False


def is_elsewhere(loop: Any) -> bool:
    """Return whether `loop` runs, and in another thread than the caller's: libuv may be at work there.

    Garbage is collected in any thread, and what nobody knows any more closes its transport.
    """
    thread = loop._thread_id
    return thread is not None and thread != threading.get_ident()


def _flush_before_fork() -> None:
    # Else the child would have a copy of what is queued, and might send it a second time.
    loop = asyncio._get_running_loop()
    if isinstance(loop, Core):
        loop._uv.flush()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_flush_before_fork)
