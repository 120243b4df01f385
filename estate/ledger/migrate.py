"""Brings the ledger's own schema up to date, at first use and after an upgrade of the tool."""

from pathlib import Path
from typing import LiteralString

import sqlalchemy
from sqlalchemy import text

from estate.ledger.models import SCHEMA

# The newest revision in versions/. Kept here so that an up-to-date ledger never loads alembic.
HEAD = "0003"
DIRECTORY = Path(__file__).with_name("migrations")
VERSION_TABLE = "alembic_version"

LOCK: LiteralString = "SELECT pg_advisory_xact_lock(hashtextextended('splitctl ledger schema', 0))"
THERE: LiteralString = "SELECT to_regclass('splitctl.alembic_version') IS NOT NULL"
CURRENT: LiteralString = "SELECT version_num FROM splitctl.alembic_version"
CREATE_SCHEMA: LiteralString = "CREATE SCHEMA IF NOT EXISTS splitctl"


def current(connection: sqlalchemy.Connection) -> str | None:
    """The revision the ledger has, None before its first use."""
    if not connection.execute(text(THERE)).scalar():
        return None
    revision: str | None = connection.execute(text(CURRENT)).scalar()
    return revision


def upgrade(connection: sqlalchemy.Connection) -> None:
    """Run what is missing, in the transaction of this connection. Two at once wait in line."""
    from estate import revisions

    connection.execute(text(LOCK))
    # Asked first: CREATE ... IF NOT EXISTS wants the right to create even where it is there.
    if not connection.execute(text("SELECT to_regnamespace('splitctl') IS NOT NULL")).scalar():
        connection.execute(text(CREATE_SCHEMA))
    revisions.upgrade(
        connection, DIRECTORY, version_table=VERSION_TABLE, version_table_schema=SCHEMA
    )


def known(revision: str) -> bool:
    """Whether this version of the tool has that revision."""
    return any(path.name.startswith(f"{revision}_") for path in DIRECTORY.glob("versions/*.py"))
