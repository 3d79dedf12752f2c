"""The two speeds: which is in force, that no program can tell them apart, what the accelerator must not get wrong.

All other tests run at the speed that is in force. Here is what only one of them could break: what tools replace, the
polls that are left out while there is enough to do, and the C types themselves.
"""

import asyncio
import collections
import contextvars
import errno
import gc
import heapq
import math
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import weakref

import pytest

import ffloop
from ffloop import sockets
from ffloop.speed import accelerator

from .conftest import collect

accelerated = pytest.mark.skipif(accelerator is None, reason="about the accelerator, which is not in force")


def python(code, **environment):
    """What `code` prints in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_accelerator_is_there_on_cpython_unless_it_is_switched_off():
    code = "from ffloop.speed import accelerator; print(accelerator is not None)"
    assert python(code, FFLOOP_PURE="").strip() == str(platform.python_implementation() == "CPython")
    assert python(code, FFLOOP_PURE="1").strip() == "False"


PROGRAM = """
import asyncio, contextvars, logging, random, sys
import ffloop

logging.disable()
VAR = contextvars.ContextVar("VAR", default=0)

def play(seed):
    choose, log, handles = random.Random(seed), [], []
    loop = ffloop.new_event_loop()
    now = 100.0
    real = loop._selector.select
    budget = 150

    def select(timeout):
        nonlocal now
        found = real(0)
        if timeout:
            now += timeout
        elif timeout is None:
            loop.stop()
        return found

    def callback(number):
        nonlocal now, budget
        log.append((number, VAR.get(), round(now, 6), len(loop._scheduled), loop._timer_cancelled_count))
        for _ in range(choose.randrange(4)):
            budget -= 1
            if budget < 0:
                return
            what = choose.randrange(9)
            other = choose.randrange(100)
            if what < 2:
                handles.append(loop.call_soon(callback, other))
            elif what < 4:
                handles.append(loop.call_later(choose.choice([0, 0.5, 0.5, 1, 2]), callback, other))
            elif what == 4:
                handles.append(loop.call_at(now + choose.choice([-1, 1]), callback, other))
            elif what == 5 and handles:
                choose.choice(handles).cancel()
            elif what == 6:
                VAR.set(other)
            elif what == 7:
                loop.call_soon_threadsafe(callback, other, context=contextvars.Context())
            elif what == 8 and number % 3 == 0:
                raise ValueError(number)

    loop._selector.select = select
    loop.time = lambda: now
    loop.set_exception_handler(lambda loop, context: log.append((str(context["exception"]), sorted(context))))
    for number in range(10):
        loop.call_soon(callback, number)
    loop.run_forever()
    log += [(type(handle).__mro__[-2].__name__, handle.cancelled(), handle._args) for handle in handles]
    loop._selector.select = real
    loop.close()
    return log

for seed in range(60):
    print(play(seed))
"""


@accelerated
def test_a_program_of_handles_and_timers_runs_the_same_at_both_speeds():
    slow, fast = python(PROGRAM, FFLOOP_PURE="1"), python(PROGRAM, FFLOOP_PURE="")
    assert len(slow) > 50_000
    assert fast == slow


# While callbacks keep the loop busy


class Chain:
    """A callback that schedules itself, until it is stopped."""

    def __init__(self, loop):
        self.loop = loop
        self.stopped = False
        self.count = 0
        loop.call_soon(self)

    def __call__(self):
        self.count += 1
        if not self.stopped:
            self.loop.call_soon(self)


async def test_a_chain_of_callbacks_does_not_starve_input():
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    with right:
        reader, writer = await asyncio.open_connection(sock=left)
        chain = Chain(loop)
        right.send(b"in")
        assert await asyncio.wait_for(reader.readexactly(2), 20) == b"in"
        writer.write(b"out")
        loop_waits = asyncio.wait_for(loop.run_in_executor(None, right.recv, 3), 20)
        assert await loop_waits == b"out"
        chain.stopped = True
        writer.close()
        await writer.wait_closed()


async def test_a_chain_of_callbacks_does_not_starve_timers_and_threads():
    loop = asyncio.get_running_loop()
    chain = Chain(loop)
    await asyncio.wait_for(asyncio.sleep(0.01), 20)
    woken = loop.create_future()
    threading.Thread(target=loop.call_soon_threadsafe, args=(woken.set_result, "thread")).start()
    assert await asyncio.wait_for(woken, 20) == "thread"
    chain.stopped = True


async def test_a_chain_of_callbacks_does_not_starve_signals():
    loop = asyncio.get_running_loop()
    chain = Chain(loop)
    came = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, came.set_result, "signal")
    os.kill(os.getpid(), signal.SIGUSR1)
    assert await asyncio.wait_for(came, 20) == "signal"
    chain.stopped = True
    loop.remove_signal_handler(signal.SIGUSR1)


FOREVER_IN_C = """
import functools, threading
import ffloop

loop = ffloop.new_event_loop()
again = functools.partial(print)
again.__setstate__((loop.call_soon, (again,), {}, {}))
running = threading.Event()

def other():
    running.wait()
    loop.call_soon_threadsafe(loop.stop)

