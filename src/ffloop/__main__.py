"""`python -m ffloop`: what is installed, for bug reports."""

import importlib.metadata
import platform
import sys
import sysconfig

import ffloop
from ffloop import uv
from ffloop.speed import accelerator


def _gil() -> str:
    if sys.version_info < (3, 13) or not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return ""
    return f" (free-threaded, GIL {'on' if sys._is_gil_enabled() else 'off'})"


def report() -> str:
    """Return what is installed, a line each."""
    try:
        cffi = importlib.metadata.version("cffi")
    except importlib.metadata.PackageNotFoundError:
        cffi = "built in"
    lines = {
        "ffloop": ffloop.__version__,
        "libuv": f"{ffloop.libuv_version()} ({'system' if uv.libuv_is_system() else 'vendored'})",
        "backend": f"CFFI {cffi}, API mode",
        "speed": "pure Python" if accelerator is None else "accelerated, in C",
        "Python": f"{platform.python_implementation()} {platform.python_version()}{_gil()}",
        "system": platform.platform(),
    }
    return "\n".join(f"{name:8}{value}" for name, value in lines.items())


if __name__ == "__main__":
    print(report())
