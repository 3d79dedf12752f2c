"""Which of the two speeds: the accelerator, or Python alone.

What lives here is the choice, made once, when ffloop is imported; what either does is in core.py and transports.py, and
in native/accelerator/. `FFLOOP_PURE=1` in the environment chooses Python alone, which is all that there is on PyPy.
"""

import importlib
import os
import warnings
from types import ModuleType


def _choose() -> ModuleType | None:
    if os.environ.get("FFLOOP_PURE", "") not in ("", "0"):
        return None
    name = f"{__package__}._speed"
    try:
        return importlib.import_module(name)
    except Exception as exc:
        # It looks for parts of asyncio that no documentation promises: a Python that has changed them still has a loop.
        # Without one that was built there is nothing to tell: so it is on PyPy, or without a compiler.
        if not isinstance(exc, ModuleNotFoundError) or exc.name != name:
            warnings.warn(f"ffloop runs without its accelerator: {exc}", RuntimeWarning, stacklevel=3)
        return None


accelerator = _choose()
"""The module of C, or None."""