threading.Thread(target=other, daemon=True).start()
loop.call_soon(running.set)
loop.call_soon(again)
loop.run_forever()
print("stopped")
"""


def test_a_chain_without_a_line_of_python_does_not_starve_threads():
    # Nor does it here: Python lets other threads run between two bytecodes.
    assert python(FOREVER_IN_C).strip() == "stopped"


def test_a_chain_without_a_line_of_python_can_be_interrupted(loop):
    # Such a chain runs no bytecode between two callbacks, at which Python would look for signals.
    loop.call_soon(os.kill, os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    loop.run_until_complete(asyncio.sleep(0))


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_however_short_a_run_is_it_polls(loop, turns):
    left, right = socket.socketpair()
    left.setblocking(False)
    seen = []
    with left, right:
        loop.add_reader(left, lambda: seen.append(left.recv(10)))
        for number in range(3):
            right.send(b"%d" % number)

            def stop(turns=turns):
                if turns > 1:
                    loop.call_soon(stop, turns - 1)
                else:
                    loop.stop()

            loop.call_soon(stop)
            loop.run_forever()
            assert len(seen) == number + 1
        loop.remove_reader(left)


def test_one_turn_at_a_time_when_somebody_else_calls_for_turns(loop):
    ran = []
    loop.call_soon(lambda: (ran.append(1), loop.call_soon(ran.append, 2)))
    loop._run_once()
    assert ran == [1]
    loop._run_once()
    assert ran == [1, 2]

    def inside():
        loop.call_soon(ran.append, 3)
        loop._run_once()
        ran.append("inside")
        loop.stop()

    loop.call_soon(inside)
    loop.run_forever()
    assert ran == [1, 2, 3, "inside"]


# What tools replace


def test_a_clock_that_is_replaced_while_the_loop_runs_moves_the_timers(loop):
    fired = []

    def jump():
        real = loop.time
        loop.time = lambda: real() + 1000
        loop.call_later(0, loop.stop)

    loop.call_later(900, fired.append, "timer")
    loop.call_soon(jump)
    loop.run_forever()
    assert fired == ["timer"]


def test_a_clock_of_a_subclass_moves_the_timers(loop):
    class Clock(type(loop)):
        now = 5.0

        def time(self):
            return self.now

    clock = Clock()
    fired = []
    clock.call_later(10, fired.append, 15.0)
    clock.call_at(16.0, fired.append, 16.0)
    Clock.now = 15.5
    clock.call_soon(clock.stop)
    clock.run_forever()
    assert fired == [15.0]
    clock.close()


def test_a_time_module_that_is_patched_moves_the_timers(loop, monkeypatch):
    real, fired = time.monotonic, []
    loop.call_later(900, fired.append, "timer")
    monkeypatch.setattr(time, "monotonic", lambda: real() + 1000)
    loop.call_later(0, loop.stop)
    loop.run_forever()
    assert fired == ["timer"]


def test_a_clock_that_stands_still_fires_no_timer_however_busy_the_loop_is(loop, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    fired, turns = [], iter(range(3000))
    loop.call_later(900, fired.append, "timer")

    def turn():
        loop.call_soon(turn if next(turns, None) is not None else loop.stop)

    turn()
    loop.run_forever()
    assert not fired


def test_another_time_module_for_base_events_moves_the_timers(loop, monkeypatch):
    monkeypatch.setattr(asyncio.base_events, "time", types.SimpleNamespace(monotonic=lambda: 5.0))
    assert loop.time() == 5.0
    assert loop.call_later(1, print).when() == 6.0


@pytest.mark.parametrize(
    "name", ["call_soon", "call_soon_threadsafe", "call_later", "call_at", "_run_once", "time", "is_running"]
)
@pytest.mark.parametrize("debug", [False, True])
def test_a_method_that_is_replaced_in_base_event_loop_is_called(loop, monkeypatch, name, debug):
    real, called = getattr(asyncio.BaseEventLoop, name), []

    def replacement(*args, **kwargs):
        called.append(args)
        return real(*args, **kwargs)

    loop.set_debug(debug)
    monkeypatch.setattr(asyncio.BaseEventLoop, name, replacement)
    loop.call_at(loop.time() + 50, print)
    loop.call_later(0, loop.stop)
    loop.call_soon_threadsafe(int)
    loop.call_soon(int)
    loop.run_forever()
    assert called


@pytest.mark.parametrize(
    ("method", "gives", "program", "printed"),
    [
        ("time", 5.0, "loop.call_later(1, print).when()", "6.0"),
        ("call_soon", None, "loop.call_soon(print)", "None"),
    ],
)
def test_what_was_replaced_before_the_import_is_called(method, gives, program, printed):
    code = f"import asyncio; asyncio.BaseEventLoop.{method} = lambda *args: {gives}; "
    code += f"import ffloop; loop = ffloop.new_event_loop(); print({program})"
    assert python(code, FFLOOP_PURE="").strip() == python(code, FFLOOP_PURE="1").strip() == printed


def test_handle_run_may_be_replaced_however_often_it_was_before(loop, monkeypatch):
    # After some thousand changes CPython no longer marks a class as changed.
    real, ran = asyncio.Handle._run, []
    types_of_handles = type(loop.call_soon(int)), type(loop.call_later(0, int))
    for _ in range(3000):
        monkeypatch.setattr(asyncio.Handle, "_run", lambda handle: real(handle))
        for type_of_handle in types_of_handles:
            assert type_of_handle._run is not real
    monkeypatch.setattr(asyncio.Handle, "_run", real)
    loop.call_soon(loop.stop)
    loop.run_forever()
    monkeypatch.setattr(asyncio.Handle, "_run", lambda handle: (ran.append(handle), real(handle)))
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert len(ran) == 1


@accelerated
def test_the_turns_of_a_run_follow_each_other_without_a_line_of_python():
    loop, calls = ffloop.new_event_loop(), []
    chain = Chain(loop)

    def profile(frame, event, function):
        if event == "c_call" and function.__name__ == "_run_once":
            calls.append(chain.count)

    loop.call_later(0.01, loop.stop)
    sys.setprofile(profile)
    try:
        loop.run_forever()
    finally:
        sys.setprofile(None)
    assert calls[0] == 0
    assert len(calls) <= 1 + chain.count / 100
    loop.close()


def test_run_once_that_was_replaced_before_the_import_is_called():
    code = (
        "import asyncio; base, turns = asyncio.BaseEventLoop, []; real = base._run_once\n"
        "def run_once(loop): turns.append(1); real(loop)\n"
        "base._run_once = run_once; import ffloop; loop = ffloop.new_event_loop()\n"
        "loop.run_until_complete(asyncio.sleep(0)); print(bool(turns))"
    )
    assert python(code, FFLOOP_PURE="").strip() == python(code, FFLOOP_PURE="1").strip() == "True"


def test_run_once_of_a_subclass_sees_each_turn(loop):
    class Counts(type(loop)):
        turns = 0

        def _run_once(self):
            self.turns += 1
            super()._run_once()

    async def yield_often():
        for _ in range(500):
            await asyncio.sleep(0)

    counts = Counts()
    counts.run_until_complete(yield_often())
    assert counts.turns >= 500
    counts.close()


def test_run_once_that_is_wrapped_in_the_middle_of_a_run_sees_each_turn_from_then_on(loop):
    real, turns = loop._run_once, []

    def run_once():
        turns.append(1)
        real()

    async def yield_often():
        loop._run_once = run_once
        for _ in range(500):
            await asyncio.sleep(0)

    loop.run_until_complete(yield_often())
    assert len(turns) >= 499


def test_process_events_of_a_subclass_is_called_when_there_is_input(loop):
    class Counts(type(loop)):
        seen = 0

        def _process_events(self, event_list):
            self.seen += bool(event_list)
            super()._process_events(event_list)

    counts = Counts()
    left, right = socket.socketpair()
    left.setblocking(False)

    async def receive():
        for _ in range(5):
            counts.call_later(0.001, right.send, b"x")
            await counts.sock_recv(left, 10)

    with left, right:
        counts.run_until_complete(receive())
    assert counts.seen >= 5
    counts.close()


def test_a_selector_that_somebody_else_answers_for_may_find_an_empty_list(loop, monkeypatch):
    select = loop._selector.select
    monkeypatch.setattr(loop._selector, "select", lambda timeout: select(0) or [])
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    loop._process_events([])


def test_run_once_may_be_replaced_in_the_middle_of_a_run(loop):
    turns = []
    real = loop._run_once

    def run_once():
        turns.append(1)
        real()

    def replace():
        loop._run_once = run_once
        loop.call_later(0.01, loop.stop)

    loop.call_soon(replace)
    loop.run_forever()
    assert turns


def test_handle_run_may_be_replaced_in_the_middle_of_a_run(loop, monkeypatch):
    real, ran = asyncio.Handle._run, []

    def run(handle):
        ran.append(handle)
        return real(handle)

    def replace():
        monkeypatch.setattr(asyncio.Handle, "_run", run)
        loop.call_soon(first)
        loop.call_later(0.01, loop.stop)

    def first():
        pass

    loop.call_soon(replace)
    loop.run_forever()
    assert [handle._callback for handle in ran] == [first, loop.stop]


def test_call_at_of_a_subclass_gets_what_call_later_schedules(loop):
    class Counts(type(loop)):
        seen = 0

        def call_at(self, *args, **kwargs):
            self.seen += 1
            return super().call_at(*args, **kwargs)

    counts = Counts()
    counts.call_later(5, print).cancel()
    assert counts.seen == 1
    counts.close()


def test_events_may_be_processed_by_a_subclass(loop):
    class Counts(type(loop)):
        seen = 0

        def _process_events(self, events):
            self.seen += 1
            super()._process_events(events)

    counts = Counts()
    counts.run_until_complete(asyncio.sleep(0.01))
    assert counts.seen > 1
    counts.close()


def test_debug_mode_may_change_in_the_middle_of_a_run(loop):
    ran = []

    def switch(enabled):
        loop.set_debug(enabled)
        ran.append(enabled)
        handle = loop.call_soon(ran.append, repr(enabled))
        assert (handle._source_traceback is not None) == enabled

    loop.call_soon(switch, True)
    loop.call_soon(switch, False)
    loop.call_soon(loop.call_soon, loop.stop)
    loop.run_forever()
    assert ran == [True, False, "True", "False"]


# Handles, the ready queue, the timers


def test_handles_are_asyncios_and_tell_what_asyncios_tell(loop):
    context = contextvars.Context()
    handle = loop.call_soon(print, 1, "two", context=context)
    timer = loop.call_at(loop.time() + 60, print, 3)
    assert isinstance(handle, asyncio.Handle)
    assert not isinstance(handle, asyncio.TimerHandle)
    assert isinstance(timer, asyncio.TimerHandle)
    assert (handle._callback, handle._args, handle._context, handle._loop) == (print, (1, "two"), context, loop)
    assert repr(handle).startswith("<Handle print(")
    assert repr(timer).startswith(f"<TimerHandle when={timer.when()} print(")
    assert timer._scheduled
    assert weakref.ref(timer)() is timer
    assert sorted([loop.call_at(timer.when() + 1, print), timer])[0] is timer
    handle.cancel()
    timer.cancel()
    assert repr(handle) == "<Handle cancelled>"
    assert (handle._callback, handle._args) == (None, None)
    assert loop._timer_cancelled_count == 1


def test_a_handle_that_cancels_itself_runs_to_its_end(loop):
    ran = []

    def callback(argument):
        handle.cancel()
        collect()
        ran.append(argument)

    handle = loop.call_soon(callback, object())
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert len(ran) == 1


def test_timers_of_one_moment_run_as_heapq_has_them(loop):
    choose = random.Random(5)
    moment = loop.time()
    model, ran = [], []

    class Due:
        def __init__(self, when, number):
            self.when, self.number = when, number

        def __lt__(self, other):
            return self.when < other.when

    for number in range(500):
        when = moment + choose.randrange(8) / 1000
        heapq.heappush(model, Due(when, number))
        loop.call_at(when, ran.append, number)
    heapq.heappush(model, Due(moment + 0.02, None))
    loop.call_at(moment + 0.02, loop.stop)
    time.sleep(0.02)
    loop.run_forever()
    assert ran == [heapq.heappop(model).number for _ in range(500)]


@pytest.mark.parametrize(("due", "later"), [(63, 5), (64, 0), (500, 0), (500, 300), (100, 2000)])
@pytest.mark.parametrize("odd", [None, "a tie", "asyncio's own", "cancelled"])
def test_many_timers_that_are_due_at_once_run_in_order_and_the_others_wait(loop, due, later, odd):
    choose = random.Random(due + later)
    now, ran, timers = loop.time(), [], {}
    numbers = list(range(-due + 1, later + 1))
    choose.shuffle(numbers)
    for number in numbers:
        timers[number] = loop.call_at(now + number * (60 if number > 0 else 1e-4), ran.append, number)
    expected = list(range(-due + 1, 1))
    if odd == "a tie":
        loop.call_at(timers[-20].when(), lambda: None)
    elif odd == "asyncio's own":
        foreign = asyncio.TimerHandle(timers[0].when() + 1e-7, ran.append, ("foreign",), loop)
        foreign._scheduled = True
        heapq.heappush(loop._scheduled, foreign)
        expected.append("foreign")
    elif odd == "cancelled":
        for number in range(-due + 1, 1, 3):
            timers[number].cancel()
            expected.remove(number)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert ran == expected
    assert all(timer._scheduled == (number > 0) for number, timer in timers.items())
    heap = [timer.when() for timer in loop._scheduled]
    assert all(heap[(index - 1) // 2] <= heap[index] for index in range(1, len(heap)))
    assert sorted(heap) == [timers[number].when() for number in range(1, later + 1)]
    for timer in timers.values():
        timer.cancel()


def test_many_timers_of_moments_of_any_sign_and_size_run_in_order(loop):
    choose = random.Random(7)
    moments = [choose.uniform(-1, 1) * 10.0 ** choose.randrange(-300, 1) for _ in range(300)]
    moments += [-math.inf, -1e300, -5e-324, 0.0, 5e-324, -(2**53), -7]
    choose.shuffle(moments)
    ran = []
    for moment in moments:
        loop.call_at(moment, ran.append, moment)
    loop.call_soon(loop.stop)
    loop.time = lambda: 1.0
    loop.run_forever()
    assert ran == sorted(moments)


def test_timers_that_were_cancelled_in_numbers_leave_the_heap(loop):
    kept, ran = [], []
    moment = loop.time() + 60
    for number in range(300):
        timer = loop.call_at(moment, ran.append, number)
        if number % 4:
            timer.cancel()
        else:
            kept.append(number)
    gone = weakref.ref(timer)
    del timer
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert len(loop._scheduled) == len(kept)
    assert loop._timer_cancelled_count == 0
    collect()
    assert gone() is None
    loop.time = lambda: moment + 1
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert sorted(ran) == kept


@pytest.mark.parametrize(
    "wrong", [("call_soon",), ("call_later", 1), ("call_later", None, print), ("call_at", None, print)]
)
def test_what_is_missing_raises_what_asyncio_raises(loop, wrong):
    name, *args = wrong
    with pytest.raises(TypeError):
        getattr(loop, name)(*args)
    with pytest.raises(TypeError):
        loop.call_soon(print, colour="red")


def test_the_ready_queue_is_a_deque_to_whoever_looks(loop):
    handles = [loop.call_soon(print, number) for number in range(3)]
    ready, model = loop._ready, collections.deque(handles)
    choose = random.Random(3)
    more = [asyncio.Handle(print, (number,), loop) for number in range(300)]
    operations = [
        lambda queue, handle: queue.append(handle),
        lambda queue, handle: queue.append(handle),
        lambda queue, handle: queue.appendleft(handle),
        lambda queue, handle: queue.extend([handle, handle]),
        lambda queue, handle: queue.extendleft([handle, handles[0]]),
        lambda queue, handle: queue.popleft() if queue else None,
        lambda queue, handle: queue.pop() if queue else None,
        lambda queue, handle: queue.remove(handles[0]) if handles[0] in queue else None,
        lambda queue, handle: queue.rotate(handle._args[0] % 7 - 3),
        lambda queue, handle: queue.reverse(),
        lambda queue, handle: queue.insert(2, handle),
        lambda queue, handle: queue.__setitem__(-1, handle) if queue else None,
        lambda queue, handle: queue.__delitem__(0) if queue else None,
        lambda queue, handle: (queue.count(handle), queue.index(handle) if handle in queue else None),
    ]
    for handle in more:
        operation = choose.choice(operations)
        assert operation(ready, handle) == operation(model, handle)
        assert list(ready) == list(model)
        assert len(ready) == len(model)
        assert bool(ready) == bool(model)
    with pytest.raises(IndexError):
        ready[len(model)]
    assert list(ready.copy()) == list(model)
    ready.clear()
    with pytest.raises(IndexError):
        ready.popleft()


GARBAGE = """
import gc
import ffloop

