"""The program: groups of commands, and those that stand alone.

Each command loads its room only when it runs: start-up time is part of the product.
"""

import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rehearsal.command import register as register_rehearse
from splitctl.data_commands import backfill, schema, sync
from splitctl.deploy_commands import deploy
from splitctl.load_commands import load, smoke
from splitctl.observe_commands import observe
from splitctl.replay_commands import register as register_replay
from splitctl.rollout_commands import decommission, rollout
from splitctl.session import (
    ConfigPath,
    DomainName,
    DryRun,
    Limit,
    OptionalDomain,
    Output,
    OutputFormat,
    Since,
    answer,
    answer_without_config,
    duration,
    events,
)
from splitctl.verify_commands import verify

# \b keeps the lines below it as they are.
EXAMPLES = """
Move a slice of a monolith, tables and traffic, into new services while customers keep buying.

\b
Examples:
  splitctl rehearse                 a whole split on this machine
  splitctl init my-split            a configuration to start from
  splitctl doctor                   what is missing before a split can start
  splitctl status                   where everything is, and what comes next
  splitctl rollout advance DOMAIN   the next percentage, behind its gates
  splitctl rollback                 everyone back to the old side, now
"""

app = typer.Typer(
    help=EXAMPLES,
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, group in (
    ("schema", schema),
    ("sync", sync),
    ("backfill", backfill),
    ("verify", verify),
    ("rollout", rollout),
    ("deploy", deploy),
    ("decommission", decommission),
    ("observe", observe),
):
    app.add_typer(group, name=name)
app.command()(smoke)
app.command()(load)
register_replay(rollout)
register_rehearse(app, lambda work, form: answer_without_config(work, Output(form)), duration)


def _show_version(wanted: bool) -> None:
    if wanted:
        from splitctl import __version__

        typer.echo(f"splitctl {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Options of the whole program; alone, it shows its help."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="Where to write it.")] = Path(),
    output: OutputFormat = Output.TEXT,
) -> None:
    """Write a commented config.toml to start from. Its mappings and migrations come along."""

    def work() -> Any:
        from splitctl import starter

        return starter.write(directory)

    answer_without_config(work, output)


@app.command()
def doctor(config: ConfigPath = None, output: OutputFormat = Output.TEXT) -> None:
    """What a split needs and lacks, each with its fix. Changes nothing."""

    def work(c: Any) -> Any:
        from splitctl import doctor as room

        return room.examine(c)

    answer(work, config, output)


@app.command()
def status(config: ConfigPath = None, output: OutputFormat = Output.TEXT) -> None:
    """Where everything is, what disagrees, and what comes next. Changes nothing."""

    def work(c: Any) -> Any:
        from rollout import status as room

        return room.status(c)

    answer(work, config, output)


@app.command()
def plan(domain: DomainName, config: ConfigPath = None, output: OutputFormat = Output.TEXT) -> None:
    """The steps of a domain's next move, and what is in the way. Changes nothing."""

    def work(c: Any) -> Any:
        from rollout import controller

        return controller.plan(c, domain)

    answer(work, config, output)


@app.command()
def history(
    domain: OptionalDomain = None,
    limit: Limit = 30,
    since: Since = None,
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """What was done, by whom, when, and how it ended; and each turn of a gate."""

    def work(c: Any) -> Any:
        from rollout import history as room

        return events(room.history(c, domain, limit=limit, since=since), output)

    answer(work, config, output)


@app.command()
def rollback(
    domain: OptionalDomain = None,
    reason: Annotated[
        str, typer.Option("--reason", help="Why: kept in the history, and told.")
    ] = "",
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
    dry_run: DryRun = False,
) -> None:
    """Bring customers back to the old side, now. Needs no confirmation and no working ledger."""

    def work(c: Any) -> Any:
        from rollout import rollback as room

        domains = [domain] if domain else None
        if dry_run:
            return room.plan(c, domains)
        why = dict.fromkeys(domains or c.domains, reason)
        return room.rollback(c, domains, why=why)

    answer(work, config, output)


def main() -> None:
    """Run the program; the exit code says how it ended."""
    # Closed streams (`2>&-`) and letters that a terminal lacks must not stop a command half-way.
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()
