"""TLS servers. The certificate is made anew, for one process; the client does not look at it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from ..row import served
from .tcp import KIB, MIB, Echo, Sink, Source, keep

GROUP = "TLS"


def make_context() -> ssl.SSLContext:
    import trustme

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA).configure_cert(
        context
    )
    return context


async def serve_tls(factory: Callable[[], asyncio.BaseProtocol]) -> str:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=make_context())
    keep.append(server)
    return f"tls:{server.sockets[0].getsockname()[1]}"


@served(GROUP, b"x" * KIB, KIB, connections=10, unit="requests/s", quick=True)
async def tls_1k_c10() -> str:
    """TLS Protocol echo, 1 KiB, 10 connections."""
    return await serve_tls(Echo)


@served(GROUP, b"x" * 100 * KIB, 100 * KIB, connections=10, unit="requests/s")
async def tls_100k_c10() -> str:
    """TLS Protocol echo, 100 KiB, 10 connections."""
    return await serve_tls(Echo)


@served(GROUP, b"x" * MIB, 0, mode="send", connections=1, unit="bytes/s")
async def tls_bulk_recv() -> str:
    """The client sends, a TLS Protocol discards."""
    return await serve_tls(Sink)


@served(GROUP, b"", 0, mode="receive", connections=1, unit="bytes/s")
async def tls_bulk_send() -> str:
    """The server sends through TLS, in writes of 1 MiB with flow control."""
    return await serve_tls(Source)


@served(GROUP, b"x" * 64, 64, mode="churn", connections=10, unit="connections/s")
async def churn_tls() -> str:
    """Connect with TLS, one 64-byte echo, close; 10 at a time (Protocol)."""
    return await serve_tls(Echo)