class Garbage:
    def __init__(self):
        self.itself = self

    def __del__(self):
        {action}

loop = ffloop.new_event_loop()
gc.disable()
for _ in range(50):
    gc.collect()
    for _ in range(50):
        loop.call_soon(print)
    Garbage()
    gc.set_threshold(1)
    gc.enable()
    found = iter(loop._ready)
    gc.disable()
    assert None not in list(found)
loop._ready.clear()
loop.close()
print("done")
"""


@accelerated
@pytest.mark.parametrize("action", ["[loop.call_soon(print) for _ in range(200)]", "loop._ready.clear()"])
def test_the_ready_queue_may_change_while_it_is_copied(action):
    # In another process: what goes wrong is memory. Python 3.11 collects garbage in the middle of it, others later.
    assert python(GARBAGE.format(action=action)) == "done\n"


LET_GO = """
import asyncio, gc, importlib.util, weakref
from ffloop.speed import accelerator

def let_go():
    # ffloop's own module stays until the process ends; of the same file another can be made, and let go of.
    spec = importlib.util.spec_from_file_location("ffloop._speed", accelerator.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loop = asyncio.new_event_loop()
    module.handles = [module.Handle(print, (), loop) for _ in range(3)]
    module.handles += [module.TimerHandle(1.0, print, (), loop) for _ in range(3)]
    loop.close()
    types = (module.Handle, module.TimerHandle, getattr(module, "Datagram", module.Handle))
    return [weakref.ref(thing) for thing in (module, *types)]

for _ in range(3):
    found = let_go()
    gc.collect()
    print([ref() is None for ref in found])
"""


@accelerated
def test_the_module_goes_with_its_types_and_what_is_left_of_its_handles():
    # With the allocator that overwrites what is freed: what is read afterwards is seen.
    assert python(LET_GO, PYTHONMALLOC="debug") == "[True, True, True, True]\n" * 3


def test_handles_and_what_they_hold_are_collected(loop):
    class Holder:
        pass

    gone = []
    for _ in range(1000):
        holder = Holder()
        holder.timer = loop.call_later(60, lambda holder=holder: None)
        holder.handle = loop.call_soon(lambda holder=holder: None)
        holder.timer.cancel()
        gone.append(weakref.ref(holder))
    del holder
    loop._scheduled.clear()
    loop._timer_cancelled_count = 0
    loop.call_soon(loop.stop)
    loop.run_forever()
    collect()
    assert not any(reference() for reference in gone)


@accelerated
def test_threads_that_schedule_lose_nothing():
    loop, ran = ffloop.new_event_loop(), []

    def schedule(number):
        for index in range(2000):
            loop.call_soon_threadsafe(ran.append, (number, index))
        loop.call_soon_threadsafe(finished.release)

    finished = threading.Semaphore(0)
    threads = [threading.Thread(target=schedule, args=(number,)) for number in range(8)]
    runner = threading.Thread(target=loop.run_forever)
    runner.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        assert finished.acquire(timeout=50)
        thread.join()
    loop.call_soon_threadsafe(loop.stop)
    runner.join()
    loop.close()
    assert len(ran) == 16_000
    for number in range(8):
        assert [index for who, index in ran if who == number] == list(range(2000))


def test_a_timer_may_be_given_another_moment(loop):
    # Python makes the new number where the old one was, if it can: as equal as that may look, it is another.
    fired = []
    timer = loop.call_at(loop.time() + 1000, fired.append, "timer")
    was = id(timer._when)
    timer._when = loop.time()
    kept = []
    for _ in range(1000):
        kept.append(loop.time() + 0.01)
        if id(kept[-1]) == was:
            break
    timer._when = kept[-1]
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    assert fired


def test_a_callback_that_cancels_its_handle_and_raises_is_reported_without_it(loop):
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))

    def callback():
        handle.cancel()
        raise ValueError("wrong")

    handle = loop.call_soon(callback)
    loop.call_soon(loop.stop)
    loop.run_forever()
    (context,) = contexts
    assert context["message"] == "Exception in callback None()"
    assert context["handle"] is handle
    assert str(context["exception"]) == "wrong"


def test_a_handle_that_has_lost_its_loop_raises(loop):
    def callback():
        del handle._loop
        raise ValueError("wrong")

    handle = loop.call_soon(callback)
    with pytest.raises(AttributeError):
        loop.run_forever()


LEAVES_NO_CONTEXT = """
import asyncio, contextvars, ctypes
import ffloop
loop = {}.new_event_loop()
loop.call_exception_handler = lambda told: print(told["exception"])
context = contextvars.Context()
loop.call_soon(lambda: ctypes.pythonapi.PyContext_Enter(ctypes.py_object(context)))
loop.call_soon(print, "next")
loop.call_soon(loop.stop)
loop.run_forever()
"""

CALLS_HANDLES = """
import ffloop
loop = ffloop.new_event_loop()
handle = None
for _ in range(300_000):
    handle = loop.call_soon(handle)
loop._ready.clear()
handle = None
print("done")
"""

TIMERS_OF_SOMEBODY_ELSE = """
import asyncio, gc
import ffloop

class Timer(asyncio.TimerHandle):
    __slots__ = ()

    @property
    def _cancelled(self):
        disturb()
        return True

    @_cancelled.setter
    def _cancelled(self, value):
        pass

class Mixed:
    _cancelled = False

    @property
    def _when(self):
        disturb()
        return 40.0

def timers(count=300):
    return [asyncio.TimerHandle(50.0 + number, print, (), loop) for number in range(count)]

def takes_the_list():
    loop._scheduled = []
    gc.collect()

def empties_the_list():
    loop._scheduled.clear()
    gc.collect()

def changes_the_list():
    for index, timer in enumerate(loop._scheduled):
        if type(timer) is asyncio.TimerHandle:
            loop._scheduled[index] = asyncio.TimerHandle(60.0, print, (), loop)

def takes_the_timers():
    loop._scheduled = None

for disturb in takes_the_list, empties_the_list, changes_the_list, takes_the_timers:
    for count in 3, 300:
        for foreign in Timer(1.0, print, (), asyncio.new_event_loop()), Mixed():
            for cancelled in 0, 1000:
                loop = ffloop.new_event_loop()
                loop._scheduled += [foreign, *timers(count), foreign]
                loop._timer_cancelled_count = cancelled
                loop.call_soon(loop.stop)
                for action in loop.run_forever, lambda: loop.call_at(1.0, print):
                    try:
                        action()
                    except Exception:
                        pass
                loop._scheduled = []
                loop.close()
print("done")
"""


@pytest.mark.parametrize("module", ["asyncio", "ffloop"])
@pytest.mark.skipif(platform.python_implementation() != "CPython", reason="about CPython's own C functions")
def test_a_callback_that_leaves_another_context_behind_is_reported(module):
    printed = python(LEAVES_NO_CONTEXT.format(module)).splitlines()
    assert "context" in printed[0]
    assert printed[1] == "next"


@pytest.mark.parametrize("program", [CALLS_HANDLES, TIMERS_OF_SOMEBODY_ELSE], ids=["handles", "timers"])
def test_a_program_that_abuses_what_asyncio_keeps_to_itself_crashes_nothing(program):
    assert python(program).strip() == "done"


INTERRUPTED = """
import signal, threading, time, ffloop

class Interrupted(BaseException):
    pass

def interrupt(*args):
    raise Interrupted

def callback(running, leave):
    running.set()
    leave.wait(10)
    signal.raise_signal(signal.SIGUSR1)

def cancel_soon(running, leave, other):
    running.wait(10)
    time.sleep(0.01)  # until the main thread waits
    other.start()
    time.sleep(0.01)
    leave.set()

signal.signal(signal.SIGUSR1, interrupt)
loop = ffloop.new_event_loop()
thread = threading.Thread(target=loop.run_forever, daemon=True)
thread.start()
for _ in range(20):
    running, leave = threading.Event(), threading.Event()
    handle = loop.call_soon_threadsafe(callback, running, leave)
    other = threading.Thread(target=handle.cancel, daemon=True)
    helper = threading.Thread(target=cancel_soon, args=(running, leave, other))
    try:
        helper.start()
        handle.cancel()
        time.sleep(10)  # the signal has come when there was nothing to wait for any more
    except Interrupted:
        helper.join(10)
        other.join(10)
    assert not other.is_alive() and handle.cancelled()
loop.call_soon_threadsafe(loop.stop)
thread.join(10)
loop.close()
print(type(handle).__module__)
"""


@accelerated  # asyncio loses its lock where a signal comes between taking it and the block that lets go of it
@pytest.mark.skipif(sys.version_info < (3, 14), reason="nobody waits before Python 3.14")
def test_who_is_interrupted_while_he_waits_to_cancel_keeps_nobody_else_waiting():
    assert python(INTERRUPTED).strip() == "ffloop._speed"


@pytest.mark.skipif(not hasattr(accelerator, "receive"), reason="no MSG_DONTWAIT here")
def test_receive_gives_what_the_socket_module_gives_and_fails_as_it_does():
    left, right = socket.socketpair()
    with left, right:
        assert accelerator.receive(left.fileno(), 10) is None
        right.send(b"x" * 100_000)
        for size in 0, 1, 1000, 70_000:
            expected = left.recv(size, socket.MSG_PEEK)
            assert accelerator.receive(left.fileno(), size) == expected
        right.send(b"rest")
        right.shutdown(socket.SHUT_WR)
        while accelerator.receive(left.fileno(), 1 << 20):
            pass
        assert accelerator.receive(left.fileno(), 10) == b""
        for bad in (-1, "10", 1.5, 1 << 80):
            with pytest.raises(Exception) as theirs:  # noqa: PT011
                left.recv(bad)
            with pytest.raises(type(theirs.value)):
                accelerator.receive(left.fileno(), bad)
        with pytest.raises(TypeError):
            accelerator.receive(left.fileno())
        with pytest.raises(TypeError):
            accelerator.receive("7", 10)
    with pytest.raises(OSError, match="Bad file descriptor"):
        accelerator.receive(-1, 10)


@pytest.fixture
def listening():
    """A server in C that accepts when it is told to, its loop, its descriptor, and what connects to it."""
    if not hasattr(accelerator, "Server"):
        pytest.skip("no accept4() here")
    loop = ffloop.new_event_loop()
    server = loop.run_until_complete(loop.create_server(asyncio.Protocol, "127.0.0.1", 0, start_serving=False))
    (sock,) = server._sockets
    sock.listen()
    clients = []

    def connect():
        clients.append(socket.create_connection(sock.getsockname(), 10))
        return clients[-1]

    yield server, loop, sock.fileno(), connect
    for client in clients:
        client.close()
    server.close()
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    loop.close()


def test_a_server_in_c_fails_as_accept_does(listening):
    server, _, fd, _ = listening
    with pytest.raises(TypeError):
        server._take_descriptor("7")
    with pytest.raises(OSError, match="Bad file descriptor"):
        server._take_descriptor(-1)
    with pytest.raises(BlockingIOError):
        server._take_descriptor(fd)


def test_connections_share_the_names_that_they_have_in_common(listening):
    server, loop, fd, connect = listening
    for client in connect(), connect():
        server._take_descriptor(fd)
        *_, transport = server._connected()
        assert transport.get_extra_info("sockname") == client.getpeername()
        assert transport.get_extra_info("peername") == client.getsockname()
        number = transport.get_extra_info("socket").fileno()
        assert not os.get_blocking(number)
        assert not os.get_inheritable(number)
    one, other = server._connected()
    assert one.get_extra_info("sockname") is other.get_extra_info("sockname")
    assert one.get_extra_info("peername")[0] is other.get_extra_info("peername")[0]
    assert server._active_count == 2


@pytest.mark.parametrize("missing", ["_context", "_protocol_factory", "_loop"])
def test_a_server_that_something_was_taken_from_says_so_and_keeps_no_connection(listening, missing):
    server, _, fd, connect = listening
    client = connect()
    kept = getattr(server, missing)
    told = []
    server._refused = lambda exc, protocol, transport: told.append(exc)
    delattr(server, missing)
    try:
        if missing == "_context":
            with pytest.raises(RuntimeError, match="context"):
                server._take_descriptor(fd)
        else:
            server._take_descriptor(fd)
            assert [type(exc) for exc in told] == [RuntimeError]
    finally:
        setattr(server, missing, kept)
    assert client.recv(10) == b""


def test_an_interrupt_in_a_protocols_factory_ends_the_run_and_the_connection(listening):
    server, _, fd, connect = listening
    client = connect()

    def interrupted():
        raise KeyboardInterrupt

    server._protocol_factory = interrupted
    with pytest.raises(KeyboardInterrupt):
        server._take_descriptor(fd)
    assert client.recv(10) == b""


# The loop's transports

TRANSPORTS = """
import asyncio, gc, socket, sys, sysconfig, weakref
import ffloop
from ffloop.speed import accelerator

sys.unraisablehook = lambda args: print("unraisable", args.exc_value)

async def main():
    loop = asyncio.get_running_loop()
    known = loop._transports
    assert type(known) is accelerator.Transports

    def there(number):
        reference = known.get(number)
        # A weak reference stays in its place until there is another one; where there is a GIL, nothing does.
        assert (reference is not None) == (number in known)
        assert reference is None or reference() or sysconfig.get_config_var("Py_GIL_DISABLED")
        return reference() if reference is not None else None

    def all_there():
        return [transport for reference in known.values() if (transport := reference())]

    async def make(known=known):
        left, right = socket.socketpair()
        number = left.fileno()
        transport, protocol = await loop.connect_accepted_socket(asyncio.Protocol, left)
        transport.pause_reading()  # the loop keeps one that reads
        return transport, number, right

    transport, number, right = await make()
    assert there(number) is transport
    assert all_there() == [transport]

    # Whoever looks while it goes gets nothing, or something whole.
    seen = []
    looks = weakref.ref(transport, lambda _: seen.append([known.get(number), *known.values()]))
    transport.abort()
    await asyncio.sleep(0)
    transport = None
    assert len(seen) == 1 and not any(reference and reference() for reference in seen[0]), seen
    assert there(number) is None and all_there() == []

    # In a cycle, whose finalizers look.
    class Looks:
        def __del__(self):
            found = known.get(number)
            seen.append(found and found())

    transport, number, other = await make()
    transport.abort()
    await asyncio.sleep(0)
    transport.set_protocol(cycle := Looks())
    cycle.transport = transport
    cycle = transport = None
    seen.clear()
    gc.collect()
    seen.clear()
    gc.collect()
    assert there(number) is None and all_there() == []

    # Another place, and another table: each may come to its end before the transport does.
    transport, number, third = await make()
    known[5000] = weakref.ref(transport)
    assert there(5000) is transport and transport in all_there()
    transports = accelerator.Transports()
    transports[number] = weakref.ref(transport)
    assert [reference() for reference in transports.values()] == [transport]
    del transports  # the transport has it
    transport.abort()
    await asyncio.sleep(0)
    transport = None
    gc.collect()

    # Everything else stands there by a weak reference, and a place has one.
    class Other:
        pass

    one, other = Other(), Other()
    known[7] = weakref.ref(one)
    known[7] = weakref.ref(other)
    assert known.get(7)() is other and 7 in known
    other = None
    assert known.get(7)() is None
    gone = weakref.ref(Other())
    known[8] = gone
    assert 8 not in known
    for key in -1, 1 << 40, 1 << 80, "7", 7.0, None:
        assert key not in known and known.get(key) is None
        try:
            known[key] = weakref.ref(one)
        except ValueError:
            pass
        else:
            print("taken", key)
    for wrong in lambda: known.__setitem__(7, one), lambda: known.__delitem__(7), lambda: known.__setitem__(7, None):
        try:
            wrong()
        except TypeError:
            pass
        else:
            print("taken")
    for sock in right, third:
        sock.close()

asyncio.run(main(), loop_factory=ffloop.new_event_loop) if sys.version_info >= (3, 12) else ffloop.run(main())
print("done")
"""


@accelerated
@pytest.mark.skipif(not hasattr(accelerator, "Transports"), reason="there are no stream transports in C here")
def test_transports_are_known_by_descriptor_as_long_as_they_are_there():
    assert python(TRANSPORTS).split() == ["done"]


# Datagrams

DATAGRAMS = """
import asyncio, random, socket, sys
import ffloop

class Player(asyncio.DatagramProtocol):
    def __init__(self, name):
        self.name, self.log, self.refused = name, [], 0

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, exc):
        self.log.append(("lost", repr(exc)))

    def error_received(self, exc):
        self.log.append(("error", str(exc)))

    def datagram_received(self, data, addr):
        sender = ports.get(addr[1], addr) if addr else addr
        self.log.append((len(data), data[:20], sender))
        if not data.startswith(b"play"):
            return
        left, seed = int(data[5:7]), int(data[8:12])
        # What happens depends on nothing but the datagram: how those of several senders mix is not the same each time.
        choose = random.Random(f"{self.name} {seed} {sender}")
        for number in range(choose.choice([0, 1, 1, 1, 2, 5]) if left else 0):
            what = choose.randrange(14)
            data = b"play %02d %04d" % (left - 1, choose.randrange(10_000)) + bytes(choose.choice([0, 1, 500, 3000]))
            to = choose.choice(players)
            arguments = (data,) if self.name == "connected" else (data, to.transport.get_extra_info("sockname"))
            if what < 6:
                self.transport.sendto(*arguments)
            elif what == 6:
                self.transport.sendto(bytearray(data), *arguments[1:])
            elif what == 7:
                self.transport.sendto(b"", *arguments[1:])
            elif what == 8:
                loop.call_soon(self.transport.sendto, *arguments)
            elif what == 9:
                self.transport.sendto(bytes(70_000), *arguments[1:])
            elif what == 10:
                self.transport.pause_reading()
                loop.call_soon(self.transport.resume_reading)
            elif what == 11:
                self.transport.sendto(b"host", *(("localhost", arguments[1][1]) for _ in arguments[1:]))
            elif what == 12:
                try:
                    self.transport.sendto("text", *arguments[1:])
                except TypeError as exc:
                    self.log.append(str(exc))
            else:
                self.transport.get_write_buffer_size()

