"""`test.test_asyncio` of the running interpreter, class by class; what is left out stands in `listed.py`."""

import importlib
import pkgutil
import sys
import unittest

import pytest

from .listed import NOT_RUN
from .replaced import only_ffloop

if sys.implementation.name == "pypy":
    # Where PyPy has come without the C file that it compiles for it, importing it is not even an ImportError.
    sys.modules.setdefault("_testcapi", None)
# Debian keeps CPython's tests in a package of their own.
test_asyncio = pytest.importorskip("test.test_asyncio", reason="this Python has come without its test suite")


def cases():
    """Yield the names and the classes of the test cases: `test_locks.LockTests`."""
    for info in pkgutil.iter_modules(test_asyncio.__path__):
        if not info.name.startswith("test_") or info.name in NOT_RUN:
            continue
        module = importlib.import_module(f"{test_asyncio.__name__}.{info.name}")
        for name, case in vars(module).items():
            if isinstance(case, type) and issubclass(case, unittest.TestCase) and case.__module__ == module.__name__:
                yield f"{info.name}.{name}", case


# Some classes keep a loop's class from the moment they are defined.
with only_ffloop():
    globals().update((name, case) for name, case in cases() if name not in NOT_RUN)
    from test.test_asyncio import test_sendfile, utils

# The loop with a clock of its own answers _add_reader() before its own __init__() has got that far.
utils.TestLoop.readers = {}

set_send_buffer = test_sendfile.SockSendfileMixin.reduce_send_buffer_size


def reduce_send_buffer_size(self, sock, transport=None):
    # The socket that create_connection() was given is detached: the transport lends its own.
    set_send_buffer(self, sock if transport is None else transport.get_extra_info("socket"), transport)


test_sendfile.SockSendfileMixin.reduce_send_buffer_size = reduce_send_buffer_size
