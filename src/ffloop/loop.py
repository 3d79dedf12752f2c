"""`Loop`: the parts put together."""

import sys
from typing import TYPE_CHECKING

from .datagrams import Datagrams
from .sendfile import Sendfile
from .signals import Signals
from .unix import UnixSockets

if TYPE_CHECKING or sys.platform != "win32":
    from .subprocesses import Subprocesses
else:
    # Pipes and children need overlapped input and output there, which the selector loop of asyncio has not either.
    from .readers import Readers as Subprocesses


class Loop(UnixSockets, Sendfile, Datagrams, Subprocesses, Signals):
    """An asyncio event loop on libuv: https://docs.python.org/3/library/asyncio-eventloop.html.

    It is an `asyncio.BaseEventLoop`, and does what that class documents. Futures and tasks are asyncio's own.
    """

    def __repr__(self) -> str:
        running, closed, debug = self.is_running(), self.is_closed(), self.get_debug()
        return f"<ffloop.{type(self).__name__} {running=} {closed=} {debug=}>"