async def play(seed):
    global players, ports
    players, ports = [], {}
    for name in "first", "second", "connected":
        arguments = {"local_addr": ("127.0.0.1", 0)}
        if name == "connected":
            arguments["remote_addr"] = players[0].transport.get_extra_info("sockname")
        _, player = await loop.create_datagram_endpoint(lambda: Player(name), **arguments)
        players.append(player)
        ports[player.transport.get_extra_info("sockname")[1]] = name
    for number, player in enumerate(players):
        for start in range(4):
            data = b"play 06 %04d" % (seed * 50 + start * 10 + number)
            address = players[0].transport.get_extra_info("sockname")
            player.transport.sendto(data, *([address] if player.name != "connected" else []))
    heard, quiet = -1, 0
    while quiet < 5:
        now = sum(len(player.log) for player in players)
        quiet = quiet + 1 if now == heard else 0
        heard = now
        await asyncio.sleep(0.001)
    for player in players:
        player.transport.close()
        player.transport.sendto(b"late", *([address] if player.name != "connected" else []))
    await asyncio.sleep(0)
    for player in players:
        print(player.name, sorted(map(str, player.log)))

loop = ffloop.new_event_loop()
for seed in range(60):
    loop.run_until_complete(play(seed))
loop.close()
"""


@accelerated
def test_a_program_of_datagrams_runs_the_same_at_both_speeds():
    slow, fast = python(DATAGRAMS, FFLOOP_PURE="1"), python(DATAGRAMS, FFLOOP_PURE="")
    assert len(slow) > 50_000
    assert fast == slow


ENDPOINTS_TAKEN_APART = """
import asyncio, contextvars, gc, logging, socket, warnings
import ffloop
from ffloop.datagrams import DatagramTransport

