"""Builds the CFFI module `ffloop.uv._libuv`: libuv and ffloop's C files in one extension.

setuptools calls `ffibuilder` (see setup.py). What Python can call stands in src/ffloop/native/ffloop.h,
between its "cdef" marks. Environment:

FFLOOP_SYSTEM_LIBUV=1   link the libuv that is installed (headers and pkg-config file) instead of the
                        vendored one
FFLOOP_LIBUV_SOURCE     where to take the vendored libuv from when vendor/libuv is empty
"""

import hashlib
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from cffi import FFI

ROOT = Path(__file__).resolve().parent
NATIVE = Path("src/ffloop/native")
LIBUV = Path("vendor/libuv")

OWN_SOURCES = ["queue.c", "wake.c", "handles.c", "stream.c", "udp.c", "poll.c", "fs_event.c", "resolve.c"]

# The lists are those of libuv's CMakeLists.txt. Only Linux has been compiled by ffloop's authors.
# threadpool.c is in native/threadpool_fork.c.
COMMON = """fs-poll idna inet random strscpy strtok thread-common timer uv-common
    uv-data-getter-setters version""".split()
UNIX = """async core dl fs getaddrinfo getnameinfo loop-watcher loop pipe poll process random-devurandom
    signal stream tcp thread tty udp""".split()
LINUX = "linux procfs-exepath proctitle random-getrandom random-sysctl-linux".split()
MACOS = "bsd-ifaddrs darwin darwin-proctitle fsevents kqueue proctitle random-getentropy".split()
FREEBSD = "bsd-ifaddrs bsd-proctitle freebsd kqueue posix-hrtime random-getrandom".split()
WINDOWS = """async core detect-wakeup dl error fs fs-event getaddrinfo getnameinfo handle loop-watcher pipe
    poll process process-stdio signal stream tcp thread tty udp util winapi winsock""".split()

WINDOWS_LIBRARIES = "psapi user32 advapi32 iphlpapi userenv ws2_32 dbghelp ole32 shell32".split()
WINDOWS_DEFINES: list[tuple[str, str | None]] = [
    ("WIN32_LEAN_AND_MEAN", None),
    ("_WIN32_WINNT", "0x0A00"),
    ("_CRT_DECLARE_NONSTDC_NAMES", "0"),
]


def declarations() -> str:
    """Return what CFFI parses: the part of ffloop.h between the marks."""
    text = (ROOT / NATIVE / "ffloop.h").read_text(encoding="utf-8")
    return text.split("/* cdef: begin */")[1].split("/* cdef: end */")[0]


def header_checksum() -> tuple[str, str]:
    """Return the define that tells from which header a C module was compiled."""
    digest = hashlib.sha256((ROOT / NATIVE / "ffloop.h").read_bytes()).hexdigest()
    return "FFLOOP_HEADER", f"0x{digest[:16]}ULL"


def vendored() -> dict[str, Any]:
    """Return the build settings that compile libuv's own files into the module."""
    sys.path.insert(0, str(ROOT / "vendor"))
    try:
        import fetch_libuv
    finally:
        sys.path.pop(0)
    try:
        fetch_libuv.ensure()
    except fetch_libuv.FetchError as error:
        sys.exit(f"error: {error}")

    sources = [f"{name}.c" for name in COMMON]
    if sys.platform == "win32":
        sources += [f"win/{name}.c" for name in WINDOWS]
        defines, libraries, flags = WINDOWS_DEFINES, WINDOWS_LIBRARIES, ["/O2", "/std:c11", "/experimental:c11atomics"]
    else:
        per_system = {"linux": LINUX, "darwin": MACOS, "freebsd": FREEBSD}
        system = next((name for name in per_system if sys.platform.startswith(name)), None)
        if system is None:
            sys.exit(f"error: ffloop does not know which files of libuv to compile on {sys.platform}")
        sources += [f"unix/{name}.c" for name in UNIX + per_system[system]]
        per_system_defines: dict[str, list[tuple[str, str | None]]] = {
            "linux": [("_GNU_SOURCE", None), ("_POSIX_C_SOURCE", "200112")],
            "darwin": [("_DARWIN_UNLIMITED_SELECT", "1"), ("_DARWIN_USE_64_BIT_INODE", "1")],
            "freebsd": [],
        }
        defines = [("_FILE_OFFSET_BITS", "64"), ("_LARGEFILE_SOURCE", None), *per_system_defines[system]]
        libraries = {"linux": ["dl", "rt", "pthread"], "darwin": [], "freebsd": ["kvm", "pthread"]}[system]
        flags = ["-O2", "-std=gnu11", "-fno-strict-aliasing", "-fvisibility=hidden", "-Wall", "-Wno-unused-parameter"]
    return {
        "sources": [str(NATIVE / "threadpool_fork.c"), *(str(LIBUV / "src" / name) for name in sources)],
        "include_dirs": [str(LIBUV / "include"), str(LIBUV / "src")],
        "define_macros": defines,
        "libraries": libraries,
        "extra_compile_args": flags,
    }


def installed() -> dict[str, Any]:
    """Return the build settings that link the system's libuv, as pkg-config gives them."""

    def pkg_config(option: str) -> list[str]:
        command = ["pkg-config", option, "libuv >= 1.44.2"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except FileNotFoundError:
            sys.exit("error: FFLOOP_SYSTEM_LIBUV=1 needs pkg-config, which is not installed")
        if done.returncode != 0:
            sys.exit(f"error: FFLOOP_SYSTEM_LIBUV=1, but there is no usable libuv: {done.stderr.strip()}")
        return shlex.split(done.stdout)

    return {
        "sources": [],
        "include_dirs": [],
        "define_macros": [("_GNU_SOURCE", None), ("FFLOOP_USES_SYSTEM_LIBUV", "1")],
        "libraries": [],
        "extra_compile_args": ["-O2", "-std=gnu11", *pkg_config("--cflags")],
        "extra_link_args": pkg_config("--libs"),
    }


def build() -> FFI:
    """Return the configured builder."""
    os.chdir(ROOT)
    settings = installed() if os.environ.get("FFLOOP_SYSTEM_LIBUV") == "1" else vendored()
    settings["sources"] = [str(NATIVE / name) for name in OWN_SOURCES] + settings["sources"]
    settings["include_dirs"] = [str(NATIVE), *settings["include_dirs"]]
    settings["define_macros"] = [header_checksum(), *settings["define_macros"]]
    ffi = FFI()
    ffi.cdef(declarations())
    ffi.set_source("ffloop.uv._libuv", '#include "ffloop.h"', **settings)
    return ffi


ffibuilder = build()
