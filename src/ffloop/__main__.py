"""`python -m ffloop`: what is installed, for bug reports."""

import importlib.metadata
import platform

import ffloop
from ffloop import uv
from ffloop.speed import accelerator


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
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": platform.platform(),
    }
    return "\n".join(f"{name:8}{value}" for name, value in lines.items())


if __name__ == "__main__":
    print(report())
