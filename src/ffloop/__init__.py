"""ffloop: a drop-in asyncio event loop on libuv.

    import ffloop
    ffloop.run(main())

or `asyncio.run(main(), loop_factory=ffloop.new_event_loop)`, or `uvicorn --loop ffloop:new_event_loop app:app`.
"""

from ._version import __version__
from .loop import Loop
from .monitoring import Change, Metrics, metrics, watch_path
from .runners import EventLoopPolicy, install, new_event_loop, run
from .uv import version as libuv_version

__all__ = [
    "Change",
    "EventLoopPolicy",
    "Loop",
    "Metrics",
    "__version__",
    "install",
    "libuv_version",
    "metrics",
    "new_event_loop",
    "run",
    "watch_path",
]
