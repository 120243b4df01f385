"""One HTML page of a run that can be mailed: figures, plots over time, and what was done."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from rehearsal.plots import Mark, Points, line_plot

Plot = tuple[str, str, Mapping[str, Points], bool]  # title, unit, series, logarithmic


def render(
    certificate: Mapping[str, Any],
    environment: str,
    plots: Sequence[Plot],
    marks: Sequence[Mark],
    verdicts: Sequence[Mapping[str, Any]],
) -> str:
    """The whole page as one self-contained HTML text: no script, no outside address."""
    loader = PackageLoader("rehearsal", ".")
    template = Environment(loader=loader, autoescape=select_autoescape(["j2"])).get_template(
        "report.html.j2"
    )
    rows: list[dict[str, Any]] = certificate["writes_per_stage"]
    return template.render(
        certificate=certificate,
        environment=environment,
        made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        figures=_figures(certificate),
        plots=[line_plot(t, unit, series, marks, log=log) for t, unit, series, log in plots],
        marks=marks,
        domain_names=sorted({name for row in rows for name in row.get("by_domain", {})}),
        verdicts=[_verdict(verdict) for verdict in verdicts],
    )


def _figures(certificate: Mapping[str, Any]) -> list[tuple[str, Any, bool]]:
    diff = certificate["diff"]
    lag = certificate["sync"]["lag_ms_p99"]
    holds = [step["held_ms_max"] for step in certificate["steps"]]
    figures: list[tuple[str, Any, bool]] = [
        ("acknowledged writes", certificate["acknowledged_writes"], False),
        ("lost writes", certificate["lost_writes"], True),
        ("duplicate orders", certificate["duplicate_orders"], True),
        ("failed requests", certificate["failed_requests"], True),
        ("rows compared", diff["rows_compared"], False),
        ("rows that differ", diff["mismatched"] + diff["missing"] + diff["extra"], True),
        ("strays", certificate["sync"]["strays"], True),
        ("longest hold, ms", max(holds, default=0), False),
    ]
    for direction, value in lag.items():
        figures.append((f"lag {direction} p99, ms", "-" if value is None else round(value), False))
    figures.append(("backfilled rows/s", certificate["backfill"]["rows_per_second"], False))
    return figures


def _verdict(verdict: Mapping[str, Any]) -> dict[str, Any]:
    names = ("rows_compared", "mismatched", "missing", "extra")
    sums = {name: sum(int(m.get(name, 0)) for m in verdict["mappings"]) for name in names}
    return {"verdict": verdict["verdict"], "finished_at": verdict["finished_at"], **sums}
