"""Programs of handles and timers: what runs, in which order, in which context, and what is left when a run ends.

A program is a table of callbacks that schedule, cancel, stop, raise, and move the clock; and a list of what happens
between runs.
"""

import asyncio
from typing import NamedTuple

from .world import VAR

RAISABLE = {
    "value": ValueError,
    "cancelled": asyncio.CancelledError,
    "generator": GeneratorExit,
    "interrupt": KeyboardInterrupt,
    "exit": SystemExit,
}


class Program(NamedTuple):
    debug: bool
    callbacks: list
    """The operations of each callback."""
    steps: list
    """Operations outside of callbacks, each followed by a run or not."""


class Play:
    """A program at work."""

    def __init__(self, program, world):
        self.program = program
        self.world = world
        self.loop = world.loop
        self.loop.slow_callback_duration = 0.5
        self.handles = []
        self.budget = 80

    def run(self):
        for operation, runs in self.program.steps:
            self.world.attempt("step", self.perform, operation)
            if runs:
                self.turn()
        for _ in range(30):
            if not self.loop._ready and not self.loop._scheduled:
                break
            self.turn()
        self.handles.clear()

    def turn(self):
        before = len(self.world.log)
        self.world.run()
        # Nothing happens where asyncio's ready queue held no more than the look at its self-pipe, which ffloop has not.
        if len(self.world.log) > before:
            alive = sum(not handle.cancelled() for handle in self.loop._scheduled)
            self.world.note("ran", self.world.now, alive)

    def call(self, number):
        self.world.note("call", number, VAR.get(), self.world.now)
        for operation in self.program.callbacks[number % len(self.program.callbacks)]:
            self.perform(operation)

    def perform(self, operation):
        self.budget -= 1
        if self.budget >= 0:
            name, *arguments = operation
            getattr(self, f"do_{name}")(*arguments)

    def keep(self, name, function, *arguments):
        try:
            handle = function(*arguments)
        except Exception as exc:
            self.world.note(name, "raised", type(exc).__name__, str(exc))
            return
        self.world.note(name, type(handle).__name__, handle.cancelled())
        self.handles.append(handle)

    def do_soon(self, number):
        self.keep("soon", self.loop.call_soon, self.call, number)

    def do_threadsafe(self, number):
        self.keep("threadsafe", self.loop.call_soon_threadsafe, self.call, number)

    def do_later(self, delay, number):
        self.keep("later", self.loop.call_later, delay, self.call, number)

    def do_at(self, offset, number):
        self.keep("at", self.loop.call_at, self.loop.time() + offset, self.call, number)

    def do_wrong(self, method, *arguments):
        self.keep("wrong", getattr(self.loop, method), *arguments)

    def do_cancel(self, which):
        if self.handles:
            handle = self.handles[which % len(self.handles)]
            self.world.attempt("cancel", handle.cancel)
            self.world.note("cancelled", handle.cancelled())

    def do_look(self, which):
        if self.handles:
            handle = self.handles[which % len(self.handles)]
            when = handle.when() if isinstance(handle, asyncio.TimerHandle) else None
            self.world.note("look", handle.cancelled(), when)

    def do_stop(self):
        self.loop.stop()

    def do_raise(self, what):
        raise RAISABLE[what](what)

    def do_context(self, value):
        VAR.set(value)

    def do_advance(self, seconds):
        self.world.advance(seconds)

    def do_debug(self, on):
        self.loop.set_debug(on)


def play(program):
    return lambda world: Play(program, world).run()
