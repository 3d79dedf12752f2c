"""aiodebug: it patches `Handle._run` to name slow callbacks, and watches the loop from a task and from a thread."""

import asyncio
import socket
import time

import pytest
from aiodebug import hang_inspection, log_slow_callbacks, monitor_loop_lag

from .processes import LIMIT

pytestmark = pytest.mark.asyncio


@pytest.fixture
def slow(monkeypatch):
    """The callbacks that took 50 ms or more."""
    monkeypatch.setattr(asyncio.Handle, "_run", asyncio.Handle._run)  # so that it is put back
    named = []
    log_slow_callbacks.enable(0.05, lambda name, duration: named.append((name, duration)))
    return named


async def test_a_slow_callback_and_a_slow_task_are_named(slow):
    async def dawdling_task():
        await asyncio.sleep(0)
        time.sleep(0.06)

    def dawdling_callback():
        time.sleep(0.06)

    def dawdling_timer():
        time.sleep(0.06)

    loop = asyncio.get_running_loop()
    loop.call_soon(dawdling_callback)
    loop.call_later(0.001, dawdling_timer)
    await dawdling_task()
    await asyncio.create_task(dawdling_task())
    await asyncio.sleep(0.01)
    for name in ("dawdling_callback", "dawdling_timer", "dawdling_task"):
        assert any(name in told and duration >= 0.06 for told, duration in slow), (name, slow)


async def test_a_slow_reader_is_named(slow):
    def dawdling_reader():
        left.recv(10)
        time.sleep(0.06)
        done.set()

    loop, done = asyncio.get_running_loop(), asyncio.Event()
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        loop.add_reader(left, dawdling_reader)
        right.send(b"x")
        await done.wait()
        await asyncio.sleep(0)
        loop.remove_reader(left)
    assert any("dawdling_reader" in told for told, _ in slow), slow


async def test_a_slow_protocol_is_reported_with_its_transport(slow):
    class Dawdler(asyncio.Protocol):
        def data_received(self, data):
            time.sleep(0.06)
            done.set()

    loop, done = asyncio.get_running_loop(), asyncio.Event()
    left, right = socket.socketpair()
    with right:
        transport, _ = await loop.connect_accepted_socket(Dawdler, left)
        slow.clear()
        right.send(b"x")
        await done.wait()
        await asyncio.sleep(0)
        transport.close()
    assert any("Transport" in told for told, _ in slow), slow


async def test_the_lag_of_the_loop_is_measured():
    class Statistics:
        def timing(self, metric, value):
            lags.append((metric, value))

    lags = []
    monitor_loop_lag.enable(Statistics(), 0.01)
    await asyncio.sleep(0.03)
    time.sleep(0.1)
    async with asyncio.timeout(LIMIT):
        while not any(value > 50 for _, value in lags):
            await asyncio.sleep(0.01)
    assert {metric for metric, _ in lags} == {"aiodebug.monitor_loop_lag"}
    assert all(value > -1 for _, value in lags), "a timer was early"
    monitors = [task for task in asyncio.all_tasks() if task.get_name() == "aiodebug.monitor_loop_lag"]
    assert monitors
    for task in monitors:
        task.cancel()


@pytest.mark.filterwarnings("ignore:setDaemon:DeprecationWarning")
async def test_the_stack_of_a_hang_is_written_down(tmp_path):
    def seen():
        # Not always the first one: on a busy machine the loop may have hung before.
        return any("in where_it_hangs" in path.read_text() for path in tmp_path.iterdir())

    def where_it_hangs():
        end = time.monotonic() + LIMIT
        while not seen() and time.monotonic() < end:
            time.sleep(0.01)

    dumper = hang_inspection.start(str(tmp_path), 0.05)
    await asyncio.sleep(0.01)
    where_it_hangs()
    await hang_inspection.stop_wait(dumper)
    dumper[0].join(LIMIT)
    assert seen()
