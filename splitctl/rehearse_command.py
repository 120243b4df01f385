"""`splitctl rehearse`: a whole split on one machine."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from splitctl.session import Output, OutputFormat, answer_without_config, duration


def rehearse(
    carts: Annotated[
        int, typer.Option(min=100, help="Carts there are before the split.")
    ] = 100_000,
    returns: Annotated[int, typer.Option(min=100, help="Returns there are.")] = 20_000,
    shoppers: Annotated[int, typer.Option(min=1, max=500, help="Customers at once.")] = 48,
    soak: Annotated[
        timedelta,
        typer.Option(parser=duration, metavar="DURATION", help="The shortest soak of each phase."),
    ] = timedelta(seconds=20),
    seed: Annotated[int, typer.Option(help="The same seed makes the same data and shoppers.")] = 1,
    out: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("rehearsal-out"),
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the estate running; Ctrl-C ends it.")
    ] = False,
    output: OutputFormat = Output.TEXT,
) -> None:
    """A whole split on this machine, under live load, to a certificate and a report."""

    def work() -> Any:
        from rehearsal.run import Options
        from rehearsal.run import rehearse as run

        return run(Options(carts, returns, shoppers, soak.total_seconds(), seed, out, keep))

    answer_without_config(work, output)
