"""TLS: `asyncio.sslproto` with fewer steps per record.

What lives here is the protocol between a stream transport and the program's protocol, as far as it differs from
asyncio's; all of its states, timeouts and errors are asyncio's. Two things cost there what they need not:

* Each read offers OpenSSL 256 KiB, which the allocator maps and unmaps, though no record holds more than 16 KiB.
* The end of what has come is found by reading once more, which raises. It can be asked for beforehand: nothing is
  left in the BIO, nothing in OpenSSL.
"""

from asyncio import sslproto
from collections.abc import Callable
from typing import Any

RECORD_SIZE = 16 * 1024
"""Bytes that a TLS record holds at most (RFC 8446, section 5.1); a read never gives more."""


class SSLProtocol(sslproto.SSLProtocol):
    """`asyncio.sslproto.SSLProtocol`, shorter where records pass."""

    _sslobj: Any
    _incoming: Any
    _app_protocol: Any
    _call_eof_received: Callable[[], None]
    _start_shutdown: Callable[[], None]

    def _do_read__copied(self) -> None:
        read = self._sslobj.read
        incoming, pending = self._incoming, self._sslobj.pending
        chunk = b""
        chunks = None
        try:
            first = chunk = read(RECORD_SIZE)
            while chunk and (incoming.pending or pending()):
                chunk = read(RECORD_SIZE)
                if chunks is None:
                    chunks = [first]
                chunks.append(chunk)
        except sslproto.SSLAgainErrors:
            if not chunk:
                return  # not even one whole record
        if chunks is not None:
            first = b"".join(chunks)
        if first:
            self._app_protocol.data_received(first)
        if not chunk:
            # The other side has said that this is all.
            self._call_eof_received()
            self._start_shutdown()
