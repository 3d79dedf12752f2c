"""What a row is, and the list of all rows. The rows themselves are in `rows`.

A row is a function with a decorator: its name is the row's, the first line of its docstring says what it measures.

* `inside`: the function takes the loop, and the address of the C server when the row has one. It returns a function
  that makes a given number of operations.
* `served`: the function is a coroutine function. It starts a server and returns its address, as load.c reads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

Loop = asyncio.AbstractEventLoop
Operations = Callable[[int], object]
Make = Callable[..., Operations]
Start = Callable[[], Awaitable[str]]
Mode = Literal["exchange", "churn", "send", "receive", "hold"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing that is measured, of any kind."""

    name: str
    group: str
    what: str
    unit: str = "operations/s"  # more is better, always
    default: bool = True  # else with --full alone
    quick: bool = False  # with --quick, and in the chart


@dataclass(frozen=True, kw_only=True)
class Inside(Row):
    """A row that a loop's process measures by itself, `batch` operations at a time."""

    make: Make
    batch: int
    server: Literal["", "echo", "http"] = ""  # what serve.c is to be
    counted: bool = False  # its instructions can be counted: what it does, it does alone


@dataclass(frozen=True, kw_only=True)
class Served(Row):
    """A row in which the loop serves and load.c is the client."""

    start: Start
    mode: Mode
    connections: int
    request: bytes
    reply: int | None = None  # bytes; None: of HTTP, to be found out
    preface: bytes = b""


ROWS: dict[str, Row] = {}


def add(row: Row) -> None:
    """Put a row on the list."""
    if row.name in ROWS:
        raise ValueError(f"two rows are named {row.name}")
    ROWS[row.name] = row


def first_line(function: Callable[..., object]) -> str:
    lines = (function.__doc__ or "").splitlines()
    if not lines:
        raise ValueError(f"{function.__name__} does not say what it measures")
    return lines[0].rstrip(".")


def inside(group: str, batch: int, **options: Any) -> Callable[[Make], Make]:
    """Make a row of a function that returns operations."""

    def decorate(make: Make) -> Make:
        add(Inside(name=make.__name__, group=group, what=first_line(make), make=make, batch=batch, **options))
        return make

    return decorate


def served(group: str, request: bytes, reply: int | None, **options: Any) -> Callable[[Start], Start]:
    """Make a row of a coroutine function that starts a server."""
    options.setdefault("mode", "exchange")

    def decorate(start: Start) -> Start:
        add(
            Served(
                name=start.__name__,
                group=group,
                what=first_line(start),
                start=start,
                request=request,
                reply=reply,
                **options,
            )
        )
        return start

    return decorate
