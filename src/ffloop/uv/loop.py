"""The loop: one call runs libuv once, the records that it leaves are dispatched from Python.

What a handle is lives in handle.py; this file knows only tokens and callbacks.
"""

import math
import os
import struct
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sized
from itertools import chain, count, islice
from operator import length_hint
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ._libuv import ffi, lib
from .errors import os_error

if TYPE_CHECKING:
    from .handle import Handle

RECORD = struct.Struct("3q")
"""A `ffloop_record`: key, status, payload."""

KIND_MASK = (1 << lib.FFLOOP_KIND_BITS) - 1

LONGEST = 1e8
"""Seconds that a single poll waits at most: three years, which fits all the integers on the way."""

MOST_SKIPPED, LONGEST_SKIPPED = 64, 25e-6
"""So many polls may be skipped while there is enough to do, for so many seconds."""

REGION_SIZE = 512 * 1024
"""Bytes that one turn can receive before reading waits for the next one."""

PEERS_SIZE: int = lib.FFLOOP_PEERS * ffi.sizeof("ffloop_peer")
"""Bytes behind the region, for who sent the datagrams in it."""

_run = lib.ffloop_run  # once a turn, and looking it up costs half of calling it


def api_address() -> int:
    """Return where the table of functions lies that the accelerator calls (`ffloop_api` in native/ffloop.h)."""
    address: int = lib.ffloop_api_address()
    return address


_unfinished: list[Any] = []
"""Loops that were closed while libuv's threads still looked a name up for them."""


_loops: "weakref.WeakSet[Loop]" = weakref.WeakSet()


def _after_fork_in_child() -> None:
    _unfinished.clear()  # the threads that they wait for are not here
    for loop in list(_loops):
        loop._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def version() -> str:
    """Return the version of the libuv in use, like ``"1.52.1"``."""
    return ffi.string(lib.uv_version_string()).decode("ascii")


def libuv_is_system() -> bool:
    """Return whether the system's libuv is linked, and not the vendored one."""
    return bool(lib.FFLOOP_SYSTEM_LIBUV)


def _finish(c: Any) -> bool:
    return bool(lib.ffloop_loop_close(c) == 0)


def _finish_unfinished() -> None:
    for _ in range(len(_unfinished)):
        try:
            c = _unfinished.pop(0)  # nobody else's from here on: another thread may be doing the same
        except IndexError:
            return
        if not _finish(c):
            _unfinished.append(c)


class Metrics(NamedTuple):
    """What libuv counts (https://docs.libuv.org/en/v1.x/metrics.html), and the handles that are open."""

    iterations: int
    events: int
    idle_seconds: float
    handles: int


class Flushable(Protocol):
    """Something that queues what is written to it."""

    def _flush(self) -> None: ...


