"""One loop at work on one row, in a process of its own.

    python -m benchmarks.worker LOOP ROW [ADDRESS]           # measured: see below
    python -m benchmarks.worker LOOP ROW --count LIBRARY     # for valgrind: see instructions.py

Its first line is "ready", with the address where it serves if it does, or "cannot" and the reason. It serves until
standard input ends. A row that is measured inside reads a number of seconds from each line, makes batches of operations
for as long, and answers with operations a second, by the clock (the median batch) and by processor time.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import statistics
import sys
import threading
import time

from . import rows
from .instructions import COUNTED
from .loops import LOOPS
from .row import ROWS, Inside, Loop, Operations, Served

assert rows  # it is imported for the list


def end_with_standard_input() -> None:
    """End at once, whatever the loop is doing."""
    while sys.stdin.readline():
        pass
    os._exit(0)


def measure(operations: Operations, batch: int, seconds: float) -> tuple[float, float]:
    settle()
    rates = []
    processor = time.process_time()
    started = before = time.perf_counter()
    while before - started < seconds:
        operations(batch)
        after = time.perf_counter()
        rates.append(batch / (after - before))
        before = after
    return statistics.median(rates), batch * len(rates) / (time.process_time() - processor)


def settle() -> None:
    """Collect garbage, and leave what is left alone: a full collection that falls into one run is not that run's."""
    gc.collect()
    if sys.implementation.name == "cpython":
        gc.freeze()


def count(operations: Operations, library: str) -> None:
    """Make operations; let valgrind count the instructions of the second time."""
    callgrind = ctypes.CDLL(library)
    operations(COUNTED)
    settle()
    callgrind.begin()
    operations(COUNTED)
    callgrind.end()


def serve(loop: Loop, row: Served) -> None:
    address = loop.run_until_complete(asyncio.wait_for(row.start(), 20))
    print("ready", address, flush=True)
    threading.Thread(target=end_with_standard_input, daemon=True).start()
    loop.run_forever()


def main() -> None:
    loop_name, row_name, *rest = sys.argv[1:]
    row = ROWS[row_name]
    try:
        loop = LOOPS[loop_name].new_event_loop()
        asyncio.set_event_loop(loop)
        if isinstance(row, Served):
            serve(loop, row)
            return
        assert isinstance(row, Inside)
        if rest[:1] == ["--count"]:
            count(row.make(loop), rest[1])
            os._exit(0)
        operations = row.make(loop, *rest)
        operations(row.batch)  # what a loop lacks shows here
    except Exception as error:
        print("cannot", f"{type(error).__name__}: {error}".splitlines()[0], flush=True)
        os._exit(1)
    print("ready", flush=True)
    for line in sys.stdin:
        print(*measure(operations, row.batch, float(line)), flush=True)
    os._exit(0)  # nothing that a loop does when it closes is measured


if __name__ == "__main__":
    main()
