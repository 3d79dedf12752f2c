"""How programs turn ffloop on: a factory, `run`, and for old programs a policy."""

import asyncio
import sys
import warnings
from asyncio import events
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from .loop import Loop

T = TypeVar("T")

BETTER = "use ffloop.run(main()) or asyncio.run(main(), loop_factory=ffloop.new_event_loop) instead"


def new_event_loop() -> Loop:
    """Return a new loop: a loop factory for `asyncio.run`, `asyncio.Runner` and ASGI servers.

    Raises `OSError` when the system has no descriptors or no memory left.
    """
    return Loop()


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run the coroutine `main` on a new loop and return its result, like `asyncio.run`.

    debug: asyncio's debug mode; None leaves it to PYTHONASYNCIODEBUG. Raises `ValueError` when `main` is no
    coroutine, `RuntimeError` when a loop runs in this thread already. See
    https://docs.python.org/3/library/asyncio-runner.html#asyncio.run.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("ffloop.run() cannot be called from a running event loop")
    with asyncio.Runner(debug=debug, loop_factory=new_event_loop) as runner:
        return runner.run(main)


if TYPE_CHECKING:
    _Policy = asyncio.AbstractEventLoopPolicy
else:
    # Public until 3.13, private in 3.14 and 3.15, gone in 3.16.
    _Policy = getattr(events, "BaseDefaultEventLoopPolicy", None) or getattr(
        events, "_BaseDefaultEventLoopPolicy", None
    )


def _check_policies() -> None:
    if _Policy is None:
        version = ".".join(map(str, sys.version_info[:2]))
        raise RuntimeError(f"asyncio has no event loop policies on Python {version}; {BETTER}")
    if sys.version_info >= (3, 12):
        warnings.warn(f"event loop policies are deprecated; {BETTER}", DeprecationWarning, stacklevel=3)


class EventLoopPolicy(_Policy or object):  # type: ignore[misc]
    """A policy whose loops are ffloop's. Policies are deprecated by asyncio, and gone in Python 3.16."""

    def __init__(self) -> None:
        """Warns from Python 3.12 on, raises `RuntimeError` from 3.16 on."""
        _check_policies()
        super().__init__()

    _loop_factory = staticmethod(new_event_loop)

    def new_event_loop(self) -> Loop:
        """Return a new loop."""
        return new_event_loop()


def install() -> None:
    """Make ffloop the default of `asyncio.new_event_loop` and `asyncio.run`, for the whole process.

    Warns from Python 3.12 on, raises `RuntimeError` from 3.16 on, where asyncio has no policies.
    """
    _check_policies()
    with warnings.catch_warnings():
        # asyncio's warnings and the policy's say nothing that has not been said by now.
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(EventLoopPolicy())
