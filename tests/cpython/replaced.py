"""Every name under which asyncio and its tests find an event loop gives one of ffloop's."""

import asyncio
import contextlib
import warnings
from asyncio import base_events, selector_events, unix_events
from unittest import mock

import ffloop
from ffloop import servers, signals, unix


class Loop(ffloop.Loop):
    """ffloop's loop, made as a selector loop is: a selector is taken, and not used."""

    made = 0

    def __init__(self, selector=None):
        if selector is not None:
            selector.close()
        Loop.made += 1
        super().__init__()


class Following:
    """A module as asyncio's module sees it: a test that replaces the name there replaces it in ffloop too."""

    def __init__(self, module, name):
        self._where = vars(module), name

    def __getattr__(self, attribute):
        where, name = self._where
        return getattr(where[name], attribute)


def _replacements():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        # Private from 3.14 on.
        policy = getattr(unix_events, "_DefaultEventLoopPolicy", None) or unix_events.DefaultEventLoopPolicy
    yield policy, "_loop_factory", Loop  # asyncio.new_event_loop(), asyncio.run()
    for module in asyncio, unix_events:
        for name in "EventLoop", "SelectorEventLoop":
            if hasattr(module, name):  # EventLoop: from 3.13 on
                yield module, name, Loop
    yield unix_events, "_UnixSelectorEventLoop", Loop
    yield selector_events, "BaseSelectorEventLoop", Loop
    for module in asyncio, base_events:
        yield module, "BaseEventLoop", Loop
    yield servers, "socket", Following(base_events, "socket")
    yield unix, "socket", Following(unix_events, "socket")
    yield signals, "signal", Following(unix_events, "signal")


REPLACEMENTS = tuple(_replacements())


@contextlib.contextmanager
def only_ffloop():
    """Whoever makes an event loop in here gets a `Loop`."""
    with contextlib.ExitStack() as stack:
        for owner, name, value in REPLACEMENTS:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield
