"""The turn: `BaseEventLoop` runs on the completion queue, and leaves it tidy.

What lives here is what every part of the adapter leans on: the libuv loop, the flush of what was written,
the poll, the batch's place in the ready queue, start and stop. Nothing about sockets or names.
"""

import asyncio
import collections
import contextvars
from collections.abc import Callable
from typing import Any, Protocol

from . import uv


class Flushable(Protocol):
    """Something that was written to since the last flush."""

    def _flush(self) -> None: ...


class Batch(asyncio.Handle):
    """The records of one poll, as one entry of the ready queue.

    It stands for the handles that a selector loop would have queued: it runs each record's callback, in
    the order of the records. What ends it early (KeyboardInterrupt) leaves the rest, which the next poll
    finds.
    """

    __slots__ = ("_dirty", "_dispatch", "_flush")

    _loop: "Core"

    def __init__(self, loop: "Core", dispatch: Callable[[], None]) -> None:
        super().__init__(dispatch, (), loop, contextvars.Context())
        self._dispatch = dispatch
        self._dirty = loop._dirty
        self._flush = loop._flush_writes

    def _run(self) -> None:
        # The context is the receiver's, not this handle's: each callback enters its own.
        while True:
            try:
                self._dispatch()
                # An answer that is complete by now need not wait for what else is ready.
                if self._dirty:
                    self._flush()
                return
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._loop.call_exception_handler(
                    {"message": "Exception in a callback of the completion queue", "exception": exc, "handle": self}
                )


class Poller:
    """What `BaseEventLoop._run_once` calls its selector."""

    __slots__ = ("_dirty", "_flush", "_poll", "_ready")

    def __init__(self, loop: "Core") -> None:
        self._dirty = loop._dirty
        self._ready = loop._ready
        self._flush = loop._flush_writes
        self._poll = loop._uv.poll

    def select(self, timeout: float | None) -> int:
        """Send what was written, then wait `timeout` seconds at most (None: for ever) for something to happen.

        Returns how many records there are to dispatch, -1 when some of the last poll's are left.
        """
        if self._dirty:
            self._flush()
            if self._ready:
                # A failed write has scheduled connection_lost(), after the timeout was computed.
                timeout = 0
        return self._poll(timeout)


class Core(asyncio.BaseEventLoop):
    """`asyncio.BaseEventLoop` with libuv for a selector."""

    _ready: collections.deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _thread_id: int | None
    _debug: bool
    _check_closed: Callable[[], None]

    def __init__(self) -> None:
        """Raises `OSError` when the system has no descriptors or no memory left."""
        self._uv = uv.Loop()
        self._dirty: list[Flushable] = []
        super().__init__()
        self._selector = Poller(self)
        self._batch = Batch(self, self._uv.dispatch)
        # In debug mode each record is an entry of its own, so that a slow callback is named.
        self._single = Batch(self, self._uv.dispatch_one)

    def _process_events(self, event_list: int) -> None:
        """Queue the batch that the poll has left: last, as I/O is, or first when it is the rest of an older one."""
        if not event_list:
            return
        if event_list < 0:
            self._ready.appendleft(self._batch)
        elif self._debug:
            # One more than there are records: it finds nothing, and marks the batch as done.
            self._ready.extend([self._single] * (event_list + 1))
        else:
            self._ready.append(self._batch)

    def _write_to_self(self) -> None:
        self._uv.wake()

    def _flush_writes(self) -> None:
        """Let every transport that was written to send what it queued."""
        dirty = self._dirty
        # A flush can run a protocol's callback, which may write to other transports.
        while dirty:
            batch = dirty[:]
            dirty.clear()
            for transport in batch:
                transport._flush()

    def run_forever(self) -> None:
        """Run until `stop()` is called. What was written by then has been handed to the kernel on return."""
        try:
            super().run_forever()
        finally:
            if self._dirty:
                self._flush_writes()

    def close(self) -> None:
        """Close the loop and every descriptor that it owns. Raises `RuntimeError` while it runs."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        super().close()
        self._uv.close()
        self._dirty.clear()

    def _run_in_own_context(self, callback: Callable[..., object], *args: Any) -> None:
        """Call back in a copy of the current context, as a handle of its own would."""
        contextvars.copy_context().run(callback, *args)
