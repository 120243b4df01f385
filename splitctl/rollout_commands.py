"""Commands about traffic: rollout and decommission."""

from datetime import timedelta
from typing import Annotated, Any

import typer

from splitctl.session import (
    ConfigPath,
    Confirm,
    DomainName,
    DryRun,
    Limit,
    OptionalDomain,
    Output,
    OutputFormat,
    Since,
    answer,
    command_group,
    confirmed,
    duration,
    events,
    progress,
)

rollout = command_group("Percentages in steps, with gates and soaks.")
decommission = command_group("The end that is earned: rampdown, archive, and its undo.")
Domains = Annotated[
    list[str] | None, typer.Argument(help="Domains by name; all there are when none is given.")
]


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
    """Move to the next percentage, if the gates pass. One step, proven by who is served."""

    def work(c: Any) -> Any:
        from rollout import controller

        if dry_run:
            return controller.plan(c, domain)
        return controller.advance(c, domain, on_progress=progress)

    answer(work, config, output)


@rollout.command("watch")
def rollout_watch(
    domains: Domains = None,
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
    """Soak and watch the gates. Rolls back by itself on `fail`; holds on `inconclusive`.

    On a terminal it is one screen that may stay open for days; elsewhere a line for each look.
    """

    def work(c: Any) -> Any:
        from rollout import controller
        from splitctl import watching

        with watching.shown(c, domains, lambda look: progress(str(look))) as on_progress:
            return controller.watch(
                c, domains or None, soak=soak, timeout=timeout, on_progress=on_progress
            )

    answer(work, config, output)


@rollout.command("run")
def rollout_run(
    domains: Domains = None,
    until: Annotated[
        int, typer.Option(min=1, max=100, metavar="PERCENT", help="No step goes beyond this.")
    ] = 100,
    hold: Annotated[
        timedelta,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="End (exit code 4) when a domain makes no headway for this long.",
        ),
    ] = "24h",  # type: ignore[assignment]
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Unattended: start, watch, verify, step up when soaked and passed, roll back on `fail`.

    May be killed at any moment and started again anywhere: everything is in the ledger. SIGTERM
    ends it between two looks. It tells a line for each change of state.
    """

    def work(c: Any) -> Any:
        from rollout import run as room

        return room.run(c, domains or None, until=until, hold=hold, on_change=progress)

    answer(work, config, output)


@rollout.command("finish")
def rollout_finish(
    domain: DomainName,
    undo: Annotated[
        bool, typer.Option("--undo", help="Bring the flags back, and the old code to its place.")
    ] = False,
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
    dry_run: DryRun = False,
) -> None:
    """Take the flags out of the gateways, and what has moved out of the old service.

    Everybody stays on the new side, by default. Rollback stays possible until `complete`.
    """

    def work(c: Any) -> Any:
        from rollout import finishing

        if dry_run:
            return finishing.plan(c, domain, undo=undo)
        return (finishing.undo if undo else finishing.finish)(c, domain, on_progress=progress)

    answer(work, config, output)


@rollout.command("pause")
def rollout_pause(
    domain: DomainName,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Why, for whoever finds it paused.")
    ] = "",
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Keep customers where they are: no step, and the clock stands. A fail still rolls back."""

    def work(c: Any) -> Any:
        from rollout import pausing

        return pausing.pause(c, domain, reason=reason)

    answer(work, config, output)


@rollout.command("resume")
def rollout_resume(
    domain: DomainName, config: ConfigPath = None, output: OutputFormat = Output.TEXT
) -> None:
    """End a pause; the soak clock goes on where it stood."""

    def work(c: Any) -> Any:
        from rollout import pausing

        return pausing.resume(c, domain)

    answer(work, config, output)


@rollout.command("answer")
def rollout_answer(
    domain: DomainName,
    gate: Annotated[str, typer.Option(metavar="NAME", help="The gate that asks.")],
    word: Annotated[bool, typer.Option("--yes/--no", help="The answer.", show_default=False)],
    note: Annotated[str, typer.Option(metavar="TEXT", help="What it rests on.")] = "",
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Answer a gate's question, for this phase. A later answer takes its place."""

    def work(c: Any) -> Any:
        from rollout import pausing

        return pausing.answer(c, domain, gate, "yes" if word else "no", note=note)

    answer(work, config, output)


@rollout.command("history")
def rollout_history(
    domain: OptionalDomain = None,
    limit: Limit = 30,
    since: Since = None,
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Acts, pauses, answers and each turn of a gate, in order; the same as `splitctl history`."""

    def work(c: Any) -> Any:
        from rollout import history as room

        return events(room.history(c, domain, limit=limit, since=since), output)

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