logging.disable()
warnings.simplefilter("ignore")
slot = type(DatagramTransport._buffer)
names = [name for name in dir(DatagramTransport) if type(getattr(DatagramTransport, name)) is slot]
wrongs = None, (), [], b"x", 7, -1, 1 << 40, contextvars.Context(), lambda *args: 1 / 0
failed = 0

class Disturbed(asyncio.DatagramProtocol):
    def datagram_received(self, data, addr):
        disturb(transport)
        transport.sendto(data, addr)
        transport.sendto(data, addr)

def turn():
    loop.call_soon(int)
    loop._run_once()

def use(transport, name):
    global failed
    for action in (
        lambda: transport.sendto(b"x", name),
        lambda: transport.sendto(b"x", name),
        lambda: transport.sendto(b"x", ("127.0.0.1", 9)),
        lambda: transport.sendto(bytearray(b"x"), name),
        lambda: transport.sendto(b"x" * 70_000, name),
        lambda: transport._flush(),
        turn,
    ):
        try:
            action()
        except Exception:
            failed += 1

def take_apart(name, wrong, inside):
    global disturb, loop, transport

    def disturb(transport):
        try:
            setattr(transport, name, wrong) if wrong != "nothing" else delattr(transport, name)
        except (AttributeError, TypeError, OverflowError, SystemError):
            pass

    loop = ffloop.new_event_loop()
    transport, _ = loop.run_until_complete(loop.create_datagram_endpoint(Disturbed, local_addr=("127.0.0.1", 0)))
    own = transport.get_extra_info("sockname")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        loop.call_soon(transport.sendto, b"x", peer.getsockname())
        turn()
        if not inside:
            disturb(transport)
        for _ in range(3):
            peer.sendto(b"12", own)
        for _ in range(2):
            turn()
        use(transport, peer.getsockname())
    try:
        loop.close()
    except Exception:
        pass

