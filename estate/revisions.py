"""Runs the alembic revisions of a directory on a connection of the caller's, without `env.py`."""

from pathlib import Path
from typing import Any

import sqlalchemy
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory


def upgrade(connection: sqlalchemy.Connection, directory: Path, **options: Any) -> None:
    """Run what is missing to the newest, in the transaction that is open or in one of its own.

    `options` go to alembic. Raises CommandError, or what a statement raises.
    """
    settings = Config()
    settings.set_main_option("script_location", str(directory).replace("%", "%%"))
    script = ScriptDirectory(str(directory))

    def missing(revision: Any, context: MigrationContext) -> Any:
        del context
        return script._upgrade_revs("head", revision)

    with EnvironmentContext(settings, script, fn=missing) as environment:
        environment.configure(connection=connection, transactional_ddl=True, **options)
        with environment.begin_transaction():
            environment.run_migrations()
