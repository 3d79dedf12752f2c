"""A TLS protocol by itself: a loop and a transport that only note what they are told, and a peer made of two BIOs.

What is done to it, and what the program's protocol does, is drawn from a seed. Keys differ from one play to the next;
after the handshake lengths and order do not.
"""

import asyncio
import collections
import contextlib
import random
import ssl

SIZES = [0, 1, 50, 1000, 16383, 16384, 16385, 50_000, 200_000]
PIECE = 100_000  # at most so many bytes come at once: what either has room for
LIMITS = [0, 1, 100, 100_000, None]


class Loop:
    """What a protocol wants of a loop. Timers never come."""

    _thread_id = None  # it does not run
    _tls_buffer = None

    def __init__(self, log):
        self.log, self.soon = log, collections.deque()

    def get_debug(self):
        return False

    def call_soon(self, callback, *args):
        self.soon.append((callback, args))

    def call_later(self, delay, callback, *args):
        return asyncio.Handle(callback, args, self)

    def call_exception_handler(self, context):
        self.log.append((context["message"], type(context["exception"])))

    def turn(self):
        for _ in range(len(self.soon)):
            callback, args = self.soon.popleft()
            callback(*args)


class Below:
    """The transport below TLS."""

    def __init__(self, log, loop):
        self.log, self.loop = log, loop
        self.sent = b""
        self.closed = False

    def write(self, data):
        # Much may come in several pieces.
        before = self.log.pop()[1] if self.log and self.log[-1][0] == "write" else 0
        self.log.append(("write", before + len(data)))
        self.sent += data

    def pause_reading(self):
        self.log.append("pause reading")

    def resume_reading(self):
        self.log.append("resume reading")

    def is_closing(self):
        return self.closed

    def close(self):
        self._force_close(None)

    abort = close

    def _force_close(self, exc):
        self.log.append(("close", type(exc)))
        if not self.closed:
            self.closed = True
            self.loop.call_soon(self.protocol.connection_lost, exc)

    def get_extra_info(self, name, default=None):
        return default


class App(asyncio.Protocol):
    """The program's: answers, pauses, closes, makes way for another, or fails."""

    def __init__(self, log, choose):
        self.log, self.choose = log, choose
        self.size = choose.choice(SIZES[1:])

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.log.append(data)
        self.react()

    def get_buffer(self, sizehint):
        self.log.append(("get_buffer", sizehint))
        self.buffer = memoryview(bytearray(self.size))
        return self.buffer

    def buffer_updated(self, nbytes):
        self.data_received(bytes(self.buffer[:nbytes]))

    def eof_received(self):
        self.log.append("eof")

    def pause_writing(self):
        self.log.append("pause")

    def resume_writing(self):
        self.log.append("resume")
        if self.choose.random() < 0.3:
            self.transport.write(b"r" * self.choose.choice(SIZES))

    def connection_lost(self, exc):
        self.log.append(("lost", type(exc)))

    def react(self):
        what, transport = self.choose.random(), self.transport
        if what < 0.3:
            transport.write(b"e" * self.choose.choice(SIZES))
        elif what < 0.36:
            transport.pause_reading()
        elif what < 0.39:
            self.choose.choice([transport.close, transport.abort])()
        elif what < 0.42:
            other = make_app(self.log, self.choose)
            other.transport = transport
            transport.set_protocol(other)
        elif what < 0.43:
            raise ValueError("the program's")
        elif what < 0.45:
            transport.set_write_buffer_limits(self.choose.choice(LIMITS))


class BufferApp(App, asyncio.BufferedProtocol):
    """The same, with a buffer."""


class PlainApp(App):
    """The same, without."""

    get_buffer = property()  # hasattr() says no


def make_app(log, choose):
    return choose.choice([PlainApp, PlainApp, BufferApp])(log, choose)


def play(make_protocol, contexts, seed):
    """Return all that was noted, and what the peer has read."""
    choose = random.Random(seed)
    log, received = [], []
    loop = Loop(log)
    app = make_app(log, random.Random(seed + 1))
    protocol = make_protocol(loop, app, contexts[0], None, True)
    below = Below(log, loop)
    below.protocol = protocol
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = contexts[1].wrap_bio(incoming, outgoing, server_hostname="localhost")

    def feed(data):
        while data and not below.closed:
            buffer = protocol.get_buffer(-1)
            size = min(len(buffer), len(data), PIECE)
            buffer[:size], data = data[:size], data[size:]
            protocol.buffer_updated(size)

    def hand_over():
        incoming.write(below.sent)
        below.sent = b""

    protocol.connection_made(below)
    for _ in range(3):
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.do_handshake()
        feed(outgoing.read())
        hand_over()
    log.clear()
    transport = app.transport
    on_its_way = b""

    def from_peer():
        nonlocal on_its_way
        with contextlib.suppress(ssl.SSLError):
            for _ in range(choose.randrange(4)):
                peer.write(b"p" * choose.choice(SIZES))
            if choose.random() < 0.03:
                peer.unwrap()
        on_its_way += outgoing.read()
        if on_its_way and choose.random() < 0.02:
            on_its_way = on_its_way[:-1] + bytes([on_its_way[-1] ^ 1])
        size = choose.choice([len(on_its_way), choose.randrange(len(on_its_way) + 1)])
        now, on_its_way = on_its_way[:size], on_its_way[size:]
        feed(now)

    def write():
        data = b"w" * choose.choice(SIZES)
        choose.choice([transport.write] * 3 + [lambda data: transport.writelines([data, b"l"])])(
            choose.choice([bytes, bytes, bytearray, memoryview])(data)
        )

    def switch_below():
        if not below.closed:
            (protocol.resume_writing if protocol._ssl_writing_paused else protocol.pause_writing)()

    def limit():
        transport.set_write_buffer_limits(choose.choice(LIMITS))
        transport.set_read_buffer_limits(choose.choice(LIMITS))

    def end():
        if not below.closed:
            choose.choice([protocol.eof_received, transport.close])()

    acts = [from_peer] * 20 + [write] * 15 + [loop.turn, switch_below, transport.resume_reading] * 3
    acts += [transport.pause_reading, limit, end]
    for _ in range(choose.randrange(5, 40)):
        try:
            choose.choice(acts)()
            log.append((transport.get_write_buffer_size(), transport.get_read_buffer_size(), transport.is_reading()))
        except Exception as exc:  # what it is belongs to what is compared
            log.append((type(exc), str(exc)))
        log.append((protocol._state, protocol._app_state, transport.is_closing()))
        hand_over()
        try:
            while data := peer.read(1 << 16):
                received.append(data)
        except ssl.SSLError as exc:
            received.append(type(exc))
    for _ in range(5):
        loop.turn()
    transport._closed = True  # nobody is to warn
    return log, received
