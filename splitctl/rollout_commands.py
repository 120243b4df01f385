"""Commands about traffic: rollout and decommission."""

from datetime import timedelta
from typing import Annotated, Any

import typer

from splitctl.session import (
    ConfigPath,
    Confirm,
    DomainName,
    DryRun,
    Output,
    OutputFormat,
    answer,
    command_group,
    confirmed,
    duration,
    progress,
)

rollout = command_group("Percentages in steps, with gates and soaks.")
decommission = command_group("The end that is earned: rampdown, archive, and its undo.")


@rollout.command("start")
def rollout_start(
    domain: DomainName, config: ConfigPath = None, output: OutputFormat = Output.TEXT
) -> None:
    """Let a domain's rollout begin. Needs live sync and a fresh verdict `equal`."""

    def work(c: Any) -> Any:
        from rollout import controller

        return controller.start(c, domain)

    answer(work, config, output)


@rollout.command("advance")
def rollout_advance(
    domain: DomainName,
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
    dry_run: DryRun = False,
) -> None:
    """Move to the next percentage, if the gates pass. One fenced step."""

    def work(c: Any) -> Any:
        from rollout import controller

        return controller.plan(c, domain) if dry_run else controller.advance(c, domain)

    answer(work, config, output)


@rollout.command("watch")
def rollout_watch(
    domains: Annotated[
        list[str] | None, typer.Argument(help="Domains to watch; all that are live when none.")
    ] = None,
    soak: Annotated[
        timedelta | None,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="Soak this long instead of the phase's: 20s, 24h, 7d.",
        ),
    ] = None,
    timeout: Annotated[
        timedelta | None,
        typer.Option(
            parser=duration, metavar="DURATION", help="Stop watching after this long (exit code 7)."
        ),
    ] = None,
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Soak and watch the gates. Rolls back by itself on `fail`; holds on `inconclusive`."""

    def work(c: Any) -> Any:
        from rollout import controller

        return controller.watch(
            c,
            domains or None,
            soak=soak,
            timeout=timeout,
            on_progress=lambda p: progress(str(p)),
        )

    answer(work, config, output)


@rollout.command("status")
def rollout_status(config: ConfigPath = None, output: OutputFormat = Output.TEXT) -> None:
    """The same as `splitctl status`."""

    def work(c: Any) -> Any:
        from rollout import status

        return status.status(c)

    answer(work, config, output)


@decommission.command("rampdown")
def decommission_rampdown(
    domain: DomainName, config: ConfigPath = None, output: OutputFormat = Output.TEXT
) -> None:
    """End the last phase, once it has soaked. Rollback stays possible until `complete`."""

    def work(c: Any) -> Any:
        from rollout import decommission as room

        return room.rampdown(c, domain)

    answer(work, config, output)


@decommission.command("archive")
def decommission_archive(
    domain: DomainName,
    confirm: Confirm = None,
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Rename the old tables and close the way back. `decommission undo` takes it back."""

    def work(c: Any) -> Any:
        from rollout import decommission as room

        confirmed(domain, confirm, "Archive the old tables of")
        return room.archive(c, domain)

    answer(work, config, output)


@decommission.command("undo")
def decommission_undo(
    domain: DomainName, config: ConfigPath = None, output: OutputFormat = Output.TEXT
) -> None:
    """Take the archive back. Old names again; the changes since are carried over."""

    def work(c: Any) -> Any:
        from rollout import decommission as room

        return room.undo(c, domain)

    answer(work, config, output)
