"""What a transport does whatever it carries: pauses either way, errors, the facts about its state.

What moves bytes lives elsewhere: in the rooms of streams and of datagrams. Here is nothing that runs per packet.
"""

import asyncio
from asyncio import constants
from asyncio import transports as asyncio_transports
from asyncio.log import logger
from typing import TYPE_CHECKING, Any


class Flow(asyncio_transports._FlowControlMixin):
    """A transport without its medium.

    Whoever derives from it has the methods `_start_reading` and `_stop_reading`, `_unsent` and `_flush`, and
    `_force_close`.
    """

    if not TYPE_CHECKING:
        __slots__ = ()  # each has its attributes where they take least, some in C

    _loop: Any
    _extra: dict[str, Any]
    _protocol: Any
    _protocol_paused: bool
    _high_water: int
    _low_water: int
    _closing = False
    _paused = False
    _conn_lost = 0
    """Counts writes after the connection was lost; the first is the loss itself."""

    def _start_reading(self) -> None:
        raise NotImplementedError

    def _stop_reading(self) -> None:
        raise NotImplementedError

    def _unsent(self) -> int:
        """Return how many bytes are queued."""
        raise NotImplementedError

    def _flush(self) -> None:
        """Hand what is queued to the kernel."""
        raise NotImplementedError

    def _force_close(self, exc: BaseException | None) -> None:
        raise NotImplementedError

    # The protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Deliver to `protocol` from now on."""
        self._protocol = protocol
        self._protocol_connected = True

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol in use."""
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    # Reading

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

    # Writing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the sizes in bytes above which the protocol is paused, and up to which it is resumed.

        Raises `ValueError` unless high >= low >= 0.
        """
        self._set_write_buffer_limits(high=high, low=low)  # type: ignore[attr-defined]
        self._flush()
        self._maybe_pause_protocol()

    def _maybe_pause_protocol(self) -> None:
        # Not asyncio's own: it would ask get_write_buffer_size(), which flushes.
        if self._protocol_paused or self._unsent() <= self._high_water:
            return
        self._protocol_paused = True
        try:
            self._protocol.pause_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report(exc, "protocol.pause_writing() failed")

    def _maybe_resume_protocol(self) -> None:
        if not self._protocol_paused or self._unsent() > self._low_water:
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


BYTES_LIKE = (bytes, bytearray, memoryview)  # at hand: making a union of them costs more than the question


def as_bytes(data: Any, wanted: str = "bytes, bytearray, or memoryview") -> bytes:
    """Return `data` as `bytes`; raises `TypeError` for what is not `wanted`."""
    if not isinstance(data, BYTES_LIKE):
        raise TypeError(f"data argument must be a {wanted} object, not {type(data).__name__!r}")
    return bytes(data)


def set_unless_done(waiter: asyncio.Future[None]) -> None:
    """Let go on who awaits `waiter`, unless he was cancelled."""
    if not waiter.done():
        waiter.set_result(None)
