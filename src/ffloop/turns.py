"""A turn in Python: what stands in front of `BaseEventLoop._run_once` where there is no accelerator.

What lives here is the common case alone, as it is in native/accelerator/loop.c: timers that are in order, no debug
mode, nothing that a tool has replaced. Everything else is left to asyncio's own turn, to which this one is the short
way: it reads the clock only where there are timers, and polls only where there is too little to do or something to
send. With asyncio's turn alone a request takes a tenth more bytecodes than on a selector loop, and on a single
connection each of them is waited for.
"""

import asyncio
import heapq
from asyncio import BaseEventLoop
from collections.abc import Callable
from time import monotonic  # the real one: a patched clock moves timers, not how long sockets may wait
from typing import TYPE_CHECKING, Any

from . import uv
from .uv import LONGEST_SKIPPED, MOST_SKIPPED

if TYPE_CHECKING:
    from collections import deque

BASE_RUN_ONCE = BaseEventLoop._run_once  # type: ignore[attr-defined]
FEW_TIMERS = 100
"""So many timers may be there, cancelled or not, before anybody counts which are (asyncio's own number)."""


class PureTurns(BaseEventLoop):
    """`BaseEventLoop`, with a turn of its own for the common case."""

    _ready: "deque[asyncio.Handle]"
    _scheduled: list[Any]
    _timer_cancelled_count: int
    _clock_resolution: float
    _stopping: bool
    _debug: bool
    _selector: Any
    _uv: uv.Loop
    _process_events: Callable[[int], None]

    def _run_once(self) -> None:
        """Poll, queue what is due, and run what is ready now; what that schedules waits for the next turn."""
        scheduled = self._scheduled
        base = BaseEventLoop._run_once  # type: ignore[attr-defined]
        if self._debug or base is not BASE_RUN_ONCE or (scheduled and self._is_untidy(scheduled)):
            base(self)
            return
        ready = self._ready
        if (
            ready  # enough to do, nothing to send, and the last poll is not long ago
            and (queue := self._uv).may_skip
            and not self._stopping
            and not queue.dirty
            and queue._batch is None
            and self._selector.select is queue.skippable
            and (queue.may_skip == MOST_SKIPPED or monotonic() - queue.skipped_at <= LONGEST_SKIPPED)
        ):
            if queue.may_skip == MOST_SKIPPED:
                queue.skipped_at = monotonic()
            queue.may_skip -= 1
        else:
            timeout: float | None = None
            if ready or self._stopping:
                timeout = 0
            elif scheduled:
                timeout = max(0, scheduled[0]._when - self.time())
            self._process_events(self._selector.select(timeout))
        if self._scheduled:
            self._queue_due()
        for _ in range(len(ready)):
            try:
                handle = ready.popleft()
            except IndexError:
                break  # a callback has run the loop
            if not handle._cancelled:
                handle._run()

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
