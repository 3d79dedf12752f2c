"""Names and addresses (https://docs.libuv.org/en/v1.x/dns.html), resolved on libuv's threads."""

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from ._libuv import ffi, lib
from .errors import os_error
from .handle import check
from .loop import KIND_MASK, Loop

Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]
"""What `socket.getaddrinfo` gives for one address."""


def getaddrinfo(
    loop: Loop,
    callback: Callable[[Exception | list[Address]], object],
    node: bytes | None,
    service: bytes | None,
    family: int = 0,
    socktype: int = 0,
    protocol: int = 0,
    flags: int = 0,
) -> None:
    """Call `callback` with what `socket.getaddrinfo` returns for the arguments, or with what it raises.

    Raises `OSError` when the request could not be made.
    """
    token = loop.new_token()
    key = token << lib.FFLOOP_KIND_BITS | lib.FFLOOP_GETADDRINFO
    arguments = (ffi.NULL if node is None else node, ffi.NULL if service is None else service)
    check(lib.ffloop_getaddrinfo(loop.pointer(), token, *arguments, family, socktype, protocol, flags))
    loop.callbacks[key] = partial(_done, loop, key, callback)


def _done(loop: Loop, key: int, callback: Callable[[Any], object], status: int, payload: int) -> None:
    # Five arguments at most: a call of partial() with more needs memory, for want of which somebody waits for ever.
    del loop.callbacks[key]
    try:
        result = _READ[key & KIND_MASK](payload) if status >= 0 else os_error(status)
    except Exception as exc:
        result = exc  # whoever waits must hear of it
    callback(result)


_FAMILIES = {int(member): member for member in socket.AddressFamily}
_KINDS = {int(member): member for member in socket.SocketKind}


def _addresses(head: int) -> list[Address]:
    rest = head
    try:
        entry = ffi.new("ffloop_address *")
        found: list[Address] = []
        while rest:
            rest = lib.ffloop_addrinfo_next(rest, entry)
            # A number that has no name stays one, as in the socket module.
            family: Any = _FAMILIES.get(entry.family, entry.family)
            host = ffi.string(entry.host).decode("ascii")
            address: tuple[Any, ...] = (host, entry.port)
            if family == socket.AF_INET6:
                address += (entry.flowinfo, entry.scope_id)
            canonname = ffi.string(entry.canonname).decode("utf-8", "surrogateescape") if entry.canonname else ""
            kind: Any = _KINDS.get(entry.socktype, entry.socktype)
            found.append((family, kind, entry.protocol, canonname, address))
    finally:
        lib.ffloop_addrinfo_free(head)
    return found


def getnameinfo(
    loop: Loop,
    callback: Callable[[Exception | tuple[str, str]], object],
    address: tuple[str, int, int, int],
    ipv6: bool,
    flags: int = 0,
) -> None:
    """Call `callback` with what `socket.getnameinfo` returns for the arguments, or with what it raises.

    address: a literal host, the port, and for IPv6 flow information and scope. Raises `OSError` when the
    request could not be made.
    """
    token = loop.new_token()
    key = token << lib.FFLOOP_KIND_BITS | lib.FFLOOP_GETNAMEINFO
    host, port, flowinfo, scope = address
    check(lib.ffloop_getnameinfo(loop.pointer(), token, host.encode("ascii"), port, flowinfo, scope, ipv6, flags))
    loop.callbacks[key] = partial(_done, loop, key, callback)


def _name(pointer: int) -> tuple[str, str]:
    try:
        name = ffi.cast("ffloop_name *", pointer)
        return ffi.string(name.host).decode("utf-8"), ffi.string(name.service).decode("utf-8")
    finally:
        lib.ffloop_name_free(pointer)


_READ: dict[int, Callable[[int], Any]] = {lib.FFLOOP_GETADDRINFO: _addresses, lib.FFLOOP_GETNAMEINFO: _name}
