"""Programs of one transport: what its user does, what its protocol does, what its peer does.

The peer is a plain socket that only the program touches. After each group of operations the loop runs until it is at
rest, so that a difference is one of the loops:

* How bytes are cut into pieces is the kernel's business: what arrives between two other events is compared as one.
* What the kernel takes of a large write is its business too: writes are small beside its buffers, or far larger than
  they, and a size is compared with 0 only.
* Whether bytes that nobody got are still in the kernel shows to the peer when a transport closes; it is not compared.
* `write()` sends at the end of the turn (docs/differences.md), or when anything looks: so the program looks after each
  write to a peer that has gone, and before it goes. Elsewhere the difference must not show.
"""

import asyncio
import contextlib
import socket
import struct
import sys
from typing import NamedTuple

from .world import VAR, described

SMALL, MEDIUM, HUGE = 10, 40_000, 1_000_000
BUFFERS = 60_000
"""What the program trusts the kernel to take before the peer reads."""

WRITELINES_IS_SOUND = not (3, 12) <= sys.version_info < (3, 14, 1)
"""Before, asyncio's fails with an internal TypeError once the connection is closed or lost (gh-136234, gh-115514)."""

UNSOUND_AT_THE_END = {"write", "writelines", "abort", "close"}
"""What goes wrong in asyncio once a close() has waited for the peer to read: its transports go on as if the connection
was not lost, and a close() in resume_writing() has connection_lost() called twice (gh-156512)."""

SUDDEN = {"abort", "peer_close", "peer_reset", "peer_shutdown"}
"""What loses bytes that are under way: how many there are while the peer reads is the kernel's business."""

RAISABLE = {
    "value": ValueError,
    "reset": ConnectionResetError,
    "cancelled": asyncio.CancelledError,
    "interrupt": KeyboardInterrupt,
    "exit": SystemExit,
}


class Reaction(NamedTuple):
    """What a protocol's method does: operations, then a value or an exception."""

    operations: list = []
    result: object = None
    raises: str | None = None


class Program(NamedTuple):
    family: str
    debug: bool
    buffered: bool
    reactions: dict
    """The reactions to each event, in the order of its occurrences; after the last one, nothing is done."""
    groups: list
    """Whether the loop runs meanwhile, operations, and whether the peer reads then. The loop rests after each."""


class Reacting:
    """The events that both kinds of protocol have."""

    def __init__(self, play, number):
        self.play = play
        self.name = f"p{number}"

    def connection_made(self, transport):
        self.play.transport = transport
        return self.play.react(self, "connection_made")

    def eof_received(self):
        return self.play.react(self, "eof_received")

    def pause_writing(self):
        return self.play.react(self, "pause_writing")

    def resume_writing(self):
        return self.play.react(self, "resume_writing")

    def connection_lost(self, exc):
        return self.play.react(self, "connection_lost", *described(exc))


class Plain(Reacting, asyncio.Protocol):
    def data_received(self, data):
        return self.play.react(self, "data", data)


class Buffered(Reacting, asyncio.BufferedProtocol):
    size = 5000

    def get_buffer(self, sizehint):
        self.buffer = bytearray(self.size)
        given = self.play.react(self, "get_buffer", sizehint)
        if given is None:
            return self.buffer
        return {"empty": b"", "constant": b"constant", "none": None, "tiny": memoryview(self.buffer)[:3]}[given]

    def buffer_updated(self, nbytes):
        return self.play.react(self, "data", bytes(self.buffer[:nbytes]))


def seen():
    """Return the context variable's value, where it is the same on both loops.

    Before 3.15 each callback of asyncio's has the context of what scheduled it; a connection's share one with ffloop.
    """
    return VAR.get() if sys.version_info >= (3, 15) else None


