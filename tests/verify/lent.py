"""The lending domain for the comparison beside the real sync: filled, enabled, and carried."""

from collections.abc import Iterator
from contextlib import contextmanager

from migrator import backfill, sync
from tests.conftest import ConfigWriter, FreshDatabase
from tests.migrator import library as lending
from tests.migrator.library import DOMAIN, Library
from tests.migrator.parcels import working

BOOKS = 300
FILL = f"""
INSERT INTO books (reader, title, tags)
SELECT CASE WHEN i % 3 > 0 THEN 'reader-' || i % 40 END, 'Book ' || i,
       to_jsonb(ARRAY['a', 'b' || i]) FROM generate_series(1, {BOOKS}) AS i;
INSERT INTO notes (book_id, body) SELECT id, 'note ' || n FROM books, generate_series(1, 2) AS n;
"""


@contextmanager
def enabled(databases: dict[str, FreshDatabase], write_config: ConfigWriter) -> Iterator[Library]:
    """Filled and enabled, without a worker."""
    built = lending.build(databases, write_config)
    try:
        built.old.execute(FILL.encode())
        sync.enable(built.config, DOMAIN)
        yield built
    finally:
        built.old.close()
        built.new.close()


@contextmanager
def carried(library: Library) -> Iterator[None]:
    """A worker, and everything that was there before copied."""
    with working(library.config):
        backfill.run(library.config, DOMAIN, on_progress=lambda *_: None)
        yield
