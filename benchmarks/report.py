"""The results as a table and as JSON."""

import json
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.contest import Result

HEAD = (
    "| figure | rival | ours | rival's | ratio | wanted | reached |\n|---|---|---|---|---|---|---|"
)


def table(results: Sequence[Result]) -> str:
    """Markdown: medians in the figure's unit, and the median of the rounds' ratios."""
    lines = [HEAD]
    for result in results:
        figure = result.figure
        ours, theirs = statistics.median(result.ours), statistics.median(result.theirs)
        notes = "".join(f"; {name}: {_shown(value)}" for name, value in result.notes.items())
        lines.append(
            f"| {figure.name} | {figure.rival} | {_shown(ours)} {figure.unit}{notes}"
            f" | {_shown(theirs)} {figure.unit} | {result.ratio:.2f}"
            f" | {figure.direction} {figure.bound:g} | {'yes' if result.reached else 'no'} |"
        )
    return "\n".join(lines)


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def document(results: Sequence[Result], ground: dict[str, Any]) -> str:
    """JSON: every round's value, so that the spread can be seen too."""
    found = [
        {
            "figure": result.figure.name,
            "rival": result.figure.rival,
            "unit": result.figure.unit,
            "ours": result.ours,
            "theirs": result.theirs,
            "ratio": result.ratio,
            result.figure.direction: result.figure.bound,
            "reached": result.reached,
            "notes": result.notes,
        }
        for result in results
    ]
    return json.dumps({**ground, "results": found}, indent=2)
