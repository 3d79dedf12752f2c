"""`getaddrinfo` and `getnameinfo`: libuv's threads resolve names, literal addresses need none.

Arguments are prepared, and results and errors formed, as the `socket` module does it.
"""

import _socket
import asyncio
import socket
from asyncio import base_events
from asyncio.log import logger
from functools import lru_cache, partial
from typing import Any

from . import uv
from .core import Core
from .turns import if_from

GETADDRINFO: Any = if_from(socket, socket.getaddrinfo)
"""The socket module's own, if it was that when this was imported."""


class Resolver(Core):
    """The part of the loop that turns names into addresses, and back."""

    async def getaddrinfo(  # type: ignore[override]
        self,
        host: str | bytes | None,
        port: str | bytes | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[uv.Address]:
        """Return what `socket.getaddrinfo` returns for the arguments, and raise what it raises.

        See https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.getaddrinfo.
        """
        if self._closed:
            self._check_closed()
        if socket.getaddrinfo is not GETADDRINFO:
            # A tool has put its own names there, or chooses among those of the system.
            replaced: list[uv.Address] = await super().getaddrinfo(  # type: ignore[assignment]
                host, port, family=family, type=type, proto=proto, flags=flags
            )
            return replaced
        if host.__class__ is str and port.__class__ is int:  # type() is an argument here
            # The same few are asked for with every connection that is made.
            known = _of_literal(host, port, family, type, proto, flags)
            if known is not None:
                return [*known]
            names = _encoded(host, port)
        else:
            names = _encoded.__wrapped__(host, port)
        # Whatever libuv cannot be asked (wrong types, numbers that are no port) the system is: it has an answer of its
        # own to each, or a complaint.
        lookup: Any = partial(GETADDRINFO, host, port, family, type, proto, flags)
        if names is None:
            # Where nothing is looked up, nothing can block.
            return lookup() if is_literal(host) and is_number(port) else await self.run_in_executor(None, lookup)
        if not any(names):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        started = self.time() if self._debug else 0.0
        found = self.create_future()
        try:
            uv.getaddrinfo(self._uv, partial(_set, found), *names, family, type, proto, flags)
        except (OSError, OverflowError, TypeError):
            # An empty name, bytes that are no UTF-8, or flags that are none: the system has a complaint of its own.
            return await self.run_in_executor(None, lookup)
        try:
            addresses: list[uv.Address] = await found
        finally:
            if self._debug:
                self._log_lookup(f"{host!r}:{port!r}", self.time() - started)
        return addresses

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """Return what `socket.getnameinfo` returns for the arguments, and raise what it raises.

        See https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.loop.getnameinfo.
        """
        self._check_closed()
        if socket.getnameinfo is not _socket.getnameinfo or not is_plain_address(sockaddr):
            # A tool's own; or one that it refuses, in words of its own; or one of the few that it has to look up.
            return await self.run_in_executor(None, socket.getnameinfo, sockaddr, flags)
        host, port, *rest = sockaddr
        ipv6 = ":" in host
        found = self.create_future()
        uv.getnameinfo(self._uv, partial(_set, found), (host, port, *rest, *(0, 0)[len(rest) :]), ipv6, flags)
        name: tuple[str, str] = await found
        return name

    def _log_lookup(self, what: str, seconds: float) -> None:
        if seconds >= self.slow_callback_duration:
            logger.info("Getting address info %s took %.3fms", what, seconds * 1e3)
        else:
            logger.debug("Getting address info %s took %.3fms", what, seconds * 1e3)


def _set(future: asyncio.Future[Any], result: Any) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


def is_literal(host: Any) -> bool:
    """Return whether `host` is an IPv4 or IPv6 address (a zone at its end is allowed)."""
    if not isinstance(host, str) or not host or "\0" in host:
        return False
    if ":" in host:
        family, host = socket.AF_INET6, host.partition("%")[0]
    elif host[0].isdigit():
        family = socket.AF_INET
    else:
        return False
    try:
        socket.inet_pton(family, host)
    except (OSError, UnicodeError):
        return False
    return True


@lru_cache(256, typed=True)
def _of_literal(host: Any, port: Any, family: int, kind: int, proto: int, flags: int) -> tuple[uv.Address, ...] | None:
    """Return what a literal address and a port give, whatever the state of the system; None for anything else.

    The same few are asked for with every connection that is made.
    """
    if not is_literal(host) or "%" in host or flags & socket.AI_ADDRCONFIG:
        return None
    try:
        return tuple(socket.getaddrinfo(host, port, family, kind, proto, flags))
    except (OSError, OverflowError):
        return None


@lru_cache(256, typed=True)
def known_address(host: Any, port: Any, family: int, kind: int, proto: int) -> uv.Address | None:
    """Return the one address that a literal and a port give, as asyncio looks at them first; None for anything else."""
    known: uv.Address | None = base_events._ipaddr_info(host, port, family, kind, proto)  # type: ignore[attr-defined]
    return known


@lru_cache(256, typed=True)
def _encoded(host: Any, port: Any) -> tuple[bytes | None, bytes | None] | None:
    """Return the name and the service to ask libuv for, None when it cannot be asked, or need not be."""
    if not (is_name(host) and is_name(port, number=True)) or (is_literal(host) and is_number(port)):
        return None
    node = host.encode("idna") if isinstance(host, str) else host
    return node, str(port).encode() if isinstance(port, int | str) else port


def is_number(port: Any) -> bool:
    """Return whether `port` needs no look-up in the services database."""
    if port is None or type(port) is int:
        return True
    return isinstance(port, str | bytes) and port.isdigit()


def is_plain_address(sockaddr: Any) -> bool:
    """Return whether `sockaddr` is a literal address that `getnameinfo` takes."""
    if not isinstance(sockaddr, tuple) or not 2 <= len(sockaddr) <= 4:
        return False
    host, port, *rest = sockaddr
    if not is_literal(host) or "%" in host or (":" not in host and rest):
        return False
    numbers = [port, *rest]
    if not all(isinstance(number, int) for number in numbers) or not 0 <= port <= 0xFFFF:
        return False
    return all(0 <= number <= limit for number, limit in zip(rest, (0xFFFFF, 0xFFFFFFFF), strict=False))


def is_name(value: Any, number: bool = False) -> bool:
    """Return whether `value` is something that libuv's resolver takes; with `number`, a port will do."""
    if number and type(value) is int:
        return 0 <= value <= 0xFFFF
    return value is None or isinstance(value, str | bytes)
