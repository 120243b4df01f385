"""The commands of splitctl. Each loads its room lazily: start-up time is part of the product."""

from pathlib import Path
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
    answer_without_config,
    confirmed,
    progress,
)

EXAMPLES = """
Move a slice of a monolith, tables and traffic, into new services while customers keep buying.

Examples:

  splitctl rehearse                    a whole split on this machine, to a certificate

  splitctl doctor                      what is missing before a split can start

  splitctl status                      what is asked, owned and really served, and what comes next

  splitctl rollout advance DOMAIN      the next percentage, behind its gates

  splitctl rollback                    everyone back to the old side, now
"""


def _group(help_text: str) -> typer.Typer:
    return typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode=None)


app = typer.Typer(
    help=EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
schema = _group("The new databases' tables, by their alembic migrations.")
sync = _group("Live two-way sync: this is how dual-write is done.")
backfill = _group("Copy what was there before sync began.")
verify = _group("Compare both sides, exactly, beside live writes.")
rollout = _group("Percentages in steps, with gates and soaks.")
decommission = _group("The end that is earned: rampdown, archive, and its undo.")
for name, group in (
    ("schema", schema),
    ("sync", sync),
    ("backfill", backfill),
    ("verify", verify),
    ("rollout", rollout),
    ("decommission", decommission),
):
    app.add_typer(group, name=name)

OptionalDomain = Annotated[str | None, typer.Argument(help="One domain; all when left out.")]
Database = Annotated[str | None, typer.Argument(help="One database; all when left out.")]
Soak = Annotated[str | None, typer.Option(help="Soak this long instead, like 20s, 24h or 7d.")]


def _version(value: bool) -> None:  # noqa: FBT001 - typer's callback
    if value:
        from splitctl import __version__  # noqa: PLC0415

        typer.echo(f"splitctl {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of the whole program."""


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="Where to write it.")] = Path(),
    output: OutputFormat = Output.TEXT,
) -> None:
    """Write a commented config.toml with its mappings, to adapt to your own databases."""
    from splitctl import starter  # noqa: PLC0415

    answer_without_config(lambda: starter.write(directory), output)


@app.command()
def doctor(config: ConfigPath = None, output: OutputFormat = Output.TEXT) -> None:
    """Check, without changing anything, what a split needs; each lack with its fix."""
    from splitctl import doctor as room  # noqa: PLC0415

    answer(room.examine, config, output)


@app.command()
def status(config: ConfigPath = None, output: OutputFormat = Output.TEXT) -> None:
    """What is asked, owned, served and measured, what disagrees, and the next command."""
    from rollout import status as room  # noqa: PLC0415

    answer(room.status, config, output)


@app.command()
def plan(domain: DomainName, config: ConfigPath = None, output: OutputFormat = Output.TEXT) -> None:
    """The ordered steps of the domain's next move, and what stands in its way."""
    from rollout import controller  # noqa: PLC0415

    answer(lambda c: controller.plan(c, domain), config, output)


@app.command()
def history(
    domain: OptionalDomain = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many acts, newest last.")] = 30,
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """What was done, by whom, when, and how it ended."""

    def work(c: Any) -> Any:
        from estate.ledger import open_ledger  # noqa: PLC0415

        with open_ledger(c) as ledger:
            return ledger.history(domain, limit)

    answer(work, config, output)


@app.command()
def rollback(
    domain: OptionalDomain = None,
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
    dry_run: DryRun = False,
) -> None:
    """Bring customers back to the old side, now. Needs no confirmation and no working ledger."""
    from rollout import rollback as room  # noqa: PLC0415

    domains = [domain] if domain else None
    if dry_run:
        answer(lambda c: room.plan(c, domains), config, output)
    answer(lambda c: room.rollback(c, domains), config, output)
