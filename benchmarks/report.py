"""Tables of a run's figures, for a terminal and in Markdown."""

from __future__ import annotations

import statistics

from .results import Key, Ratio, Results


def short(value: float) -> str:
    """Return a number with three digits that matter: 1.23M."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def show(ratio: Ratio | None) -> str:
    return f"{ratio.median:.2f} ±{ratio.spread:.2f}" if ratio else "-"


def number(value: float | None) -> str:
    return f"{value:.2f}" if value else "-"


def shown(results: Results) -> str:
    """Return the loop that is compared with the best peer: the one that a user gets, when it was measured."""
    return [*results.loops, *results.ours][-1]


def header(results: Results) -> list[str]:
    return ["row", f"{results.baseline}, absolute", *results.loops, "best peer", f"{shown(results)}/best"]


def cells(results: Results, name: str, key: Key) -> list[str]:
    """Return a row's cells: ratios to the baseline, who is the best peer, and ratios to it."""
    row = results.rows[name]
    samples = row.samples.get(results.baseline)
    absolute = f"{short(statistics.median(samples.rate))} {row.unit}" if samples else "-"
    ratios = [show(results.ratio(name, loop, results.baseline, key)) for loop in results.loops]
    best = results.best_peer(name, key)
    to_best = results.ratio(name, shown(results), best, key) if best else None
    return [name, absolute, *ratios, best or "-", show(to_best)]


def mean_cells(results: Results, title: str, group: str | None, key: Key) -> list[str]:
    means = [number(results.mean(loop, group, key)) for loop in results.loops]
    return [title, "", *means, "", number(results.mean_to_best(shown(results), group, key))]


def line(cells: list[str]) -> str:
    """Return a row for the terminal."""
    return f"{cells[0]:22}{cells[1]:>22}" + "".join(f"{cell:>14}" for cell in cells[2:])


def text_means(results: Results, key: Key) -> str:
    rows = [mean_cells(results, group, group, key) for group in results.groups()]
    rows.append(mean_cells(results, "geometric mean", None, key))
    return "\n".join(line(row) for row in rows)


def markdown_table(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *body)]
    return "\n".join(lines)


def markdown(results: Results, key: Key = "rate") -> str:
    """Return the whole report: what was measured on what, the means, the rows by group, what could not be done."""
    loops = ", ".join(f"{name} {version}" for name, version in results.loops.items())
    about = "; ".join(f"{name}: {value}" for name, value in results.about.items())
    by = "processor time" if key == "cpu" else "the clock"
    parts = [
        f"Loops: {loops}.\n{about}. By {by}.",
        f"Ratios to {results.baseline}: the median of the rounds, ± half of the distance between the quartiles. "
        "More is better. The means are geometric, over the rows that a loop can do.",
        markdown_table(
            [
                ["geometric mean", *header(results)[2:]],
                *(
                    [row[0], *row[2:]]
                    for row in (
                        *(mean_cells(results, group, group, key) for group in results.groups()),
                        mean_cells(results, "all", None, key),
                    )
                ),
            ]
        ),
    ]
    for group in results.groups():
        names = [name for name, row in results.rows.items() if row.group == group]
        parts.append(f"### {group}")
        parts.append(markdown_table([header(results), *(cells(results, name, key) for name in names)]))
    reasons = failures(results)
    if reasons:
        parts.append("What a loop could not do:")
        parts.append("\n".join(f"- {reason}" for reason in reasons))
    return "\n\n".join(parts) + "\n"


def failures(results: Results) -> list[str]:
    return [
        f"{name}, {loop}: {reason}" for name, row in results.rows.items() for loop, reason in sorted(row.failed.items())
    ]