for name in names:
    for wrong in "nothing", *wrongs:
        for inside in False, True:
            take_apart(name, wrong, inside)
print(failed > 100)
transport = DatagramTransport.__new__(DatagramTransport)
for action in lambda: transport.sendto(b"x"), lambda: transport._flush(), lambda: transport._deliver(1, 0):
    try:
        action()
    except Exception as exc:
        print("failed")
transport = None
gc.collect()
"""


def test_a_transport_that_is_taken_apart_crashes_nothing():
    assert python(ENDPOINTS_TAKEN_APART).split() == ["True"] + 3 * ["failed"]


@pytest.mark.skipif(not hasattr(accelerator, "connect"), reason="no SOCK_NONBLOCK here")
def test_connect_gives_what_the_socket_module_gives_and_fails_as_it_does():
    def info(address, family=socket.AF_INET):
        return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address

    with socket.create_server(("127.0.0.1", 0)) as server:
        for way in accelerator.connect, sockets.connect_bare:
            own, peer = way(fds := [], info(server.getsockname()))
            (fd,) = fds
            with socket.socket(fileno=fd) as connected:
                assert (connected.family, connected.type, connected.proto) == info(None)[:3]
                assert not os.get_blocking(fd)
                assert not os.get_inheritable(fd)
                assert (own, peer) == (connected.getsockname(), connected.getpeername())
        free = socket.socket()
        free.bind(("127.0.0.1", 0))
        for way in accelerator.connect, sockets.connect_bare:
            own, peer = way(fds := [], info(free.getsockname()))
            with socket.socket(fileno=fds[0]) as refused:
                assert (own, peer) == (None, None)
                assert refused.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        failures = []
        for way in accelerator.connect, sockets.connect_bare:
            for wrong in info(("255.255.255.255", 1)), (socket.AF_INET, 1000, 6, "", ("127.0.0.1", 1)):
                with pytest.raises(OSError) as caught:  # noqa: PT011
                    way(fds := [], wrong)
                assert fds == []
                failures.append((type(caught.value), str(caught.value)))
        assert failures[:2] == failures[2:]
        free.close()
    before = len(os.listdir("/proc/self/fd"))
    for wrong in ("127.0.0.1", ("host", 1), ("127.0.0.1", 65536), ("127.0.0.1", -1), ("127.0.0.1", 1.5), (b"x", 1), ()):
        with pytest.raises((TypeError, ValueError)):
            accelerator.connect([], info(wrong))
    with pytest.raises(ValueError, match="not the address of a literal"):
        accelerator.connect([], info(("127.0.0.1", 1, 0, 0), socket.AF_INET6))
    with pytest.raises(TypeError):
        accelerator.connect([], ("2", 1, 6, "", ("127.0.0.1", 1)))
    with pytest.raises(TypeError):
        accelerator.connect([], (2, 1, 6, ("127.0.0.1", 1)))
    with pytest.raises(TypeError):
        accelerator.connect([], list(info(("127.0.0.1", 1))))
    with pytest.raises(TypeError):
        accelerator.connect([], *info(("127.0.0.1", 1)))
    with pytest.raises(TypeError):
        accelerator.connect((), info(("127.0.0.1", 1)))
    assert len(os.listdir("/proc/self/fd")) == before


AUDITED = """
import asyncio, os, socket, sys
import ffloop

