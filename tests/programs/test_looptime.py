"""looptime: a patched clock. Hours pass in no time, while sockets and threads keep their place."""

import asyncio
import time

import looptime
import pytest

from ..conftest import FACTORIES
from .processes import LIMIT


@pytest.fixture(params=FACTORIES)
def factory(request):
    return FACTORIES[request.param]


@pytest.fixture
def loop(factory):
    """A patched loop; its clock starts at 0."""
    loop = looptime.patch_event_loop(factory(), start=0)
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_hours_pass_in_no_time_and_timers_keep_their_order(loop):
    order = []

    async def main():
        for hours in (3, 1, 2):
            loop.call_later(hours * 3600, order.append, (hours, loop.time))
            loop.call_at(hours * 3600, lambda hours=hours: order.append((hours, loop.time())))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(loop.create_future(), 5400)
        assert loop.time() == 5400
        await asyncio.sleep(86400)

    before = time.monotonic()
    loop.run_until_complete(main())
    assert loop.time() == 91800
    assert time.monotonic() - before < LIMIT  # not 25 hours
    assert [hours for hours, _ in order] == [1, 1, 2, 2, 3, 3]
    assert [at for _, at in order if isinstance(at, float)] == [3600, 7200, 10800]


def test_traffic_is_served_while_the_clock_is_patched(loop):
    async def echo(reader, writer):
        while data := await reader.read(100_000):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def exchange(address, n):
        await asyncio.sleep(n * 60)
        reader, writer = await asyncio.open_connection(*address)
        data = bytes(range(256)) * 1000
        writer.write(data)
        writer.write_eof()
        assert await reader.read() == data
        writer.close()
        await writer.wait_closed()
        return loop.time()

    async def main():
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            return await asyncio.gather(*(exchange(address, n) for n in range(10)))

    times = loop.run_until_complete(main())
    # The clock may go on while bytes are on their way, but nobody starts too early.
    assert all(at >= n * 60 for n, at in enumerate(times))


def test_time_waits_for_what_a_thread_has_scheduled_already(loop):
    order = []

    async def main():
        loop.call_later(3600, order.append, "timer")
        for _ in range(20):
            # Like asyncio's, the loop sees the thread's call before it moves the clock.
            future = loop.create_future()
            await asyncio.to_thread(loop.call_soon_threadsafe, future.set_result, None)
            await future
        order.append("threads")
        await asyncio.sleep(3600)

    loop.run_until_complete(main())
    assert order == ["threads", "timer"]


def test_threads_answer_a_loop_whose_clock_is_patched_and_idle(factory):
    # Disabled, as looptime's pytest plugin leaves the loops of other tests: it polls twice, the second time waiting.
    loop = looptime.patch_event_loop(factory(), _enabled=False)

    async def main():
        async with asyncio.timeout(LIMIT):
            for n in range(500):
                assert await loop.run_in_executor(None, sum, range(n)) == n * (n - 1) // 2

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_the_end_of_time_ends_what_waits(factory):
    loop = looptime.patch_event_loop(factory(), start=0, end=3600)
    with pytest.raises(looptime.LoopTimeoutError):
        loop.run_until_complete(asyncio.sleep(7200))
    assert loop.time() == 3600
    loop.close()
