"""The loops that are compared: how each is made, and whether it is here. Nothing is measured in this file."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from dataclasses import dataclass, field
from typing import cast

BASELINE = "uvloop"


@dataclass(frozen=True)
class LoopKind:
    """A loop to measure: `module.new_event_loop()`, in a process with these environment variables."""

    name: str
    module: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        """Whether it is ffloop, so that it is nobody's peer."""
        return self.module == "ffloop"

    def why_not(self) -> str:
        """Why it cannot be measured here, or an empty string."""
        if importlib.util.find_spec(self.module) is None:
            return f"{self.module} is not installed"
        if self.name == "ffloop-pure" and importlib.util.find_spec("ffloop._speed") is None:
            return "ffloop has no accelerator here: it is pure already"
        return ""

    def version(self) -> str:
        if self.module == "asyncio":
            return sys.version.split()[0]
        try:
            return importlib.metadata.version(self.module)
        except importlib.metadata.PackageNotFoundError:  # a bare module
            return "unknown"

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        if self.module == "asyncio":
            return asyncio.SelectorEventLoop()
        # Not all are a subclass of asyncio's.
        return cast(asyncio.AbstractEventLoop, importlib.import_module(self.module).new_event_loop())


LOOPS = {
    kind.name: kind
    for kind in (
        LoopKind("asyncio", "asyncio"),
        LoopKind("uvloop", "uvloop"),
        LoopKind("rloop", "rloop"),
        LoopKind("zuvloop", "zuvloop"),
        LoopKind("rsloop", "rsloop"),
        LoopKind("ffloop-pure", "ffloop", {"FFLOOP_PURE": "1"}),
        LoopKind("ffloop", "ffloop"),
    )
}


def environment(kind: LoopKind) -> dict[str, str]:
    """Return the environment of a process for this loop. Hashes are the same in each: so is the order of sets."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("FFLOOP_PURE", "PYTHONASYNCIODEBUG")}
    return {**inherited, "PYTHONHASHSEED": "0", **kind.environment}
