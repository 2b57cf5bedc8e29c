"""The page of experiments.compare: one HTML file with its pictures inside, drawn as SVG, that asks no network."""

import html
import math
from pathlib import Path

from experiments.compare_runs import TASKS, RunRecord
from utils.bootstrap import Difference
from utils.files import replace_file

# Okabe and Ito's palette, which colour-blind readers can tell apart; dashes set a second round of runs apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
WIDTH, HEIGHT = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 40
SHOWN_IMAGES = 10
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: .5rem 0; } td, th { padding: .25rem .7rem; text-align: left; vertical-align: top;
border-bottom: 1px solid #e5e5e5; overflow-wrap: anywhere; } th { background: #f5f5f5; }
.verdict { background: #f5f8fb; border-left: 4px solid #0072B2; padding: .6rem 1rem; }
.better { border-color: #009E73; } .worse { border-color: #D55E00; } .not { border-color: #999; }
.charts { display: flex; flex-wrap: wrap; gap: 12px; } svg { background: #fff; max-width: 100%; height: auto; }
.key { display: inline-block; width: 1.6em; height: .25em; vertical-align: middle; margin-right: .4em; }
"""


def write_report(path: Path, runs: list[RunRecord], comparisons: list, tables: dict, words: list[str]) -> None:
    """tables: {title: (header, rows)}; words: the verdicts and what they may be put down to."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(runs)]
    metric, title = TASKS[runs[0].task].metric, f"{runs[0].task}: {len(runs)} runs compared"
    kinds = {comparison.letter: comparison.verdict.split()[0] for comparison in comparisons}
    body = [f"<h1>{_text(title)}</h1>"]
    for line in words:
        kind = kinds.get(line[0], "") if " against A, " in line else ""
        body.append(f'<p class="{f"verdict {kind}" if kind else ""}">{_text(line.strip())}</p>')
    for name, (header, rows) in tables.items():
        body += [f"<h2>{_text(name)}</h2>", _table(header, rows)]
    body += [f"<h2>Difference of {_text(metric)} to A</h2>",
             intervals_svg([(comparison.letter, comparison.differences[metric]) for comparison in comparisons])]
    legend = "".join(f'<span class="key" style="background:{_colour(n)}"></span>{letter}: {_text(run.folder)} &emsp;'
                     for n, (letter, run) in enumerate(zip(letters, runs)))
    bests = [max((row for row in run.epochs if _drawable(row.get(f"val/{metric}"))), default={"step": None},
                 key=lambda row: row[f"val/{metric}"])["step"] for run in runs]
    charts = [curve_svg(name, [(letter, [(row["step"], row[name]) for row in run.epochs if _drawable(row.get(name))])
                               for letter, run in zip(letters, runs)], bests) for name in curves_of(runs)]
    body += ["<h2>Curves</h2>", f"<p>{legend}<br>Across: optimizer steps. The ring is each run's best epoch by "
             f"val/{_text(metric)}.</p>" if charts else "<p>No run kept its epochs.</p>",
             f'<div class="charts">{"".join(charts)}</div>']
    for comparison in comparisons:
        if comparison.moved:
            body += [f"<h2>Images that changed most, {comparison.letter} against A</h2>",
                     f"<p>{len(comparison.moved)} of {comparison.differences[metric].n_images} changed.</p>",
                     _table(["Image", f"A, {metric}", comparison.letter, "Difference"],
                            [[name, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}"]
                             for name, a, b in comparison.moved[:SHOWN_IMAGES]])]
    replace_file(path, f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
                 f"<style>{STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n")


def curves_of(runs: list[RunRecord]) -> list[str]:
    """The names to draw: the metrics that are compared, then the loss and its parts, then the rate."""
    known = {name for run in runs for row in run.epochs for name in row}
    shown = [f"val/{name}" for name in TASKS[runs[0].task].shown]
    parts = sorted(name for name in known if name.startswith("train/") and name not in ("train/loss", "train/lr"))
    return [name for name in (*shown, "train/loss", *parts, "train/lr") if name in known]


def curve_svg(name: str, series: list[tuple[str, list[tuple[float, float]]]], rings: list[float | None]) -> str:
    """One chart. series: (letter, [(step, value), ...]) for each run; rings: the step to mark on each."""
    points = [point for _, found in series for point in found]
    if not points:
        return ""
    xs, ys = _axis([0, *(x for x, _ in points)]), _axis([y for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        return (LEFT + (x - xs[0]) / (xs[-1] - xs[0]) * (WIDTH - LEFT - RIGHT),
                HEIGHT - BOTTOM - (y - ys[0]) / (ys[-1] - ys[0]) * (HEIGHT - TOP - BOTTOM))

    parts = [f'<text x="{LEFT}" y="20" font-size="14" font-weight="600">{_text(name)}</text>']
    for value in ys:
        y = place(xs[0], value)[1]
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e3e3e3"/>'
                     f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" font-size="11" fill="#555">{value:g}</text>')
    for value in xs:
        x = place(value, ys[0])[0]
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle" font-size="11" fill="#555">'
                     f"{value:g}</text>")
    for number, (letter, found) in enumerate(series):
        colour, dash = _colour(number), ' stroke-dasharray="6 3"' if number >= len(COLOURS) else ""
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in found))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        for step, value in found:
            x, y = place(step, value)
            ring = step == rings[number]
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 if ring else 2.2}" stroke="{colour}" stroke-width="2" '
                         f'fill="{"#fff" if ring else colour}"><title>{letter}, step {step}: {value:.5g}</title></circle>')
    return (f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="{_text(name)}">'
            + "".join(parts) + "</svg>")


def intervals_svg(found: list[tuple[str, Difference]]) -> str:
    """Each run's difference to the first as a dot with its interval, and the line of no difference."""
    axis = _axis([0, *(value for _, d in found for value in (d.low, d.high, d.value))])
    width, row = 2 * WIDTH, 34
    height = row * len(found) + 40

    def place(value: float) -> float:
        return 60 + (value - axis[0]) / (axis[-1] - axis[0]) * (width - 90)

    parts = []
    for value in axis:
        parts.append(f'<line x1="{place(value):.1f}" x2="{place(value):.1f}" y1="6" y2="{height - 28}" '
                     f'stroke="{"#444" if value == 0 else "#e3e3e3"}"/><text x="{place(value):.1f}" y="{height - 10}" '
                     f'text-anchor="middle" font-size="11" fill="#555">{value:+g}</text>')
    for number, (letter, d) in enumerate(found):
        y, colour = row * (number + 0.5) + 6, _colour(number + 1)
        parts.append(f'<text x="10" y="{y + 5:.1f}" font-size="14">{letter} - A</text>'
                     f'<line x1="{place(d.low):.1f}" x2="{place(d.high):.1f}" y1="{y}" y2="{y}" stroke="{colour}" '
                     f'stroke-width="4" stroke-linecap="round"/><circle cx="{place(d.value):.1f}" cy="{y}" r="6" '
                     f'fill="{colour}"><title>{d.value:+.4f} ({d.low:+.4f} to {d.high:+.4f})</title></circle>')
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img">{"".join(parts)}</svg>'


def _axis(values: list[float], wanted: int = 5) -> list[float]:
    """Round numbers, evenly spaced, from at or below the least to at or above the greatest."""
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(abs(high), 1e-12):
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    rough = (high - low) / wanted
    power = 10 ** math.floor(math.log10(rough))
    spacing = next(step * power for step in (1, 2, 5, 10) if step * power >= rough * 0.999)
    first, last = math.floor(low / spacing + 1e-9), math.ceil(high / spacing - 1e-9)
    return [float(f"{number * spacing:.10g}") for number in range(first, max(last, first + 1) + 1)]


def _drawable(value) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in header) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "<table>" + "".join(lines) + "</table>"


def _text(value: object) -> str:
    return html.escape(str(value))
