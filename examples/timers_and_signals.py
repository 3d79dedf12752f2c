"""Timers, and a signal that ends the program in an orderly way.

    python examples/timers_and_signals.py [SECONDS]

It ticks until SIGTERM or Ctrl-C, or for SECONDS.
"""

import asyncio
import signal
import sys

import ffloop


async def tick(period):
    loop = asyncio.get_running_loop()
    started = loop.time()
    while True:
        await asyncio.sleep(period)
        print(f"tick after {loop.time() - started:.1f} s", flush=True)


async def main(seconds):
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    ticking = asyncio.create_task(tick(0.2))
    try:
        async with asyncio.timeout(seconds):
            await stopped.wait()
        print("stopped by a signal")
    except TimeoutError:
        print("time is up")
    ticking.cancel()


if __name__ == "__main__":
    ffloop.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else None))
