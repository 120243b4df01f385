"""The options of `splitctl rehearse`. They speak of the worked example, so they stand here."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from rehearsal.certificate import LEAST_WRITES_PER_STAGE

Answer = Callable[[Callable[[], Any], str], NoReturn]


def register(app: typer.Typer, answer: Answer, duration: Callable[[str], timedelta]) -> None:
    """Add the command. `answer` does the work and renders it; `duration` reads an option."""

    @app.command()
    def rehearse(
        carts: Annotated[int, typer.Option(min=100, help="Carts before the split.")] = 100_000,
        returns: Annotated[int, typer.Option(min=100, help="Returns before the split.")] = 20_000,
        shoppers: Annotated[int, typer.Option(min=1, max=500, help="Customers at once.")] = 32,
        soak: Annotated[
            timedelta,
            typer.Option(parser=duration, metavar="DURATION", help="Soak of each phase."),
        ] = timedelta(seconds=20),
        seed: Annotated[int, typer.Option(help="Decides data and shoppers.")] = 1,
        out: Annotated[Path, typer.Option(help="Where all is written.")] = Path("rehearsal-out"),
        keep: Annotated[
            bool, typer.Option("--keep", help="Leave the estate running until Ctrl-C.")
        ] = False,
        least_writes: Annotated[
            int, typer.Option(min=1, hidden=True, help="Writes to see at each stage and side.")
        ] = LEAST_WRITES_PER_STAGE,
        output: Annotated[
            Literal["text", "json"], typer.Option("--output", "-o", help="How to answer.")
        ] = "text",
    ) -> None:
        """A whole split on this machine, under live load. Ends with a certificate and a report."""

        def work() -> Any:
            from rehearsal.run import Options, run

            soak_s = soak.total_seconds()
            return run(Options(carts, returns, shoppers, soak_s, seed, out, keep, least_writes))

        answer(work, output)
