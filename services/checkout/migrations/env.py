"""Runs the revisions beside this file.

A program that already has a connection passes it as `config.attributes["connection"]`.
Otherwise DATABASE_URL says where: a URL or a libpq connection string.
"""

import os

import psycopg
import sqlalchemy
from alembic import context


def run(connection: sqlalchemy.Connection) -> None:
    context.configure(connection=connection, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    if context.is_offline_mode():
        context.configure(dialect_name="postgresql", literal_binds=True)
        with context.begin_transaction():
            context.run_migrations()
        return
    given = context.config.attributes.get("connection")
    if given is not None:
        run(given)
        return
    url = os.environ.get("DATABASE_URL")
    if not url:
        raise SystemExit("DATABASE_URL is not set: say which database to migrate")
    plain = url.replace("postgresql+psycopg://", "postgresql://", 1)
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(plain),
        poolclass=sqlalchemy.pool.NullPool,
    )
    with engine.connect() as connection:
        run(connection)
        connection.commit()


main()
