"""Signals: they end the wait, and reach the handlers that the program set.

While the loop runs in the main thread, from its first wait on, Python's wake-up descriptor is ours: a signal writes a
byte there, which ends the poll, and Python runs the handler between two bytecodes. Afterwards the descriptor that was
set before is set again. With a handler of `add_signal_handler` it stays ours between runs too, so that
a signal that comes before the loop runs is not lost.
"""

import asyncio
import errno
import inspect
import os
import signal
import socket
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

from .readers import Readers


def _ignore(signum: int, frame: Any) -> None:
    """Stand for a Python handler, so that the interpreter writes to the wake-up descriptor."""


class Signals(Readers):
    """The part of the loop that deals with signals."""

    def __init__(self) -> None:
        """Raises `OSError` when the system has no descriptors or no memory left."""
        super().__init__()
        _loops.add(self)
        self._signal_handlers: dict[int, asyncio.Handle] = {}
        self._signal_pair: tuple[socket.socket, socket.socket] | None = None
        self._wakeup_before: int | None = None
        """The descriptor that ours has replaced, -1 for none; None while ours is not set."""
        if threading.current_thread() is threading.main_thread():
            # Now rather than in run_forever(), so that a lack of descriptors is an error of the loop's creation.
            try:
                self._make_signal_pair()
            except BaseException:
                self.close()
                raise

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """Call `callback(*args)` in the loop when the signal `sig` comes.

        Raises `ValueError` for a number that is no signal, `RuntimeError` for a signal that cannot be caught
        and off the main thread. See
        https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.add_signal_handler.
        """
        if inspect.iscoroutine(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError("coroutines cannot be used with add_signal_handler()")
        self._check_signal(sig)
        self._check_closed()
        try:
            self._take_wakeup()
        except (ValueError, OSError) as exc:
            raise RuntimeError(str(exc)) from None
        replaced = self._signal_handlers.get(sig)
        self._signal_handlers[sig] = asyncio.Handle(callback, args, self, None)
        try:
            signal.signal(sig, _ignore)
            # Slow system calls go on after the signal; ours is noticed through the descriptor.
            if hasattr(signal, "siginterrupt"):
                signal.siginterrupt(sig, False)
        except OSError as exc:
            if replaced is None:
                del self._signal_handlers[sig]
            else:
                self._signal_handlers[sig] = replaced
            if not self.is_running():
                self._return_wakeup()
            if exc.errno != errno.EINVAL:
                raise
            raise RuntimeError(f"sig {sig} cannot be caught") from exc

    def remove_signal_handler(self, sig: int) -> bool:
        """Stop what `add_signal_handler` began, and give the signal its default action again.

        Returns whether there was a handler. Raises `ValueError` for a number that is no signal.
        """
        self._check_signal(sig)
        try:
            del self._signal_handlers[sig]
        except KeyError:
            return False
        default = signal.default_int_handler if sig == signal.SIGINT else signal.SIG_DFL
        try:
            signal.signal(sig, default)
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            raise RuntimeError(f"sig {sig} cannot be caught") from exc
        if not self.is_running():
            self._return_wakeup()
        return True

    def run_forever(self) -> None:
        """Run until `stop()` is called. What was written by then has been handed to the kernel on return."""
        self._check_running()
        if threading.current_thread() is not threading.main_thread():
            # Signals are the main thread's.
            super().run_forever()
            return
        self._check_closed()
        queue = self._uv
        before, queue.before_wait = queue.before_wait, self._before_wait
        try:
            super().run_forever()
        finally:
            queue.before_wait = before
            self._return_wakeup()

    def _before_wait(self) -> bool:
        """Have signals end the wait that is about to begin, and those after it; return whether it need not begin.

        A run that never waits, as many of `run_until_complete` do, is spared the four system calls.
        """
        try:
            self._take_wakeup()
        except ValueError:
            pass  # the main thread of a subinterpreter: signals are the main interpreter's
        self._uv.before_wait = None
        return bool(self._ready or self._stopping)  # a signal that came before has its handler run by now

    def close(self) -> None:
        """Close the loop and every descriptor that it owns. Raises `RuntimeError` while it runs."""
        if not self.is_running() and not self.is_closed():
            if sys.is_finalizing():
                self._skip_signal_handlers()
            for sig in list(self._signal_handlers):
                try:
                    self.remove_signal_handler(sig)
                except ValueError:
                    break  # closed off the main thread, which alone may set handlers
        super().close()
        if self._signal_pair is not None:
            self._return_wakeup()
            for end in self._signal_pair:
                end.close()
            self._signal_pair = None

    def _skip_signal_handlers(self) -> None:
        """Leave the handlers as they are: the interpreter ends, and sets signals no more."""
        if self._signal_handlers:
            self._signal_handlers.clear()
            warnings.warn(
                f"Closing the loop {self!r} on interpreter shutdown stage, skipping signal handlers removal",
                ResourceWarning,
                source=self,
                stacklevel=3,
            )

    def _check_signal(self, sig: int) -> None:
        if not isinstance(sig, int):
            raise TypeError(f"sig must be an int, not {sig!r}")
        if sig not in signal.valid_signals():
            raise ValueError(f"invalid signal number {sig}")

    def _make_signal_pair(self) -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair()
        try:
            for end in pair:
                end.setblocking(False)
            self._add_reader(pair[0].fileno(), self._on_wakeup)
        except BaseException:
            for end in pair:
                end.close()
            raise
        self._signal_pair = pair
        return pair

    def _take_wakeup(self) -> None:
        """Have signals written to our descriptor. Raises `ValueError` off the main thread."""
        fd = (self._signal_pair or self._make_signal_pair())[1].fileno()
        if self._wakeup_before is None:
            # Before ours is set: when a signal's handler raises as that is done, ours is taken away all the same. Else
            # what has its number next would be written to.
            self._wakeup_before = -1
        before = signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
        if before != fd:
            self._wakeup_before = before

    def _return_wakeup(self) -> None:
        """Put back the descriptor that ours replaced, unless a handler still needs ours."""
        before = self._wakeup_before
        if before is None or self._signal_pair is None or (self._signal_handlers and not self.is_closed()):
            return
        ours = self._signal_pair[1].fileno()
        try:
            found = signal.set_wakeup_fd(before)
            if found != ours:
                # Somebody has set theirs meanwhile: it is not ours to take away.
                signal.set_wakeup_fd(found)
        except (ValueError, OSError):
            return  # off the main thread, or the descriptor from before is closed by now
        self._wakeup_before = None

    def _after_fork(self) -> None:
        """In a forked child: let go of the wake-up descriptor, through which its signals would reach the parent."""
        pair, self._signal_pair = self._signal_pair, None
        if pair is None:
            return
        found = signal.set_wakeup_fd(-1)
        if found != pair[1].fileno():
            signal.set_wakeup_fd(found)
        self._wakeup_before = None
        if not self._uv.closed:
            self._remove_reader(pair[0].fileno())
        for end in pair:
            end.close()

    def _on_wakeup(self) -> None:
        pair = self._signal_pair
        if pair is None:
            return
        while True:
            try:
                numbers = pair[0].recv(4096)
            except (BlockingIOError, InterruptedError):
                return
            if not numbers:
                return
            if self._wakeup_before not in (None, -1) and os.name == "posix":
                try:
                    os.write(self._wakeup_before, numbers)
                except OSError:
                    pass  # full, or closed: no worse than had the signal found it so
            for number in numbers:
                self._on_signal(number)

    def _on_signal(self, sig: int) -> None:
        handle = self._signal_handlers.get(sig)
        if handle is None:
            return
        if handle.cancelled():
            self.remove_signal_handler(sig)
        else:
            self._ready.append(handle)


_loops: "weakref.WeakSet[Signals]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for loop in list(_loops):
        loop._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
