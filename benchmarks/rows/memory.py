"""Memory of connections that are open and do nothing."""

from __future__ import annotations

from ..row import served
from .tcp import Echo, echo_streams, serve_protocol, serve_streams
from .tls import serve_tls

OPTIONS = {"mode": "hold", "connections": 10_000, "unit": "connections/MiB"}


@served("memory", b"x" * 64, 64, quick=True, **OPTIONS)
async def idle_rss() -> str:
    """Resident memory of 10,000 idle Protocol connections, after one echo each."""
    return await serve_protocol(Echo)


@served("memory", b"x" * 64, 64, **OPTIONS)
async def idle_rss_streams() -> str:
    """Resident memory of 10,000 idle streams connections, after one echo each."""
    return await serve_streams(echo_streams)


@served("memory", b"x" * 64, 64, **{**OPTIONS, "connections": 1000})
async def idle_rss_tls() -> str:
    """Resident memory of 1,000 idle TLS connections, after one echo each."""
    return await serve_tls(Echo)
