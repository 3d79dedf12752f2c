"""Timers (https://docs.libuv.org/en/v1.x/timer.html)."""

import math
from collections.abc import Callable

from ._libuv import lib
from .handle import Handle, check
from .loop import LONGEST, Loop


class Timer(Handle):
    """Calls back after a time, once or again and again. libuv counts milliseconds; a timer is never early."""

    KINDS = (lib.FFLOOP_TIMER,)
    __slots__ = ("_callback",)

    def __init__(self, loop: Loop) -> None:
        """Raises `OSError` when memory is out."""
        super().__init__(loop, lib.ffloop_timer_new)

    def start(self, callback: Callable[[], object], timeout: float, repeat: float = 0) -> None:
        """Call `callback` in `timeout` seconds, then every `repeat` seconds unless that is 0."""
        check(lib.ffloop_timer_start(self._pointer(), _nanoseconds(timeout), _nanoseconds(repeat)))
        self._callback = callback
        self._listen(lib.FFLOOP_TIMER, self._on_timer)

    def stop(self) -> None:
        """Stop the timer; a call that is already due is dropped."""
        check(lib.ffloop_timer_stop(self._pointer()))
        self._ignore(lib.FFLOOP_TIMER)

    def _on_timer(self, status: int, payload: int) -> None:
        self._callback()


def _nanoseconds(seconds: float) -> int:
    return math.ceil(min(max(seconds, 0), LONGEST) * 1e9)
