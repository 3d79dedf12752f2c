"""What the two halves of a datagram transport share: its attributes, in slots.

Looked up for every datagram, an attribute in a slot costs CPython a quarter of one in a dictionary. Only one base of a
class may have slots, so those of both halves stand here; what each is for is said where it is set. Where there is the
accelerator, most are in its part of the transport.
"""

import contextvars
import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import uv
from .flow import Flow
from .speed import accelerator

_PER_DATAGRAM = (
    "_address",
    "_aim",
    "_alone",
    "_blocked",
    "_buffer",
    "_connected",
    "_context",
    "_flush_at",
    "_last_batch",
    "_names",
    "_packed",
    "_peer",
    "_peer_size",
    "_peers",
    "_protocol",
    "_size",
    "_turns",
    "_udp",
)
_PYTHONS = (
    "_dirty",
    "_ended",
    "_given",
    "_held",
    "_protocol_connected",
    "_region",
    "_socket",
    "_socket_send",
    "_socket_sendto",
    "_unix",
    "_watched",
    "_writable",
    "_write_context",
)

ACCELERATED = hasattr(accelerator, "Datagram")
"""Whether the accelerator keeps what is looked up for every datagram: then the rest have their slots behind that."""

SLOTS = _PYTHONS if ACCELERATED else _PER_DATAGRAM + _PYTHONS


class State(Flow):
    """A datagram transport's attributes."""

    if not TYPE_CHECKING:
        __slots__ = () if ACCELERATED else SLOTS

    _udp: uv.Udp
    _ended: bool
    _socket: socket.socket
    _given: socket.socket | None
    _peers: uv.Peers
    _connected: bool

    # Receiving
    _context: contextvars.Context | None
    _held: deque[tuple[bytes | None, Any]]
    _names: dict[bytes, Any]
    _peer_size: int
    _region: Any
    _unix: bool
    _watched: bool

    # Sending
    _address: Any
    _aim: Any
    _alone: bool
    _blocked: bool
    _buffer: deque[tuple[bytes, Any, bytes | None]]
    _dirty: deque[Any]
    _flush_at: int
    _last_batch: object
    _packed: dict[tuple[Any, ...], bytes]
    _peer: bytes | None
    _size: int
    _socket_send: Callable[[bytes], int]
    _socket_sendto: Callable[[bytes, Any], int]
    _turns: uv.Loop
    _writable: Any
    _write_context: contextvars.Context | None

    def _lose(self, exc: BaseException | None) -> None:
        """Have the protocol told that the connection is lost."""
        raise NotImplementedError