class Loop:
    """A libuv loop (https://docs.libuv.org/en/v1.x/loop.html) with its completion queue.

    `poll()` and `dispatch()` alternate; both belong to one thread, as do all handles. Only `wake()` may be
    called from any thread.
    """

    def __init__(self) -> None:
        """Raises `OSError` when the system has no descriptors or no memory left."""
        _finish_unfinished()
        error = ffi.new("int *")
        c = lib.ffloop_loop_new(REGION_SIZE, error)
        if c == ffi.NULL:
            raise os_error(error[0])
        self._c: Any = ffi.gc(c, lib.ffloop_loop_free)
        self.error = error
        """Where a handle's constructor in C says why there is none: to make room for it each time costs more."""
        self._memory = self._c  # what the region and the records lie in lives as long as this object
        self.new_token: Callable[[], int] = count(1).__next__
        self.handles: dict[int, Handle] = {}
        """Every open handle, by its token."""
        self.in_flight: dict[int, Any] = {}
        """Memory that libuv still reads, by the token of the stream that writes it."""
        self.region = ffi.buffer(lib.ffloop_region(c), REGION_SIZE + PEERS_SIZE)
        """What was received in the last poll; slicing it gives bytes. Valid until the next poll."""
        self.many = False
        """Whether whoever drives this loop does turn after turn."""
        self.skippable: object = None
        """The one way of polling in which polls may be skipped: where anything else polls, it may count them."""
        self._open_queue()
        _loops.add(self)

    # The queue: what the accelerator has a version of its own of.

    def _open_queue(self) -> None:
        self.callbacks: dict[int, Callable[[int, int], object]] = {}
        """Who gets the status and the payload of a record, by the record's key."""
        self._find = self.callbacks.get
        self.dirty: deque[Flushable] = deque()
        """What has queued something to write since the last flush."""
        self.found = 0
        self._runs = 0  # of libuv, as far as poll() knows
        """How many records the last poll has found."""
        self.sender = 0
        """The `id` of what has written past this queue since the last poll, 0 for nothing."""
        self.backlog: Sized = ()
        """While this is not empty, a poll does not wait."""
        self.before_wait: Callable[[], bool] | None = None
        """Called before a poll waits; it does not if this returns true."""
        self.may_skip = 0
        """How many polls whoever drives this loop may skip from now on; each poll sets it to `MOST_SKIPPED`."""
        self.skipped_at = 0.0
        """When it skipped the first of those."""
        self.last: object = None
        """Who got the last record, where records are handed out one by one."""
        self.on_error: Callable[[BaseException], object] | None = None
        """Who gets what a callback raises, instead of the caller of `dispatch`."""
        self._batch: Iterator[tuple[int, int, int]] | None = None
        self._map_records(256)

    def _drop_batch(self) -> None:
        """Drop what was not handed out."""
        for key, _, payload in self._batch or ():
            self._drop(key, payload)
        self._batch = None

    def _close_queue(self) -> None:
        """Never touch the C loop again."""
        self.callbacks.clear()
        self.dirty.clear()

    def _map_records(self, length: int) -> None:
        """Make views of the first records; the array holds `length` of them or more, and moves when it grows."""
        self._array = lib.ffloop_records(self._c)
        # No memoryview, which crashes CPython before 3.12.2 if it is collected while an iterator uses it.
        self._records = ffi.buffer(self._array, RECORD.size * length)
        self._mapped = length
        # Slicing copies, and costs as much as unpacking a record: most batches are small.
        self._small = [ffi.buffer(self._array, RECORD.size * found) for found in range(17)]
        self._one: Iterator[tuple[int, int, int]] | None = None  # for the next batch, if it is of one record

    def pointer(self) -> Any:
        """Return the C loop, for the constructors of handles; raises `ValueError` when it is closed."""
        if self._c is None:
            raise ValueError("the loop is closed")
        return self._c

    def address(self) -> int:
        """Return where the C loop lies; raises `ValueError` when it is closed."""
        return int(ffi.cast("intptr_t", self.pointer()))

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._c is None

    @property
    def dispatching(self) -> bool:
        """Whether records of the last poll are still to be handed out."""
        return self._batch is not None

    def poll(self, timeout: float | None) -> int:
        """Flush what was written, run libuv once, and return how many records there are to dispatch.

        timeout: seconds to wait at most when nothing happens; None waits for ever, 0 not at all. It never
        returns early for lack of precision. While records of an earlier poll are not dispatched yet, this
        returns -1 at once: their bytes would be overwritten.
        """
        dirty = self.dirty
        if dirty:
            while dirty:  # flush(), without its frame: this runs for every answer
                dirty.popleft()._flush()
            if self.backlog:
                # A write that failed has scheduled what tells of it.
                timeout = 0
        if self._batch is not None:
            return -1
        self.may_skip = MOST_SKIPPED
        self.sender = 0
        if timeout is None:
            nanoseconds = -1
        elif timeout > 0:
            nanoseconds = math.ceil(min(timeout, LONGEST) * 1e9)
        else:
            nanoseconds = 0
        if nanoseconds and self.before_wait is not None:
            if self.before_wait():
                nanoseconds = 0
            self.flush()  # a signal's handler may have written
            if self.backlog:
                nanoseconds = 0
        # Before the wait whatever can be: after it, somebody waits for each instruction.
        one = self._one or RECORD.iter_unpack(self._small[1])
        self._one = None
        runs = self._runs = self._runs + 1
        try:
            found: int = _run(self._c, nanoseconds)
            self.found = found
            if found == 1:
                self._batch = one
            else:
                self._one = one
                if 0 < found <= 16:
                    self._batch = RECORD.iter_unpack(self._small[found])
                elif found:
                    self._take(found)
            return found
        except BaseException:
            # A signal's handler has raised, or there was no memory, before libuv ran or after it. What it has brought
            # is not to be lost, and what it had brought before not to come twice: a record frees its addresses.
            self._runs = lib.ffloop_runs(self._c)
            if self._runs == runs and self._batch is None:
                self._take(lib.ffloop_count(self._c))
            raise

    def _take(self, found: int) -> None:
        if found < 0:
            self._take(lib.ffloop_count(self._c))  # what was stored before that is handed out
            raise MemoryError("out of memory for a record of the completion queue")
        # The array moves when it grows, which it does before a few more records than came might not fit.
        if found > self._mapped or lib.ffloop_records(self._c) != self._array:
            self._map_records(max(found, 256))
        if found:
            self._batch = RECORD.iter_unpack(self._records[: RECORD.size * found])

    def dispatch(self, most: int | None = None) -> None:
        """Hand each record of the last poll to its callback, in order; then flush what they have written.

        most: how many records to hand out, None for all. With a number, the call that finds no record ends
        the batch.

        A callback's exception goes to `on_error`, and the next record follows. `KeyboardInterrupt` and
        `SystemExit`, or any when there is no `on_error`, are let through, and the records after it stay: call
        again to go on. Calling `poll` and `dispatch` from within a callback deals with the rest of the batch
        first.
        """
        batch = self._batch
        if batch is None:
            return
        records = batch if most is None else islice(batch, most)
        find = self._find
        callback = status = None
        while True:
            key = 0  # between two records
            try:
                for key, status, payload in records:
                    callback = find(key)
                    if callback is not None:
                        callback(status, payload)
                    else:
                        self._drop(key, payload)
                    key = 0
                break
            except (SystemExit, KeyboardInterrupt):
                if self._batch is batch:
                    # The next poll does not wait for a rest that there is not.
                    rest = list(batch)
                    self._batch = iter(rest) if rest else None
                raise
            except BaseException as exc:
                if not key and isinstance(exc, MemoryError):
                    # There was none for the numbers of a record, which the iterator has passed by now. It comes again,
                    # before the others: bytes must not be lost in the midst of them.
                    at = RECORD.size * (lib.ffloop_count(self._c) - length_hint(batch) - 1)
                    records = chain(RECORD.iter_unpack(self._records[at : at + RECORD.size]), records)
                if self.on_error is None:
                    raise
                self.last = callback
                self.on_error(exc)
        if most is None:
            if self._batch is batch:
                self._batch = None
        elif status is not None:
            self.last = callback
        elif self._batch is batch:
            self._batch = None
        # The answers are whole by now; the peers can work on them while this side goes on. Written out as in poll().
        dirty = self.dirty
        while dirty:
            dirty.popleft()._flush()

    def flush(self) -> None:
        """Let everything in `dirty` hand what it has queued to the kernel."""
        dirty = self.dirty
        # A flush can run callbacks, which may write to other streams.
        while dirty:
            dirty.popleft()._flush()

    def received(self, nread: int, offset: int) -> bytes:
        """Return the bytes of a read record, given its status and payload."""
        data: bytes = self.region[offset : offset + nread]
        return data

    def metrics(self) -> "Metrics":
        """Return what libuv counts; idle time is counted from the first call on. Raises `OSError` before libuv 1.45."""
        out = ffi.new("ffloop_metrics *")
        status = lib.ffloop_get_metrics(self.pointer(), out)
        if status < 0:
            raise os_error(status)
        return Metrics(out.iterations, out.events, out.idle_ns / 1e9, len(self.handles))

    def wake(self) -> None:
        """End the running poll, or the next one: with a record, which nobody gets.

        From any thread; harmless on a closed loop.
        """
        c = self._c
        if c is not None:
            lib.ffloop_wake(c)

    def forget(self, token: int, kinds: tuple[int, ...]) -> None:
        """Drop all that is kept for `token`; records of these kinds that come for it from now on are dropped."""
        self.handles.pop(token, None)
        for kind in kinds:
            self.callbacks.pop(token << lib.FFLOOP_KIND_BITS | kind, None)

    def close(self) -> None:
        """Close every handle, then the loop. Closing twice is harmless.

        A name look-up under way cannot be interrupted. Its thread goes on, and libuv's loop, invisible by
        then, goes when it has ended.
        """
        c = self._c
        if c is None:
            return
        for handle in list(self.handles.values()):
            handle.close()
        self._drop_batch()
        self._c = None
        self.skippable = None  # the loop is part of it
        self._close_queue()
        if not _finish(c):
            _unfinished.append(c)
        self.in_flight.clear()
        _finish_unfinished()

    def _after_fork(self) -> None:
        """Part from the parent's loop, in a forked child: epoll sets and wake-ups are shared until then.

        A loop that another thread was polling is lost: its thread is not in the child. Nothing touches it any more,
        neither its memory nor its descriptors.
        """
        if self._c is None:
            return
        if lib.ffloop_loop_fork(self._c) == 0:
            for handle in self.handles.values():
                if handle._c is not None:  # else another thread was making it, which is not here
                    handle._after_fork()
            return
        for handle in self.handles.values():
            handle._c = None
        self.handles.clear()
        self._close_queue()
        self._c = None

    def _drop(self, key: int, payload: int) -> None:
        """Release what a record that nobody waits for carries."""
        token, kind = key >> lib.FFLOOP_KIND_BITS, key & KIND_MASK
        if kind == lib.FFLOOP_WRITE:
            self.in_flight.pop(token, None)
        elif kind == lib.FFLOOP_GETADDRINFO:
            if payload:
                lib.ffloop_addrinfo_free(payload)
        elif kind == lib.FFLOOP_GETNAMEINFO and payload:
            lib.ffloop_name_free(payload)
