"""What the two halves of a stream transport share: its attributes, which the accelerator has in C.

What each is for is said where it is set, in the constructor of `StreamTransport`.
"""

import asyncio
import contextvars
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import uv
from .core import is_entered
from .flow import Flow

HIGH_WATER, LOW_WATER = 64 * 1024, 16 * 1024
"""Bytes: asyncio's own limits, which every transport begins with. Numbers of its own would be 64 bytes for each."""

# Slots take half the memory of a dictionary, and CPython specialises looking them up, which it does not in a dictionary
# beside slots: asyncio's classes have some. There is one all the same, made when a program keeps something in it.
PER_PACKET = (
    "_first",
    "_more",
    "_more_size",
    "_calm",
    "_writing",
    "_refusal",
    "_conn_lost",
    "_flush_at",
    "_protocol",
    "_context",
    "_own_context",
    "_stream",
)
FLAGS = ("_resuming", "_eof", "_closing", "_paused", "_ended", "_protocol_connected", "_buffered")
RARE = ("_facts", "_sockname", "_peername", "_rest", "_server", "_socket", "_held", "_empty_waiter")
PYTHONS = ("__dict__", "__weakref__")


class State(Flow):
    """A stream transport's attributes."""

    if not TYPE_CHECKING:
        __slots__ = ()

    _stream: uv.Stream
    _own_context: contextvars.Context
    _context: contextvars.Context | None
    _closing: bool
    _paused: bool
    _protocol_connected: bool

    # Receiving
    _socket: socket.socket | None
    _buffered: bool
    _held: list[tuple[int, bytes]] | None

    # Sending
    _first: bytes | memoryview
    _more: list[bytes] | None
    _more_size: int
    _calm: int
    _writing: bool
    _resuming: bool
    _rest: bytes | memoryview
    _flush_at: int
    _eof: bool
    _refusal: str | None
    _empty_waiter: asyncio.Future[None] | None

    def _enter(self, callback: Callable[..., object], *args: Any) -> None:
        """Call `callback` in the connection's context; in a copy when the protocol runs the loop from inside of it."""
        context = self._own_context
        (context.copy() if is_entered(context) else context).run(callback, *args)

    def _borrow(self) -> socket.socket:
        """Return the socket object on the stream's descriptor, made when it is first asked for."""
        raise NotImplementedError

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        """Tell the protocol of the end, and close the stream."""
        raise NotImplementedError