def look(sock, address):
    print(sock.fileno() >= 0, sock.family, address == there)

def refuse(sock, address):
    raise PermissionError("refused by the hook")

def close(sock, address):
    sock.close()

hook = there = None
sys.addaudithook(lambda event, arguments: event == "socket.connect" and hook(*arguments))

async def main():
    global hook, there
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    there = server.sockets[0].getsockname()
    hook = look
    transport, _ = await loop.create_connection(asyncio.Protocol, *there)
    print(transport.get_extra_info("socket").getpeername() == there)
    before = len(os.listdir("/proc/self/fd"))
    for hook in refuse, close:
        try:
            await loop.create_connection(asyncio.Protocol, *there)
        except OSError as exc:
            print(exc)
    print(len(os.listdir("/proc/self/fd")) == before)
    transport.close()
    server.close()
    await server.wait_closed()

ffloop.run(main())
"""


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="PyPy has no audit hooks")
def test_audit_hooks_are_told_of_a_connection_and_may_refuse_it():
    expected = ["True 2 True", "True", "refused by the hook", "[Errno 9] Bad file descriptor", "True"]
    for pure in "", "1":
        assert python(AUDITED, FFLOOP_PURE=pure).splitlines() == expected


UNCLOSED = """
import asyncio, socket, sys, warnings
import ffloop

