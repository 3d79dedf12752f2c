"""The chart of a run, as SVG: ratios to the baseline on a logarithmic axis, a dot for each loop.

The means come first, then the main rows.
"""

from __future__ import annotations

import math
from html import escape

from .results import Key, Results

WIDTH, LEFT, RIGHT, TOP = 840, 200, 70, 92
LINE, HEAD = 22, 34
TICKS = (0.25, 0.5, 1.0, 2.0, 4.0)
# Colours that tell apart on white and on black, and to most of those who see few colours.
COLOURS = {
    "asyncio": "#8c8c8c",
    "uvloop": "#d0a000",
    "rloop": "#c0563a",
    "zuvloop": "#4c9a6a",
    "rsloop": "#9a6fb0",
    "ffloop-pure": "#7fb2e6",
    "ffloop": "#2f81f7",
}
STYLE = """
  .back { fill: #ffffff; stroke: #d0d7de }
  text { font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
  .title { font-size: 16px; font-weight: 600 }
  .head { font-weight: 600 }
  .quiet { fill: #656d76 }
  .grid { stroke: #d8dee4 }
  .one { stroke: #8c959f; stroke-width: 1.5 }
  .rail { stroke: #eaeef2 }
  @media (prefers-color-scheme: dark) {
    .back { fill: #0d1117; stroke: #30363d }
    text { fill: #e6edf3 }
    .quiet { fill: #8d96a0 }
    .grid { stroke: #262c34 }
    .one { stroke: #6e7681 }
    .rail { stroke: #1c2129 }
  }
"""


def place(ratio: float) -> float:
    """Return where on the axis a ratio is. What lies outside stands at the edge."""
    low, high = math.log(TICKS[0]), math.log(TICKS[-1])
    share = (math.log(ratio) - low) / (high - low)
    return LEFT + (WIDTH - LEFT - RIGHT) * min(1.0, max(0.0, share))


def text(x: float, y: float, what: str, classes: str = "", anchor: str = "start") -> str:
    named = f' class="{classes}"' if classes else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{escape(what)}</text>'


def dot(x: float, y: float, loop: str, ratio: float | None) -> str:
    size = 6 if loop == "ffloop" else 4.5
    title = f"<title>{escape(loop)} {ratio:.2f}</title>" if ratio else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{COLOURS.get(loop, "#888888")}">{title}</circle>'


def legend(results: Results) -> list[str]:
    parts, x = [], 20.0
    for loop, version in results.loops.items():
        label = f"{loop} {version}"
        parts += [dot(x + 5, 54, loop, None), text(x + 16, 58, label)]
        x += 34 + 6.7 * len(label)
    return parts


def rail(y: float, label: str, ratios: dict[str, float], classes: str = "") -> list[str]:
    """Return one line of the chart. The newest of ours is drawn last, on top, and written out at the right."""
    parts = [
        text(LEFT - 14, y + 4, label, classes, "end"),
        f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" class="rail"/>',
    ]
    parts += [dot(place(ratio), y, loop, ratio) for loop, ratio in ratios.items()]
    if ratios:
        parts.append(text(WIDTH - 20, y + 4, f"{list(ratios.values())[-1]:.2f}", classes, "end"))
    return parts


def rows_of(results: Results, key: Key) -> list[tuple[str, dict[str, float], str]]:
    """Return the lines: a label, ratios, and a class; a heading has no ratios."""
    lines: list[tuple[str, dict[str, float], str]] = [("geometric means", {}, "head")]
    for group in [*results.groups(), None]:
        means = {loop: mean for loop in results.loops if (mean := results.mean(loop, group, key))}
        lines.append((group or "all rows", means, "" if group else "head"))
    lines.append(("main rows", {}, "head"))
    for name, row in results.rows.items():
        if row.quick:
            found = {loop: results.ratio(name, loop, results.baseline, key) for loop in results.loops}
            ratios = {loop: ratio.median for loop, ratio in found.items() if ratio}
            lines.append((name, ratios, ""))
    return lines


def draw(results: Results, key: Key = "rate") -> str:
    """Return the chart as an SVG document, readable in light and dark."""
    body: list[str] = []
    y = float(TOP)
    lines = rows_of(results, key)
    shown = list(results.loops)[-1]
    for label, ratios, classes in lines:
        if not ratios and classes == "head":
            y += HEAD
            body += [text(20, y, label, "head"), text(WIDTH - 20, y, shown, "quiet", "end")]
            y += LINE
        else:
            body += rail(y, label, ratios, classes)
            y += LINE
    bottom = y
    grid = []
    for tick in TICKS:
        x = place(tick)
        kind = "one" if tick == 1 else "grid"
        grid.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom:.1f}" class="{kind}"/>')
        grid += [
            text(x, TOP - 8, f"{tick:g}", "quiet", "middle"),
            text(x, bottom + 16, f"{tick:g}", "quiet", "middle"),
        ]
    height = bottom + 34
    what = "instructions" if results.about.get("measured") == "instructions" else "speed"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img" aria-label="{what} of event loops against {escape(results.baseline)}">',
        f"<style>{STYLE}</style>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="8" class="back"/>',
        text(20, 30, f"{what.capitalize()} against {results.baseline}; further right is better", "title"),
        text(WIDTH - 20, 30, results.about.get("Python", ""), "quiet", "end"),
        *legend(results),
        *grid,
        *body,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"
