"""The turn: `BaseEventLoop` runs on the completion queue, and leaves it tidy.

What lives here is what every part of the adapter leans on: the libuv loop, the flush of what was written,
the poll, the batch's place in the ready queue, start and stop. Nothing about sockets or names.
"""

import asyncio
import collections
import contextvars
import selectors
from collections.abc import Callable
from functools import partial

from . import uv


class Batch(asyncio.Handle):
    """The records of one poll, as one entry of the ready queue.

    It stands for the handles that a selector loop would have queued. Each record's callback enters a context
    of its own, so running this handle enters none: it is a call of `uv.Loop.dispatch` and nothing more.
    """

    __slots__ = ("_run",)

    def __init__(self, loop: asyncio.AbstractEventLoop, dispatch: Callable[[], None]) -> None:
        super().__init__(dispatch, (), loop, contextvars.Context())
        self._run = dispatch  # type: ignore[method-assign]


class Selector:
    """What `BaseEventLoop._run_once` polls with, and what asyncio's own transports ask whether they are watched."""

    __slots__ = ("get_key", "select")

    def __init__(self, poll: Callable[[float | None], int], key: Callable[[int], selectors.SelectorKey]) -> None:
        self.select = poll
        self.get_key = key


class Core(asyncio.BaseEventLoop):
    """`asyncio.BaseEventLoop` with libuv for a selector."""

    _ready: collections.deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _thread_id: int | None
    _debug: bool
    _stopping: bool
    _clock_resolution: float
    _check_closed: Callable[[], None]

    def __init__(self) -> None:
        """Raises `OSError` when the system has no descriptors or no memory left."""
        self._uv = uv.Loop()
        super().__init__()
        self._uv.backlog = self._ready
        self._uv.on_error = self._on_callback_error
        self._selector: Selector | None = Selector(self._uv.poll, self._selector_key)
        self._held_back: list[asyncio.Handle] = []
        """What a stopped turn has left for the next run."""
        self._batch = Batch(self, self._uv.dispatch)
        # In debug mode each record is an entry of its own, so that a slow callback is named.
        self._single = Batch(self, partial(self._uv.dispatch, 1))

    def _process_events(self, event_list: int) -> None:
        """Queue the batch that the poll has left: last, as I/O is, or first when it is the rest of an older one.

        With nothing ready and no timer due the batch would be the turn's only entry: then it is dispatched at
        once, and what it schedules runs in this turn. That is the order of two turns, less one poll.
        """
        held_back = self._held_back
        if held_back:
            self._ready.extendleft(reversed(held_back))
            held_back.clear()
        if not event_list:
            return
        if event_list < 0:
            self._ready.appendleft(self._batch)
        elif self._debug:
            # One more than there are records: it finds nothing, and marks the batch as done.
            self._ready.extend([self._single] * (event_list + 1))
        elif self._ready or (self._scheduled and self._scheduled[0].when() <= self.time() + self._clock_resolution):
            self._ready.append(self._batch)
        else:
            self._uv.dispatch()
            if self._stopping and self._ready:
                # stop() ends the turn: what was scheduled by then is for the next run.
                held_back.extend(self._ready)
                self._ready.clear()
                self._uv.wake()

    def _selector_key(self, fd: int) -> selectors.SelectorKey:
        raise KeyError(fd)

    def _write_to_self(self) -> None:
        self._uv.wake()

    def _on_callback_error(self, exc: BaseException) -> None:
        message = "Exception in a callback of the completion queue"
        self.call_exception_handler({"message": message, "exception": exc})

    def run_forever(self) -> None:
        """Run until `stop()` is called. What was written by then has been handed to the kernel on return."""
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
        super().close()
        self._uv.close()
        self._selector = None
