"""The tables of a new database, made by the alembic migrations the configuration points to.

Only the migrations are run, not the directory's `env.py`: the connection is the tool's own, with
its limits, and acts as the role that owns the tables.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from psycopg import sql

from estate import revisions
from estate.config import Config, DatabaseConfig
from estate.connections import connect
from estate.errors import ExitCode, SplitctlError, in_one_line


class MigrationsUnknown(SplitctlError):
    """Database '{database}' has no migrations to apply: {reason}."""

    hint = "name their directory in databases.{database}.migrations"
    exit_code = ExitCode.USAGE


class SchemaUnreadable(SplitctlError):
    """The schema of database '{database}' cannot be read as {role}: {reason}. Nothing was
    changed."""

    hint = "have a DBA run the script of: splitctl sync grants {database}"
    exit_code = ExitCode.PRECONDITION


class MigrationFailed(SplitctlError):
    """The migrations of database '{database}' failed and were rolled back: {reason}."""

    hint = "splitctl schema status"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class SchemaStatus:
    """Where a database's schema stands: revision now, newest revision, what lies between."""

    database: str
    current: str | None
    head: str | None
    pending: tuple[str, ...]

    @property
    def up_to_date(self) -> bool:
        """Whether nothing is to be applied."""
        return self.current == self.head


@dataclass(frozen=True)
class SchemaApplied:
    """What an apply did: the revision before, the revision after, and those that were run."""

    database: str
    before: str | None
    after: str | None
    applied: tuple[str, ...]


def apply(config: Config, database: str) -> SchemaApplied:
    """Bring the database to its newest revision, all in one transaction; again: nothing to do.

    Raises MigrationsUnknown, SchemaUnreadable, MigrationFailed, DatabaseUnreachable.
    """
    settings = config.database(database)
    script = _script(settings)
    before = _status(settings, script)
    try:
        with _engine(settings) as connection:
            revisions.upgrade(connection, Path(script.dir))
    except (sqlalchemy.exc.SQLAlchemyError, CommandError) as error:
        raise MigrationFailed(database=database, reason=_reason(error)) from error
    after = _status(settings, script)
    return SchemaApplied(database, before.current, after.current, before.pending)


def with_migrations(config: Config) -> list[str]:
    """The databases whose tables are made here, in the order of the configuration."""
    return [name for name, database in config.databases.items() if database.migrations]


def status(config: Config, database: str | None = None) -> list[SchemaStatus]:
    """The state of one database, or of every one that has migrations.

    Raises MigrationsUnknown, SchemaUnreadable, DatabaseUnreachable.
    """
    chosen = [
        config.database(name) for name in ([database] if database else with_migrations(config))
    ]
    return [_status(settings, _script(settings)) for settings in chosen]


def _status(database: DatabaseConfig, script: ScriptDirectory) -> SchemaStatus:
    with _engine(database) as connection, _readable(database):
        current = MigrationContext.configure(connection).get_current_revision()
    head = script.get_current_head()
    try:
        pending = tuple(
            revision.revision for revision in script.iterate_revisions(head, current or "base")
        )
    except (CommandError, RevisionError) as error:
        raise MigrationsUnknown(database=database.name, reason=_reason(error)) from error
    return SchemaStatus(database.name, current, head, tuple(reversed(pending)))


def _script(database: DatabaseConfig) -> ScriptDirectory:
    if database.migrations is None:
        raise MigrationsUnknown(database=database.name, reason="none are configured")
    directory: Path = database.migrations
    if not (directory / "versions").is_dir():
        reason = f"{directory} has no folder 'versions'"
        raise MigrationsUnknown(database=database.name, reason=reason)
    try:
        script = ScriptDirectory(str(directory))
        script.get_current_head()
    except CommandError as error:
        raise MigrationsUnknown(database=database.name, reason=_reason(error)) from error
    return script


@contextmanager
def _engine(database: DatabaseConfig) -> Iterator[sqlalchemy.Connection]:
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(database, "schema", autocommit=False),
        poolclass=sqlalchemy.pool.NullPool,
    )
    with engine.connect() as connection:
        if database.owner_role is not None:
            # The tables belong to the role the services use, not to the tool.
            role = sql.Identifier(database.owner_role).as_string()
            with _readable(database):
                connection.execute(sqlalchemy.text(f"SET ROLE {role}"))
                connection.commit()
        yield connection


@contextmanager
def _readable(database: DatabaseConfig) -> Iterator[None]:
    try:
        yield
    except sqlalchemy.exc.DBAPIError as error:
        role = f"'{database.owner_role}'" if database.owner_role else "the tool's role"
        raise SchemaUnreadable(database=database.name, role=role, reason=_reason(error)) from error


def _reason(error: Exception) -> str:
    return in_one_line(getattr(error, "orig", None) or error)