warnings.simplefilter("error")
sys.unraisablehook = lambda told: print(str(told.object).split()[:2], str(told.err_msg).split()[:7], told.exc_type)

async def main():
    left, right = socket.socketpair()
    with right:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=left)
        transport.pause_reading()
        await asyncio.sleep(0)
        try:
            raise KeyError
        except KeyError:
            del transport
        right.settimeout(10)
        print(right.recv(1))

ffloop.run(main())
"""


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="only CPython counts references")
def test_an_unclosed_transport_is_told_of_and_closed_the_same_at_both_speeds():
    slow, fast = python(UNCLOSED, FFLOOP_PURE="1"), python(UNCLOSED, FFLOOP_PURE="")
    assert "PureStreamTransport.__del__" in slow
    assert slow.splitlines()[1:] == ["b''"]
    assert fast == slow


def test_readers_run_as_whoever_has_replaced_the_way_handles_run_wants(loop, monkeypatch):
    left, right = socket.socketpair()
    left.setblocking(False)
    real, ran = asyncio.Handle._run, []

    def run(handle):
        ran.append(handle._callback)
        real(handle)

    def read():
        if left.recv(1) == b"b":
            loop.stop()

    loop.add_reader(left, read)
    right.send(b"a")
    loop.call_later(0.01, monkeypatch.setattr, asyncio.Handle, "_run", run)
    loop.call_later(0.02, right.send, b"b")
    loop.run_forever()
    assert ran.count(read) == 1
    monkeypatch.setattr(asyncio.Handle, "_run", real)
    right.send(b"b")
    loop.run_forever()
    assert ran.count(read) == 1
    loop.remove_reader(left)
    left.close()
    right.close()


def test_a_reader_of_another_class_than_asyncios_runs_too(loop):
    class Reader(asyncio.Handle):
        def _run(self):
            ran.append(self)
            super()._run()

    ran = []
    left, right = socket.socketpair()
    left.setblocking(False)
    loop._add_reader(left.fileno(), loop.stop)
    if isinstance(loop, ffloop.Loop):
        reader = loop._set_reader(left.fileno(), Reader(loop.stop, (), loop))
        right.send(b"x")
        loop.run_forever()
        assert ran == [reader]
    loop.remove_reader(left)
    left.close()
    right.close()


def test_a_loop_that_is_dropped_with_watches_leaves_no_garbage():
    def watch_and_drop():
        loop = ffloop.new_event_loop()
        left, right = socket.socketpair()
        for sock in left, right:
            sock.setblocking(False)
        receiving = loop.create_task(loop.sock_recv(left, 1))
        loop.add_reader(right, Mark())
        loop.run_until_complete(asyncio.sleep(0))
        receiving.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        left.close()
        right.close()
        return weakref.ref(loop)

    class Mark:
        def __call__(self):
            pass

        def __del__(self):
            gone.append(1)

    gone = []
    refs = [watch_and_drop() for _ in range(3)]
    collect()
    assert [ref() for ref in refs] == [None] * 3
    assert len(gone) == 3


@accelerated
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="from 3.12 on no allocation begins a collection by itself")
@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")
def test_a_transport_that_is_looked_up_is_not_collected_meanwhile():

    class Cycle(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            transport.pause_reading()

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Cycle, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        thresholds = gc.get_threshold()
        gc.collect()
        gc.disable()
        transport, protocol = await loop.create_connection(Cycle, *address)
        fd = transport._stream.fileno()
        get, enable, disable = loop._transports.get, gc.enable, gc.disable
        del transport, protocol
        gc.set_threshold(1, 1, 1)
        try:
            enable()
            reference = get(fd)
            disable()
            transport = reference()
            assert transport is not None
            transport.abort()
        finally:
            gc.set_threshold(*thresholds)
            gc.enable()
        server.close()

    ffloop.run(main())
