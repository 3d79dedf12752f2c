"""Datagrams: `create_datagram_endpoint` and `asyncio.DatagramTransport` on a datagram socket of libuv's.

As with streams (transports.py), three things differ from a selector transport inside, and must not show outside:

* `sendto()` only queues; what a turn has queued leaves together at its end (but see `_alone`). Whatever could notice,
  or overtake, queued datagrams sends them first. Only what libuv can send together is queued at all: a host that must
  be looked up, a Unix path, a datagram larger than any can be goes to the socket at once, where what is wrong shows.
* Received datagrams come as records of a batch, of which each is told what the one before has changed.
* libuv owns the descriptor. The socket object that sends, and that users see, only borrows it. A socket that was given
  stays usable: libuv gets a descriptor of its own for it, and both are closed together.
"""

import asyncio
import collections
import contextvars
import os
import socket
import sys
import threading
import warnings
import weakref
from asyncio import constants
from asyncio import transports as asyncio_transports
from asyncio.log import logger
from asyncio.trsock import TransportSocket
from functools import partial
from itertools import islice, takewhile
from typing import Any

from . import uv
from .core import is_entered
from .readers import Readers
from .sockets import name_of
from .transports import BorrowedSocket, _as_bytes, _set_unless_done

FLUSH_AT = 64 * 1024
"""Queued bytes, headers included, at which a transport does not wait for the end of the turn."""

READ_SIZE = 256 * 1024
"""Bytes of a datagram that are received where libuv does not receive it: as many as asyncio's transports receive."""

LARGEST = 64 * 1024
"""A datagram of more bytes, its header included, is none of UDP's. The socket is given it, to say so."""

HEADER = 8
"""What a queued datagram counts more than its bytes: empty ones fill the queue too."""

TOGETHER = 128
"""Datagrams that are sent in one call at most."""

ROUNDS = 32
"""Datagrams that are received from one watched socket in a turn at most."""

# Elsewhere libuv takes a descriptor once.
_WATCHED_TWICE = sys.platform in ("linux", "win32")

# Looked up for every datagram.
_PEER_SIZE = uv.PEER_SIZE
_PEER_SHIFT = uv.PEER_SHIFT
_OFFSET_MASK = (1 << _PEER_SHIFT) - 1


_NOBODY = object()


class DatagramSocket(BorrowedSocket):
    """A socket object for a descriptor that a datagram transport owns.

    A datagram leaves with the options that were set when it was sent, and gives an unbound socket its name.
    """

    def setsockopt(self, *args: Any) -> None:
        """Set an option for what is sent from now on; raises `OSError`."""
        self._flush()
        super().setsockopt(*args)

    def getsockopt(self, *args: Any) -> Any:
        """Return an option; raises `OSError`."""
        self._flush()
        return super().getsockopt(*args)

    def getsockname(self) -> Any:
        """Return the socket's own address; raises `OSError`."""
        self._flush()
        return super().getsockname()


