"""Only what pyproject.toml has no words for: the two C modules."""

import platform
import sys
from pathlib import Path

from setuptools import Extension, setup

sys.path.insert(0, str(Path(__file__).resolve().parent))
import build_ffi

ACCELERATOR = build_ffi.NATIVE / "accelerator"

# On PyPy calling into C costs more than it saves. Elsewhere ffloop works without it, slower: a compiler that cannot
# build it is a warning, no error.
accelerator = Extension(
    "ffloop._speed",
    sources=sorted(str(path) for path in ACCELERATOR.glob("*.c")),
    depends=[str(path) for path in (*ACCELERATOR.glob("*.h"), build_ffi.NATIVE / "ffloop.h")],
    define_macros=[build_ffi.header_checksum()],
    extra_compile_args=["/O2", "/std:c11"]
    if sys.platform == "win32"
    else ["-O2", "-std=gnu11", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-cast-function-type"],
    optional=True,
)

setup(
    cffi_modules=["build_ffi.py:ffibuilder"],
    ext_modules=[accelerator] if platform.python_implementation() == "CPython" else [],
)
