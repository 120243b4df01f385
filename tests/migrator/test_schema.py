"""Migrations are run by the tool, in one transaction, and the tables belong to their owner."""

from pathlib import Path

import pytest

from estate.config import Config, load
from migrator import schema
from migrator.schema import MigrationFailed, MigrationsUnknown, SchemaUnreadable
from tests.migrator.library import OWNER, Library, value

REVISION = '''
"""A step."""
from alembic import op

revision = "{revision}"
down_revision = {down!r}
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""{statement}""")
'''


def with_migrations(library: Library, tmp_path: Path, *statements: str) -> Config:
    """The library's configuration with these migrations for its new database."""
    versions = tmp_path / "50% schema" / "versions"
    versions.mkdir(parents=True, exist_ok=True)
    down = None
    for number, statement in enumerate(statements, 1):
        revision = f"{number:04}"
        text = REVISION.format(revision=revision, down=down, statement=statement)
        (versions / f"{revision}_step.py").write_text(text)
        down = revision
    # The tool runs the migrations only: what an env.py would do is not asked for.
    (versions.parent / "env.py").write_text("raise RuntimeError('env.py was run')")
    text = library.path.read_text()
    if "migrations" not in text:
        library.path.write_text(
            text.replace("[databases.branch]", '[databases.branch]\nmigrations = "50% schema"')
        )
    return load(library.path)


def test_apply_goes_to_the_head_and_again_does_nothing(library: Library, tmp_path: Path) -> None:
    first = "CREATE TABLE loans (id bigint PRIMARY KEY)"
    config = with_migrations(library, tmp_path, first, "ALTER TABLE loans ADD due date")
    (before,) = schema.status(config)
    assert (before.database, before.current, before.head) == ("branch", None, "0002")
    assert before.pending == ("0001", "0002")
    assert not before.up_to_date
    done = schema.apply(config, "branch")
    assert (done.before, done.after, done.applied) == (None, "0002", ("0001", "0002"))
    (after,) = schema.status(config)
    assert after.up_to_date
    assert after.pending == ()
    assert schema.apply(config, "branch").applied == ()
    owners = library.new.execute(
        "SELECT DISTINCT tableowner FROM pg_tables WHERE tablename IN ('loans', 'alembic_version')"
    ).fetchall()
    assert owners == [(OWNER,)]
    config = with_migrations(library, tmp_path, first, "ALTER TABLE loans ADD due date", "SELECT 1")
    assert schema.apply(config, "branch").applied == ("0003",)


def test_a_migration_that_fails_leaves_nothing_half_done(library: Library, tmp_path: Path) -> None:
    config = with_migrations(
        library, tmp_path, "CREATE TABLE loans (id bigint)", "ALTER TABLE missing ADD due date"
    )
    with pytest.raises(MigrationFailed, match='relation "missing" does not exist'):
        schema.apply(config, "branch")
    assert value(library.new, "SELECT to_regclass('loans')") is None
    assert schema.status(config)[0].current is None


def test_databases_without_migrations_are_told_apart(library: Library, tmp_path: Path) -> None:
    assert schema.status(library.config) == []
    with pytest.raises(MigrationsUnknown, match="none are configured"):
        schema.apply(library.config, "branch")
    config = with_migrations(library, tmp_path, "SELECT 1")
    (tmp_path / "50% schema" / "versions").rename(tmp_path / "50% schema" / "old")
    with pytest.raises(MigrationsUnknown, match="versions"):
        schema.apply(config, "branch")


def test_a_role_that_is_not_granted_is_told_with_the_remedy(
    library: Library, tmp_path: Path
) -> None:
    with_migrations(library, tmp_path, "SELECT 1")
    text = library.path.read_text()
    library.path.write_text(text.replace(f'owner_role = "{OWNER}"', 'owner_role = "nobody_here"'))
    with pytest.raises(SchemaUnreadable, match="nobody_here") as caught:
        schema.status(load(library.path))
    assert "splitctl sync grants branch" in caught.value.next_command


def test_a_database_at_a_revision_nobody_knows_is_not_touched(
    library: Library, tmp_path: Path
) -> None:
    config = with_migrations(library, tmp_path, "SELECT 1")
    schema.apply(config, "branch")
    library.new.execute("UPDATE alembic_version SET version_num = 'ffff'")
    with pytest.raises(MigrationsUnknown, match="ffff"):
        schema.apply(config, "branch")


def test_two_heads_are_refused_with_the_reason(library: Library, tmp_path: Path) -> None:
    config = with_migrations(library, tmp_path, "SELECT 1")
    text = REVISION.format(revision="9999", down=None, statement="SELECT 2")
    (tmp_path / "50% schema" / "versions" / "9999_other.py").write_text(text)
    with pytest.raises(MigrationsUnknown, match="heads"):
        schema.status(config)