class DatagramTransport(asyncio_transports._FlowControlMixin, asyncio.DatagramTransport):
    """A datagram endpoint: https://docs.python.org/3/library/asyncio-protocol.html#datagram-transports."""

    _loop: Any
    _extra: dict[str, Any]
    _protocol_paused: bool
    _high_water: int
    _low_water: int

    def __init__(
        self,
        loop: Readers,
        udp: uv.Udp,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
        given: socket.socket | None = None,
    ) -> None:
        """Take over `udp`; the protocol's `connection_made` is called soon, then receiving starts.

        address: the only one that `sendto` is to accept; None for no such limit. given: is closed with the transport.
        """
        # Whether the kernel is waited for; else the buffer is what this turn has queued.
        self._blocked = False
        self._conn_lost = 0  # counts writes after the connection was lost; the first is the loss itself
        self._buffer: collections.deque[tuple[bytes, Any, bytes | None]] = collections.deque()
        self._size = 0
        super().__init__(extra, loop)
        self._udp = udp
        self._given = given
        self._socket = DatagramSocket(fileno=udp.fileno())
        self._socket.settimeout(0)
        self._socket._transport = weakref.ref(self)
        udp.on_close = self._socket.detach
        self._extra["socket"] = TransportSocket(self._socket)
        self._extra["sockname"] = name_of(self._socket.getsockname)
        if "peername" not in self._extra:
            self._extra["peername"] = name_of(self._socket.getpeername)
        self._connected = bool(self._extra["peername"])
        self._address = address
        self._aim: Any = _NOBODY  # the last address that was sent to,
        self._peer: bytes | None = None  # and what it is to libuv: b"" when connected, None when nothing
        family = self._socket.family
        # libuv cuts larger ones, and does not tell the length of other addresses.
        self._watched = self._socket.type != socket.SOCK_DGRAM or family not in (socket.AF_INET, socket.AF_INET6)
        self._peers = uv.Peers(family)
        self._names = self._peers.names
        self._region = loop._uv.region
        self._dirty = loop._uv.dirty
        # Who answers one datagram with one needs no queue: after a turn that has sent one alone, the first that is sent
        # from within a batch of received records does not wait. A second one ends that.
        self._alone = False
        self._turns = loop._uv
        self._last_batch: object = None
        self._context: contextvars.Context | None = None  # of what is received; None while nothing is to be
        self._write_context: contextvars.Context | None = None
        self._writable: _Writable | None = None  # while blocked
        self._held: collections.deque[tuple[bytes | None, Any]] = collections.deque()  # what came while paused
        self._closing = False
        self._paused = False
        self.set_protocol(protocol)
        loop.call_soon(protocol.connection_made, self)
        # Only once connection_made() has returned may datagram_received() be called.
        loop.call_soon(self._start_reading)
        if waiter is not None:
            # And only then may the creator go on.
            loop.call_soon(_set_unless_done, waiter)

    # The protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Deliver to `protocol` from now on."""
        self._protocol: Any = protocol
        self._protocol_connected = True

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol in use."""
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    # Receiving

    def is_reading(self) -> bool:
        """Return whether the protocol is to get what arrives."""
        return not self._closing and not self._paused

    def pause_reading(self) -> None:
        """Keep what arrives, here and in the kernel, until `resume_reading`."""
        if not self.is_reading():
            return
        self._paused = True
        self._stop_reading()
        if self._loop.get_debug():
            logger.debug("%r pauses reading", self)

    def resume_reading(self) -> None:
        """Deliver again, what was kept first."""
        if self._closing or not self._paused:
            return
        self._loop._check_closed()
        self._paused = False
        self._start_reading()
        if self._loop.get_debug():
            logger.debug("%r resumes reading", self)

    def _start_reading(self) -> None:
        """Begin to deliver, in a copy of the context of this moment."""
        if not self.is_reading() or self._context is not None:
            return
        self._context = contextvars.copy_context()
        if self._held:
            self._loop.call_soon(self._release)
        else:
            self._receive()

    def _receive(self) -> None:
        try:
            if self._watched:
                self._udp.watch(self._receive_ready)
            else:
                self._udp.recv_start(self._deliver)
        except OSError as exc:
            self._fatal_error(exc, "Fatal read error on datagram transport")

    def _stop_reading(self) -> None:
        if self._context is None:
            return
        self._context = None
        if self._udp.closed:
            return  # with the loop
        self._udp.recv_stop()
        # Records of this batch may still come. Weakly: the loop keeps a transport alive that reads, no other.
        self._udp.on_recv(partial(_hold_if_alive, weakref.ref(self)))

    def _deliver(self, nread: int, payload: int) -> None:
        """Give the protocol a record: a datagram's size, and where it and its sender stand; or an error's status."""
        if nread >= 0:
            region = self._region
            place = payload >> _PEER_SHIFT
            peer = region[place : place + _PEER_SIZE]
            try:
                name = self._names[peer]
            except KeyError:
                name = self._peers.name(peer)
            place = payload & _OFFSET_MASK
            data = region[place : place + nread]
            try:
                self._context.run(self._protocol.datagram_received, data, name)  # type: ignore[union-attr]
            except RuntimeError:
                self._set_aside(data, name)
        else:
            try:
                self._context.run(self._protocol.error_received, uv.os_error(nread))  # type: ignore[union-attr]
            except RuntimeError:
                self._set_aside(None, uv.os_error(nread))

    def _set_aside(self, data: bytes | None, name: Any) -> None:
        """Keep what came for a protocol that runs the loop from its own callback, until that has returned.

        Raises the exception under way when that is not the reason for it.
        """
        if self._context is None or not is_entered(self._context):
            raise
        self._held.append((data, name))
        self._udp.recv_stop()
        self._udp.on_recv(self._hold)
        self._loop.call_soon(self._release)

    def _receive_ready(self, nread: int, payload: int) -> None:
        """Receive what a watched socket has."""
        for _ in range(ROUNDS):
            try:
                data, name = self._socket.recvfrom(READ_SIZE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                self._context.run(self._protocol.error_received, exc)  # type: ignore[union-attr]
                return
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                self._fatal_error(exc, "Fatal read error on datagram transport")
                return
            try:
                self._context.run(self._protocol.datagram_received, data, name)  # type: ignore[union-attr]
            except RuntimeError:
                self._set_aside(data, name)
                return
            if self._context is None or self._held:
                return  # what is held comes first

    def _hold(self, nread: int, payload: int) -> None:
        if self._closing or self._watched:
            return  # what a watched socket has is still in the kernel
        if nread >= 0:
            data, peer = self._udp.received(nread, payload)
            self._held.append((data, self._peers.name(peer)))
        else:
            self._held.append((None, uv.os_error(nread)))

    def _release(self) -> None:
        """Deliver the first of what was held, the next one a turn later, for as long as the protocol wants it."""
        held = self._held
        if not held or self._context is None:
            return
        data, name = held.popleft()
        try:
            if data is None:
                self._context.run(self._protocol.error_received, name)
            else:
                self._context.run(self._protocol.datagram_received, data, name)
        except RuntimeError:
            if self._context is None or not is_entered(self._context):
                raise
            held.appendleft((data, name))
        finally:
            if held:
                self._loop.call_soon(self._release)
            elif self._context is not None:
                self._receive()

    # Sending

    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None:
        """Queue `data` to be sent to `addr` at the end of this turn of the loop.

        addr: None or the peer's own on a connected endpoint. A copy is taken of what is not `bytes`. Raises
        `TypeError` for what is not bytes-like, `ValueError` for somebody else's address. What the system has to
        object goes to the protocol's `error_received`.
        """
        if data.__class__ is not bytes:
            data = _as_bytes(data, "bytes-like")
        if addr is not self._aim and not self._take_aim(addr):
            return
        buffer = self._buffer
        if self._alone and not buffer:
            batch = self._turns._batch
            if batch is not self._last_batch and batch is not None:
                self._last_batch = batch
                try:
                    if self._connected:
                        self._socket.send(data)
                    else:
                        self._socket.sendto(data, self._address or addr)
                except BaseException as exc:
                    self._on_send_error(exc, data, addr, soon=False)
                return
            if batch is not None:
                self._alone = False
        size = len(data) + HEADER
        if not buffer:
            if self._peer is None or size > self._flush_at or self._loop._thread_id is None:
                self._send_now(data, addr)
                return
            self._dirty.append(self)
            buffer.append((data, addr, self._peer))
            self._size = size
            return
        if (self._peer is None or size > LARGEST) and not self._blocked:
            self._flush()
            if not self._blocked:
                self._send_now(data, addr)
                return
        buffer.append((data, addr, self._peer))
        self._size += size
        if self._blocked:
            self._maybe_pause_protocol()
        elif self._size > self._flush_at:
            self._flush()

    def _take_aim(self, addr: Any) -> bool:
        """Find out who `addr` is, and remember it where the next datagram may go there too.

        Returns False for a datagram that is dropped. Raises `ValueError` for somebody else's address.
        """
        self._aim = _NOBODY
        if self._address and addr not in (None, self._address):
            raise ValueError(f"Invalid address: must be None or {self._address}")
        if self._conn_lost and (self._address or self._udp.closed):
            self._count_lost_write()
            return False
        self._peer = b"" if self._connected else self._peers.pack(self._address or addr)
        if self._peer is not None and not self._conn_lost:
            self._aim = addr
        return True

    def _flush(self) -> None:
        """Hand what is queued to the kernel; what it does not take goes when it has room again."""
        buffer = self._buffer
        while buffer and not self._blocked:
            if len(buffer) == 1:
                # The way of most datagrams.
                data, addr, _ = buffer.popleft()
                self._size = 0
                self._alone = True
                try:
                    if self._connected:
                        self._socket.send(data)
                    else:
                        self._socket.sendto(data, self._address or addr)
                except BaseException as exc:
                    self._on_send_error(exc, data, addr, soon=True)
            elif _can_go_together(buffer[0]):
                self._send_together()
            else:
                data, addr, _ = self._pop()
                self._send_now(data, addr, soon=True)

    def _send_together(self) -> None:
        if self._udp.closed:
            self._drop()  # with the loop
            return
        self._alone = False
        together = list(takewhile(_can_go_together, islice(self._buffer, TOGETHER)))
        datagrams, _, peers = zip(*together, strict=True)
        sent, status = self._udp.try_send(datagrams, None if self._connected else peers)
        if sent == len(self._buffer):
            self._drop()
            return
        for _ in range(sent):
            self._pop()
        if status >= 0:
            return
        data, addr, _ = self._pop()
        if status == uv.EAGAIN:
            # Either the kernel is full, or the network card is: the socket tells them apart.
            self._send_now(data, addr, soon=True)
        else:
            self._loop.call_soon(self._tell_error, uv.os_error(status), context=self._context)

    def _send_now(self, data: bytes, addr: Any, soon: bool = False) -> None:
        try:
            if self._connected:
                self._socket.send(data)
            else:
                self._socket.sendto(data, self._address or addr)
        except BaseException as exc:
            self._on_send_error(exc, data, addr, soon)

    def _on_send_error(self, exc: BaseException, data: bytes, addr: Any, soon: bool) -> None:
        """Deal with what sending has raised: a full kernel is waited for, the protocol is told, or all is over.

        soon: the protocol is told a little later; whoever flushes is not to get what it raises.
        """
        if isinstance(exc, BlockingIOError | InterruptedError):
            self._buffer.appendleft((data, addr, b"" if self._connected else self._peers.pack(self._address or addr)))
            self._size += len(data) + HEADER
            self._wait()
        elif isinstance(exc, OSError):
            if self._udp.closed:
                return  # with the loop
            if soon:
                self._loop.call_soon(self._tell_error, exc, context=self._context)
            else:
                self._protocol.error_received(exc)
        elif isinstance(exc, SystemExit | KeyboardInterrupt):
            raise exc
        else:
            self._fatal_error(exc, "Fatal write error on datagram transport")

    def _tell_error(self, exc: OSError) -> None:
        if self._protocol is not None:
            self._protocol.error_received(exc)

    def _wait(self) -> None:
        """Go on when the kernel has room again."""
        if self._conn_lost:
            self._drop()
            return
        self._blocked = True
        if self._writable is None:
            self._write_context = contextvars.copy_context()
            try:
                self._writable = _Writable(self._loop._uv, self._udp.fileno(), self._on_writable)
            except OSError as exc:
                self._fatal_error(exc, "Fatal write error on datagram transport")
                return
        self._maybe_pause_protocol()

    def _on_writable(self, status: int, events: int) -> None:
        """Send on, in the context of the call that filled the buffer."""
        context = self._write_context
        if context is not None and not self._conn_lost:
            context.run(self._sendto_ready)

    def _sendto_ready(self) -> None:
        self._blocked = False
        try:
            self._flush()
            if not self._conn_lost:
                self._maybe_resume_protocol()
        finally:
            # resume_writing() may have sent more, which goes before the end.
            self._flush()
            if not self._blocked and not self._conn_lost:
                self._stop_waiting()
                if self._closing:
                    self._lose(None)

    def _stop_waiting(self) -> None:
        self._blocked = False
        self._write_context = None
        writable, self._writable = self._writable, None
        if writable is not None:
            writable.close()

    def _pop(self) -> tuple[bytes, Any, bytes | None]:
        first = self._buffer.popleft()
        self._size -= len(first[0]) + HEADER
        return first

    def _drop(self) -> None:
        self._buffer.clear()
        self._size = 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the sizes in bytes above which the protocol is paused, and up to which it is resumed.

        Raises `ValueError` unless high >= low >= 0.
        """
        self._set_write_buffer_limits(high=high, low=low)
        self._flush()
        self._maybe_pause_protocol()

    def _set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        super()._set_write_buffer_limits(high=high, low=low)  # type: ignore[misc]
        self._flush_at = -1 if self._conn_lost else min(FLUSH_AT, self._high_water)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes the kernel has not taken yet; each datagram counts 8 more than it has."""
        self._flush()
        return self._size

    def _maybe_pause_protocol(self) -> None:
        # Not asyncio's own: it would ask get_write_buffer_size(), which flushes.
        if self._protocol_paused or self._size <= self._high_water:
            return
        self._protocol_paused = True
        try:
            self._protocol.pause_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report(exc, "protocol.pause_writing() failed")

    def _maybe_resume_protocol(self) -> None:
        if not self._protocol_paused or self._size > self._low_water:
            return
        self._protocol_paused = False
        try:
            self._protocol.resume_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report(exc, "protocol.resume_writing() failed")

    def _count_lost_write(self) -> None:
        if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
            logger.warning("socket.send() raised exception.")
        self._conn_lost += 1

    # Closing

    def is_closing(self) -> bool:
        """Return whether the transport is closed, or about to be."""
        return self._closing

    def close(self) -> None:
        """Send what is queued, then close. The protocol's `connection_lost` is called with None."""
        if self._closing:
            return
        self._closing = True
        self._stop_reading()
        self._held.clear()
        self._flush()
        if not self._blocked and not self._conn_lost:
            self._lose(None)

    def abort(self) -> None:
        """Close at once; what is queued is lost. The protocol's `connection_lost` is called with None."""
        self._force_close(None)

    def _force_close(self, exc: BaseException | None) -> None:
        if self._conn_lost:
            return
        self._drop()
        self._stop_waiting()
        self._closing = True
        self._stop_reading()
        self._held.clear()
        self._lose(exc)

    def _lose(self, exc: BaseException | None) -> None:
        self._conn_lost += 1
        # From here on every datagram is looked at, and sent at once where it is sent at all.
        self._aim = _NOBODY
        self._flush_at = -1
        self._loop.call_soon(self._call_connection_lost, exc)

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            if self._protocol_connected:
                self._protocol.connection_lost(exc)
        finally:
            self._stop_waiting()
            self._udp.close()
            if self._given is not None:
                self._given.close()
            self._protocol = None

    def _fatal_error(self, exc: BaseException, message: str = "Fatal error on transport") -> None:
        if isinstance(exc, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=(type(exc), exc, exc.__traceback__))
        else:
            self._report(exc, message)
        self._force_close(exc)

    def _report(self, exc: BaseException, message: str) -> None:
        context = {"message": message, "exception": exc, "transport": self, "protocol": self._protocol}
        self._loop.call_exception_handler(context)

    def __repr__(self) -> str:
        facts = [type(self).__name__]
        if self._udp.closed:
            facts.append("closed")
        else:
            if self._closing:
                facts.append("closing")
            facts.append(f"fd={self._udp.fileno()}")
            facts.append("read=idle" if self._context is None else "read=polling")
            facts.append(f"write=<{'polling' if self._blocked else 'idle'}, bufsize={self._size}>")
        return f"<{' '.join(facts)}>"

    def __del__(self) -> None:
        if getattr(self, "_protocol", None) is None:
            return  # connection_lost() was called, or nothing was ever there
        warnings.warn(f"unclosed transport {self!r}", ResourceWarning, stacklevel=2, source=self)
        if self._given is not None:
            self._given.close()
        thread = self._loop._thread_id
        if thread is None or thread == threading.get_ident():
            self._udp.close()
        else:
            # Garbage is collected in any thread, and libuv may be running in the loop's.
            self._loop.call_soon_threadsafe(self._udp.close)


