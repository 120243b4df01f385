"""Commands about tables: schema, sync, backfill."""

import signal
import threading
from enum import StrEnum
from typing import Annotated, Any

import typer

from estate.errors import ExitCode
from splitctl.answers import Listing, Script
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
    log_to_stderr,
    progress,
)

schema = command_group("The new databases' tables, by their alembic migrations.")
sync = command_group("Live two-way sync: this is how dual-write is done.")
backfill = command_group("Copy what was there before sync began.")

Database = Annotated[str | None, typer.Argument(help="One database; all when left out.")]


class Stands(StrEnum):
    """Which of a stray's versions is to stand."""

    OWNER = "owner"
    STRAY = "stray"


Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many of each stream.")]


@schema.command("apply")
def schema_apply(
    database: Database = None, config: ConfigPath = None, output: OutputFormat = Output.TEXT
) -> None:
    """Bring the new databases to the newest revision. Typed twice, it changes nothing."""

    def work(c: Any) -> Any:
        from migrator import following
        from migrator import schema as room

        names = [database] if database else room.with_migrations(c)
        done = [room.apply(c, name) for name in names]
        return Listing(done, following.after_schema_apply(c, done))

    answer(work, config, output)


@schema.command("status")
def schema_status(
    database: Database = None, config: ConfigPath = None, output: OutputFormat = Output.TEXT
) -> None:
    """Which revision each database has, and which is the newest."""

    def work(c: Any) -> Any:
        from migrator import following
        from migrator import schema as room

        found = room.status(c, database)
        return Listing(found, following.after_schema_status(found))

    answer(work, config, output)


@sync.command("enable")
def sync_enable(
    domain: DomainName, config: ConfigPath = None, output: OutputFormat = Output.TEXT
) -> None:
    """Switch dual-write on, in both directions. What is there already stays."""

    def work(c: Any) -> Any:
        from migrator import sync as room

        return room.enable(c, domain)

    answer(work, config, output)


@sync.command("disable")
def sync_disable(
    domain: DomainName, config: ConfigPath = None, output: OutputFormat = Output.TEXT
) -> None:
    """Switch dual-write off. Changed keys are kept, so that enabling again loses nothing."""

    def work(c: Any) -> Any:
        from migrator import sync as room

        return room.disable(c, domain)

    answer(work, config, output)


@sync.command("run")
def sync_run(config: ConfigPath = None, output: OutputFormat = Output.TEXT) -> None:
    """The worker that carries changed keys, both ways. Until it is ended (SIGTERM)."""

    def work(c: Any) -> Any:
        from migrator import worker
        from verify import continuous

        stop = threading.Event()

        def end(*_: Any) -> None:
            progress("sync ends; the batches under way are finished first")
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        log_to_stderr("migrator")
        log_to_stderr("verify")
        progress(f"sync runs; health and metrics at http://{c.sync.listen}")
        with continuous.running(c, stop) as listener:
            return worker.run(c, stop, listener)

    answer(work, config, output)


@sync.command("status")
def sync_status(config: ConfigPath = None, output: OutputFormat = Output.TEXT) -> None:
    """Lag, pending keys, strays and heartbeat of every stream."""

    def work(c: Any) -> Any:
        from migrator import following
        from migrator import status as room

        found = room.status(c)
        return Listing(found, following.after_sync_status(found), room.exit_code(found))

    answer(work, config, output)


