"""`make bench`: every figure, or those that are named. By hand; the results go to docs/."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import backfill, catchup, comparison, lag, linear, memory, report, same, shop
from benchmarks.contest import Result, Tell
from benchmarks.ground import VERSION, Ground, ground

FIGURES: dict[str, Callable[[Ground, int, Tell], list[Result]]] = {
    "backfill-psql": backfill.against_psql,
    "backfill-native": backfill.against_native,
    "same-pgcopydb": same.against_pgcopydb,
    "same-native": same.against_native,
    "catchup-distinct": catchup.distinct,
    "catchup-hot-single": catchup.hot_single,
    "catchup-hot-large": catchup.hot_large,
    "lag": lag.steady,
    "shop": shop.felt,
    "memory": memory.peak,
    "verify-reladiff": comparison.against_reladiff,
    "verify-floor": comparison.against_floor,
    "verify-mapping": comparison.of_the_mapping,
    "verify-linear": linear.linear,
}


def main() -> int:
    """Measure, print a line for each turn to stderr and the table to stdout."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=", ".join(FIGURES))
    parser.add_argument("--carts", type=int, default=2_000_000, help="items: twice as many")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where all values are written")
    options = parser.parse_args()
    unknown = [name for name in options.figures if name not in FIGURES]
    if unknown:
        parser.error(f"no figure {', '.join(unknown)}; there are: {', '.join(FIGURES)}")
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="splitctl-bench-") as folder:
        Path(folder).chmod(0o755)
        tell(f"loading {options.carts:,} carts")
        with ground(Path(folder), options.carts) as made:
            for name in options.figures or FIGURES:
                made.settle()
                results += FIGURES[name](made, options.rounds, tell)
                # After each: what was measured for an hour is not lost with the next figure.
                _keep(options, results)
    print(report.table(results))
    return 0 if all(result.reached for result in results) else 3


def _keep(options: argparse.Namespace, results: list[Result]) -> None:
    if options.json:
        facts = {
            "carts": options.carts,
            "rounds": options.rounds,
            "cores": os.cpu_count(),
            "postgresql": VERSION,
        }
        options.json.write_text(report.document(results, facts), encoding="utf-8")


def tell(line: str) -> None:
    """One line of progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
