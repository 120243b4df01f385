"""`splitctl rollout replay`: the gates over the past."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

import typer

from splitctl.session import ConfigPath, Output, OutputFormat, answer, duration

WEEK, MINUTE = timedelta(days=7), timedelta(minutes=1)


class Traffic(StrEnum):
    """Whose traffic the gates judge."""

    NEW = "new"
    OLD = "old"


def moment(text: str) -> datetime:
    """An option's value such as 7d (so long ago) or 2026-01-31T08:00 (UTC unless it says)."""
    try:
        return datetime.now(UTC) - duration(text)
    except typer.BadParameter:
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            "a time is so long ago, like '7d', or a moment, like '2026-01-31T08:00'"
        ) from None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def register(group: typer.Typer) -> None:
    """Add the command to the group `rollout`."""

    @group.command("replay")
    def rollout_replay(
        domains: Annotated[
            list[str] | None, typer.Argument(help="Domains to judge; all of them when none.")
        ] = None,
        start: Annotated[
            datetime | None,
            typer.Option(
                "--from",
                parser=moment,
                metavar="WHEN",
                help="When the phase begins; 7d is a week ago.",
            ),
        ] = None,
        end: Annotated[
            datetime | None,
            typer.Option(
                "--to", parser=moment, metavar="WHEN", help="When it ends; now if not given."
            ),
        ] = None,
        step: Annotated[
            timedelta | None,
            typer.Option(
                parser=duration, metavar="DURATION", help="How often to ask; 1m if not given."
            ),
        ] = None,
        side: Annotated[
            Traffic, typer.Option(help="Whose traffic to judge; before a rollout the old side's.")
        ] = Traffic.NEW,
        percentage: Annotated[
            int | None,
            typer.Option(min=1, max=100, help="What was asked for then, for the gate `share`."),
        ] = None,
        config: ConfigPath = None,
        output: OutputFormat = Output.TEXT,
    ) -> None:
        """Ask the gates about the past, as Prometheus has it. Changes nothing.

        Exit code 3 when a gate would have failed, 4 when one could not have told at the end.
        """

        def work(c: Any) -> Any:
            from rollout.replay import replay

            now = datetime.now(UTC)
            return replay(
                c,
                domains or [],
                start or now - WEEK,
                end or now,
                (step or MINUTE).total_seconds(),
                side=side.value,
                percentage=percentage,
            )

        answer(work, config, output)