class Play:
    """A program at work."""

    def __init__(self, program, world):
        self.program = program
        self.world = world
        self.loop = world.loop
        self.transport = None
        self.peer_gone = False  # it takes nothing any more
        self.unread = 0  # of what was written, by the peer
        self.written_in = VAR.get()  # the context of the write that the kernel did not take
        self.coming = 0  # bytes that the peer has sent, and no protocol has got
        self.close_waits = False  # for the peer to read
        self.ended = self.resuming = self.giving = self.draining = False
        self.letter = 0
        self.protocols = 0
        self.drained = bytearray()  # by the peer, since it was last noted
        self.budget = 60  # operations, so that protocols which act on each other come to an end
        self.pending = {event: iter(reactions) for event, reactions in program.reactions.items()}

    def run(self):
        ours, self.peer = connected(self.program.family)
        self.peer.setblocking(False)
        made = self.loop.connect_accepted_socket(lambda: self.protocol(self.program.buffered), ours)
        self.world.run(self.loop.run_until_complete, made)
        for running, operations, read in self.program.groups:
            if running:
                self.loop.call_soon(self.perform, operations)
            else:
                self.perform(operations)
            self.settle()
            if read:
                self.drain()
        self.drain()
        self.perform([("write", "small", b"bytes", False), ("abort",)])
        self.settle()
        self.drain()
        self.perform([("write", "small", b"bytes", True), ("close",), ("resume",), ("write_eof",)])
        self.settle()
        self.peer.close()
        ours.close()
        self.transport = None

    def settle(self):
        world = self.world
        world.note("running")
        world.run()
        if self.transport is not None:
            transport = self.transport
            for question in ("is_closing", "is_reading", "get_write_buffer_limits"):
                world.attempt(question, getattr(transport, question))
            world.note("unsent", transport.get_write_buffer_size() > 0)
            world.note("protocol", getattr(transport.get_protocol(), "name", None))

    def protocol(self, buffered):
        self.protocols += 1
        return (Buffered if buffered else Plain)(self, self.protocols)

    def react(self, protocol, event, *details):
        self.world.note(event, protocol.name, seen(), *details)
        if event == "data":
            self.coming -= len(details[0])
        reaction = next(self.pending.get(event, iter(())), Reaction())
        self.resuming = event == "resume_writing"
        self.giving = event == "get_buffer"
        self.ended |= event == "connection_lost" and self.close_waits
        self.perform(reaction.operations)
        self.resuming = self.giving = False
        if event == "resume_writing" and reaction.raises in ("interrupt", "exit"):
            # asyncio's keeps watching with nothing to write, and fails in every turn from then on.
            return None
        if reaction.raises:
            raise RAISABLE[reaction.raises](f"from {event}")
        return reaction.result

    def perform(self, operations):
        for name, *arguments in operations:
            self.budget -= 1
            if self.budget >= 0 and self.transport is not None and not self.leaves_out(name):
                getattr(self, f"do_{name}")(*arguments)

    def leaves_out(self, name):
        if self.giving and name == "set_protocol":
            # asyncio fills the buffer of the one and tells the other of it.
            return True
        return ((self.ended or self.resuming) and name in UNSOUND_AT_THE_END) or (self.draining and name in SUDDEN)

    # What a transport's user does

    def do_write(self, size, kind, look):
        if size == "medium" and self.unread < HUGE and self.unread + MEDIUM > BUFFERS:
            size = "small"
        if size == "huge" and self.program.family == "tcp":
            size = "small"
        if size == "huge" and self.unread < HUGE:
            self.written_in = VAR.get()
        data = self.pattern({"empty": 0, "small": SMALL, "medium": MEDIUM, "huge": HUGE}[size])
        if kind == "bytearray":
            data = bytearray(data)
        elif kind == "memoryview":
            data = memoryview(data)
        elif kind == "changed":
            data = bytearray(data)
        self.world.attempt("write", self.transport.write, data)
        if kind == "changed" and self.unread < HUGE:
            data[:] = b"\0" * len(data)
        self.look(look)

    def do_write_wrong(self, what):
        self.world.attempt("write", self.transport.write, what)

    def do_writelines(self, kind):
        if not WRITELINES_IS_SOUND and (self.peer_gone or self.transport.is_closing()):
            return
        if self.peer_gone and self.unread:
            # asyncio's tries to send at once what waits already, and meets the peer's end before a read does.
            return
        if self.unread >= HUGE and VAR.get() != self.written_in:
            # From 3.12 on, asyncio's moves what is left to send to the context of the last writelines().
            return
        pieces = [self.pattern(SMALL), bytearray(self.pattern(SMALL)), memoryview(self.pattern(SMALL))]
        if kind == "iterator":
            pieces = iter(pieces)
        elif kind == "none":
            pieces = []
        try:
            self.transport.writelines(pieces)
        except RuntimeError as exc:
            # Before 3.12, asyncio's is one write(), and says so.
            name = "write()" if sys.version_info < (3, 12) else "writelines()"
            self.world.note("writelines", str(exc).replace("writelines()", name))
        self.look(False)

    def look(self, wanted):
        if wanted or self.peer_gone:
            self.transport.get_write_buffer_size()

    def pattern(self, size):
        self.unread += size
        self.letter += 1
        return bytes([97 + self.letter % 26]) * size

    def do_write_eof(self):
        self.world.attempt("write_eof", self.transport.write_eof)

    def do_close(self):
        self.close_waits |= self.unread >= HUGE and not self.transport.is_closing()
        self.world.attempt("close", self.transport.close)

    def do_abort(self):
        self.world.attempt("abort", self.transport.abort)

    def do_pause(self):
        self.world.attempt("pause", self.transport.pause_reading)

    def do_resume(self):
        self.world.attempt("resume", self.transport.resume_reading)

    def do_limits(self, high, low):
        self.world.attempt("limits", self.transport.set_write_buffer_limits, high, low)

    def do_set_protocol(self, buffered):
        self.world.attempt("set_protocol", self.transport.set_protocol, self.protocol(buffered))

    def do_state(self):
        transport = self.transport
        unsent = not self.draining and transport.get_write_buffer_size() > 0
        self.world.note("state", transport.is_closing(), transport.is_reading(), unsent)

    def do_soon(self, operations):
        self.loop.call_soon(self.scheduled, operations)

    def scheduled(self, operations):
        self.world.note("scheduled", seen())
        self.perform(operations)

    def do_context(self, value):
        VAR.set(value)

    def do_stop(self):
        self.loop.stop()

    # What its peer does

    def do_peer_send(self, size):
        if self.loop.is_running() and self.coming:
            return  # whether both are one piece depends on when the loop has read the first
        self.letter += 1
        with contextlib.suppress(OSError):
            self.coming += self.peer.send(bytes([65 + self.letter % 26]) * size)

    def do_peer_shutdown(self, how):
        self.look(True)
        with contextlib.suppress(OSError):
            self.peer.shutdown(how)
        self.peer_gone |= how != socket.SHUT_WR

    def do_peer_close(self):
        self.look(True)
        self.peer.close()
        self.peer_gone = True

    def do_peer_reset(self):
        with contextlib.suppress(OSError):
            self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.do_peer_close()

    def do_peer_read(self):
        """Take what the kernel has; return what the end of it looks like."""
        try:
            while data := self.peer.recv(1 << 20):
                self.drained += data
        except OSError as exc:
            return type(exc).__name__
        return "end"

    def drain(self):
        """Read until nothing comes any more, and note what that was."""
        before = -1
        self.draining = True
        while len(self.drained) > before:
            before = len(self.drained)
            end = self.do_peer_read()
            self.world.run()
        self.draining = False
        if self.coming and end in ("end", "ConnectionResetError"):
            # What a transport has not read when it closes resets the connection: the loops differ in when they read.
            end = "end or reset"
        self.world.note("peer has read", runs(self.drained), end)
        self.drained.clear()
        self.unread = 0


def runs(data):
    """Return bytes as letters with how often each is repeated: readable, and short."""
    found = []
    while data:
        rest = data.lstrip(data[:1])
        found.append(f"{data[:1].decode()}*{len(data) - len(rest)}")
        data = rest
    return found


def connected(family):
    if family == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    return ours, peer


def tidied(log):
    """Return the log with pieces of data put together, and bytes made readable."""
    tidy = []
    for entry in log:
        if entry[0] == "data":
            before = tidy[-1] if tidy else None
            if before and before[0] == "get_buffer" and before[1:3] == entry[1:3]:
                tidy.pop()
                before = tidy[-1] if tidy else None
            if before and before[:3] == entry[:3]:
                tidy[-1] = (*entry[:3], before[3] + bytes(entry[3]))
                continue
        tidy.append(entry)
    return [(*entry[:3], *runs(entry[3])) if entry[0] == "data" else entry for entry in tidy]


def play(program):
    return lambda world: Play(program, world).run()
