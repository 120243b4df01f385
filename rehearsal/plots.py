"""Plots over the time of a run as inline SVG, with the steps marked."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.figure import Figure

# SVG text stays text (small file, selectable), and the same run gives the same bytes.
mpl.rcParams["svg.fonttype"] = "none"
mpl.rcParams["svg.hashsalt"] = "splitctl"
mpl.rcParams["font.family"] = "sans-serif"
COLORS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2")


@dataclass(frozen=True)
class Mark:
    """A moment worth a line through every plot. `at` in seconds since the start."""

    at: float
    label: str


Points = Sequence[tuple[float, float | None]]
# Between points further apart than this (s) nothing was measured, so no line is drawn.
GAP_S = 10.0


def line_plot(
    title: str, unit: str, series: Mapping[str, Points], marks: Sequence[Mark], *, log: bool
) -> str:
    """One plot: named series of (seconds, value or None). Returns an <svg> element."""
    figure = Figure(figsize=(10.5, 2.9))
    figure.subplots_adjust(left=0.07, right=0.84, top=0.88, bottom=0.18)

    axes = figure.add_subplot()
    for color, (name, points) in zip(COLORS * 3, series.items(), strict=False):
        axes.plot(*_broken(points), label=name, color=color, linewidth=1.3)
    ends = [points[-1][0] for points in series.values() if points]
    # All plots share one time axis, so that the eye can go straight down.
    axes.set_xlim(0, max([*ends, *(mark.at for mark in marks)], default=1.0))
    if log:
        axes.set_yscale("log")
    elif unit.startswith("%"):
        axes.set_ylim(-2, 102)
    else:
        axes.set_ylim(bottom=0)
    top = axes.get_ylim()[1]
    for number, mark in enumerate(marks, start=1):
        axes.axvline(mark.at, color="#64748b", linewidth=0.8, linestyle=":")
        axes.text(mark.at, top, f" {number}", fontsize=7, color="#475569", va="top")
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_ylabel(unit, fontsize=9)
    axes.set_xlabel("seconds since the start", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(visible=True, color="#e2e8f0", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if series:
        # Beside the plot, so that it never hides a peak.
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # A fixed size does not fit a phone; the viewBox keeps the proportions.
    return re.sub(r'<svg([^>]*?) width="[^"]*"', r'<svg\1 width="100%"', svg, count=1).replace(
        ' height="208.8pt"', "", 1
    )


def _broken(points: Points) -> tuple[list[float], list[float]]:
    """The points as xs and ys, with a break wherever nothing was measured."""
    xs: list[float] = []
    ys: list[float] = []
    for at, value in points:
        if xs and at - xs[-1] > GAP_S:
            xs.append(at)
            ys.append(math.nan)
        xs.append(at)
        ys.append(math.nan if value is None else value)
    return xs, ys
