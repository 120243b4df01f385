"""Commands that ask the services themselves, as test customers: smoke and load."""

import sys
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer

from splitctl.session import (
    ConfigPath,
    DryRun,
    Output,
    OutputFormat,
    answer,
    duration,
    progress,
    reader_may_leave,
)


class Through(StrEnum):
    """Where requests go in."""

    OLD = "old"
    NEW = "new"
    GATEWAY = "gateway"


Domains = Annotated[
    list[str] | None, typer.Argument(help="Domains; all that have flows when none.")
]
Side = Annotated[
    Through, typer.Option("--side", help="Through the gateways, or one side directly.")
]
Short = Annotated[timedelta | None, typer.Option(parser=duration, metavar="DURATION")]


def rate(text: str) -> float:
    """An option's value such as 200/s or 12000/m: how many a second."""
    number, _, unit = text.partition("/")
    try:
        found = float(number) / {"": 1, "s": 1, "m": 60}[unit]
    except (ValueError, KeyError):
        raise typer.BadParameter("a rate is a number with /s or /m, like '200/s'") from None
    if not 0 < found < 1_000_000:
        raise typer.BadParameter("a rate is more than nothing, and less than a million a second")
    return found


def smoke(
    domains: Domains = None,
    side: Side = Through.GATEWAY,
    health: Annotated[
        bool, typer.Option("--health", help="Only ask whether each part is ready; write nothing.")
    ] = False,
    timeout: Annotated[
        Any, typer.Option(parser=duration, metavar="DURATION", help="For the whole run.")
    ] = "2m",
    confirm: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Write on a side that owns nobody yet, before sync."),
    ] = None,
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
    dry_run: DryRun = False,
) -> None:
    """Walk each flow once, as a test customer of either side, and tell how every step went."""

    def work(c: Any) -> Any:
        from rollout import smoke as room

        if dry_run:
            return room.plan(c, domains or (), side.value, health_only=health, confirm=confirm)
        return room.smoke(
            c,
            domains or (),
            side.value,
            health_only=health,
            confirm=confirm,
            whole_s=timeout.total_seconds(),
            on_progress=progress,
        )

    answer(work, config, output)


def load(
    domains: Domains = None,
    flow: Annotated[list[str] | None, typer.Option(help="Only this flow; can be repeated.")] = None,
    side: Side = Through.GATEWAY,
    customers: Annotated[
        int, typer.Option(min=1, max=50_000, help="So many at the same time.")
    ] = 1000,
    lasting: Annotated[
        Any, typer.Option("--for", parser=duration, metavar="DURATION", help="How long.")
    ] = "60s",
    arrivals: Annotated[
        Any,
        typer.Option(
            "--rate", parser=rate, metavar="RATE", help="Open model: so many requests, like 200/s."
        ),
    ] = None,
    think: Annotated[
        Any,
        typer.Option(
            parser=duration, metavar="DURATION", help="Mean pause, instead of the flows' own."
        ),
    ] = None,
    p95: Annotated[
        Any, typer.Option(parser=duration, metavar="DURATION", help="Exit 3 when a side's is more.")
    ] = None,
    p99: Annotated[
        Any, typer.Option(parser=duration, metavar="DURATION", help="The same of the p99.")
    ] = None,
    errors: Annotated[
        int | None, typer.Option(min=0, help="Exit 3 when more requests failed.")
    ] = None,
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
    dry_run: DryRun = False,
) -> None:
    """Have many test customers walk flows at the same time: percentiles and errors per side."""
    if arrivals is not None and think is not None:
        raise typer.BadParameter("--think belongs to the closed model, --rate makes an open one")

    def work(c: Any) -> Any:
        from rollout import load_plan
        from rollout.load_report import Limits, LoadToolMissing

        asked = load_plan.plan(
            c,
            domains or (),
            flow or (),
            side.value,
            customers=customers,
            seconds=lasting.total_seconds(),
            rate=arrivals,
            think_s=think.total_seconds() if think is not None else None,
            limits=Limits(_ms(p95), _ms(p99), errors),
        )
        if dry_run:
            return asked
        try:
            from rollout import load as room
        except ModuleNotFoundError as error:
            raise LoadToolMissing(module=error.name) from error
        try:
            return room.load(asked, sliding)
        finally:
            progress("")  # below the line that slid

    answer(work, config, output)


def _ms(limit: Any) -> float | None:
    return None if limit is None else 1000 * float(limit.total_seconds())


def sliding(message: str) -> None:
    """Progress each second: on a terminal one line that is written over."""
    if not sys.stderr.isatty():
        progress(message)
        return
    with reader_may_leave(sys.stderr):
        sys.stderr.write(f"\r{message}\x1b[K")
        sys.stderr.flush()
