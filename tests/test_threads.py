"""Loops in many threads, which schedule callbacks in each other; on a free-threaded Python all of it at once."""

import asyncio
import gc
import subprocess
import sys
import sysconfig
import threading
import time

import pytest

from .conftest import FACTORIES

LOOPS, SECONDS, BURST = 4, 1.5, 20


class Player:
    """A loop in a thread of its own, with connections, timers, tasks, and callbacks from elsewhere."""

    def __init__(self, new_event_loop, number):
        self.new_event_loop, self.number = new_event_loop, number
        self.problems, self.got, self.echoes, self.fired = [], [0] * LOOPS, 0, 0
        self.made = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        self.loop = self.new_event_loop()
        self.loop.set_exception_handler(lambda loop, context: self.problems.append(context))
        self.ended = self.loop.create_future()
        self.made.set()
        try:
            self.loop.run_until_complete(asyncio.wait_for(self.main(), 60))
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
        except BaseException as exc:
            self.problems.append(exc)
        finally:
            self.loop.close()

    async def main(self):
        async def serve(reader, writer):
            while data := await reader.read(10_000):
                writer.write(data)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        self.end = time.monotonic() + SECONDS
        await asyncio.gather(*(self.exchange(address, size) for size in (1, 1000, 100_000)), self.wait_often())
        server.close()
        await self.ended

    async def exchange(self, address, size):
        while time.monotonic() < self.end:
            reader, writer = await asyncio.open_connection(*address)
            data = bytes([self.number]) * size
            for _ in range(20):
                writer.write(data)
                assert await reader.readexactly(size) == data
                self.echoes += 1
            writer.close()
            await writer.wait_closed()

    async def wait_often(self):
        while time.monotonic() < self.end:
            timers = [self.loop.call_later(0.0005 * number, self.fire) for number in range(20)]
            for timer in timers[::2]:
                timer.cancel()
            await asyncio.sleep(0.002)
            await asyncio.to_thread(int)

    def fire(self):
        self.fired += 1

    def take(self, sender, number):
        """Get the callback `number` of another one: in order, in this thread."""
        if threading.current_thread() is not self.thread or self.got[sender] != number:
            self.problems.append((sender, number, self.got[sender]))
        self.got[sender] += 1


@pytest.mark.parametrize("new_event_loop", FACTORIES.values(), ids=FACTORIES)
def test_loops_in_many_threads_schedule_in_each_other_and_nothing_is_lost(new_event_loop):
    players = [Player(new_event_loop, number) for number in range(LOOPS)]
    sent = [0] * LOOPS  # to each of them, by each sender

    def send(number):
        while time.monotonic() < end:
            for player in players:
                for index in range(BURST):
                    player.loop.call_soon_threadsafe(player.take, number, sent[number] + index)
                    player.loop.call_soon_threadsafe(int).cancel()  # it may be running
            sent[number] += BURST
            time.sleep(0.001)

    for player in players:
        player.thread.start()
    for player in players:
        assert player.made.wait(10)
    end = time.monotonic() + SECONDS
    senders = [threading.Thread(target=send, args=(number,)) for number in range(LOOPS)]
    for sender in senders:
        sender.start()
    while time.monotonic() < end:
        gc.collect()
        time.sleep(0.02)
    for sender in senders:
        sender.join()
    limit = time.monotonic() + 20
    while any(player.got != sent for player in players) and time.monotonic() < limit:
        time.sleep(0.01)  # nothing wakes them now
    got = [player.got for player in players]
    for player in players:
        player.loop.call_soon_threadsafe(player.ended.set_result, None)
        player.thread.join(30)
    assert got == [sent] * LOOPS
    assert not any(player.thread.is_alive() for player in players)
    assert [player.problems for player in players] == [[]] * LOOPS
    assert all(player.echoes and player.fired for player in players)


@pytest.mark.parametrize("new_event_loop", FACTORIES.values(), ids=FACTORIES)
def test_what_others_schedule_while_a_tool_rearranges_the_ready_callbacks_is_not_lost(new_event_loop):
    loop, got = new_event_loop(), []

    def send(sender):
        for number in range(2000):
            loop.call_soon_threadsafe(got.append, (sender, number))
            if number % 50 == 0:
                time.sleep(0.0005)

    def rearrange():
        loop._ready.insert(0, asyncio.Handle(int, (), loop))
        loop._ready.reverse()
        loop._ready.rotate(1)
        if len(got) == LOOPS * 2000 or time.monotonic() > limit:
            loop.stop()
        else:
            loop.call_soon(rearrange)

    senders = [threading.Thread(target=send, args=(number,)) for number in range(LOOPS)]
    limit = time.monotonic() + 20
    loop.call_soon(rearrange)
    for sender in senders:
        sender.start()
    loop.run_forever()
    for sender in senders:
        sender.join()
    loop.close()
    assert sorted(got) == [(sender, number) for sender in range(LOOPS) for number in range(2000)]


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL")
def test_a_free_threaded_python_stays_free_threaded():
    text = "import asyncio, sys, ffloop; ffloop.run(asyncio.sleep(0)); print(sys._is_gil_enabled())"
    done = subprocess.run([sys.executable, "-W", "error", "-c", text], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("False\n", "")
