"""Commands of the comparison."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from splitctl.session import (
    ConfigPath,
    Confirm,
    DomainName,
    OptionalDomain,
    Output,
    OutputFormat,
    answer,
    command_group,
    confirmed,
    duration,
    progress,
    state_directory,
)

verify = command_group("Compare both sides, exactly, beside live writes.")


@verify.command("run")
def verify_run(
    mappings: Annotated[
        list[str] | None, typer.Argument(help="Mappings, like DOMAIN.forward.TABLE; all when none.")
    ] = None,
    domain: Annotated[str | None, typer.Option(help="Only this domain.")] = None,
    sample: Annotated[
        float, typer.Option(metavar="PERCENT", help="A share of the keys, the same on both sides.")
    ] = 100,
    since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="Rows touched since: 2h, 7d or 2026-01-31T12:00 (UTC)."),
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="Rows of which this is true on either side.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Only these columns, comma-separated.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="At most so many differing keys of a mapping are named.")
    ] = 10_000,
    workers: Annotated[
        int | None, typer.Option(min=1, max=16, help="Connections to each side that read at once.")
    ] = None,
    throttle: Annotated[
        int, typer.Option(min=1, max=100, metavar="PERCENT", help="Read so much of the time.")
    ] = 100,
    timeout: Annotated[
        Any, typer.Option(parser=duration, metavar="DURATION", help="Tell what is known by then.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page that can be mailed.")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every difference.")
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The same for pandas.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the same run that was cut off.")
    ] = False,
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Compare both sides, in both directions. Equal, different (with samples) or inconclusive."""

    def work(c: Any) -> Any:
        from rollout import verification
        from verify import diff
        from verify.passes import Limits
        from verify.scope import Scope, moment, names, thousandths
        from verify.unfinished import claimed

        begin = moment(since) if since is not None else None
        scope = Scope(thousandths(sample), where, begin, names(columns))
        limits = Limits(
            workers or c.verify.workers,
            suspects=limit,
            share=throttle / 100,
            timeout_s=timeout.total_seconds() if timeout is not None else None,
        )
        kept = diff.begun(c, domain, mappings or None, scope, since, limits, state_directory())
        with claimed(kept.path) as alone:
            earlier = kept.earlier() if alone else None
            if not alone:
                kept.path = None
                progress("The same comparison is running already; this one cannot be resumed.")
            elif resume:
                progress(f"Going on: {earlier}" if earlier else "There is no run to go on with.")
                kept = earlier or kept
            elif earlier:
                progress(f"A run was cut off: {earlier}. This one begins anew; --resume goes on.")
            return verification.run(
                c,
                domain,
                mappings or None,
                scope=replace(scope, since=kept.since),
                limits=limits,
                unfinished=kept,
                reports=verification.Reports(html, csv, parquet),
                on_progress=lambda p: progress(str(p)),
            )

    answer(work, config, output)


@verify.command("repair")
def verify_repair(
    domain: DomainName,
    mapping: Annotated[
        list[str] | None, typer.Option("--mapping", help="Only this mapping; can be repeated.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Write a plan, change nothing: what it does anyway."),
    ] = False,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the plan is written.")
    ] = None,
    apply: Annotated[
        Path | None, typer.Option(metavar="PLAN", help="Carry out the plan in this file.")
    ] = None,
    undo: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the undo scripts are written.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="At most so many differing keys of a mapping are planned.")
    ] = 10_000,
    timeout: Annotated[
        Any, typer.Option(parser=duration, metavar="DURATION", help="Wait so long for sync.")
    ] = "5m",
    confirm: Confirm = None,
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Plan the repair of what differs, from the side that owns each customer; --apply does it."""
    if apply is not None and (dry_run or mapping or plan):
        raise typer.BadParameter("--apply carries out a whole plan; entries may be taken out of it")
    if undo is not None and apply is None:
        raise typer.BadParameter("--undo goes with --apply")

    def work(c: Any) -> Any:
        from rollout import repairing
        from verify.passes import Limits

        c.domain(domain)
        if apply is None:
            now = datetime.now(UTC)
            path = plan or state_directory() / f"repair-{domain}-{now:%Y%m%dT%H%M%S}.json"
            return repairing.plan(
                c,
                domain,
                mapping or None,
                path,
                limits=Limits(c.verify.workers, suspects=limit),
                on_progress=lambda p: progress(str(p)),
            )
        confirmed(domain, confirm, "Repair")
        return repairing.apply(
            c,
            domain,
            apply,
            undo or state_directory(),
            Limits(barrier_s=timeout.total_seconds()),
            lambda keys: progress(f"Asked for {keys:,} key(s); waiting for sync"),
        )

    answer(work, config, output)


@verify.command("self-test")
def verify_self_test(config: ConfigPath = None, output: OutputFormat = Output.TEXT) -> None:
    """Try the verifier on known differences in scratch tables. It must find each, and no other."""

    def work(c: Any) -> Any:
        from verify import selftest

        return selftest.run(c)

    answer(work, config, output)


@verify.command("invariants")
def verify_invariants(
    domain: OptionalDomain = None, config: ConfigPath = None, output: OutputFormat = Output.TEXT
) -> None:
    """Ask what must be true of the data whatever the mappings say: money, orders, orphans, ids."""

    def work(c: Any) -> Any:
        from rollout import verification
        from verify import invariants

        return invariants.Report(verification.invariants(c, domain))

    answer(work, config, output)
