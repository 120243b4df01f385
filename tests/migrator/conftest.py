"""Fixtures of the migrator's tests: two small splits of their own."""

from collections.abc import Iterator

import pytest

from tests.conftest import ConfigWriter, FreshDatabase
from tests.migrator import library as lending
from tests.migrator.library import Library
from tests.migrator.parcels import Post, make, working


@pytest.fixture
def library(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter
) -> Iterator[Library]:
    """The lending domain, ready to be synced."""
    built = lending.build(fresh_databases, write_config)
    try:
        yield built
    finally:
        built.old.close()
        built.new.close()


@pytest.fixture
def post(fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter) -> Iterator[Post]:
    """The parcel split, enabled and live, without a worker."""
    made = make(fresh_databases, write_config)
    try:
        yield made
    finally:
        made.old.close()
        made.new.close()


@pytest.fixture
def carried(post: Post) -> Iterator[Post]:
    """The parcel split with a worker that carries both streams."""
    with working(post.config):
        yield post