class _Writable:
    """Says again and again that a descriptor can be written to, until it is closed."""

    def __init__(self, loop: uv.Loop, fd: int, callback: Any) -> None:
        self._fd = -1 if _WATCHED_TWICE else os.dup(fd)
        try:
            self._poll = uv.Poll(loop, fd if _WATCHED_TWICE else self._fd)
            try:
                self._poll.start(uv.WRITABLE, callback)
            except BaseException:
                self._poll.close()
                raise
        except BaseException:
            self._close_fd()
            raise

    def close(self) -> None:
        self._poll.close()
        self._close_fd()

    def _close_fd(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Datagrams(Readers):
    """The part of the loop that makes datagram endpoints."""

    async def create_datagram_endpoint(  # type: ignore[override]
        self,
        protocol_factory: Any,
        local_addr: Any = None,
        remote_addr: Any = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: socket.socket | None = None,
    ) -> tuple[Any, Any]:
        """Bind to `local_addr`, connect to `remote_addr`, or take `sock`; return the transport and the protocol.

        Raises `OSError`, and `TypeError` and `ValueError` for arguments that do not go together. See
        https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.create_datagram_endpoint.
        """
        modifiers = {
            "local_addr": local_addr,
            "remote_addr": remote_addr,
            "family": family,
            "proto": proto,
            "flags": flags,
            "reuse_port": reuse_port,
            "allow_broadcast": allow_broadcast,
        }
        if sock is None:
            return await super().create_datagram_endpoint(protocol_factory, **modifiers)
        # Here because older versions refuse every other type than one, and newer ones only streams.
        if sock.type == socket.SOCK_STREAM:
            raise ValueError(f"A datagram socket was expected, got {sock!r}")
        given = ", ".join(f"{name}={value}" for name, value in modifiers.items() if value)
        if given:
            raise ValueError(f"socket modifier keyword arguments can not be used when sock is specified. ({given})")
        sock.setblocking(False)
        protocol = protocol_factory()
        waiter = self.create_future()
        transport = self._make_datagram_transport(sock, protocol, None, waiter, keep=True)
        if self._debug:
            logger.debug("Datagram endpoint created: (%r, %r)", transport, protocol)
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
        *,
        keep: bool = False,
    ) -> DatagramTransport:
        """Return a transport that owns the descriptor of `sock`, which is detached.

        keep: `sock` stays open until the transport is closed; the transport then has a descriptor of its own.
        Raises `OSError`; then `sock` is as it was.
        """
        fd = socket.dup(sock.fileno()) if keep else sock.fileno()
        try:
            udp = uv.Udp(self._uv, fd)
        except BaseException:
            if keep:
                socket.close(fd)
            raise
        if not keep:
            sock.detach()
        try:
            transport = DatagramTransport(self, udp, protocol, address, waiter, extra, sock if keep else None)
        except BaseException:
            udp.close()
            raise
        self._transports[udp.fileno()] = transport
        if keep:
            self._transports[sock.fileno()] = transport
        return transport


def _hold_if_alive(transport: "weakref.ref[DatagramTransport]", nread: int, payload: int) -> None:
    alive = transport()
    if alive is not None:
        alive._hold(nread, payload)


def _can_go_together(queued: tuple[bytes, Any, bytes | None]) -> bool:
    return queued[2] is not None and len(queued[0]) < LARGEST