@sync.command("strays")
def sync_strays(
    domain: OptionalDomain = None,
    settled: Annotated[bool, typer.Option("--all", help="Also those that are settled.")] = False,
    limit: Limit = 100,
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Changes on the side that does not own them, each with both versions."""

    def work(c: Any) -> Any:
        from migrator import following, parked

        found = parked.strays(c, domain, "all" if settled else "open", limit)
        return _aside(found, following.after_strays(found.rows))

    answer(work, config, output)


@sync.command("waiting")
def sync_waiting(
    domain: OptionalDomain = None,
    limit: Limit = 100,
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Changed keys that could not be carried yet, and why."""

    def work(c: Any) -> Any:
        from migrator import following, parked

        found = parked.waiting(c, domain, limit)
        return _aside(found, following.after_waiting(found.rows))

    answer(work, config, output)


def _aside(found: Any, following: str) -> Listing:
    """What was found; inconclusive while some books could not be read."""
    for problem in found.away:
        progress(f"not known: {problem}")
    code = ExitCode.INCONCLUSIVE if found.away else ExitCode.DONE
    return Listing(found.rows, following, code)


@sync.command("settle")
def sync_settle(
    strays: Annotated[list[str], typer.Argument(help="Strays, as `sync strays` names them.")],
    how: Annotated[
        str | None, typer.Option("--how", help="What was done about them; kept with them.")
    ] = None,
    keep: Annotated[
        Stands | None, typer.Option("--keep", help="Have this version stand on both sides.")
    ] = None,
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Settle strays, when you have looked at both versions. Without --keep no data is changed."""

    def work(c: Any) -> Any:
        from migrator import settling

        return settling.settle(c, strays, how, keep.value if keep else None)

    answer(work, config, output)


@sync.command("teardown")
def sync_teardown(
    domain: OptionalDomain = None,
    confirm: Confirm = None,
    config: ConfigPath = None,
    output: OutputFormat = Output.TEXT,
) -> None:
    """Remove all slots, publications and schemas of ours. Also of a split given up half-way."""

    def work(c: Any) -> Any:
        from migrator import teardown as room

        confirmed(domain or c.environment, confirm, "Tear down sync of")
        return room.teardown(c, domain)

    answer(work, config, output)


@sync.command("grants")
def sync_grants(
    database: Annotated[str, typer.Argument(help="The database, as the configuration names it.")],
    revoke: Annotated[
        bool, typer.Option("--revoke", help="The script that takes it back.")
    ] = False,
    config: ConfigPath = None,
) -> None:
    """Print the SQL that makes the tool's role, for a DBA. No superuser, no extension."""

    def work(c: Any) -> Any:
        from migrator import grants

        if revoke:
            return Script(grants.revoke_script(c, database), "splitctl status")
        return Script(grants.script(c, database), "splitctl doctor  (when a DBA has run it)")

    answer(work, config, Output.TEXT)


@backfill.command("run")
def backfill_run(
    domain: DomainName, config: ConfigPath = None, output: OutputFormat = Output.TEXT
) -> None:
    """Copy the rows that were there before sync began. Can be killed and typed again."""

    def work(c: Any) -> Any:
        from migrator import backfill as room

        return room.run(c, domain, on_progress=_show)

    answer(work, config, output)


def _show(doing: Any) -> None:
    about = f" {doing.mapping}" if doing.mapping else ""
    held = f"; slower, because {doing.held_by}" if doing.held_by else ""
    progress(f"{doing.doing}{about}: {doing.rows:,} rows, {doing.pending:,} keys pending{held}")


@backfill.command("status")
def backfill_status(config: ConfigPath = None, output: OutputFormat = Output.TEXT) -> None:
    """How far each mapping's copy has come, how fast it goes, and what holds it up."""

    def work(c: Any) -> Any:
        from migrator import backfill as room
        from migrator import following

        found = room.status(c)
        return Listing(found, following.after_backfill_status(c, found))

    answer(work, config, output)


@backfill.command("pause")
def backfill_pause(
    domain: DomainName, config: ConfigPath = None, output: OutputFormat = Output.TEXT
) -> None:
    """Let a running copy end after its present ranges. It stays paused until resume."""

    def work(c: Any) -> Any:
        from migrator import backfill as room

        return room.pause(c, domain)

    answer(work, config, output)


@backfill.command("resume")
def backfill_resume(
    domain: DomainName, config: ConfigPath = None, output: OutputFormat = Output.TEXT
) -> None:
    """Take the pause back. The copy goes on with `backfill run`."""

    def work(c: Any) -> Any:
        from migrator import backfill as room

        return room.resume(c, domain)

    answer(work, config, output)
