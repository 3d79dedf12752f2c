"""A turn in Python: what stands in front of `BaseEventLoop._run_once` where there is no accelerator.

What lives here is the common case alone, as it is in native/accelerator/loop.c: timers that are in order, no debug
mode, nothing that a tool had replaced when the run began. Everything else is left to asyncio's own turn, to which this
one is the short way: it reads the clock only where there are timers, polls only where there is too little to do or
something to send, and hands a batch out without queueing it where nothing else is ready. With asyncio's turn alone a
request takes a tenth more bytecodes than on a selector loop, and on a single connection each of them is waited for.
"""

import asyncio
import heapq
from asyncio import BaseEventLoop, Handle
from collections.abc import Callable
from time import monotonic  # the real one: a patched clock moves timers, not how long sockets may wait
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import uv
from .uv import LONGEST_SKIPPED, MOST_SKIPPED

if TYPE_CHECKING:
    from collections import deque

FEW_TIMERS = 100
"""So many timers may be there, cancelled or not, before anybody counts which are (asyncio's own number)."""


def if_from(module: ModuleType, function: Any) -> Any:
    """Return `function` if it is the module's own, and not what a tool had put in its place before; else None."""
    return function if getattr(function, "__globals__", None) is vars(module) else None


HANDLE_RUN = if_from(asyncio.events, Handle._run)
BASE_RUN_ONCE = if_from(asyncio.base_events, BaseEventLoop._run_once)  # type: ignore[attr-defined]


def _function(method: object) -> object:
    return getattr(method, "__func__", None)


class PureTurns(BaseEventLoop):
    """`BaseEventLoop`, with a turn of its own for the common case."""

    _ready: "deque[Handle]"
    _scheduled: list[Any]
    _timer_cancelled_count: int
    _clock_resolution: float
    _stopping: bool
    _debug: bool
    _selector: Any
    _uv: uv.Loop
    _process_events: Callable[[int], None]

    def run_forever(self) -> None:
        """Run until `stop()` is called. Meanwhile, and only then, turns are this class's, and follow each other."""
        queue = self._uv
        process_events = getattr(self._selector, "process_events", None)  # there is no selector in a closed loop
        many, queue.many = (
            queue.many,
            BaseEventLoop._run_once is BASE_RUN_ONCE  # type: ignore[attr-defined]
            and _function(self._run_once) is PureTurns._run_once
            and _function(self._process_events) is process_events,
        )
        try:
            super().run_forever()
        finally:
            queue.many = many

    def _run_once(self) -> None:
        """Poll, queue what is due, and run what is ready now; what that schedules waits for the next turn."""
        queue = self._uv
        scheduled = self._scheduled
        if not queue.many or self._debug or (scheduled and self._is_untidy(scheduled)):
            many, queue.many = queue.many, False
            super()._run_once()  # type: ignore[misc]
            queue.many = many
            return
        queue.many = False  # who calls this from a callback gets one turn
        ready = self._ready
        if not ready or not self._may_skip(queue):
            timeout: float | None = None
            if ready or self._stopping:
                timeout = 0
            elif scheduled:
                timeout = max(0, scheduled[0]._when - self.time())
            unwatched = Handle._run is HANDLE_RUN
            found = self._selector.select(timeout)
            if found and not ready and found > 0 and unwatched:
                # Nothing else is ready, and nobody looks: the batch need not queue up to be the first.
                count = 0
                if self._scheduled:
                    self._queue_due()
                    count = len(ready)
                queue.dispatch()
                if not ready:
                    queue.many = True
                    return
            else:
                self._process_events(found)
                if self._scheduled:
                    self._queue_due()
                count = len(ready)
        else:
            if scheduled:
                self._queue_due()
            count = len(ready)
        handle: Any = None
        while True:
            while count:
                count -= 1
                try:
                    handle = ready.popleft()
                except IndexError:
                    break  # a callback has run the loop
                if not handle._cancelled:
                    handle._run()
            if not ready or self._debug or _function(self._run_once) is not PureTurns._run_once:
                break
            if not self._may_skip(queue):
                break
            if self._scheduled:
                self._queue_due()
            count = len(ready)
        handle = None  # an exception that is kept keeps this frame, and would keep what the last callback belongs to
        queue.many = True

    def _may_skip(self, queue: uv.Loop) -> bool:
        """Return whether a turn can do without a poll: nothing is to be sent, and the last one is not long ago.

        Not where somebody has put something of his own in the place of the poll: he may count them.
        """
        skips = queue.may_skip
        if (
            not skips
            or self._stopping
            or queue.dirty
            or queue.sender  # the next turn's write is not this one's second
            or queue._batch is not None
            or self._selector.select is not queue.skippable
        ):
            return False
        if skips == MOST_SKIPPED:
            queue.skipped_at = monotonic()
        elif monotonic() - queue.skipped_at > LONGEST_SKIPPED:
            return False
        queue.may_skip = skips - 1
        return True

    def _is_untidy(self, scheduled: list[Any]) -> bool:
        """Return whether cancelled timers are to be taken out, which asyncio's turn does."""
        return scheduled[0]._cancelled or (
            len(scheduled) > FEW_TIMERS and self._timer_cancelled_count * 2 > len(scheduled)
        )

    def _queue_due(self) -> None:
        """Move the timers that are due to the end of the ready queue."""
        end = self.time() + self._clock_resolution
        scheduled = self._scheduled
        while scheduled and scheduled[0]._when < end:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            self._ready.append(handle)
