"""Callbacks, tasks, timers and threads: what a loop does without any I/O."""

from __future__ import annotations

import asyncio
import threading

from ..row import Loop, Operations, inside

GROUP = "scheduling"


def nothing(*args: object) -> None:
    pass


@inside(GROUP, 10_000, quick=True, counted=True)
def call_soon(loop: Loop) -> Operations:
    """A burst of call_soon(cb), then run."""

    def run(count: int) -> None:
        for _ in range(count):
            loop.call_soon(nothing)
        loop.call_soon(loop.stop)
        loop.run_forever()

    return run


@inside(GROUP, 10_000, counted=True)
def call_soon_3args(loop: Loop) -> Operations:
    """A burst of call_soon(cb, 1, 2, 3), then run."""

    def run(count: int) -> None:
        for _ in range(count):
            loop.call_soon(nothing, 1, 2, 3)
        loop.call_soon(loop.stop)
        loop.run_forever()

    return run


@inside(GROUP, 10_000, quick=True, counted=True)
def call_soon_chain(loop: Loop) -> Operations:
    """A callback that call_soon()s itself: one callback per iteration."""
    left = 0

    def step() -> None:
        nonlocal left
        left -= 1
        if left:
            loop.call_soon(step)
        else:
            loop.stop()

    def run(count: int) -> None:
        nonlocal left
        left = count
        loop.call_soon(step)
        loop.run_forever()

    return run


@inside(GROUP, 10_000, counted=True)
def threadsafe_burst(loop: Loop) -> Operations:
    """Another thread makes 10,000 calls of call_soon_threadsafe while the loop runs."""

    def call(count: int) -> None:
        for _ in range(count):
            loop.call_soon_threadsafe(nothing)
        loop.call_soon_threadsafe(loop.stop)

    def run(count: int) -> None:
        thread = threading.Thread(target=call, args=(count,))
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()

    return run


@inside(GROUP, 1000)
def threadsafe_rtt(loop: Loop) -> Operations:
    """From another thread: call_soon_threadsafe(lock.release), and wait for it."""

    def call(count: int) -> None:
        lock = threading.Lock()
        lock.acquire()
        for _ in range(count):
            loop.call_soon_threadsafe(lock.release)
            lock.acquire()
        loop.call_soon_threadsafe(loop.stop)

    def run(count: int) -> None:
        thread = threading.Thread(target=call, args=(count,))
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()

    return run


async def sleep_often(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@inside(GROUP, 10_000, quick=True, counted=True)
def sleep0_1task(loop: Loop) -> Operations:
    """One task awaits asyncio.sleep(0)."""
    return lambda count: loop.run_until_complete(sleep_often(count))


@inside(GROUP, 20_000, counted=True)
def sleep0_100tasks(loop: Loop) -> Operations:
    """100 tasks await asyncio.sleep(0) at once."""

    async def main(count: int) -> None:
        await asyncio.gather(*(sleep_often(count // 100) for _ in range(100)))

    return lambda count: loop.run_until_complete(main(count))


@inside(GROUP, 10_000, counted=True)
def future_pingpong(loop: Loop) -> Operations:
    """create_future(), call_soon(future.set_result), await it."""

    async def main(count: int) -> None:
        for _ in range(count):
            future = loop.create_future()
            loop.call_soon(future.set_result, None)
            await future

    return lambda count: loop.run_until_complete(main(count))


@inside(GROUP, 10_000, quick=True, counted=True)
def gather_10k(loop: Loop) -> Operations:
    """10,000 trivial tasks, gathered."""

    async def trivial() -> None:
        pass

    async def main(count: int) -> None:
        await asyncio.gather(*(trivial() for _ in range(count)))

    return lambda count: loop.run_until_complete(main(count))


@inside(GROUP, 5000, counted=True)
def queue_pingpong(loop: Loop) -> Operations:
    """Two tasks and two asyncio.Queue."""

    async def main(count: int) -> None:
        there: asyncio.Queue[int] = asyncio.Queue()
        back: asyncio.Queue[int] = asyncio.Queue()

        async def answer() -> None:
            for _ in range(count):
                await back.put(await there.get())

        task = asyncio.create_task(answer())
        for number in range(count):
            await there.put(number)
            await back.get()
        await task

    return lambda count: loop.run_until_complete(main(count))


@inside(GROUP, 1000, counted=True)
def run_until_complete(loop: Loop) -> Operations:
    """run_until_complete of a trivial coroutine: start and stop of the loop."""

    async def trivial() -> None:
        pass

    def run(count: int) -> None:
        for _ in range(count):
            loop.run_until_complete(trivial())

    return run


@inside(GROUP, 10_000, quick=True, counted=True)
def call_later_cancel(loop: Loop) -> Operations:
    """call_later(10, cb).cancel(), then one iteration for all."""

    def run(count: int) -> None:
        for _ in range(count):
            loop.call_later(10, nothing).cancel()
        loop.call_soon(loop.stop)
        loop.run_forever()

    return run


@inside(GROUP, 5000, counted=True)
def timeout_ctx(loop: Loop) -> Operations:
    """A block of asyncio.timeout(10) with a sleep(0) in it."""

    async def main(count: int) -> None:
        for _ in range(count):
            async with asyncio.timeout(10):
                await asyncio.sleep(0)

    return lambda count: loop.run_until_complete(main(count))


@inside(GROUP, 100_000, unit="timers/s")
def timers_100k(loop: Loop) -> Operations:
    """100,000 call_at within 20 ms of now, all fired."""
    left = 0

    def fire() -> None:
        nonlocal left
        left -= 1
        if not left:
            loop.stop()

    def run(count: int) -> None:
        nonlocal left
        left = count
        start = loop.time()
        for number in range(count):
            # 7919 and 100,000 have no common divisor: every moment once, in no order.
            loop.call_at(start + number * 7919 % 100_000 * 2e-7, fire)
        loop.run_forever()

    return run


@inside(GROUP, 500, quick=True)
def executor_rtt(loop: Loop) -> Operations:
    """run_in_executor(None, f), one at a time."""

    async def main(count: int) -> None:
        for _ in range(count):
            await loop.run_in_executor(None, nothing)

    return lambda count: loop.run_until_complete(main(count))
