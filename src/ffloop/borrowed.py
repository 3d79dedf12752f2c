"""Datagram transports: asyncio's own, on ffloop's readers and writers.

They behave as on stdlib asyncio because they are the same classes. Transports on libuv's UDP handles are to take
their place here.
"""

import asyncio
import socket
from asyncio import selector_events
from typing import Any

from .readers import Readers


class BorrowedTransports(Readers):
    """The part of the loop that has no transports of its own yet."""

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> Any:
        return selector_events._SelectorDatagramTransport(  # type: ignore[attr-defined]
            self, sock, protocol, address, waiter, extra
        )
