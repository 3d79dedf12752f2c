"""The figures of one run, as they are kept in JSON, and what is derived from them: ratios, spreads, means."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

Key = Literal["rate", "cpu"]


@dataclass
class Samples:
    """What one loop did on one row, round by round: operations a second, by the clock and by processor time.

    `cpu` is empty where processor time means nothing.
    """

    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


@dataclass
class RowResult:
    """All loops on one row."""

    group: str
    what: str
    unit: str
    quick: bool
    samples: dict[str, Samples] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)  # loop: why


@dataclass(frozen=True)
class Ratio:
    """A median of ratios, round by round, and half of the distance between their quartiles."""

    median: float
    spread: float


@dataclass
class Results:
    """One run."""

    about: dict[str, str]
    loops: dict[str, str]  # name: version
    baseline: str
    ours: list[str]  # the loops that are nobody's peers
    rows: dict[str, RowResult] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        data = json.loads(path.read_text())
        rows = {}
        for name, row in data.pop("rows").items():
            samples = {loop: Samples(**values) for loop, values in row.pop("samples").items()}
            rows[name] = RowResult(samples=samples, **row)
        return cls(rows=rows, **data)

    def ratio(self, row: str, loop: str, other: str, key: Key = "rate") -> Ratio | None:
        """Return how much faster `loop` is than `other` on a row; None when one of them has no figure."""
        samples = self.rows[row].samples
        if loop not in samples or other not in samples:
            return None
        ours, theirs = getattr(samples[loop], key), getattr(samples[other], key)
        if not ours or not theirs:
            ours, theirs = samples[loop].rate, samples[other].rate
        ratios = sorted(a / b for a, b in zip(ours, theirs, strict=False))
        if len(ratios) < 2:
            return Ratio(ratios[0], 0.0)
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return Ratio(statistics.median(ratios), (high - low) / 2)

    def best_peer(self, row: str, key: Key = "rate") -> str | None:
        """Return the loop, ours left out, with the highest ratio on a row."""
        ratios = {
            loop: ratio.median
            for loop in self.loops
            if loop not in self.ours and (ratio := self.ratio(row, loop, self.baseline, key))
        }
        return max(ratios, key=lambda loop: ratios[loop]) if ratios else None

    def groups(self) -> list[str]:
        return list(dict.fromkeys(row.group for row in self.rows.values()))

    def mean(self, loop: str, group: str | None = None, key: Key = "rate") -> float | None:
        """Return the geometric mean of a loop's ratios to the baseline, of one group or of all rows that it can do."""
        ratios = [
            ratio.median
            for name, row in self.rows.items()
            if group in (None, row.group) and (ratio := self.ratio(name, loop, self.baseline, key))
        ]
        return math.exp(statistics.fmean(math.log(ratio) for ratio in ratios)) if ratios else None

    def mean_to_best(self, loop: str, group: str | None = None, key: Key = "rate") -> float | None:
        """Return the geometric mean of a loop's ratios to the best peer of each row."""
        ratios = [
            ratio.median
            for name, row in self.rows.items()
            if group in (None, row.group)
            and (best := self.best_peer(name, key))
            and (ratio := self.ratio(name, loop, best, key))
        ]
        return math.exp(statistics.fmean(math.log(ratio) for ratio in ratios)) if ratios else None
