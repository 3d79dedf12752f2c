"""Every behaviour is tested on stdlib asyncio too: a wrong expectation shows there."""

import asyncio
import gc
import os
import random
import signal
import socket
import sys
import warnings

import pytest
import pytest_asyncio

import ffloop

# Whoever starts the tests in the background of a shell script has them ignore Ctrl-C, which tests send to children too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

FACTORIES = {"asyncio": asyncio.SelectorEventLoop, "ffloop": ffloop.new_event_loop}


def pytest_asyncio_loop_factories(config, item):
    return FACTORIES


ffloop_only = pytest.mark.asyncio(loop_factories=["ffloop"])
"""For a test of what stdlib asyncio does not do."""


@pytest.fixture(params=FACTORIES)
def loop(request):
    """A loop of each kind, for tests that run it themselves."""
    loop = FACTORIES[request.param]()
    yield loop
    if not loop.is_closed():
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.fixture
def errors(loop):
    """What the loop's exception handler was told."""
    told = []
    loop.set_exception_handler(lambda loop, context: told.append(context))
    return told


TWO_WORKERS = pytest.mark.skipif(
    sys.implementation.name == "pypy",
    reason="on PyPy one of two workers of uvicorn leaves a request unanswered now and then, on stdlib asyncio too",
)
"""For tests of uvicorn with several workers."""

PAUSES = pytest.mark.skipif(
    "pause_reading" not in vars(asyncio.selector_events._SelectorTransport),
    reason="asyncio of the first Pythons 3.11 (Debian 12 has 3.11.2) pauses no datagrams, nor what has just been made",
)
"""For tests that pause, and are run on stdlib asyncio too."""


def collect():
    """Collect garbage. PyPy finalizes a chain of objects link by link, one in each collection."""
    for _ in range(1 if sys.implementation.name == "cpython" else 5):
        gc.collect()


def open_descriptors():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        collect()
    return set(os.listdir("/proc/self/fd"))


def free_port():
    """Return a port of the loopback that nobody has, for what cannot be told 0.

    It is below those that the system hands out by itself, so that nobody else who takes any port gets it meanwhile.
    """
    while True:
        # Hypothesis seeds the generator that everybody shares.
        port = random.SystemRandom().randrange(20_000, 32_768)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


@pytest_asyncio.fixture
async def no_leaks():
    """Fails when the test leaves a descriptor open."""
    # What a loop opens when it is first used is the loop's until it is closed.
    left, right = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, left)
    with right, socket.socket() as sock:
        asyncio.get_running_loop().add_reader(right, print)
        asyncio.get_running_loop().remove_reader(right)
        sock.setblocking(False)
    transport.abort()
    await asyncio.sleep(0)
    before = len(open_descriptors())
    yield
    after = len(open_descriptors())
    assert after <= before, f"{after - before} descriptors were left open"
