"""Real programs on ffloop, at the versions of pyproject.toml's group `programs`; each on stdlib asyncio too.

A program that runs in a process of its own is driven with blocking clients, so that only one loop is under test.
What a file needs it asks for with `need`; the one list of what is left out where, and why, is here.
"""

import importlib
import platform
import sys
import sysconfig

import pytest

# Package, whether it is left out on this interpreter, and why. pyproject.toml and the Makefile leave out the same.
PYPY = platform.python_implementation() == "PyPy"
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
LEFT_OUT = [
    ("httptools", PYPY, "no wheel for PyPy"),
    ("asyncpg", PYPY, "no wheel for PyPy"),
    ("grpc", PYPY, "no wheel for PyPy"),
    ("grpc", FREE_THREADED, "no wheel for free-threaded CPython"),
    ("tornado", PYPY, "no wheel for PyPy"),
    ("asyncssh", PYPY, "no wheel of cryptography for PyPy"),
    ("trustme", PYPY, "no wheel of cryptography for PyPy"),
    ("py_spy", PYPY, "py-spy reads the frames of CPython"),
    ("py_spy", FREE_THREADED, "py-spy does not find the frames of a free-threaded CPython"),
    (
        "nest_asyncio",
        sys.version_info >= (3, 14),
        "from 3.14 on asyncio.current_task() is None on a loop that it has patched",
    ),
]


def missing(package):
    """Return why `package` is left out on this interpreter, or None."""
    return next((reason for name, applies, reason in LEFT_OUT if name == package and applies), None)


def need(package):
    """Import and return `package`; skip the file when it is left out here. Any other absence is an error."""
    reason = missing(package)
    if reason:
        pytest.skip(f"{package}: {reason}", allow_module_level=True)
    return importlib.import_module(package)
