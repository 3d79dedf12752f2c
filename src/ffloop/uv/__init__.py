"""libuv as a completion queue, for Python: handles, timers, and one call a turn.

What lives here knows libuv and nothing of asyncio; it can be used on its own::

    loop = uv.Loop()
    timer = uv.Timer(loop)
    timer.start(print, 0.5)
    while loop.poll(None):
        loop.dispatch()

Names are libuv's own. Only the modules of this package touch the CFFI module.
"""

from .async_ import Async
from .errors import EAGAIN, EOF, gai_error, os_error
from .fs_event import CHANGED, RENAMED, FsEvent
from .handle import Handle
from .loop import LONGEST_SKIPPED, MOST_SKIPPED, Loop, Metrics, libuv_is_system, version
from .poll import ONCE, READABLE, WRITABLE, Poll
from .resolve import Address, getaddrinfo, getnameinfo
from .stream import CAN_WATCH, MOST_PIECES, Stream
from .tcp import Tcp
from .timer import Timer
from .udp import PEER_SHIFT, Peers, Udp

__all__ = [
    "CAN_WATCH",
    "CHANGED",
    "EAGAIN",
    "EOF",
    "LONGEST_SKIPPED",
    "MOST_PIECES",
    "MOST_SKIPPED",
    "ONCE",
    "PEER_SHIFT",
    "READABLE",
    "RENAMED",
    "WRITABLE",
    "Address",
    "Async",
    "FsEvent",
    "Handle",
    "Loop",
    "Metrics",
    "Peers",
    "Poll",
    "Stream",
    "Tcp",
    "Timer",
    "Udp",
    "gai_error",
    "getaddrinfo",
    "getnameinfo",
    "libuv_is_system",
    "os_error",
    "version",
]
